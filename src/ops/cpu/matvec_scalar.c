/* Dot products without vector instructions: the reference for the bits of the other two. */
#include "ops/cpu/matvec_kernel.h"

#include <math.h>

enum { LANES = 16 };

static float weight(ml_dtype dtype, const void *w, int64_t j)
{
    const uint16_t *half = w;
    switch (dtype) {
    case ML_BF16: return ml_bf16_to_f32(half[j]);
    case ML_F16: return ml_f16_to_f32(half[j]);
    default: return ((const float *)w)[j];
    }
}

static float dot_lanes(ml_dtype dtype, int64_t k, const float *x, const void *w)
{
    float sum[LANES] = { 0 };
    for (int64_t begin = 0; begin < k; begin += LANES) {
        for (int l = 0; l < LANES; l++) {
            int64_t j = begin + l;
            sum[l] = fmaf(j < k ? x[j] : 0.0f, j < k ? weight(dtype, w, j) : 0.0f, sum[l]);
        }
    }
    for (int half = LANES / 2; half >= 1; half /= 2) {
        for (int l = 0; l < half; l++) sum[l] += sum[l + half];
    }
    return sum[0];
}

static void tile_f32(int64_t k, const float *const *x, const void *const *w, float *out)
{
    *out = dot_lanes(ML_F32, k, x[0], w[0]);
}

static void tile_bf16(int64_t k, const float *const *x, const void *const *w, float *out)
{
    *out = dot_lanes(ML_BF16, k, x[0], w[0]);
}

static void tile_f16(int64_t k, const float *const *x, const void *const *w, float *out)
{
    *out = dot_lanes(ML_F16, k, x[0], w[0]);
}

static float dot(const float *a, const float *b, int64_t n)
{
    return dot_lanes(ML_F32, n, a, b);
}

#define ONE                                                                                                            \
    {                                                                                                                  \
        .n_token = 1, .n_row = 1, .run = { [ML_F32] = tile_f32, [ML_BF16] = tile_bf16, [ML_F16] = tile_f16 }           \
    }

const ml_matvec_kernel ml_matvec_kernel_scalar = { .tile = { ONE, ONE, ONE }, .dot = dot };
