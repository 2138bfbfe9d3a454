/* SHA-256 of many texts, each with the same few bytes behind it: two at a time on machines with SHA instructions
 * (sha256_blocks.h), one after the other through libcrypto elsewhere.  The digests are the same. */
#ifndef ML_BASE_SHA256_MANY_H
#define ML_BASE_SHA256_MANY_H

#include "base/hash.h"

enum { ML_SHA256_SUFFIX_MAX = 32 };

typedef struct {
    const void *data;
    size_t n_bytes;
} ml_sha256_text;

/* digest[i] of text[i] + suffix, for i < n; the suffix has at most ML_SHA256_SUFFIX_MAX bytes.  ML_ENOMEM at most. */
ml_status ml_sha256_many(const ml_sha256_text *text, size_t n, const void *suffix, size_t n_suffix,
                         uint8_t (*digest)[ML_SHA256_BYTES], ml_error *err);

#endif
