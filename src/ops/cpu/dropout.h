/* Which elements of an adapter's input count as zero: a function of seed, row and column alone, so that a segment that
 * runs again, and the way back, drop the same ones. */
#ifndef ML_OPS_CPU_DROPOUT_H
#define ML_OPS_CPU_DROPOUT_H

#include "base/rng.h"

/* y[j] = x[j] / (1 - share) where element `first + j` of row `row` stays, else 0; or, `add`: y[j] += that. */
static inline void ml_dropout_row(float share, uint64_t seed, int64_t row, int64_t first, int64_t n, const float *x,
                                  bool add, float *y)
{
    uint64_t key = ml_rng_mix(seed + 0x9e3779b97f4a7c15u * (uint64_t)(row + 1));
    uint64_t limit = (uint64_t)((double)share * 0x1p32);
    float scale = 1.0f / (1.0f - share);
    for (int64_t j = 0; j < n; j++) {
        bool stays = (ml_rng_mix(key + (uint64_t)(first + j)) >> 32) >= limit;
        float value = stays ? x[j] * scale : 0.0f;
        y[j] = add ? y[j] + value : value;
    }
}

#endif
