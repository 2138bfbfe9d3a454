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
    TEXT("tokenizer:train", "", "separator", "<|endoftext|>", "TEXT", "line that ends a document of a text file"),
    TEXT("tokenizer:train", "", "field", "text", "KEY", "key of the text in JSON lines"),
    CHOICE("tokenizer:train", "", "ties", "first|last", "first",
           "which of equally frequent pairs merges: lowest ids (Hugging Face), or last in byte order"),
    FLAG("tokenizer:train", "", "allow-fewer", "off", "accept a smaller vocabulary from a small corpus"),
};

const size_t ml_cli_n_rows = sizeof ml_cli_rows / sizeof *ml_cli_rows;
