/* The one option table (base/options.h): arguments of verbs first, then the sections of recipes. */
#include "cli/cli.h"

#include <math.h>

/* Rows with a word for their type: scope, section, name, [range or choices,] default, metavar, help. */
#define FLAG(scope, section, name, def, help)                                                                          \
    {                                                                                                                  \
        scope, section, name, ML_OPTION_FLAG, 0, 0, NULL, def, NULL, help                                              \
    }
#define INT(scope, section, name, min, max, def, help)                                                                 \
    {                                                                                                                  \
        scope, section, name, ML_OPTION_INT, min, max, NULL, def, NULL, help                                           \
    }
#define REAL(scope, section, name, min, max, def, help)                                                                \
    {                                                                                                                  \
        scope, section, name, ML_OPTION_REAL, min, max, NULL, def, NULL, help                                          \
    }
#define CHOICE(scope, section, name, choices, def, help)                                                               \
    {                                                                                                                  \
        scope, section, name, ML_OPTION_CHOICE, 0, 0, choices, def, NULL, help                                         \
    }
#define TEXT(scope, section, name, def, metavar, help)                                                                 \
    {                                                                                                                  \
        scope, section, name, ML_OPTION_TEXT, 0, 0, NULL, def, metavar, help                                           \
    }
#define LIST(scope, section, name, def, metavar, help)                                                                 \
    {                                                                                                                  \
        scope, section, name, ML_OPTION_LIST, 0, 0, NULL, def, metavar, help                                           \
    }

#define TOKENIZER "tokenizer:encode tokenizer:decode tokenizer:info"

const ml_option_row ml_cli_rows[] = {
    FLAG("*", "", "help", "off", "print this help and stop"),
    INT("*", "", "threads", 0, 1024, "0", "threads to use; 0: as many as this process may run on"),
    TEXT(TOKENIZER, "", "tokenizer", NULL, "T", "tokenizer folder or file, or a model or run folder"),
    TEXT(TOKENIZER, "", "pattern", NULL, "P",
         "split pattern of a file that stores none: gpt2, gpt4, moonlight or a regex"),
    LIST(TOKENIZER, "", "added", NULL, "TEXT", "special token to add behind the vocabulary; may be repeated"),
    FLAG(TOKENIZER " tokenizer:train", "", "json", "off", "print one JSON object on the last line"),
    FLAG("tokenizer:encode", "", "special", "off", "turn the text of special tokens into their ids"),
    FLAG("tokenizer:decode", "", "skip-special", "off", "leave special tokens out of the text"),
    TEXT("tokenizer:info", "", "save", NULL, "DIR", "also write it there for Hugging Face tokenizers"),
    TEXT("tokenizer:train", "", "out", NULL, "DIR", "folder for tokenizer.json and tokenizer_config.json"),
    INT("tokenizer:train", "", "vocab-size", 256, 16777216, "10000", "tokens: specials, 256 bytes and merges"),
    TEXT("tokenizer:train", "", "pattern", "gpt2", "P", "split pattern: gpt2, gpt4, moonlight or a regex"),
    LIST("tokenizer:train", "", "special", NULL, "TEXT", "special token, in order of ids; may be repeated"),
    INT("tokenizer:train", "", "docs", 0, 1e15, "0", "documents to learn from; 0: all"),
    TEXT("tokenizer:train", "", "marker", "<|endoftext|>", "TEXT", "line between two documents of a text file"),
    TEXT("tokenizer:train", "", "field", "text", "KEY", "key of the text in JSON lines"),
    CHOICE("tokenizer:train", "", "ties", "first|last", "first",
           "which of equally frequent pairs merges: lowest ids (Hugging Face), or last in byte order"),
    FLAG("tokenizer:train", "", "allow-fewer", "off", "accept a smaller vocabulary from a small corpus"),

    TEXT("generate chat", "", "model", NULL, "M", "model folder, or run folder (its best checkpoint)"),
    TEXT("generate", "", "prompt", NULL, "TEXT", "text to continue"),
    INT("generate", "", "max-tokens", 1, 1e9, "200", "tokens to generate at most"),
    REAL("generate chat", "", "temperature", 0, 100, "0.7", "0 takes the likeliest token each time"),
    INT("generate chat", "", "top-k", 0, 1e9, "0", "sample among the k likeliest tokens; 0: off"),
    REAL("generate chat", "", "top-p", 0, 1, "0.95", "sample among the likeliest tokens that together reach p"),
    REAL("generate chat", "", "min-p", 0, 1, "0", "leave out tokens less likely than this share of the likeliest"),
    REAL("generate chat", "", "repetition-penalty", 0.01, 100, "1", "lower the logits of recent tokens by this factor"),
    INT("generate chat", "", "repetition-window", 0, 1e9, "64", "how many recent tokens that concerns; 0: all"),
    INT("generate chat", "", "seed", 0, 9e15, "0", "of the random choices: the same seed gives the same text"),
    FLAG("generate", "", "kv-cache", "on", "keep keys and values; off computes the whole text again for each token"),
    FLAG("generate", "", "special", "off", "read special tokens such as [EOS] in the prompt"),
    FLAG("generate", "", "json", "off", "print one JSON object: text, ids, logprobs, finish_reason, ..."),
    TEXT("chat", "", "system", NULL, "TEXT", "system message; none: \"You are a helpful assistant\""),
    CHOICE("chat", "", "chat-format", "auto|none|moonlight-moe|kimi", "auto",
           "how turns are marked; auto: as the tokenizer's tokens say; none: continue the text"),
    INT("chat", "", "max-tokens", 1, 1e9, "512", "tokens of an answer at most"),
    TEXT("inspect", "", "config", NULL, "PRESET", "an architecture by name instead of a path; --model.KEY changes it"),
    TEXT("inspect", "", "svg", NULL, "FILE", "draw the architecture"),
    FLAG("inspect", "", "json", "off", "print one JSON object: n_params, n_params_active, memory, ..."),
    CHOICE("init", "", "dtype", "f32|bf16|f16", "f32", "type of the matrices in the file"),
    INT("init", "", "seed", 0, 9e15, "0", "of the random weights"),

    TEXT("pretrain", "", "run", "runs/pretrain", "DIR", "folder of the run: checkpoints, logs, samples"),
    FLAG("pretrain", "", "resume", "off", "continue the run from its latest checkpoint"),

    TEXT("pretrain", "model", "preset", "nano-moe", "NAME", "architecture to start from; other keys change it"),

    TEXT("pretrain", "data", "dir", NULL, "DIR", "data folder; built first when it does not exist"),
    LIST("pretrain", "data", "text", NULL, "FILE", "text or JSON lines to build it from; none: generated"),
    CHOICE("pretrain", "data", "builtin", "stories|arithmetic", "stories", "what is generated when no text is given"),
    INT("pretrain", "data", "bytes", 1000, 1e12, "40m", "how much of it"),
    TEXT("pretrain", "data", "marker", "<|endoftext|>", "TEXT", "line between two documents of a text file"),
    TEXT("pretrain", "data", "field", "text", "KEY", "key of the text in JSON lines"),
    TEXT("pretrain", "data", "tokenizer", NULL, "T", "tokenizer to use; none: one is trained"),
    INT("pretrain", "data", "vocab_size", 260, 1e6, "2048", "vocabulary of the trained tokenizer"),
    TEXT("pretrain", "data", "pattern", "gpt2", "NAME", "its split pattern: gpt2, gpt4, moonlight or a regex"),
    TEXT("pretrain", "data", "special", "[UNK] [PAD] [BOS] [EOS]", "TEXT", "its special tokens, the first ids"),
    INT("pretrain", "data", "tokenizer_docs", 1, 1e12, "10000", "documents it is trained on"),
    REAL("pretrain", "data", "val_fraction", 0, 0.5, "0.02", "share of the text kept for validation"),
    FLAG("pretrain", "data", "val_last", "off", "take it from the end of the text, cutting a document there"),
    FLAG("pretrain", "data", "cross_documents", "off", "let tokens see the documents before their own"),
    INT("pretrain", "data", "seed", 0, 9e15, "0", "of the generated text and of the split"),

    INT("pretrain", "train", "steps", 1, 1e12, "1000", "optimizer steps"),
    INT("pretrain inspect", "train", "batch", 1, 1e6, "8", "sequences in a micro-step"),
    INT("pretrain", "train", "accumulate", 1, 1e6, "1", "micro-steps in a step"),
    LIST("pretrain", "train", "ramp", NULL, "STEP:N", "from that step on N times as many; may be repeated"),
    INT("pretrain", "train", "bias_rest", 0, 1e12, "0", "last steps in which the load moves the router's bias no more"),
    INT("pretrain inspect", "train", "seq", 1, 1e7, "512", "tokens in a sequence"),
    FLAG("pretrain inspect", "train", "recompute", "off",
         "keep layer inputs only and compute layers again going backward"),
    INT("pretrain", "train", "seed", 0, 9e15, "0", "of weights and data order"),

    CHOICE("pretrain inspect", "optim", "name", "muon|adamw", "muon", "optimizer of the matrices; the rest has AdamW"),
    REAL("pretrain", "optim", "lr", 0, 1, "1e-3", "largest learning rate"),
    REAL("pretrain", "optim", "lr_min", 0, 1, "0", "smallest, at the end"),
    CHOICE("pretrain", "optim", "schedule", "constant|linear|cosine|wsd|moonlight", "cosine", "how it falls"),
    INT("pretrain", "optim", "warmup", 0, 1e12, "100", "steps of linear rise; less where stages do not fit"),
    INT("pretrain", "optim", "decay", 0, 1e12, "0", "wsd, moonlight: steps of the last stage"),
    INT("pretrain", "optim", "rewarm", 0, 1e12, "0", "moonlight: steps of it that rise ..."),
    REAL("pretrain", "optim", "rewarm_lr", 0, 1, "0", "... to this rate"),
    REAL("pretrain", "optim", "beta1", 0, 0.9999999, "0.9", "AdamW: decay of the first moment"),
    REAL("pretrain", "optim", "beta2", 0, 0.9999999, "0.95", "AdamW: decay of the second moment"),
    REAL("pretrain", "optim", "eps", 0, 1, "1e-8", "AdamW: added to the root of the second moment"),
    REAL("pretrain", "optim", "weight_decay", 0, 10, "0.1", "decoupled decay"),
    REAL("pretrain", "optim", "momentum", 0, 0.9999999, "0.95", "Muon: momentum"),
    FLAG("pretrain", "optim", "nesterov", "on", "Muon: Nesterov momentum"),
    INT("pretrain", "optim", "ns_steps", 1, 20, "5", "Muon: Newton-Schulz iterations"),
    REAL("pretrain", "optim", "rms_scale", 0, 10, "0.2", "Muon: RMS of an update, as AdamW's"),
    TEXT("pretrain", "optim", "muon", "matrix, expert, router", "KINDS", "kinds of parameters that Muon updates"),
    TEXT("pretrain", "optim", "no_decay", "none", "KINDS", "kinds that do not decay"),
    REAL("pretrain", "optim", "clip", 0, 1e9, "1", "largest gradient norm; 0: no clipping"),

    REAL("pretrain", "guard", "deviations", 0, 1e6, "6", "a gradient norm so many deviations out is skipped; 0: off"),
    INT("pretrain", "guard", "patience", 1, 1e6, "5", "skips in a row before going back to the last checkpoint"),

    INT("pretrain", "eval", "every", 0, 1e12, "500", "steps between evaluations (and at the end); 0: only there"),
    INT("pretrain", "eval", "windows", 0, 1e9, "64", "validation windows, always the same; 0: none"),

    INT("pretrain", "checkpoint", "every", 0, 1e12, "500", "steps between checkpoints (and at the end); 0: only there"),
    INT("pretrain", "checkpoint", "keep", 0, 1e6, "2", "newest ones to keep besides the best; 0: all"),
    INT("pretrain", "checkpoint", "milestone", 0, 1e12, "0", "keep every checkpoint at a multiple of this; 0: none"),
    CHOICE("pretrain", "checkpoint", "dtype", "f32|bf16|f16", "f32",
           "type of the saved matrices (fp32 is kept in state/)"),

    INT("pretrain", "sample", "every", 0, 1e12, "0", "steps between samples; 0: none"),
    INT("pretrain", "sample", "tokens", 1, 1e6, "100", "tokens of a sample"),
    LIST("pretrain", "sample", "prompt", "Once upon a time", "TEXT", "what samples begin with"),

    LIST("pretrain", "sweep", "run", NULL, "NAME: KEY=VALUE ...", "train once with these keys, in <run>/NAME-seedS"),
    TEXT("pretrain", "sweep", "seeds", "1", "SEEDS", "train.seed of each run, e.g. 1 2 3"),
    INT("pretrain", "sweep", "jobs", 1, 1000, "1", "runs at once, sharing the threads"),
    TEXT("data:build", "", "tokenizer", NULL, "T", "folder or file of the tokenizer"),
    TEXT("data:info", "", "tokenizer", NULL, "T", "tokenizer for the samples; default: the copy in the data folder"),
    TEXT("data:build", "", "out", NULL, "DIR", "folder to write; an interrupted build there is continued"),
    TEXT("data:build", "", "name", NULL, "NAME", "name of the data set; default: the last part of --out"),
    CHOICE("data:build data:info", "", "documents", "marker|blank|whole", "marker",
           "what ends a document in plain text: a line with the marker, blank lines, or the file"),
    TEXT("data:build data:info", "", "marker", "<|endoftext|>", "TEXT", "line between documents in plain text"),
    TEXT("data:build data:info", "", "field", "text", "KEY", "key of the text in JSON lines"),
    REAL("data:build", "", "val-fraction", 0, 0.5, "0.01", "share of the documents kept for validation"),
    FLAG("data:build", "", "val-last", "off",
         "take it from the end of the text, cutting a document there, not by chance"),
    INT("data:build", "", "val-every", 0, 1e12, "0", "keep every so many-th document for validation instead; 0: off"),
    INT("data:build", "", "seed", 0, 9e15, "0", "decides which documents are for validation, and the shuffle"),
    FLAG("data:build", "", "shuffle", "off", "put the documents of all inputs into random order"),
    INT("data:build", "", "shard-tokens", 1, 1e12, "100m", "tokens in a shard; a build continues from whole shards"),
    CHOICE("data:build", "", "bos", "auto|on|off", "auto", "begin each document with BOS; auto: if there is one"),
    CHOICE("data:build", "", "eos", "auto|on|off", "auto", "end each document with EOS; auto: if there is one"),
    CHOICE("data:build", "", "dtype", "auto|uint16|uint32", "auto",
           "type of the ids; auto: the smaller that holds them"),
    REAL("data:build", "", "max-bad", 0, 1, "0.01", "share of JSON lines that may be malformed and are left out"),
    FLAG("data:build data:synth data:info", "", "json", "off", "print one JSON object"),
    TEXT("data:synth", "", "out", NULL, "FILE", "file to write"),
    INT("data:synth", "", "bytes", 0, 1e15, "0", "write documents until the file is so long"),
    INT("data:synth", "", "docs", 0, 1e12, "0", "write so many documents"),
    INT("data:synth", "", "seed", 0, 9e15, "0", "same seed, same text"),
    CHOICE("data:synth", "", "format", "auto|txt|jsonl", "auto", "auto: JSON lines if the file is named .jsonl"),
    INT("data:info", "", "samples", 0, 1000, "0", "documents to show"),
    FLAG("data:info", "", "verify", "off", "compare every shard with its hash"),
};

const size_t ml_cli_n_rows = sizeof ml_cli_rows / sizeof *ml_cli_rows;
