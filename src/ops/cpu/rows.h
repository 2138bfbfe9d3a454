/* Row kernels of the expert networks and of log-probability, compiled once per instruction set (rows_body.h) and
 * chosen at run time.  Sums run over 16 interleaved lanes that are added pairwise at the end: one order of
 * summation whatever the instruction set. */
#ifndef ML_OPS_CPU_ROWS_H
#define ML_OPS_CPU_ROWS_H

#include <stdint.h>

#include "ops/ops.h"

typedef struct {
    /* a[i] = prob * act(gate[i]) [* up[i]];  up may be NULL.  [n] each */
    void (*activate)(ml_activation activation, const float *gate, const float *up, float prob, float *a, int64_t n);
    /* The way back, in place.  In: pre-activations in gate, up (or NULL), and da[i] = d/d(act(gate) * up) / prob.
     * Out: their gradients in gate and up, prob * act(gate) * up in da.  -> d/dprob = sum da[i] act(gate[i]) up[i] */
    float (*activate_backward)(ml_activation activation, float *gate, float *up, float prob, float *da, int64_t n);
    /* v[i] += b[i] (b may be NULL); *max = max v, *sum = sum exp(v[i] - *max).  n >= 1 */
    void (*max_sum_exp)(float *v, const float *b, int64_t n, float *max, float *sum);
    /* v[i] = -g * exp(v[i] + b[i] - lse);  b may be NULL */
    void (*softmax_backward)(float *v, const float *b, int64_t n, float lse, float g);
} ml_row_kernels;

/* Those of ml_cpu_isa(). */
const ml_row_kernels *ml_row_kernels_get(void);

#endif
