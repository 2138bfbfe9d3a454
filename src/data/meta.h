/* meta.json of a data folder: what token shards (dataset.h) and rows for tuning (rows.h) say alike of themselves.
 *
 * Every function names the file and the key when a value is not as expected (ML_EFORMAT). */
#ifndef ML_DATA_META_H
#define ML_DATA_META_H

#include "base/hash.h"
#include "base/json.h"

enum { ML_META_NAME = 256, ML_META_TOKENIZER = 128 };

/* A text of fewer than `size` bytes, into out. */
ml_status ml_meta_text(const json_t *object, const char *key, const char *where, char *out, size_t size, ml_error *err);
/* 0 .. 2^56 - 1: times the size of an item it is still a size. */
ml_status ml_meta_count(const json_t *object, const char *key, const char *where, int64_t *out, ml_error *err);

/* What the head of both kinds says.  `version` is 1. */
typedef struct {
    char *name;          /* [ML_META_NAME] "dataset" */
    char *tokenizer;     /* [ML_META_TOKENIZER] fingerprint of the tokenizer the ids belong to */
    char *fingerprint;   /* [ML_SHA256_HEX] of the data */
    int64_t *vocab_size; /* 1 .. 2^31 - 1 */
    int *id_bytes;       /* 2 or 4 */
} ml_meta_head;

/* Into where the pointers point. */
ml_status ml_meta_read_head(const json_t *meta, const char *where, const ml_meta_head *out, ml_error *err);

/* ML_EINVAL, naming both fingerprints, unless the ids in `folder` were made by the tokenizer in use. */
ml_status ml_meta_check_tokenizer(const char *folder, const char *made_by, const char *in_use, ml_error *err);
/* Read a file and compare its SHA-256 with what meta.json says. */
ml_status ml_meta_check_hash(const char *path, const char *expected, ml_error *err);

#endif
