/* SHA-256 through libcrypto (hardware instructions where the machine has them), XXH3 through libxxhash to tell large
 * files apart at the speed of memory, and FNV-1a for tables. */
#ifndef ML_BASE_HASH_H
#define ML_BASE_HASH_H

#include "base/status.h"

#include <stdint.h>

enum { ML_SHA256_BYTES = 32, ML_SHA256_HEX = 65 };

typedef struct ml_sha256 ml_sha256;

ml_status ml_sha256_begin(ml_sha256 **h, ml_error *err);
void ml_sha256_add(ml_sha256 *h, const void *data, size_t n_bytes);
/* Finish into digest[32]; h is as after its begin: for many short texts. */
void ml_sha256_finish(ml_sha256 *h, uint8_t digest[ML_SHA256_BYTES]);
/* Finish and free h. */
void ml_sha256_end(ml_sha256 *h, uint8_t digest[ML_SHA256_BYTES]);
void ml_sha256_free(ml_sha256 *h);

void ml_sha256_to_hex(const uint8_t digest[ML_SHA256_BYTES], char hex[ML_SHA256_HEX]);

/* XXH3, 128 bits, as `xxhsum -H2` prints it: ten times as fast as SHA-256, and no defence against those who choose the
 * bytes. */
enum { ML_XXH3_HEX = 33 };

typedef struct ml_xxh3 ml_xxh3;

ml_status ml_xxh3_begin(ml_xxh3 **h, ml_error *err);
void ml_xxh3_add(ml_xxh3 *h, const void *data, size_t n_bytes);
/* Finish as lower-case hex with a final 0, and free h. */
void ml_xxh3_end(ml_xxh3 *h, char hex[ML_XXH3_HEX]);
void ml_xxh3_free(ml_xxh3 *h);

/* Whole files, as lower-case hex with a final 0. */
ml_status ml_sha256_file(const char *path, char hex[ML_SHA256_HEX], ml_error *err);
ml_status ml_xxh3_file(const char *path, char hex[ML_XXH3_HEX], ml_error *err);

/* FNV-1a, 64 bits: no defence against those who choose the bytes.  Fold the high bits down where the low ones choose.
 */
static inline uint64_t ml_hash_bytes(const void *data, size_t n_bytes)
{
    const unsigned char *byte = data;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n_bytes; i++) hash = (hash ^ byte[i]) * 0x100000001b3u;
    return hash;
}

#endif
