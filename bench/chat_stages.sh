#!/bin/sh
# The three stages of the 130M chat model at a width and budget for a few cores: pretrain, instruct and chat of its
# recipes on built-in data, then what a conversation keeps.  Validation says and asks in ways that training never had;
# facts come with values that training had, and with values kept out of tuning.  At this size Muon pretrains, since a
# model that does not repeat the names of its stories yet (AdamW, as many steps) does not learn to repeat a fact either.
#   bench/chat_stages.sh [PROGRAM [FOLDER [OPTION...]]]
# PROGRAM: build/release/moonlight.  FOLDER: where runs and data go (runs/chat-stages); what is there is used.
# OPTION: of eval, e.g. --temperature 0.7 --seed 2.  Ten minutes on two cores, or twenty-five where others use them too.
set -eu
cd "$(dirname "$0")/.."
program=${1:-build/release/moonlight} folder=${2:-runs/chat-stages}
[ $# -lt 2 ] || shift
[ $# -lt 1 ] || shift
mkdir -p "$folder"

# train STAGE NAME OPTION...: the recipe of that name, on built-in data, unless it is done.
train() {
    stage=$1 name=$2 resume=
    shift 2
    [ ! -e "$folder/$name/latest" ] || resume=--resume
    # shellcheck disable=SC2086 # nothing or one word
    "$program" "$stage" "recipes/moonlight-moe-130m-$name.ini" --run "$folder/$name" --data.dir "$folder/data-$name" \
        --train.accumulate 1 --train.recompute off --checkpoint.keep 1 "$@" $resume
}
train pretrain pretrain --model.hidden_size 128 --model.num_hidden_layers 4 --model.num_attention_heads 4 \
    --model.num_key_value_heads 4 --model.head_dim 32 --model.rotary_dim 32 --model.moe_intermediate_size 256 \
    --model.max_position_embeddings 512 --model.vocab_size 2056 --data.bytes 8m \
    --data.vocab_size 2048 --train.steps 1500 --train.batch 8 --train.seq 256 --optim.name muon --optim.lr 5e-3 \
    --optim.lr_min 3e-4 --optim.warmup 50 --eval.every 250 --eval.windows 64 --sample.every 0
train sft instruct --init.from "$folder/pretrain" --data.examples 3000 --train.batch 32 --train.seq 500 \
    --optim.lr 1e-3 --optim.lr_min 3e-4 --eval.every 20 --eval.rows 128
train sft chat --init.from "$folder/instruct" --data.examples 6000 --train.batch 64 --train.seq 500 \
    --optim.lr 1e-3 --optim.lr_min 1e-4 --eval.every 25 --eval.rows 256

talks=$folder/talks.jsonl
[ -e "$talks" ] || "$program" data synth chats --split val --seed 1 --docs 200 --out "$talks"
for name in instruct chat; do
    "$program" eval --task facts --data "$talks" --model "$folder/$name" --max-tokens 40 --temperature 0 --json "$@" |
        tail -n 1 >"$folder/$name.json"
done
"$program" report "$folder/pretrain" "$folder/instruct" "$folder/chat" -o "$folder/report.html"
python3 - "$folder" <<'END'
import json, sys
folder = sys.argv[1]
print("stage      first validation loss   best    step")
for stage in ("pretrain", "instruct", "chat"):
    with open(f"{folder}/{stage}/log.jsonl") as file:
        val = [(x["val_loss"], x["step"]) for x in map(json.loads, file) if "val_loss" in x]
    print(f"{stage:10} {val[0][0]:21.4f} {min(val)[0]:7.4f} {min(val)[1]:6}")
print("stage      conversations  facts kept  of  by chance  values of training  values kept out   answers that end")
for stage in ("instruct", "chat"):
    with open(f"{folder}/{stage}.json") as file:
        x = json.load(file)
    n = {True: [0, 0, 0.0], False: [0, 0, 0.0]}
    for r in x["results"]:
        for fact, kept in zip(r["facts"], r["kept"]):
            n[fact["held_out"]][0] += kept
            n[fact["held_out"]][1] += 1
            n[fact["held_out"]][2] += 1 / fact["among"]
    print(f"{stage:10} {x['conversations']:13} {x['kept']:11} {x['facts']:3} {x['chance'] * x['facts']:10.1f}  "
          + "".join(f"{f'{k} of {of} ({by:.1f})':>18}" for k, of, by in (n[False], n[True]))
          + f" {x['ended']:10} of {x['answers']}")
END
