/* Products of tokens that are being generated with weights of any type: limited by reading the weights, which are read
 * once for every sixteen rows, where they are and as they are.
 *
 *   y[r, j] = sum over l of x[r, l] * w[j, l]  (+ bias[j])
 *   with w_up:  y[r, j] = (factor[r] *) act(the same) [* sum of x[r, l] * w_up[j, l]]
 *               or, with y_up, both sums as they are, that of w_up into y_up[r, j]
 *
 * Products are numbered 0 .. n_product - 1 (experts, heads): product p has its weights p * product_bytes on, and
 *   without `offset`   n_row rows, its x and y p * x_product, p * y_product elements on
 *   with `offset`      [n_product + 1] in device memory, rows offset[p] .. offset[p + 1] of x and y; n_row is the
 * number of all rows, or more x_row, where given, says which stored row of x stands for row r.  fp32 products and sums;
 * a result's bits depend on its row of x, its row of w and their alignment, and on nothing else: not on the other rows.
 */
#ifndef ML_OPS_CUDA_MATVEC_CUH
#define ML_OPS_CUDA_MATVEC_CUH

#include "ops/cuda/common.cuh"

typedef struct {
    ml_dtype dtype;
    const uint8_t *w, *w_up; /* w_up: NULL or the second matrix */
    int64_t row_bytes, product_bytes, up_product_bytes;
    int64_t n, k, n_product, n_row;
    const float *x;
    int64_t x_stride, x_product;
    const int32_t *x_row;
    float *y;
    int64_t y_stride, y_product;
    const float *bias;
    bool activate; /* act(...) even without w_up */
    ml_activation activation;
    const float *factor; /* NULL or of each row */
    float *y_up;         /* laid out as y */
    const int32_t *offset;
    int64_t n_most; /* 0, or the most rows that a product has */
} ml_cuda_matvec;

/* What experts make of both sums; factor: NULL, or of the row. */
static __device__ __forceinline__ float ml_expert_activation(ml_activation activation, const float *factor, float gate,
                                                             bool has_up, float up)
{
    float act = ml_activate(activation == ML_ACT_RELU, gate);
    float v = factor ? *factor * act : act;
    return has_up ? v * up : v;
}

/* Of a weight without parts: dtype, w, row_bytes, n, k; n_product 1, and nothing else set. */
ml_cuda_matvec ml_cuda_matvec_make(const ml_tensor *w);
void ml_cuda_matvec_run(ml_ctx *ctx, const ml_cuda_matvec *m);

/* y [n_row, n_out] = x w^T + b for a weight that may have parts.  ML_EINVAL for a weight that kernels cannot read. */
ml_status ml_cuda_matvec_linear(ml_ctx *ctx, const ml_tensor *w, const float *bias, const float *x, int64_t x_stride,
                                int64_t n_row, float *y, int64_t y_stride);

#endif
