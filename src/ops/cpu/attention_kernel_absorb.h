/* Products of a few fp32 vectors with a stored matrix, dequantised in registers: what absorbed attention does with
 * kv_b, where each weight is used once per token and reading it is the cost.
 *
 * An element's sum has one order, whatever is computed beside it; f32, f16, bf16 and q8_0 rows, with AVX2 and AVX-512
 * also q5_0 and q4_k in dots, are widened as they are multiplied, other block types a few rows at a time into `buffer`
 * before. */
#ifndef ML_OPS_CPU_ATTENTION_KERNEL_ABSORB_H
#define ML_OPS_CPU_ATTENTION_KERNEL_ABSORB_H

#include "tensor/dtype.h"

enum { ML_ABSORB_ROWS = 4 }; /* rows that are multiplied together */

/* Rows of stored numbers, row_bytes apart. */
typedef struct {
    ml_dtype dtype;
    const char *data;
    int64_t n_row, n_column;
    int64_t row_bytes;
} ml_absorb_rows;

/* fp32 vectors, stride apart. */
typedef struct {
    const float *x;
    int64_t x_stride;
    float *y;
    int64_t y_stride;
    int64_t n_token;
} ml_absorb_operand;

typedef struct {
    /* y[t][i] = w[i] . x[t];  buffer: ML_ABSORB_ROWS * n_column floats */
    void (*dots)(const ml_absorb_rows *w, const ml_absorb_operand *o, float *buffer);
    /* y[t] = sum over rows i, ascending, of x[t][i] * w[i] */
    void (*sums)(const ml_absorb_rows *w, const ml_absorb_operand *o, float *buffer);
} ml_absorb_kernel;

/* For the instruction set in use. */
const ml_absorb_kernel *ml_absorb_kernel_get(void);

extern const ml_absorb_kernel ml_absorb_kernel_scalar, ml_absorb_kernel_avx2, ml_absorb_kernel_avx512;

#endif
