/* Weights of any type as products read them: fp32, or bf16 in ML_PRECISION_BF16. */
#ifndef ML_OPS_CUDA_WEIGHT_CUH
#define ML_OPS_CUDA_WEIGHT_CUH

#include "ops/cuda/gemm.cuh"

/* A matrix [rows, cols] or a stack of matrices [n, rows, cols].  data, half: as in ml_cuda_operand. */
typedef struct {
    const float *data;
    const uint16_t *half;
    int64_t stride;     /* of dimension 0 */
    int64_t row_stride; /* from one row of a matrix to the next */
} ml_cuda_weight;

/* ML_EINVAL when kernels cannot read w (or a part of something): not in rows, or whole numbers. */
ml_status ml_cuda_weight_check(ml_ctx *ctx, const ml_tensor *w);

/* w itself when it is fp32 (or, in bf16, has a bf16 copy or is bf16) without parts; else a copy in scratch, fp32 or
 * bf16.  Of any type in rows. */
ml_status ml_cuda_weight_read(ml_ctx *ctx, const ml_tensor *w, ml_cuda_weight *out);
/* As in ML_PRECISION_F32, whatever the context's. */
ml_status ml_cuda_weight_read_exact(ml_ctx *ctx, const ml_tensor *w, ml_cuda_weight *out);

/* The operand that a matrix is, or a stack of them for as many products. */
static inline ml_cuda_operand ml_cuda_weight_operand(const ml_cuda_weight *w, bool transpose)
{
    ml_cuda_operand o = ml_cuda_operand_make(w->data, w->row_stride, transpose);
    o.half = w->half;
    o.product = w->stride;
    return o;
}

/* y [n, n_col] = rows id[0 .. n) of the table (device memory); a row outside the table is reported and made NaN. */
ml_status ml_cuda_weight_pick(ml_ctx *ctx, const ml_tensor *table, const int32_t *id, int64_t n, float *y,
                              int64_t y_stride);

#endif
