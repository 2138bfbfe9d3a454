/* The order of an epoch: a permutation computed, not stored. */
#ifndef ML_DATA_PERMUTE_H
#define ML_DATA_PERMUTE_H

#include <stdint.h>

/* Where item i of [0, n) stands in the permutation of `key`; 1 <= n <= 2^62. */
int64_t ml_permute(int64_t i, int64_t n, uint64_t key);
/* The key of an epoch. */
uint64_t ml_permute_key(uint64_t seed, int64_t epoch);

#endif
