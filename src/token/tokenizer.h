/* BPE, byte-level or SentencePiece's: text <-> token ids.
 *
 * A tokenizer owns a vocabulary (id -> bytes), the merges in rank order, the pattern that cuts text into
 * pieces before merging, and the added tokens.  It is immutable once opened, so any number of threads may
 * use one.  Files are read in several formats and written in one (Hugging Face), with equal ids in all.
 *
 *   text --(added tokens, if asked)--> segments --(normal form)--(split pattern)--> pieces --(merges by rank)--> ids
 *
 * Bytes that are not UTF-8 are legal: each becomes the token of that byte, text on either side is encoded as
 * if it stood alone, and decoding gives the same bytes back.  Added tokens (all specials are added tokens) are
 * recognised in text only when the caller asks: user text cannot forge a turn of a conversation.
 *
 * Encoding and decoding are declared in moonlight.h; so is opening, which knows formats of higher layers, too. */
#ifndef ML_TOKEN_TOKENIZER_H
#define ML_TOKEN_TOKENIZER_H

#include "base/status.h"

#include <stdbool.h>

ml_status ml_ids_append(ml_ids *ids, const int32_t *id, size_t n, ml_error *err);

/* Bytes, growing; start zeroed.  Not 0-terminated. */
typedef struct {
    char *data;
    size_t n, capacity;
} ml_chars;

void ml_chars_free(ml_chars *chars);
ml_status ml_chars_append(ml_chars *chars, const void *data, size_t n_bytes, ml_error *err);

/* Somebody else's bytes. */
typedef struct {
    const char *data;
    size_t n_bytes;
} ml_text;

/* What a file does not say. */
typedef struct {
    /* Split pattern, a name or a regex (see token/split.h), for a tiktoken file that is not Moonlight's; NULL: it
     * must be stored beside the file ("split_pattern" in tokenizer_config.json).  ML_EINVAL if the file itself
     * says otherwise. */
    const char *pattern;
    /* Special tokens to add at the ids that follow the vocabulary, e.g. "<|system|>". */
    const char *const *added;
    size_t n_added;
} ml_tokenizer_extra;

/* What ml_tokenizer_open opens, but for GGUF files (format/open_tokenizer.h). */
ml_status ml_tokenizer_open_with(const char *path, const ml_tokenizer_extra *extra, ml_tokenizer **out, ml_error *err);

/* Write tokenizer.json and tokenizer_config.json, which Hugging Face tokenizers and transformers open with equal
 * ids; makes the folder if needed. */
ml_status ml_tokenizer_save(const ml_tokenizer *t, const char *folder, ml_error *err);

/* Encode a stretch in the middle of a text, behind an added token, say; added tokens in it are not recognised. */
ml_status ml_tokenizer_encode_inside(const ml_tokenizer *t, const char *text, size_t n_bytes, ml_ids *out,
                                     ml_error *err);

/* Encode many documents on all threads: ids end to end, appended to *out; document i is
 * out->id[offsets[i] .. offsets[i+1]).  offsets [n_docs + 1]. */
ml_status ml_tokenizer_encode_many(const ml_tokenizer *t, const ml_text *docs, size_t n_docs, bool parse_special,
                                   ml_ids *out, size_t *offsets, ml_error *err);

/* Decoding token by token: a UTF-8 sequence split over tokens is held back until it is complete.  Start zeroed but for
 * the first three; needs no freeing. */
typedef struct {
    bool skip_special;
    bool replace_invalid; /* bytes that can never become UTF-8 come out as U+FFFD instead of as they are */
    bool inside;          /* the first id goes on with a text: a space before it is the text's own */
    uint8_t held[4];
    uint8_t n_held;
} ml_detok;

/* Append to *out what id completes (maybe nothing). */
ml_status ml_detok_push(ml_detok *d, const ml_tokenizer *t, int32_t id, ml_chars *out, ml_error *err);
/* At the end: append what is still held. */
ml_status ml_detok_flush(ml_detok *d, ml_chars *out, ml_error *err);
/* Append the text of id[n], decoded as the first three fields of `how` say. */
ml_status ml_detok_append(ml_detok how, const ml_tokenizer *t, const int32_t *id, size_t n, ml_chars *out,
                          ml_error *err);

/* Whether the text behind these ids goes on with theirs: only behind an added token does a text of its own begin. */
bool ml_tokenizer_continues(const ml_tokenizer *t, const ml_ids *prompt);
/* *out becomes the text of an answer to a prompt: valid UTF-8, without special tokens. */
ml_status ml_tokenizer_decode_answer(const ml_tokenizer *t, const ml_ids *prompt, const int32_t *id, size_t n,
                                     ml_chars *out, ml_error *err);

/* Bytes of a token, not 0-terminated; NULL for an id that has none. */
const char *ml_tokenizer_piece(const ml_tokenizer *t, int32_t id, size_t *n_bytes);
/* Id of the added token with this text, -1 if there is none. */
int32_t ml_tokenizer_find(const ml_tokenizer *t, const char *text);
/* Left out by skip_special. */
bool ml_tokenizer_is_special(const ml_tokenizer *t, int32_t id);
/* Recognised only with parse_special; every special token is one. */
bool ml_tokenizer_is_added(const ml_tokenizer *t, int32_t id);
/* An entry no text can become. */
bool ml_tokenizer_is_literal(const ml_tokenizer *t, int32_t id);
/* Ids by role, -1 where the tokenizer has none; bos and eos are in moonlight.h. */
int32_t ml_tokenizer_unk(const ml_tokenizer *t);
int32_t ml_tokenizer_pad(const ml_tokenizer *t);
/* Texts begin with just the BOS token, end with just the EOS token (ml_tokenizer_append_prefix). */
bool ml_tokenizer_add_bos(const ml_tokenizer *t);
bool ml_tokenizer_add_eos(const ml_tokenizer *t);
/* Ids that end an answer besides EOS, as the file names them. */
const int32_t *ml_tokenizer_ends(const ml_tokenizer *t, size_t *n);
/* SentencePiece BPE (token/build.h); then, whether pieces have scores that say all. */
bool ml_tokenizer_is_sentencepiece(const ml_tokenizer *t);
bool ml_tokenizer_is_scored(const ml_tokenizer *t);
float ml_tokenizer_score(const ml_tokenizer *t, int32_t id);
/* A space is put before each text. */
bool ml_tokenizer_space_prefix(const ml_tokenizer *t);
/* Texts are brought into Normalization Form C. */
bool ml_tokenizer_is_nfc(const ml_tokenizer *t);
/* The byte that a byte token of SentencePiece stands for, -1 for other ids. */
int ml_tokenizer_byte(const ml_tokenizer *t, int32_t id);
/* Jinja text of tokenizer_config.json, NULL when there is none. */
const char *ml_tokenizer_chat_template(const ml_tokenizer *t);
/* The name of a chat format that is stored with it (token/chat.h), NULL when there is none. */
const char *ml_tokenizer_chat_format(const ml_tokenizer *t);
/* "tokenizer.json", "tiktoken", "gpt2", "llama2.c", "trained", "gguf" or "sentencepiece". */
const char *ml_tokenizer_kind(const ml_tokenizer *t);
/* Name of the split pattern, or its regex when it has no name. */
const char *ml_tokenizer_pattern(const ml_tokenizer *t);
/* The regex (or name, where it has one) of a stage of the split, in order; NULL behind the last. */
const char *ml_tokenizer_split_stage(const ml_tokenizer *t, size_t stage);
/* Merges in rank order: pair i of [0, n) and the token it makes. */
size_t ml_tokenizer_merge_count(const ml_tokenizer *t);
void ml_tokenizer_merge(const ml_tokenizer *t, size_t i, int32_t *left, int32_t *right, int32_t *result);
/* Lower-case hex SHA-256 over id -> bytes: equal for equal vocabularies, whatever file they came from. */
const char *ml_tokenizer_fingerprint(const ml_tokenizer *t);

#endif
