#!/usr/bin/env python3
"""Make tokenizer_small.json, tokenizer_cases.json and tokenizer_splits.json with Hugging Face tokenizers.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install tokenizers
    /tmp/venv/bin/python tests/golden/make_tokenizer.py tests/golden
"""
import json
import sys

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers

CORPUS = [
    "The miller's daughter carried forty-two sacks of rye to the mill, and the mill turned all night.",
    "When the wind fell the sails stood still; when it rose they turned again, turning the stones.",
    "She counted the sacks: one, two, three, four ... 40, 41, 42. Then she counted them once more!",
    "It's late, they're tired, we've walked 12 miles and I'd rather rest.  Don't you think so?",
    "Der Müller zählte die Säcke; la meunière comptait les sacs; мельник считал мешки.",
    "def turn(stones):\n    for stone in stones:\n\tstone.turn()\n\n    return len(stones)\n",
] * 3
SPECIAL = ["[UNK]", "[PAD]", "[BOS]", "[EOS]"]

CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
HEAD = r"[^\r\n\p{L}\p{N}]?"
TAIL = r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
PATTERNS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "gpt4": CONTRACTION + "|" + HEAD + r"\p{L}+|" + TAIL,
    "moonlight": r"[\p{Han}]+|" + HEAD + UPPER + "*" + LOWER + "+" + CONTRACTION + "?|"
    + HEAD + UPPER + "+" + LOWER + "*" + CONTRACTION + "?|" + TAIL,
}

TEXTS = [
    "",
    " ",
    "\n",
    "the mill",
    " the  mill   ",
    "The MILLER's mill'S",
    "they're we'Ve I'D 'tis ''s 'LLama",
    "12345 1,234.5 x12y",
    "a\n\nb\r\n\r\nc \n d\t\te  \n  f",
    "stones...!!\n\n(next)",
    "ſ's'ſ K'ſx",
    "Müller ÀB éa ßü",
    "мельник МЕЛЬНИК Мельник's",
    "我想在apple工作1314151天～ 漢字、仮名ひらカタ々〆",
    "กำลัง हिन्दी e\u0301a\u0301 \u0301x A\u0301b",
    "🚀 😶\u200d🌫️ ✅",
    "\u00a0nbsp\u2003em\u3000wide\u180emvs\u200bzw\u2028ls\u0085nel",
    "١٢٣٤ ⅷ ½ ²³⁴⁵",
    "ǅabc ʰab ªº",
    "[BOS]x[EOS]",
    "\x01\x1c\x1f\x7f a\x0bb\x0cc",
    "stone" * 40,
    "=" * 70 + "\n" + " " * 70 + "x",
]


def main(folder):
    t = Tokenizer(models.BPE(unk_token="[UNK]"))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator(CORPUS, trainer)
    t.add_tokens([AddedToken("<note>", special=False, normalized=False)])
    from tokenizers import decoders
    t.decoder = decoders.ByteLevel()
    t.save(f"{folder}/tokenizer_small.json", pretty=False)
    plain = Tokenizer.from_file(f"{folder}/tokenizer_small.json")
    model = json.loads(plain.to_str())
    model["added_tokens"] = []
    plain = Tokenizer.from_str(json.dumps(model))
    texts = TEXTS + ["see <note> [PAD][BOS]", "[BOS]the mill[EOS]<note>"]
    cases = [{"text": s, "ids": plain.encode(s).ids, "ids_special": t.encode(s).ids} for s in texts]
    with open(f"{folder}/tokenizer_cases.json", "w") as f:
        json.dump({"corpus": CORPUS, "cases": cases}, f, indent=0)
    splits = {}
    for name, regex in PATTERNS.items():
        pre = pre_tokenizers.Split(Regex(regex), "isolated")
        splits[name] = [[s, [p for p, _ in pre.pre_tokenize_str(s)]] for s in TEXTS]
    with open(f"{folder}/tokenizer_splits.json", "w") as f:
        json.dump({"regex": PATTERNS, "splits": splits}, f, indent=0)


main(sys.argv[1])
