/* Dot products of bf16 pairs without vector instructions: the reference for the bits of the others. */
#include "ops/cpu/bf16_matmul_kernel.h"
#include "tensor/dtype.h"

#include <math.h>

enum { LANES = 16 };

static void tile(int64_t k, const uint16_t *const *x, const uint16_t *const *w, int64_t ahead, float *out)
{
    (void)ahead;
    float sum[LANES] = { 0 };
    for (int64_t j = 0; j < k; j += 2) {
        int l = (int)(j / 2 % LANES);
        if (j + 1 < k) sum[l] = fmaf(ml_bf16_to_f32(x[0][j + 1]), ml_bf16_to_f32(w[0][j + 1]), sum[l]);
        sum[l] = fmaf(ml_bf16_to_f32(x[0][j]), ml_bf16_to_f32(w[0][j]), sum[l]);
    }
    for (int half = LANES / 2; half >= 1; half /= 2) {
        for (int l = 0; l < half; l++) sum[l] += sum[l + half];
    }
    *out = sum[0];
}

const ml_bf16_kernel ml_bf16_kernel_scalar = { .tile = {
                                                   { 1, 1, tile }, { 1, 1, tile }, { 1, 1, tile }, { 1, 1, tile } } };
