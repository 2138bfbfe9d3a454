#include "data/split_rule.h"

#include <math.h>

ml_status ml_split_rule_many(const ml_sha256_text *key, size_t n, double val_fraction, bool *is_val, ml_error *err)
{
    enum { AT_ONCE = 512 };
    uint8_t digest[AT_ONCE][ML_SHA256_BYTES];
    for (size_t at = 0; at < n; at += AT_ONCE) {
        size_t here = n - at < AT_ONCE ? n - at : AT_ONCE;
        ML_TRY(ml_sha256_many(key + at, here, "moonlight", 9, digest, err));
        for (size_t i = 0; i < here; i++) {
            uint64_t first = 0;
            for (int b = 0; b < 8; b++) first = first << 8 | digest[i][b];
            is_val[at + i] = ldexp((double)first, -64) >= 1 - val_fraction;
        }
    }
    return ML_OK;
}

ml_status ml_split_rule_is_val(const char *key, size_t n_bytes, double val_fraction, bool *is_val, ml_error *err)
{
    return ml_split_rule_many(&(ml_sha256_text){ key, n_bytes }, 1, val_fraction, is_val, err);
}
