/* Weights of any type as fp32 in scratch, for products that read fp32. */
#ifndef ML_OPS_CUDA_WEIGHT_CUH
#define ML_OPS_CUDA_WEIGHT_CUH

#include "ops/cuda/common.cuh"

/* A matrix or a stack of matrices ([n, rows, cols], perhaps strided), contiguous within each index of dimension 0. */
typedef struct {
    const float *data;
    int64_t stride; /* of dimension 0 */
} ml_cuda_weight;

/* ML_EINVAL when kernels cannot read w (or a part of something): not in rows, or whole numbers. */
ml_status ml_cuda_weight_check(ml_ctx *ctx, const ml_tensor *w);

/* w itself when it is fp32 without parts; else a contiguous copy in scratch.  Of any type in rows. */
ml_status ml_cuda_weight_read(ml_ctx *ctx, const ml_tensor *w, ml_cuda_weight *out);

/* y [n, n_col] = rows id[0 .. n) of the table (device memory); a row outside the table is reported and made NaN. */
ml_status ml_cuda_weight_pick(ml_ctx *ctx, const ml_tensor *table, const int32_t *id, int64_t n, float *y,
                              int64_t y_stride);

#endif
