/* Tiles of dot products of bf16 pairs, for the instruction set of the including file, which defines before:
 *   vf, LANES          a vector of that many floats; 16 / LANES of them are the sixteen sums of a dot product
 *   vp                 as many pairs of bf16; vp_load(p) reads them, vf_zero() makes zeros
 *   vf_pairs(s, w, x)  s + the products of the pairs' second elements, then of their first, each fused
 *   reduce(sum, n, out)  n dot products' sums -> numbers, in the order of bf16_matmul.h; sum has whole sixteens
 */
#include "ops/cpu/bf16_matmul_kernel.h"

#include <string.h>

#define B_INLINE static inline __attribute__((always_inline))
enum { PARTS = 16 / LANES };

/* 32 columns from j on. */
B_INLINE void step(int n_token, int n_row, const uint16_t *const *x, int64_t j_x, const uint16_t *const *w, int64_t j,
                   int64_t ahead, vf (*sum)[PARTS])
{
#pragma GCC unroll 8
    for (int i = 0; i < n_row; i++) __builtin_prefetch((const char *)(w[i] + j) + ahead, 0, 2);
#pragma GCC unroll 2
    for (int part = 0; part < PARTS; part++) {
        vp xs[ML_BF16_MAX_TOKEN];
#pragma GCC unroll 6
        for (int t = 0; t < n_token; t++) xs[t] = vp_load(x[t] + j_x + part * 2 * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < n_row; i++) {
            vp ws = vp_load(w[i] + j + part * 2 * LANES);
#pragma GCC unroll 6
            for (int t = 0; t < n_token; t++) {
                sum[t * n_row + i][part] = vf_pairs(sum[t * n_row + i][part], ws, xs[t]);
            }
        }
    }
}

/* n_token and n_row are constants at every call. */
B_INLINE void tile(int n_token, int n_row, int64_t k, const uint16_t *const *x, const uint16_t *const *w, int64_t ahead,
                   float *out)
{
    vf sum[ML_BF16_MAX_OUT][PARTS];
#pragma GCC unroll 32
    for (int i = 0; i < (n_token * n_row + 15) / 16 * 16; i++) {
        for (int part = 0; part < PARTS; part++) sum[i][part] = vf_zero();
    }
    int64_t j = 0;
    for (; j + ML_BF16_STEP <= k; j += ML_BF16_STEP) step(n_token, n_row, x, j, w, j, ahead, sum);
    if (j < k) { /* the last columns, with zeros behind them: x has them */
        uint16_t tail[ML_BF16_MAX_ROW][ML_BF16_STEP] = { { 0 } };
        const uint16_t *last[ML_BF16_MAX_ROW];
        for (int i = 0; i < n_row; i++) last[i] = memcpy(tail[i], w[i] + j, (size_t)(k - j) * sizeof *tail[i]);
        step(n_token, n_row, x, j, last, 0, 0, sum);
    }
    reduce(sum, n_token * n_row, out);
}

#define B_TILE(name, n_token, n_row)                                                                                   \
    static void name(int64_t k, const uint16_t *const *x, const uint16_t *const *w, int64_t ahead, float *out)         \
    {                                                                                                                  \
        tile(n_token, n_row, k, x, w, ahead, out);                                                                     \
    }
