/* What ops/cached.c, which says what may be asked, hands to a backend. */
#ifndef ML_OPS_CACHED_HEADS_H
#define ML_OPS_CACHED_HEADS_H

#include "ops/cached.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Attention of some tokens to one layer's cache, both phases. */
typedef struct {
    const ml_kv_view *kv;
    const int32_t *seq_of_token, *pos;
    const int32_t *seq_here, *pos_here; /* the same in this machine's memory; NULL: only the device knows */
    const ml_tensor *q, *y;             /* [tokens, n_head * d_qk], [tokens, n_head * d_v] */
    int64_t n_head, n_group;            /* query heads, and how many read one key head */
    int64_t d_qk, d_v;
    int64_t k_step, v_step; /* columns of a cached row from one key head to the next */
    float scale;
} ml_cached_heads;

/* Tokens' rows into the cache. */
ml_status ml_cpu_kv_store(ml_ctx *ctx, const ml_kv_view *kv, const ml_tensor *k, const ml_tensor *k_tail,
                          const ml_tensor *v, const int32_t *seq, const int32_t *pos);
/* y of the first n_decode tokens and of the others. */
ml_status ml_cpu_attention_cached(ml_ctx *ctx, const ml_cached_heads *a, int64_t n_decode);
ml_status ml_cpu_attention_cached_mla(ml_ctx *ctx, const ml_cached_heads *a, const ml_mla_weights *weights,
                                      int64_t n_decode, const ml_mla_param *param);

/* The same where the context's data is on a device: queued; a position without a page is found by the next wait. */
ml_status ml_cuda_kv_store(ml_ctx *ctx, const ml_kv_view *kv, const ml_tensor *k, const ml_tensor *k_tail,
                           const ml_tensor *v, const int32_t *seq, const int32_t *pos);
ml_status ml_cuda_attention_cached(ml_ctx *ctx, const ml_cached_heads *a, int64_t n_decode);
ml_status ml_cuda_attention_cached_mla(ml_ctx *ctx, const ml_cached_heads *a, const ml_mla_weights *weights,
                                       int64_t n_decode, const ml_mla_param *param);

#ifdef __cplusplus
}
#endif

#endif
