#include "data/permute.h"

#include "base/rng.h"

/* A Feistel network permutes [0, 2^(2 half_bits)); walking its cycle until the value falls below n makes that a
 * permutation of [0, n) (Black and Rogaway 2002).  The square domain is under 4 n, so a walk takes 4 steps at most
 * on average. */
int64_t ml_permute(int64_t i, int64_t n, uint64_t key)
{
    int half_bits = 1;
    while (half_bits < 31 && (int64_t)1 << (2 * half_bits) < n) half_bits++;
    uint64_t mask = ((uint64_t)1 << half_bits) - 1;
    uint64_t x = (uint64_t)i;
    do {
        uint64_t left = x >> half_bits, right = x & mask;
        for (uint64_t round = 0; round < 6; round++) {
            uint64_t next = left ^ (ml_rng_mix(key + right + (round + 1) * 0x9e3779b97f4a7c15u) & mask);
            left = right;
            right = next;
        }
        x = left << half_bits | right;
    } while (x >= (uint64_t)n);
    return (int64_t)x;
}

uint64_t ml_permute_key(uint64_t seed, int64_t epoch)
{
    return ml_rng_mix(ml_rng_mix(seed) + (uint64_t)epoch);
}
