/* Readers of the tokenizer formats; for open.c. */
#ifndef ML_TOKEN_READ_H
#define ML_TOKEN_READ_H

#include "base/json.h"
#include "token/build.h"

/* What open.c knows besides the file. */
typedef struct {
    const json_t *config; /* tokenizer_config.json, NULL when there is none */
    const char *config_path;
    const char *pattern; /* given by the caller, or NULL */
} ml_read_context;

/* Load tokenizer_config.json, whose model_max_length is often 10^30. */
ml_status ml_read_config(const char *path, json_t **out, ml_error *err);

/* Each makes an unfinished tokenizer, without what tokenizer_config.json adds to every format.  `root` is the parsed
 * tokenizer.json at `path`. */
ml_status ml_read_hf(const json_t *root, const char *path, const ml_read_context *context, ml_tokenizer **out,
                     ml_error *err);
ml_status ml_read_tiktoken(const char *path, const ml_read_context *context, ml_tokenizer **out, ml_error *err);
ml_status ml_read_gpt2(const char *vocab_path, const char *merges_path, const ml_read_context *context,
                       ml_tokenizer **out, ml_error *err);
ml_status ml_read_llama2(const char *path, ml_tokenizer **out, ml_error *err);

/* ML_EINVAL for a key of tokenizer.json whose value cannot be honoured. */
ml_status ml_read_refuse(const char *key, const char *expected, const char *found, ml_error *err);
/* The "type" of a part of tokenizer.json. */
const char *ml_read_type(const json_t *object);

/* What the normalizer of tokenizer.json does. */
typedef struct {
    bool nfc;
    bool wide_space; /* spaces become U+2581 */
    bool prepend;    /* one is put before each stretch of text */
} ml_normalizer;

ml_status ml_read_normalizer(const json_t *root, ml_normalizer *out, ml_error *err);
/* Tokens that the post_processor puts around texts. */
ml_status ml_read_post_processor(ml_tokenizer *t, const json_t *root, ml_error *err);
/* The SentencePiece form of tokenizer.json: its pre_tokenizer, added tokens being there. */
bool ml_read_is_sentencepiece(const json_t *root, const ml_normalizer *normalizer);
ml_status ml_read_spaces(ml_tokenizer *t, const json_t *root, const ml_normalizer *normalizer, ml_error *err);
/* Its vocabulary: pieces with U+2581 for spaces, and with `bytes`, byte tokens. */
ml_status ml_read_pieces(ml_tokenizer *t, const json_t *vocab, bool bytes, ml_error *err);

/* For the readers: the pieces of a vocabulary object {"text": id} in mapped characters, but for ids already there. */
ml_status ml_read_vocab(ml_tokenizer *t, const json_t *vocab, ml_error *err);
/* One merge of the texts left and right. */
ml_status ml_read_merge(ml_tokenizer *t, const json_t *vocab, const char *left, size_t n_left, const char *right,
                        size_t n_right, ml_error *err);
/* Put "added_tokens_decoder" of the config. */
ml_status ml_read_added_decoder(ml_tokenizer *t, const ml_read_context *context, ml_error *err);
/* The flags of an added-token object; ML_EINVAL for lstrip, rstrip and single_word. */
ml_status ml_read_added_flags(const json_t *token, const char *where, int *flags, ml_error *err);

#endif
