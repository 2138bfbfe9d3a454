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

const ml_option_row ml_cli_rows[] = {
    FLAG("*", "", "help", "off", "print this help and stop"),
    INT("*", "", "threads", 0, 1024, "0", "threads to use; 0: as many as this process may run on"),

    TEXT("data:build", "", "tokenizer", NULL, "T", "folder or file of the tokenizer"),
    TEXT("data:info", "", "tokenizer", NULL, "T", "tokenizer for the samples; default: the copy in the data folder"),
    TEXT("data:build", "", "out", NULL, "DIR", "folder to write; an interrupted build there is continued"),
    TEXT("data:build", "", "name", NULL, "NAME", "name of the data set; default: the last part of --out"),
    CHOICE("data:build data:info", "", "documents", "marker|blank|whole", "marker",
           "what ends a document in plain text: a line with the marker, blank lines, or the file"),
    TEXT("data:build data:info", "", "marker", "<|endoftext|>", "TEXT", "line between documents in plain text"),
    TEXT("data:build data:info", "", "field", "text", "KEY", "key of the text in JSON lines"),
    REAL("data:build", "", "val-fraction", 0, 0.5, "0.01", "share of the documents kept for validation"),
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
