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
/* Queue: w [rows, cols], fp32, becomes (m / norm) * (w + scale B A) of a term beside one matrix. */
ml_status ml_cuda_adapter_merge(ml_ctx *ctx, const ml_adapter_term *t, float *w);

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

static inline ml_status ml_cuda_adapter_merge(ml_ctx *ctx, const ml_adapter_term *t, float *w)
{
    (void)t;
    (void)w;
    return ctx->error.code;
}

#endif
#endif
