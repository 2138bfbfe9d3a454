/* Random numbers: PCG32 streams for what must be reproducible and resumable.
 *
 * The whole state is two words, so a checkpoint stores it exactly.  Two streams of one seed with
 * different ids are independent: give each use (initialisation, data order, sampling) its own id. */
#ifndef ML_BASE_RNG_H
#define ML_BASE_RNG_H

#include <stdint.h>

typedef struct {
    uint64_t state;
    uint64_t increment; /* odd; selects the stream */
} ml_rng;

/* A fixed one-to-one scrambling of 64 bits (the finaliser of SplitMix64; Steele, Lea, Flood 2014): neighbouring
 * numbers give unrelated ones. */
static inline uint64_t ml_rng_mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

ml_rng ml_rng_make(uint64_t seed, uint64_t stream);
uint32_t ml_rng_u32(ml_rng *rng);
uint64_t ml_rng_u64(ml_rng *rng);
/* Uniform in [0, n), unbiased; n >= 1. */
uint64_t ml_rng_below(ml_rng *rng, uint64_t n);
/* Uniform in [0, 1), 53 bits. */
double ml_rng_uniform(ml_rng *rng);
/* Standard normal (Box-Muller; keeps no second value, so the state stays two words). */
double ml_rng_normal(ml_rng *rng);

/* Elements first .. first + n of an endless row of standard normals in single precision, fast: the row is a function
 * of seed and stream, the same on every machine, and any part of it can be made alone.  No larger than 6.7, and made
 * from 31 and 32 random bits for a pair. */
void ml_rng_fill_normal(uint64_t seed, uint64_t stream, uint64_t first, uint64_t n, float *out);

#endif
