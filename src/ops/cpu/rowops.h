/* Arithmetic on one row, in the widest vectors the machine has: what the element-wise operators call for each
 * row of their tensors.  No pointer need be aligned. */
#ifndef ML_OPS_CPU_ROWOPS_H
#define ML_OPS_CPU_ROWOPS_H

#include "ops/ops.h"

typedef struct {
    /* y = a + scale * b; y may be a */
    void (*add)(float *y, const float *a, const float *b, float scale, int64_t n);
    /* y = silu(gate) * up */
    void (*swiglu)(float *y, const float *gate, const float *up, int64_t n);
    /* dgate += dy * up * silu'(gate), dup += dy * silu(gate) */
    void (*swiglu_backward)(float *dgate, float *dup, const float *gate, const float *up, const float *dy, int64_t n);
    /* y = x * rstd * gain; returns rstd = 1 / sqrt(mean(x^2) + eps) */
    float (*rmsnorm)(float *y, const float *x, const float *gain, float eps, int64_t n);
    /* With u = x * rstd:  dx += rstd * (gain * dy - u * mean(gain * dy * u)),  dgain += dy * u.
     * dx or dgain may be NULL. */
    void (*rmsnorm_backward)(float *dx, float *dgain, const float *x, const float *gain, const float *dy, float rstd,
                             int64_t n);
    /* x[i] = x[i] * even[i] + x[partner of i] * odd[i] in place; partners are (2i, 2i+1), or (i, i + n/2) */
    void (*rotate)(float *x, const float *even, const float *odd, bool interleaved, int64_t n);
    /* a = prob * act(gate) [* up];  up may be NULL */
    void (*activate)(ml_activation activation, const float *gate, const float *up, float prob, float *a, int64_t n);
    /* The way back, in place.  In: gate and up (or NULL) as above, da = the gradient of act(gate) [* up] over prob.
     * Out: their gradients in gate and up, and prob * act(gate) [* up] in da.  Returns d/dprob. */
    float (*activate_backward)(ml_activation activation, float *gate, float *up, float prob, float *da, int64_t n);
    /* v += b (unless NULL), then *max = the largest v and *sum = sum of exp(v - *max); n >= 1 */
    void (*max_sum_exp)(float *v, const float *b, int64_t n, float *max, float *sum);
    /* v = -g * exp(v + b - lse);  b may be NULL */
    void (*softmax_backward)(float *v, const float *b, float lse, float g, int64_t n);
    /* bf16, f16 or f32 to fp32 */
    void (*to_f32)(ml_dtype dtype, const void *src, float *dst, int64_t n);
} ml_row_ops;

/* For the instruction set in use. */
const ml_row_ops *ml_row_ops_get(void);

extern const ml_row_ops ml_row_ops_scalar, ml_row_ops_avx2, ml_row_ops_avx512;

#endif
