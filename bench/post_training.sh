#!/bin/sh
# What each stage of tuning does to stories to order: pretrain, sft and dpo of the orders recipes, then 200 stories
# of each checkpoint to prompts whose ways to ask, names and protagonists training never had, counted as a table and in
# a report.
#   bench/post_training.sh [PROGRAM [FOLDER [OPTION...]]]
# PROGRAM: build/release/moonlight.  FOLDER: where runs and data go (runs/post-training); what is there is used.
# OPTION: of eval, e.g. --temperature 0 --seed 2.  About twelve minutes on two cores.
set -eu
cd "$(dirname "$0")/.."
program=${1:-build/release/moonlight} folder=${2:-runs/post-training}
[ $# -lt 2 ] || shift
[ $# -lt 1 ] || shift
mkdir -p "$folder"

# train STAGE RECIPE [FROM]: unless it is done.
train() {
    resume=
    [ ! -e "$folder/$1/latest" ] || resume=--resume
    # shellcheck disable=SC2086 # nothing or one word
    "$program" "$1" "$2" --run "$folder/$1" --data.dir "$folder/data-$1" ${3:+--init.from "$3"} $resume
}
train pretrain recipes/orders.ini
train sft recipes/orders-sft.ini "$folder/pretrain"
train dpo recipes/orders-dpo.ini "$folder/sft"

orders=$folder/orders.jsonl
[ -e "$orders" ] || "$program" data synth constraints --split val --seed 1 --docs 200 --out "$orders"
for stage in pretrain sft dpo; do
    "$program" eval --task constraints --data "$orders" --model "$folder/$stage" --json "$@" |
        tail -n 1 >"$folder/$stage.json"
done
"$program" report "$folder/pretrain" "$folder/sft" "$folder/dpo" -o "$folder/report.html"
python3 - "$folder" <<'END'
import json, sys
folder = sys.argv[1]
parts = ("protagonist", "required", "banned", "sentences")
share = {}
print("stage     stories  satisfied  protagonist  required  banned  sentences  ended  satisfied %  protagonist %")
for stage in ("pretrain", "sft", "dpo"):
    with open(f"{folder}/{stage}.json") as file:
        x = json.load(file)
    r = x["results"]
    count = {k: sum(bool(s[k + "_ok"]) for s in r) for k in parts}
    count["satisfied"] = sum(s["protagonist_ok"] and s["required_ok"] and s["banned_ok"] for s in r)
    share[stage] = {k: 100 * n / len(r) for k, n in count.items()}
    print(f"{stage:9} {len(r):7} {count['satisfied']:10} {count['protagonist']:12} {count['required']:9} "
          f"{count['banned']:7} {count['sentences']:10} {round(x['ended'] * len(r)):6} {share[stage]['satisfied']:12.1f} "
          f"{share[stage]['protagonist']:14.1f}")
last = {}
with open(f"{folder}/dpo/log.jsonl") as file:
    for line in file:
        x = json.loads(line)
        if "val_loss" in x and "reward_accuracy" in x:
            last = x
print(f"dpo, pairs for validation: loss {last['val_loss']:.4f}, reward accuracy {last['reward_accuracy']:.4f}, "
      f"margin {last['reward_margin']:.3f} (step {last['step']})")
print(f"satisfied, pretrain to sft: {share['sft']['satisfied'] - share['pretrain']['satisfied']:+.1f} points; "
      f"protagonist right, sft to dpo: {share['dpo']['protagonist'] - share['sft']['protagonist']:+.1f} points")
END
