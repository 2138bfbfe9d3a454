/* Products for inference with bf16 weights: y[t, i] = sum over j of x[t, j] * w[i, j], x rounded to bf16, fp32 sums.
 *
 * What AVX-512 BF16's vdpbf16ps computes, in one fixed order: 16 lanes, where lane l takes the pairs
 * j = 2 l, 2 l + 32, 2 l + 64, ... in ascending order; x and w count as zero beyond k:
 *     s[l] = +0;  s[l] = fma(x[j + 1], w[j + 1], s[l]);  s[l] = fma(x[j], w[j], s[l])
 *     s[l] += s[l + 8] for l < 8;  s[l] += s[l + 4] for l < 4;  s[l] += s[l + 2] for l < 2;  y = s[0] + s[1]
 * So a token's result depends neither on the other tokens nor on the threads; nor on the instruction set, as long as no
 * weight, product or sum is subnormal (below 2^-126 vdpbf16ps has zero).
 *
 * Rounding moves an element of x by at most 2^-8 of it (half a unit of eight bits), so beside the exact product
 *     |y - exact| <= 2^-8 * sum of |x w|   and the rounding of fp32. */
#ifndef ML_OPS_CPU_BF16_MATMUL_H
#define ML_OPS_CPU_BF16_MATMUL_H

#include <stddef.h>
#include <stdint.h>

/* Rows of activations rounded to bf16, zeros behind the last column up to a multiple of 32. */
typedef struct {
    const uint16_t *x; /* [n_row, stride] */
    int64_t n_row, k, stride;
} ml_bf16_input;

/* Bytes that ml_bf16_input_make needs for n_row rows of k. */
size_t ml_bf16_input_bytes(int64_t n_row, int64_t k);
/* x [n_row, k], rows x_stride apart, to nearest even, into `memory` (64-byte aligned), on all threads. */
ml_bf16_input ml_bf16_input_make(const float *x, int64_t x_stride, int64_t n_row, int64_t k, void *memory);

typedef struct {
    int64_t n_token, n, k; /* each may be 0 */
    const ml_bf16_input *x;
    const int32_t *x_row; /* NULL, or: token t is row x_row[t] of x */
    const uint16_t *w;    /* bf16 [n, k], rows w_stride elements apart */
    int64_t w_stride;
    float *y; /* [n_token, n], rows y_stride apart */
    int64_t y_stride;
} ml_bf16_matmul;

/* All threads on one product; they share out the rows of w. */
void ml_bf16_matmul_run(const ml_bf16_matmul *p);
/* On the calling thread only: for products that are themselves tasks of an ml_parallel_for. */
void ml_bf16_matmul_run_serial(const ml_bf16_matmul *p);

#endif
