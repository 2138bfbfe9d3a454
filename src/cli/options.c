/* The one option table (base/options.h): arguments of verbs, and the sections of recipes. */
#include "base/option_rows.h"
#include "cli/cli.h"
#include "token/chat.h"

#define CHAT_CHOICE(name) "|" name

#define TOKENIZER "tokenizer:encode tokenizer:decode tokenizer:info"

const ml_option_row ml_cli_rows[] = {
    FLAG("*", "", "help", "off", "print this help and stop"),
    INT("*", "", "threads", 0, 1024, "0", "threads to use; 0: as many as this process may run on"),
    TEXT(TOKENIZER, "", "tokenizer", NULL, "T", "tokenizer folder or file, GGUF file, or a model or run folder"),
    TEXT(TOKENIZER, "", "pattern", NULL, "P",
         "split pattern of a file that stores none: gpt2, gpt4, moonlight or a regex"),
    LIST(TOKENIZER, "", "added", NULL, "TEXT", "special token to add behind the vocabulary; may be repeated"),
    FLAG(TOKENIZER " tokenizer:train", "", "json", "off", "print one JSON object on the last line"),
    FLAG("tokenizer:encode", "", "special", "off", "turn the text of special tokens into their ids"),
    FLAG("tokenizer:encode", "", "around", "off", "also put what the tokenizer says belongs around a text: BOS, EOS"),
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
    TEXT("generate", "", "messages", NULL, "FILE", "conversation to answer, as JSON: messages, or {messages, tools}"),
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
    TEXT("chat", "", "system", NULL, "TEXT", "system message; without it the chat format's own, if it has one"),
    CHOICE("generate chat", "", "chat-format", "auto" ML_CHAT_FORMATS(CHAT_CHOICE), "auto",
           "how turns are marked; auto: as the model says; none: continue the text"),
    TEXT("generate chat", "", "tools", NULL, "FILE", "tools that the model may call: definitions as in OpenAI's API"),
    INT("chat", "", "max-tokens", 1, 1e9, "512", "tokens of an answer at most"),
    TEXT("inspect", "", "config", NULL, "PRESET", "an architecture by name instead of a path; --model.KEY changes it"),
    TEXT("inspect", "", "svg", NULL, "FILE", "draw the architecture"),
    FLAG("inspect", "", "json", "off", "print one JSON object: n_params, n_params_active, memory, ..."),
    CHOICE("init", "", "dtype", "f32|bf16|f16", "f32", "type of the matrices in the file"),
    INT("init", "", "seed", 0, 9e15, "0", "of the random weights"),

    TEXT("pretrain", "", "run", "runs/pretrain", "DIR", "folder of the run: checkpoints, logs, samples"),
    FLAG("pretrain", "", "resume", "off", "continue the run from its latest checkpoint"),

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
    CHOICE("data:build", "", "bos", "auto|on|off", "auto",
           "begin each document with BOS; auto: if the tokenizer says so"),
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

#include "recipe/options.def"
};

const size_t ml_cli_n_rows = sizeof ml_cli_rows / sizeof *ml_cli_rows;
