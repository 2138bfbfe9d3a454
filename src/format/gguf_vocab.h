/* Names and numbers of vocabularies in GGUF; for reading and writing tokenizers. */
#ifndef ML_FORMAT_GGUF_VOCAB_H
#define ML_FORMAT_GGUF_VOCAB_H

#include <stdbool.h>

#define KEY(name) "tokenizer.ggml." name
#define CHAT_TEMPLATE_KEY "tokenizer.chat_template"
#define CHAT_FORMAT_KEY "moonlight.chat_format" /* our own: a name of token/chat.h */
#define END_IDS_KEY "moonlight.end_token_ids"   /* our own: int32 ids, each of which ends an answer */

/* Numbers of tokenizer.ggml.token_type. */
enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER_DEFINED, TYPE_UNUSED, TYPE_BYTE };

enum { ML_GGUF_MAX_STAGE = 3, ML_GGUF_N_PRE = 7 };

/* What names of tokenizer.ggml.pre mean, the first of a pattern being the one that is written. */
typedef struct {
    const char *name;
    const char
        *split[ML_GGUF_MAX_STAGE]; /* names or regexes of token/split.h, as the models' tokenizer.json has them */
    bool whole_piece, add_bos, nfc;
} ml_gguf_pre;

extern const ml_gguf_pre ml_gguf_pres[ML_GGUF_N_PRE];

#endif
