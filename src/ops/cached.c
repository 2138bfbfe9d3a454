/* Attention over a cache: what may be asked, and who computes it. */
#include "ops/cached_heads.h"

bool ml_kv_dtype_is_valid(ml_dtype dtype)
{
    return dtype == ML_F32 || dtype == ML_F16 || dtype == ML_BF16 || dtype == ML_Q8_0;
}

static ml_status check_cache(ml_ctx *ctx, const ml_kv_view *kv, const ml_tensor *pos, int64_t n_decode)
{
    if (!ml_kv_dtype_is_valid(kv->dtype)) {
        return ml_ctx_fail(ctx, ML_EINVAL, "a key/value cache of %s: expected f32, f16, bf16 or q8_0",
                           ml_dtype_name(kv->dtype));
    }
    if (n_decode < 0 || n_decode > pos->dim[0]) {
        return ml_ctx_fail(ctx, ML_EINVAL, "cached attention: %lld of %lld tokens are said to be generated",
                           (long long)n_decode, (long long)pos->dim[0]);
    }
    return ML_OK;
}

/* ---- new rows ---- */

/* Bytes of a row's parts; -1 when one is not whole blocks. */
static int64_t parts_bytes(ml_dtype dtype, const ml_tensor *a, const ml_tensor *b)
{
    size_t first = 0, second = 0;
    if (a && !ml_dtype_row_bytes_checked(dtype, a->dim[1], &first)) return -1;
    if (b && !ml_dtype_row_bytes_checked(dtype, b->dim[1], &second)) return -1;
    return (int64_t)(first + second);
}

static ml_status check_rows(ml_ctx *ctx, const ml_kv_view *kv, const ml_tensor *k, const ml_tensor *k_tail,
                            const ml_tensor *v)
{
    int64_t k_bytes = parts_bytes(kv->dtype, k, k_tail), v_bytes = parts_bytes(kv->dtype, v, NULL);
    if (k_bytes < 0 || v_bytes < 0) {
        return ml_ctx_fail(ctx, ML_EINVAL, "a token's %lld + %lld + %lld columns are not whole blocks of %s each",
                           (long long)k->dim[1], (long long)(k_tail ? k_tail->dim[1] : 0),
                           (long long)(v ? v->dim[1] : 0), ml_dtype_name(kv->dtype));
    }
    if (k_bytes > kv->k_row_bytes || v_bytes > kv->v_row_bytes) {
        return ml_ctx_fail(ctx, ML_EINVAL, "a cache row of %lld + %lld bytes cannot hold a token of %lld + %lld",
                           (long long)kv->k_row_bytes, (long long)kv->v_row_bytes, (long long)k_bytes,
                           (long long)v_bytes);
    }
    return ML_OK;
}

ml_status ml_kv_store(ml_ctx *ctx, const ml_kv_view *kv, ml_tensor *k, ml_tensor *k_tail, ml_tensor *v,
                      ml_tensor *seq_of_token, ml_tensor *pos)
{
    if (ctx->error.code != ML_OK || !k || !seq_of_token || !pos) return ctx->error.code;
    ML_TRY(check_cache(ctx, kv, pos, 0));
    ML_TRY(check_rows(ctx, kv, k, k_tail, v));
#ifdef MOONLIGHT_CUDA
    if (ctx->device) return ml_cuda_kv_store(ctx, kv, k, k_tail, v, ml_i32(seq_of_token), ml_i32(pos));
#endif
    return ml_cpu_kv_store(ctx, kv, k, k_tail, v, ml_i32(seq_of_token), ml_i32(pos));
}

/* ---- grouped-query attention ---- */

/* A cached row's part of n columns from a multiple of `step` on: whole blocks? */
static bool is_whole_blocks(ml_dtype dtype, int64_t n)
{
    return n % ml_dtype_block_length(dtype) == 0;
}

static ml_status check_shapes(ml_ctx *ctx, const ml_tensor *q, const ml_kv_view *kv, const ml_attention_param *param)
{
    if (q->dim[1] != param->n_head * param->d_qk || param->n_head % param->n_kv_head || param->d_shared) {
        return ml_ctx_fail(
            ctx, ML_EINVAL, "cached attention: %lld columns of q are not %lld heads of %lld shared by %lld key heads",
            (long long)q->dim[1], (long long)param->n_head, (long long)param->d_qk, (long long)param->n_kv_head);
    }
    bool whole = is_whole_blocks(kv->dtype, param->d_qk) && is_whole_blocks(kv->dtype, param->d_v) &&
                 is_whole_blocks(kv->dtype, param->k_step) && is_whole_blocks(kv->dtype, param->v_step);
    if (!whole) {
        return ml_ctx_fail(ctx, ML_EINVAL,
                           "cached attention: heads of %lld and %lld columns are not whole blocks of %s",
                           (long long)param->d_qk, (long long)param->d_v, ml_dtype_name(kv->dtype));
    }
    return ML_OK;
}

ml_tensor *ml_attention_cached(ml_ctx *ctx, ml_tensor *q, const ml_kv_view *kv, ml_tensor *seq_of_token, ml_tensor *pos,
                               int64_t n_decode, const ml_attention_param *param)
{
    if (!q || !seq_of_token || !pos) return NULL;
    if (check_cache(ctx, kv, pos, n_decode) != ML_OK || check_shapes(ctx, q, kv, param) != ML_OK) return NULL;
    ml_tensor *y = ml_tensor_new_2d(ctx, ML_F32, q->dim[0], param->n_head * param->d_v);
    if (!y) return NULL;
    ml_cached_heads heads = { .kv = kv,
                              .q = q,
                              .y = y,
                              .seq_of_token = ml_i32(seq_of_token),
                              .pos = ml_i32(pos),
                              .seq_here = ml_i32_here(seq_of_token),
                              .pos_here = ml_i32_here(pos),
                              .n_head = param->n_head,
                              .n_group = param->n_head / param->n_kv_head,
                              .d_qk = param->d_qk,
                              .d_v = param->d_v,
                              .k_step = param->k_step,
                              .v_step = param->v_step,
                              .scale = param->scale };
    ml_ctx_mark mark = ml_ctx_get_mark(ctx);
    ml_status status;
#ifdef MOONLIGHT_CUDA
    if (ctx->device) {
        status = ml_cuda_attention_cached(ctx, &heads, n_decode);
    } else
#endif
        status = ml_cpu_attention_cached(ctx, &heads, n_decode);
    ml_ctx_release(ctx, mark);
    return status == ML_OK ? y : NULL;
}

/* ---- latent attention ---- */

/* Does w have n_row rows of n_column, one after the other, of a type that can be multiplied? */
static bool has_shape(const ml_tensor *w, int64_t n_row, int64_t n_column)
{
    return w->dtype != ML_I32 && ml_tensor_is_contiguous(w) && w->dim[w->n_dim - 1] == n_column &&
           ml_tensor_count(w) == n_row * n_column && n_column % ml_dtype_block_length(w->dtype) == 0;
}

static ml_status check_weights(ml_ctx *ctx, const ml_mla_weights *w, const ml_mla_param *p)
{
    int64_t rank = p->kv_lora_rank;
    if (w->kv_b && has_shape(w->kv_b, p->n_head * (p->d_nope + p->d_v), rank)) return ML_OK;
    if (!w->kv_b && w->k_b && w->v_b && has_shape(w->k_b, p->n_head * rank, p->d_nope) &&
        has_shape(w->v_b, p->n_head * p->d_v, rank)) {
        return ML_OK;
    }
    return ml_ctx_fail(ctx, ML_EINVAL,
                       "latent attention of %lld heads: expected kv_b [%lld, %lld], or k_b [%lld, %lld, %lld] and v_b "
                       "[%lld, %lld, %lld], of a float or block type whose rows are whole blocks",
                       (long long)p->n_head, (long long)(p->n_head * (p->d_nope + p->d_v)), (long long)rank,
                       (long long)p->n_head, (long long)rank, (long long)p->d_nope, (long long)p->n_head,
                       (long long)p->d_v, (long long)rank);
}

ml_tensor *ml_attention_cached_mla(ml_ctx *ctx, ml_tensor *q, const ml_mla_weights *weights, const ml_kv_view *kv,
                                   ml_tensor *seq_of_token, ml_tensor *pos, int64_t n_decode, const ml_mla_param *param)
{
    if (!q || !seq_of_token || !pos) return NULL;
    int64_t d_qk = param->d_nope + param->n_rot;
    if (check_cache(ctx, kv, pos, n_decode) != ML_OK || check_weights(ctx, weights, param) != ML_OK) return NULL;
    if (q->dim[1] != param->n_head * d_qk) {
        ml_ctx_fail(ctx, ML_EINVAL, "latent attention: %lld columns of q are not %lld heads of %lld",
                    (long long)q->dim[1], (long long)param->n_head, (long long)d_qk);
        return NULL;
    }
    ml_tensor *y = ml_tensor_new_2d(ctx, ML_F32, q->dim[0], param->n_head * param->d_v);
    if (!y) return NULL;
    ml_cached_heads heads = { .kv = kv,
                              .q = q,
                              .y = y,
                              .seq_of_token = ml_i32(seq_of_token),
                              .pos = ml_i32(pos),
                              .seq_here = ml_i32_here(seq_of_token),
                              .pos_here = ml_i32_here(pos),
                              .n_head = param->n_head,
                              .n_group = 1,
                              .d_qk = d_qk,
                              .d_v = param->d_v,
                              .scale = param->scale };
    ml_ctx_mark mark = ml_ctx_get_mark(ctx);
    ml_status status;
#ifdef MOONLIGHT_CUDA
    if (ctx->device) {
        status = ml_cuda_attention_cached_mla(ctx, &heads, weights, n_decode, param);
    } else
#endif
        status = ml_cpu_attention_cached_mla(ctx, &heads, weights, n_decode, param);
    ml_ctx_release(ctx, mark);
    return status == ML_OK ? y : NULL;
}
