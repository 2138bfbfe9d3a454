#include "base/rng.h"

#include <math.h>

static const uint64_t PCG_MULTIPLIER = 6364136223846793005u;

uint32_t ml_rng_u32(ml_rng *rng)
{
    uint64_t old = rng->state;
    rng->state = old * PCG_MULTIPLIER + rng->increment;
    uint32_t shifted = (uint32_t)(((old >> 18) ^ old) >> 27);
    uint32_t rotation = (uint32_t)(old >> 59);
    return shifted >> rotation | shifted << (-rotation & 31);
}

ml_rng ml_rng_make(uint64_t seed, uint64_t stream)
{
    ml_rng rng = { 0, stream << 1 | 1 };
    ml_rng_u32(&rng);
    rng.state += seed;
    ml_rng_u32(&rng);
    return rng;
}

uint64_t ml_rng_u64(ml_rng *rng)
{
    uint64_t high = ml_rng_u32(rng);
    return high << 32 | ml_rng_u32(rng);
}

uint64_t ml_rng_below(ml_rng *rng, uint64_t n)
{
    /* Numbers under 2^64 mod n would make the low residues likelier: draw again. */
    uint64_t threshold = -n % n;
    for (;;) {
        uint64_t r = ml_rng_u64(rng);
        if (r >= threshold) return r % n;
    }
}

double ml_rng_uniform(ml_rng *rng)
{
    return (double)(ml_rng_u64(rng) >> 11) * 0x1p-53;
}

double ml_rng_normal(ml_rng *rng)
{
    double u = 1.0 - ml_rng_uniform(rng); /* in (0, 1]: its logarithm is finite */
    double v = ml_rng_uniform(rng);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586476925286766559 * v);
}
