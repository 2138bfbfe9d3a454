/* Products for inference with weights of a block type: y[t, i] = sum over j of x[t, j] * w[i, j].
 *
 * x is rounded to 8 bits first, each unit of it (256 elements for the types with super-blocks, 32 for the others) with
 * a scale of its own: d = max |x| / 127, q = x / d to the nearest integer, ties to even.  Within a unit everything is
 * integer and exact; between units the order is fixed.  For the units u in ascending order, starting from y = +0:
 *     y = fma(dw dx, (float)a, y)     a = sum over sub-blocks of scale * (sum of code * q), plus, for the types whose
 *                                     codes stand for code - c or table[code], what that adds to the integers
 *     y = fma(mw dx, (float)b, y)     for types with minima: b = sum over sub-blocks of min * (sum of q), mw = -dmin
 *                                     (q4_1, q5_1: b = sum of q, mw = m)
 * So a token's bits do not depend on how many tokens are in the batch, on the threads, on the instruction set or on
 * how the weights are laid out.
 *
 * The rounding of x moves an element by at most d / 2, so beside the exact product of the dequantised weights
 *     |y - exact| <= sum over units of d / 2 * (sum of |w|)   and the rounding of fp32.
 * A unit of x whose largest magnitude is below 2^-100 counts as zero; one with an infinity or a NaN makes y NaN.
 *
 * Weights lie as rows (as in a file) or in panels.  A panel is 16 rows (the last is filled up with zero rows), block
 * after block: the four-byte words of the 16 blocks side by side (word 0 of 16 rows, word 1 of 16 rows, ...), then,
 * for types whose block is a half longer than whole words, the 16 halves.  The word of fifth bits of q5_0 and q5_1
 * has that of element 4 i + j at bit 8 j + i: one shift brings those of four consecutive elements to their codes.
 * Panels take ceil(n / 16) * 16 rows'
 * bytes.  Kernels read either; panels spare them the transposition and make the weights one stream. */
#ifndef ML_OPS_CPU_QMATMUL_H
#define ML_OPS_CPU_QMATMUL_H

#include "tensor/dtype.h"

enum {
    ML_Q_ROWS = 16,   /* of a panel */
    ML_Q_MAX_LIST = 4 /* products of a loop */
};

/* Rows of activations rounded to 8 bits for one kind of weight. */
typedef struct {
    int64_t n_row, k;
    int unit;           /* elements that share d: 256 or 32 */
    const int8_t *q;    /* [n_row, k] */
    const int16_t *sum; /* [n_row, k / 16]: of 16 q each */
    /* [n_row, k / 64], for units of 256: of every four sums of 32 q the first and third as one word of two int16, then
     * the second and fourth: what minima are multiplied with, of which four are a word's bytes, even and odd ones apart
     */
    const int32_t *pair;
    const float *d; /* [n_row, k / unit] */
} ml_qx;

/* Bytes that ml_qx_make needs for n_row rows of k elements (whole blocks of w_dtype). */
size_t ml_qx_bytes(ml_dtype w_dtype, int64_t n_row, int64_t k);
/* x [n_row, k], rows x_stride apart, into `memory` (64-byte aligned), on all threads. */
ml_qx ml_qx_make(ml_dtype w_dtype, const float *x, int64_t x_stride, int64_t n_row, int64_t k, void *memory);

typedef struct {
    int64_t n_token, n, k; /* each may be 0 */
    const ml_qx *x;        /* made for w_dtype */
    const int32_t *x_row;  /* NULL, or: token t is row x_row[t] of x */
    ml_dtype w_dtype;      /* a block type */
    ml_layout w_layout;
    const void *w; /* [n, k] */
    float *y;      /* [n_token, n], rows y_stride apart */
    int64_t y_stride;
} ml_qmatmul;

/* All threads on one product; they share out the rows of w. */
void ml_qmatmul_run(const ml_qmatmul *p);
/* The same for n products one behind the other in one loop when they have few tokens (as ml_qmatmul_run otherwise):
 * short loops cost more than their bytes. */
void ml_qmatmul_run_list(const ml_qmatmul *p, int n);
/* On the calling thread only: for products that are themselves tasks of an ml_parallel_for. */
void ml_qmatmul_run_serial(const ml_qmatmul *p);

/* Rows [n, k] of a block type -> panels, on all threads; dst has ml_qpack_bytes and does not overlap w. */
size_t ml_qpack_bytes(ml_dtype dtype, int64_t n, int64_t k);
void ml_qpack(ml_dtype dtype, const void *w, int64_t n, int64_t k, void *dst);

#endif
