#include "data/split_rule.h"

#include "base/hash.h"

#include <math.h>

ml_status ml_split_rule_is_val(const char *key, size_t n_bytes, double val_fraction, bool *is_val, ml_error *err)
{
    ml_sha256 *hash;
    uint8_t digest[ML_SHA256_BYTES];
    uint64_t first = 0;
    ML_TRY(ml_sha256_begin(&hash, err));
    ml_sha256_add(hash, key, n_bytes);
    ml_sha256_add(hash, "moonlight", 9);
    ml_sha256_end(hash, digest);
    for (int i = 0; i < 8; i++) first = first << 8 | digest[i];
    *is_val = ldexp((double)first, -64) >= 1 - val_fraction;
    return ML_OK;
}
