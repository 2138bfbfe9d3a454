/* Panels of 4 x 4 without vector instructions: the reference for the bits of the other two. */
#include "ops/cpu/gemm_kernel.h"

#include <math.h>

enum { MR = 4, NR = 4 };

static void pack_across(float *panel, int width, const float *const *line, int n_line, int64_t k)
{
    for (int64_t p = 0; p < k; p++) {
        for (int i = 0; i < width; i++) panel[p * width + i] = i < n_line ? line[i][p] : 0.0f;
    }
}

static void pack_along(float *panel, int64_t panel_size, int width, const float *src, int64_t n)
{
    for (; n > 0; n -= width, src += width, panel += panel_size) {
        for (int i = 0; i < width; i++) panel[i] = i < n ? src[i] : 0.0f;
    }
}

static void multiply(int64_t k, const float *a, const float *b, float *const *c, int64_t col, int rows, int cols,
                     bool add)
{
    for (int i = 0; i < rows; i++) {
        for (int j = 0; j < cols; j++) {
            float sum = 0;
            for (int64_t p = 0; p < k; p++) sum = fmaf(a[p * MR + i], b[p * NR + j], sum);
            float *to = c[i] + col + j;
            *to = add ? *to + sum : sum;
        }
    }
}

const ml_gemm_kernel ml_gemm_kernel_scalar = {
    .mr = MR, .nr = NR, .pack_across = pack_across, .pack_along = pack_along, .multiply = multiply
};
