/* Attention over a cache on the CPU: what may be asked, and grouped-query attention in its two phases. */
#include "ops/cpu/attention_cached.h"

#include "base/thread.h"
#include "ops/cpu/attention_kernel_rows.h"

bool ml_kv_dtype_is_valid(ml_dtype dtype)
{
    return dtype == ML_F32 || dtype == ML_F16 || dtype == ML_BF16 || dtype == ML_Q8_0;
}

/* A cached row's part of n columns from a multiple of `step` on: whole blocks? */
static bool is_whole_blocks(ml_dtype dtype, int64_t n)
{
    return n % ml_dtype_block_length(dtype) == 0;
}

ml_status ml_cached_check(ml_ctx *ctx, const ml_kv_view *kv, const ml_tensor *seq_of_token, const ml_tensor *pos,
                          int64_t n_decode)
{
    const int32_t *s = ml_i32(seq_of_token), *p = ml_i32(pos);
    if (!ml_kv_dtype_is_valid(kv->dtype)) {
        return ml_ctx_fail(ctx, ML_EINVAL, "a key/value cache of %s: expected f32, f16, bf16 or q8_0",
                           ml_dtype_name(kv->dtype));
    }
    if (n_decode < 0 || n_decode > pos->dim[0]) {
        return ml_ctx_fail(ctx, ML_EINVAL, "cached attention: %lld of %lld tokens are said to be generated",
                           (long long)n_decode, (long long)pos->dim[0]);
    }
    for (int64_t t = 0; t < pos->dim[0]; t++) {
        if (s[t] >= 0 && p[t] >= 0 && p[t] / kv->page_size < kv->pages_per_seq) continue;
        return ml_ctx_fail(ctx, ML_EINVAL,
                           "position %d of sequence %d has no page in a cache of %lld pages of %d tokens per sequence",
                           p[t], s[t], (long long)kv->pages_per_seq, kv->page_size);
    }
    return ML_OK;
}

/* ---- decode ---- */

typedef struct {
    const ml_cached_heads *heads;
    float *q; /* [n_token, n_head, pad(d_qk)] */
} query_work;

static void scale_queries(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const query_work *w = arg;
    const ml_cached_heads *a = w->heads;
    int64_t d = a->d_qk, pad = ml_rows_pad(d);
    for (int64_t t = begin; t < end; t++) {
        for (int64_t h = 0; h < a->n_head; h++) {
            const float *from = ml_f32(a->q) + t * a->q->stride + h * d;
            float *to = w->q + (t * a->n_head + h) * pad;
            for (int64_t c = 0; c < d; c++) to[c] = a->scale * from[c];
            for (int64_t c = d; c < pad; c++) to[c] = 0;
        }
    }
}

static ml_status decode(ml_ctx *ctx, const ml_cached_heads *a, int64_t n_token)
{
    if (n_token == 0) return ML_OK;
    int64_t pad = ml_rows_pad(a->d_qk);
    query_work queries = { a, ml_ctx_scratch(ctx, (size_t)(n_token * a->n_head * pad) * sizeof(float)) };
    if (!queries.q) return ML_ENOMEM;
    ml_parallel_for(n_token, 4, scale_queries, &queries);
    ml_cached_decode d = { .kv = a->kv,
                           .seq_of_token = a->seq_of_token,
                           .pos = a->pos,
                           .n_token = n_token,
                           .q = queries.q,
                           .y = ml_f32(a->y),
                           .y_stride = a->y->stride,
                           .n_head = a->n_head,
                           .n_group = a->n_group,
                           .d_qk = a->d_qk,
                           .d_v = a->d_v,
                           .k_step = a->k_step,
                           .v_step = a->v_step };
    return ml_cached_decode_run(ctx, &d);
}

/* ---- prefill ---- */

typedef struct {
    const ml_cached_prefill *p;
    int64_t seq, first, g0, n_g;
} fill_work;

/* Positions of the window: row by row, keys, then values. */
static void fill_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const fill_work *w = arg;
    const ml_cached_heads *a = &w->p->heads;
    const ml_prefill_window *window = &w->p->window;
    const ml_rows_kernel *kernel = ml_rows_kernel_get();
    ml_dtype dtype = a->kv->dtype;
    for (int64_t i = begin; i < end; i++) {
        int64_t at = i % ML_PREFILL_KEYS;
        for (int64_t g = 0; g < w->n_g; g++) {
            float *block = window->data + g * window->head_floats + i / ML_PREFILL_KEYS * window->block_floats;
            const char *k = ml_kv_k_at(a->kv, w->seq, w->first + i, (w->g0 + g) * a->k_step);
            const char *v = ml_kv_v_at(a->kv, w->seq, w->first + i, (w->g0 + g) * a->v_step);
            kernel->load(dtype, k, block + at * window->k_row, a->d_qk);
            kernel->load(dtype, v, block + window->v_at + at * window->v_row, a->d_v);
        }
    }
}

static void fill_window(const ml_cached_prefill *p, int64_t seq, int64_t first, int64_t n, int64_t g0, int64_t n_g)
{
    fill_work work = { p, seq, first, g0, n_g };
    ml_parallel_for(n, 16, fill_rows, &work);
}

static ml_status prefill(ml_ctx *ctx, const ml_cached_heads *a, int64_t token0, int64_t n_token)
{
    if (n_token == 0) return ML_OK;
    int64_t d_k = ml_rows_pad(a->d_qk), d_v = ml_rows_pad(a->d_v), n_kv_head = a->n_head / a->n_group;
    ml_cached_prefill p = { .heads = *a,
                            .token0 = token0,
                            .n_token = n_token,
                            .fill = fill_window,
                            .window = { .block_floats = ML_PREFILL_KEYS * (d_k + d_v),
                                        .head_floats = ML_PREFILL_WINDOW * (d_k + d_v),
                                        .k_row = d_k,
                                        .k_column = 1,
                                        .v_at = ML_PREFILL_KEYS * d_k,
                                        .v_row = d_v,
                                        .v_column = 1 } };
    int64_t n_g = n_kv_head < ML_PREFILL_HEADS ? n_kv_head : ML_PREFILL_HEADS;
    p.window.data = ml_ctx_scratch(ctx, (size_t)(n_g * p.window.head_floats) * sizeof(float));
    if (!p.window.data) return ML_ENOMEM;
    return ml_cached_prefill_run(ctx, &p);
}

/* ---- both ---- */

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
    if (ml_cached_check(ctx, kv, seq_of_token, pos, n_decode) != ML_OK) return NULL;
    if (check_shapes(ctx, q, kv, param) != ML_OK) return NULL;
    ml_tensor *y = ml_tensor_new_2d(ctx, ML_F32, q->dim[0], param->n_head * param->d_v);
    if (!y) return NULL;
    ml_cached_heads heads = { .kv = kv,
                              .q = q,
                              .y = y,
                              .seq_of_token = ml_i32(seq_of_token),
                              .pos = ml_i32(pos),
                              .n_head = param->n_head,
                              .n_group = param->n_head / param->n_kv_head,
                              .d_qk = param->d_qk,
                              .d_v = param->d_v,
                              .k_step = param->k_step,
                              .v_step = param->v_step,
                              .scale = param->scale };
    size_t mark = ml_arena_mark(&ctx->act);
    ml_status status = decode(ctx, &heads, n_decode);
    if (status == ML_OK) status = prefill(ctx, &heads, n_decode, q->dim[0] - n_decode);
    ml_arena_release(&ctx->act, mark);
    return status == ML_OK ? y : NULL;
}
