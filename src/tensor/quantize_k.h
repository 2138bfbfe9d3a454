/* The search for the scale that loses least, in copies for the vectors of several instruction sets: x is approximated
 * by integer codes times a scale, plus a minimum or not, so that the weighted squared error is small.  Candidates are
 * tried one after the other, each with the scale (and minimum) that least squares gives for its codes; the first of
 * the best is kept.  All copies give the same bits. */
#ifndef ML_TENSOR_QUANTIZE_K_H
#define ML_TENSOR_QUANTIZE_K_H

#include <stdbool.h>
#include <stdint.h>

enum { ML_QUANTIZE_MAX_N = 32, ML_QUANTIZE_LANES = 8 };

typedef void (*ml_block_put)(const float *x, const float *importance, uint8_t *b);

typedef struct {
    /* One block (tensor/blocks_codec.h).  An element counts as its importance times sqrt(2 m + x^2), m the mean square
     * of the block; without importance as the root mean square of its sub-block plus |x|: large weights count more,
     * since they carry the large products. */
    ml_block_put q4_k, q5_k, q6_k;
    /* n_group (8 or 16) groups of n <= 32 elements side by side, element i of group g at x[i * n_group + g].
     *   affine: x ~ scale q + min, q in [0, n_level]; scale >= 0; min <= 0 if min_negative
     *   scale:  x ~ scale q, q in [-n_level, n_level - 1]; the scale may be negative (the code -n_level then serves
     *           the positive extreme) */
    void (*search_affine)(int n_group, int n, const float *x, const float *weight, int n_level, bool min_negative,
                          float *scale, float *min);
    void (*search_scale)(int n_group, int n, const float *x, const float *weight, int n_level, float *scale);
} ml_quantize_k;

/* For the instruction set in use. */
const ml_quantize_k *ml_quantize_k_get(void);

extern const ml_quantize_k ml_quantize_k_scalar, ml_quantize_k_avx2;

/* Nearest integer, ties to even, of |v| < 2^22. */
static inline float ml_quantize_round(float v)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: its sum with v has no fraction bits */
    return (v + magic) - magic;
}

static inline float ml_quantize_clamp(float v, float low, float high)
{
    v = v < low ? low : v;
    return v > high ? high : v;
}

#endif
