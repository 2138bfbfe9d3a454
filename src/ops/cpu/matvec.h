/* Products for inference: y[t, i] = sum over j of x[t, j] * w[i, j], weights of any float type, fp32 sums.
 *
 * Every y[t, i] is one dot product in one fixed order, whatever is computed beside it: 16 lanes, where lane l
 * takes j = l, l + 16, l + 32, ... in ascending order; x and w count as zero beyond k up to a multiple of 16:
 *     s[l] = +0;  s[l] = fma(x[j], w[j], s[l])
 *     s[l] += s[l + 8] for l < 8;  s[l] += s[l + 4] for l < 4;  s[l] += s[l + 2] for l < 2;  y = s[0] + s[1]
 * So a token's result does not depend on how many tokens are in the batch, on the threads, or on the instruction
 * set.  bf16 and f16 weights are widened exactly. */
#ifndef ML_OPS_CPU_MATVEC_H
#define ML_OPS_CPU_MATVEC_H

#include "tensor/dtype.h"

typedef struct {
    int64_t n_token, n, k; /* each may be 0 */
    const float *x;        /* [n_token, k], rows x_stride apart */
    int64_t x_stride;
    const int32_t *x_row; /* NULL, or: token t is stored row x_row[t] of x */
    ml_dtype w_dtype;     /* ML_F32, ML_BF16 or ML_F16 */
    const void *w;        /* [n, k], rows w_stride elements apart */
    int64_t w_stride;
    float *y; /* [n_token, n], rows y_stride apart */
    int64_t y_stride;
} ml_matvec;

/* All threads on one product; they share out the rows of w. */
void ml_matvec_run(const ml_matvec *p);
/* On the calling thread only: for products that are themselves tasks of an ml_parallel_for. */
void ml_matvec_run_serial(const ml_matvec *p);

/* sum over j < n of a[j] * b[j], in the same order. */
float ml_dot_f32(const float *a, const float *b, int64_t n);

#endif
