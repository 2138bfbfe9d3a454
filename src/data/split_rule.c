#include "data/split_rule.h"

#include <math.h>

bool ml_split_rule_is_val(ml_sha256 *hash, const char *key, size_t n_bytes, double val_fraction)
{
    uint8_t digest[ML_SHA256_BYTES];
    uint64_t first = 0;
    ml_sha256_add(hash, key, n_bytes);
    ml_sha256_add(hash, "moonlight", 9);
    ml_sha256_finish(hash, digest);
    for (int i = 0; i < 8; i++) first = first << 8 | digest[i];
    return ldexp((double)first, -64) >= 1 - val_fraction;
}
