/* Attention over a cache on the CPU: grouped-query attention in its two phases. */
#include "ops/cpu/attention_cached.h"

#include "base/thread.h"
#include "ops/cpu/attention_kernel_rows.h"

ml_status ml_cached_check(ml_ctx *ctx, const ml_kv_view *kv, const int32_t *seq, const int32_t *pos, int64_t n)
{
    for (int64_t t = 0; t < n; t++) {
        if (seq[t] >= 0 && pos[t] >= 0 && pos[t] / kv->page_size < kv->pages_per_seq) continue;
        return ml_ctx_fail(ctx, ML_EINVAL,
                           "position %d of sequence %d has no page in a cache of %lld pages of %d tokens per sequence",
                           pos[t], seq[t], (long long)kv->pages_per_seq, kv->page_size);
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

ml_status ml_cpu_attention_cached(ml_ctx *ctx, const ml_cached_heads *a, int64_t n_decode)
{
    ML_TRY(ml_cached_check(ctx, a->kv, a->seq_of_token, a->pos, a->q->dim[0]));
    ML_TRY(decode(ctx, a, n_decode));
    return prefill(ctx, a, n_decode, a->q->dim[0] - n_decode);
}
