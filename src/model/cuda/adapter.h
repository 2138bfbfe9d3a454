/* What an adapter needs of its model's weights on a device; a build without CUDA never comes here. */
#ifndef ML_MODEL_CUDA_ADAPTER_H
#define ML_MODEL_CUDA_ADAPTER_H

#include "model/adapter.h"

#ifdef MOONLIGHT_CUDA

/* Queue: kv_b [n_head * (d_nope + d_v), kv_lora_rank] of a layer, as the model has it there, as fp32. */
ml_status ml_cuda_read_kv_b(ml_ctx *ctx, const ml_model *m, int64_t layer_id, float *out);
/* Queue: the row norms of W + scale B A of a term that lies there; scratch is ctx's.  Each is the sum of one block, in
 * one order. */
ml_status ml_cuda_adapter_norms(ml_ctx *ctx, const ml_model *m, const ml_adapter_term *t);
/* Queue: m / norm (1 where norm is 0) of all rows of a term that has magnitudes, in scratch. */
ml_status ml_cuda_adapter_factors(ml_ctx *ctx, const ml_adapter_term *t, const float **out);
/* Queue: y [n, cols] = rows row[n] of x, of 4-byte elements; and the other way, rows row[n] of y = x [n, cols]. */
ml_status ml_cuda_gather_rows(ml_ctx *ctx, const ml_tensor *x, const ml_tensor *row, ml_tensor *y);
ml_status ml_cuda_scatter_rows(ml_ctx *ctx, const ml_tensor *x, const ml_tensor *row, ml_tensor *y);

#else

static inline ml_status ml_cuda_read_kv_b(ml_ctx *ctx, const ml_model *m, int64_t layer_id, float *out)
{
    (void)m;
    (void)layer_id;
    (void)out;
    return ctx->error.code;
}

static inline ml_status ml_cuda_adapter_norms(ml_ctx *ctx, const ml_model *m, const ml_adapter_term *t)
{
    (void)m;
    (void)t;
    return ctx->error.code;
}

static inline ml_status ml_cuda_adapter_factors(ml_ctx *ctx, const ml_adapter_term *t, const float **out)
{
    (void)t;
    (void)out;
    return ctx->error.code;
}

static inline ml_status ml_cuda_gather_rows(ml_ctx *ctx, const ml_tensor *x, const ml_tensor *row, ml_tensor *y)
{
    (void)x;
    (void)row;
    (void)y;
    return ctx->error.code;
}

static inline ml_status ml_cuda_scatter_rows(ml_ctx *ctx, const ml_tensor *x, const ml_tensor *row, ml_tensor *y)
{
    (void)x;
    (void)row;
    (void)y;
    return ctx->error.code;
}

#endif
#endif
