/* Many normal numbers at once: element i of a stream is a function of (seed, stream, i) alone, so that any part of it
 * can be made anywhere, in any order.  A pair comes from 64 scrambled bits by Box and Muller's transform, in loops
 * that compilers make vectors of. */
#include "base/rng.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { BLOCK = 256, N_PAIR = BLOCK / 2 };

/* ln x of a positive normal number (the series in s = f / (2 + f) of FreeBSD's e_logf.c, published by Sun). */
static inline float logarithm(float x)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits += 0x3f800000 - 0x3f3504f3; /* the mantissa begins at sqrt(1/2) */
    float exponent = (float)((bits >> 23) - 127), f;
    bits = (bits & 0x7fffff) + 0x3f3504f3;
    memcpy(&f, &bits, sizeof f);
    f -= 1;
    float s = f / (2 + f), z = s * s, w = z * z, half_square = 0.5f * f * f;
    float r = w * (0.40000972152f + w * 0.24279078841f) + z * (0.66666662693f + w * 0.28498786688f);
    return s * (half_square + r) + exponent * 9.0580006145e-06f - half_square + f + exponent * 6.9313812256e-01f;
}

/* sin and cos of 2 pi t / 2^32, by quarter turns and the Taylor series to the precision of fp32. */
static inline void turn(int32_t t, float *sine, float *cosine)
{
    int32_t quarter = ((t >> 29) + 1) >> 1;                                                       /* the nearest */
    float a = (float)(int32_t)((uint32_t)t - (uint32_t)quarter * (1u << 30)) * 1.4629180793e-09f; /* pi/2 2^-30 */
    float z = a * a;
    float s = a + a * z * (-0.16666667f + z * (8.3333333e-3f + z * (-1.9841270e-4f + z * 2.7557319e-6f)));
    float c = 1 - 0.5f * z + z * z * (4.1666667e-2f + z * (-1.3888889e-3f + z * 2.4801587e-5f));
    float x = quarter & 1 ? c : s, y = quarter & 1 ? s : c;
    *sine = quarter & 2 ? -x : x;
    *cosine = (quarter + 1) & 2 ? -y : y;
}

static void make_block(uint64_t key, uint64_t block, float *out)
{
    int32_t radius[N_PAIR], angle[N_PAIR];
    for (int i = 0; i < N_PAIR; i++) {
        uint64_t bits = ml_rng_mix(key + (block * N_PAIR + (uint64_t)i) * 0x9e3779b97f4a7c15u);
        radius[i] = (int32_t)(bits >> 33);
        angle[i] = (int32_t)(uint32_t)bits;
    }
    for (int i = 0; i < N_PAIR; i++) {
        /* In (0, 1]: the largest radius is 6.66. */
        float uniform = ((float)radius[i] + 0.5f) * 0x1p-31f, sine, cosine;
        float square = -2 * logarithm(uniform), r = sqrtf(square > 0 ? square : 0);
        turn(angle[i], &sine, &cosine);
        out[i] = r * cosine;
        out[N_PAIR + i] = r * sine;
    }
}

void ml_rng_fill_normal(uint64_t seed, uint64_t stream, uint64_t first, uint64_t n, float *out)
{
    uint64_t key = ml_rng_mix(ml_rng_mix(seed + 0x9e3779b97f4a7c15u) + stream);
    float block[BLOCK];
    while (n) {
        uint64_t skip = first % BLOCK, count = BLOCK - skip < n ? BLOCK - skip : n;
        bool whole = count == BLOCK;
        make_block(key, first / BLOCK, whole ? out : block);
        if (!whole) memcpy(out, block + skip, count * sizeof *out);
        first += count;
        out += count;
        n -= count;
    }
}
