#!/usr/bin/env python3
"""Make tokenizer_small.json, tokenizer_cases.json, tokenizer_splits.json and tokenizer_forms.json with Hugging Face
tokenizers.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install tokenizers
    /tmp/venv/bin/python tests/golden/make_tokenizer.py tests/golden
"""
import json
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

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


WIDE = "\u2581"  # what SentencePiece writes for a space
PIECE_TEXTS = [
    "",
    " ",
    "   ",
    "the mill",
    " the  mill   ",
    "\n the\tmill\n",
    "a\u2581b \u2581 c",
    "\u2581the",
    "the<s>mill</s> the<s> mill",
    "<s>the mill",
    "<s> the mill",
    "I'd  rather rest; 42 Müller, мельник \u6f22\u5b57 \U0001f680",
    "turn(stones):\n    for stone in stones:\n        stone.turn()",
    "aaaa\u0301 \u0001\x7f",
    "\u6f22\u6f22 q \u6f22 Q",
]
NFC_TEXTS = [
    "e\u0301a\u0301 A\u030a \u212b \u1e69 s\u0323\u0307 s\u0307\u0323",
    "\u1112\u1161\u11ab \ud55c \uac00\u11a8 \u1100\u1161\u11a8x",
    "\u0958 \u0915\u093c \u2126 \u2000 \uf900 \u0344 \U0001d15e",
    "\u0301start q\u0307\u0323 a\u0315\u0300\u05ae\u0300b \u09c7\u09be \u0dd9\u0dcf\u0dca",
    "plain ascii, caf\u00e9, \u4e2d\u6587 \U0001f680 \u304c \u304b\u3099 [EOS]e\u0301[BOS]",
]


def piece_model():
    """Merges learned on characters; a vocabulary of unknown, begin, end, bytes, characters and merges."""
    learned = Tokenizer(models.BPE())
    learned.normalizer = normalizers.Sequence([normalizers.Prepend(WIDE), normalizers.Replace(" ", WIDE)])
    learned.train_from_iterator(CORPUS[:4] + CORPUS[5:6], trainers.BpeTrainer(vocab_size=160, show_progress=False))
    model = json.loads(learned.to_str())["model"]
    first = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    vocab = {token: id for id, token in enumerate(first + sorted(model["vocab"], key=model["vocab"].get))}
    return {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
            "vocab": vocab, "merges": model["merges"]}


def without_bytes(model):
    vocab = {token: id for token, id in model["vocab"].items() if not token.startswith("<0x")}
    return dict(model, byte_fallback=False, vocab={token: i for i, token in enumerate(vocab)})


def piece_forms():
    """Name: (normalizer, pre_tokenizer, model, post_processor), as published tokenizers have them."""
    replace, model = normalizers.Replace(" ", WIDE), piece_model()

    def metaspace(scheme):
        return pre_tokenizers.Metaspace(replacement=WIDE, prepend_scheme=scheme, split=False)

    bos = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    both = processors.TemplateProcessing(single="<s> <unk> $A </s>", special_tokens=[("<s>", 1), ("<unk>", 0),
                                                                                  ("</s>", 2)])
    return {
        "prepend": (normalizers.Sequence([normalizers.Prepend(WIDE), replace]), None, model, bos),
        "replace": (replace, None, model, both),
        "always": (None, metaspace("always"), model, None),
        "first": (None, metaspace("first"), model, bos),
        "never": (None, metaspace("never"), model, None),
        "unknown": (normalizers.Sequence([normalizers.Prepend(WIDE), replace]), None, without_bytes(model), None),
        "unknown apart": (None, metaspace("first"), dict(without_bytes(model), fuse_unk=False), None),
        "nfc": (normalizers.Sequence([normalizers.NFC(), normalizers.Prepend(WIDE), replace]), None, model, None),
    }


def part(value):
    return json.loads(value.__getstate__()) if value is not None else None


def piece_cases(root):
    special = Tokenizer.from_str(json.dumps(root))
    plain = Tokenizer.from_str(json.dumps(dict(root, added_tokens=[])))
    cases = []
    for text in PIECE_TEXTS + NFC_TEXTS[:1]:
        ids = plain.encode(text, add_special_tokens=False).ids
        cases.append({"text": text, "ids": ids, "ids_special": special.encode(text, add_special_tokens=False).ids,
                      "ids_around": special.encode(text).ids,
                      "decoded": special.decode(ids, skip_special_tokens=False)})
    return cases


def make_forms(folder):
    """The SentencePiece forms and NFC: {name: [root without its model, name of the model, cases]}."""
    out = {"models": {}, "forms": {}, "nfc": []}
    for name, (normalizer, pre_tokenizer, model, post_processor) in piece_forms().items():
        decoder = [decoders.Replace(WIDE, " "), decoders.ByteFallback(), decoders.Fuse()]
        if name not in ("replace", "never"):
            decoder.append(decoders.Strip(" ", 1, 0))
        added = [{"id": model["vocab"][t], "content": t, "single_word": False, "lstrip": False, "rstrip": False,
                  "normalized": False, "special": True} for t in ("<unk>", "<s>", "</s>")]
        root = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
                "normalizer": part(normalizer), "pre_tokenizer": part(pre_tokenizer),
                "post_processor": part(post_processor), "decoder": part(decoders.Sequence(decoder)), "model": model}
        of = "unknown apart" if not model["fuse_unk"] else "bytes" if model["byte_fallback"] else "unknown"
        out["models"][of] = model
        out["forms"][name] = {"root": dict(root, model=None), "model": of, "cases": piece_cases(root)}
    with open(f"{folder}/tokenizer_small.json") as f:
        small = json.load(f)
    small["normalizer"] = {"type": "NFC"}
    t = Tokenizer.from_str(json.dumps(small))
    out["nfc"] = [{"text": s, "ids": t.encode(s).ids} for s in NFC_TEXTS]
    with open(f"{folder}/tokenizer_forms.json", "w") as f:
        json.dump(out, f, separators=(",", ":"))


main(sys.argv[1])
make_forms(sys.argv[1])
