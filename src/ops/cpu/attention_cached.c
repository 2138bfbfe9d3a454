/* Attention over a cache on the CPU.
 *
 * Queries that read the same keys become lanes of one block (ops/cpu/attention_kernel.h): all query heads of a
 * key head, for neighbouring tokens of one sequence.  A task walks the cache in spans of SPAN positions; every span
 * has its own running softmax, and spans are merged in order.  A span in which a lane sees nothing merges to what was
 * there, bit for bit.  So spans may be walked one after the other (many tasks) or by several threads at once (one
 * long sequence), with the same result. */
#include "ops/cached.h"

#include "base/thread.h"
#include "ops/cpu/attention_kernel.h"
#include "ops/cpu/rowops.h"

#include <string.h>

enum { LANES = ML_ATTENTION_LANES, KEYS = ML_ATTENTION_KEYS, SPAN = 4 * KEYS, ROWS_PER_TASK = 16 };

/* Lanes are [token][head] of tokens token0 .. + n_token - 1 and query heads head0 .. + n_head - 1. */
typedef struct {
    int32_t token0, n_token, head0, n_head;
    int32_t seq, longest; /* sequence, and keys that some lane sees */
} lane_task;

typedef struct {
    const ml_kv_view *kv;
    const ml_attention_kernel *kernel;
    const ml_row_ops *rows;
    const ml_tensor *q, *y;
    const int32_t *seq_of_token, *pos;
    int64_t d_qk, d_v;
    int64_t n_head, n_group; /* query heads, and how many read one key head */
    int64_t k_step, v_step;
    bool v_is_k; /* MLA: values are the first columns of the key row */
    float scale;
    const lane_task *tasks;
    int64_t n_task;
    const lane_task *task; /* of walk_spans */
    float *lanes;          /* of walk_spans: queries, and one state per span */
    float *scratch;
    int64_t scratch_count; /* floats per thread */
} cached_work;

/* Floats: queries, positions, and per state max, sum and ot. */
static int64_t query_count(const cached_work *w)
{
    return LANES * (w->d_qk + 1);
}

static int64_t state_count(const cached_work *w)
{
    return LANES * (w->d_v + 2);
}

/* Floats of one thread: keys, values, scores. */
static int64_t block_count(const cached_work *w)
{
    return KEYS * (w->d_qk + w->d_v + LANES);
}

static ml_attention_state state_at(const cached_work *w, float *at)
{
    return (ml_attention_state){ .max = at, .sum = at + LANES, .ot = at + 2 * LANES, .d_v = w->d_v };
}

static int64_t cache_row(const ml_kv_view *kv, int64_t seq, int64_t pos)
{
    int64_t page = kv->page_table[seq * kv->pages_per_seq + pos / kv->page_size];
    return page * kv->page_size + pos % kv->page_size;
}

/* Keys (and values) k0 .. k0 + n_key - 1 of the task's sequence as fp32 rows of d_qk (and d_v). */
static void load_keys(const cached_work *w, const lane_task *task, int64_t k0, int64_t n_key, float *k, float *v)
{
    const ml_kv_view *kv = w->kv;
    size_t element = ml_dtype_size(kv->dtype);
    int64_t g = task->head0 / w->n_group;
    for (int64_t i = 0; i < n_key; i++) {
        int64_t row = cache_row(kv, task->seq, k0 + i);
        const char *from = kv->k + row * kv->k_row_bytes + (size_t)(g * w->k_step) * element;
        w->rows->to_f32(kv->dtype, from, k + i * w->d_qk, w->d_qk);
        if (w->v_is_k) continue;
        from = kv->v + row * kv->v_row_bytes + (size_t)(g * w->v_step) * element;
        w->rows->to_f32(kv->dtype, from, v + i * w->d_v, w->d_v);
    }
}

static void load_queries(const cached_work *w, const lane_task *task, float *qt, int32_t *last)
{
    int64_t n = (int64_t)task->n_token * task->n_head, n_pad = ml_attention_pad(n);
    memset(qt, 0, (size_t)(LANES * w->d_qk) * sizeof *qt);
    for (int64_t t = 0; t < task->n_token; t++) {
        const float *q = ml_f32(w->q) + (task->token0 + t) * w->q->stride + task->head0 * w->d_qk;
        for (int64_t h = 0; h < task->n_head; h++) {
            int64_t lane = t * task->n_head + h;
            for (int64_t c = 0; c < w->d_qk; c++) qt[c * LANES + lane] = w->scale * q[h * w->d_qk + c];
            last[lane] = w->pos[task->token0 + t];
        }
    }
    for (int64_t lane = n; lane < n_pad; lane++) last[lane] = last[n - 1];
}

/* Softmax and weighted values of one span into state. */
static void walk_span(const cached_work *w, const lane_task *task, const float *qt, const int32_t *last, int64_t span,
                      const ml_attention_state *state, float *block)
{
    float *k = block, *v = k + KEYS * w->d_qk, *s = v + KEYS * w->d_v;
    int64_t n_lane = (int64_t)task->n_token * task->n_head, n_pad = ml_attention_pad(n_lane);
    int64_t v_row = w->v_is_k ? w->d_qk : w->d_v;
    int64_t end = (span + 1) * SPAN < task->longest ? (span + 1) * SPAN : task->longest;
    w->kernel->begin(state);
    for (int64_t k0 = span * SPAN; k0 < end; k0 += KEYS) {
        int64_t n_key = end - k0 < KEYS ? end - k0 : KEYS;
        load_keys(w, task, k0, n_key, k, v);
        w->kernel->product(&(ml_attention_product){ .m = n_key,
                                                    .n = n_pad,
                                                    .k = w->d_qk,
                                                    .a = k,
                                                    .a_row = w->d_qk,
                                                    .a_col = 1,
                                                    .b = qt,
                                                    .b_stride = LANES,
                                                    .c = s,
                                                    .c_stride = LANES });
        w->kernel->softmax(state, s, n_key, k0, last, n_lane);
        w->kernel->product(&(ml_attention_product){ .m = w->d_v,
                                                    .n = n_pad,
                                                    .k = n_key,
                                                    .a = w->v_is_k ? k : v,
                                                    .a_row = 1,
                                                    .a_col = v_row,
                                                    .b = s,
                                                    .b_stride = LANES,
                                                    .c = state->ot,
                                                    .c_stride = LANES,
                                                    .accumulate = true });
    }
}

static void store_output(const cached_work *w, const lane_task *task, const ml_attention_state *total)
{
    for (int64_t t = 0; t < task->n_token; t++) {
        float *y = ml_f32(w->y) + (task->token0 + t) * w->y->stride + task->head0 * w->d_v;
        for (int64_t h = 0; h < task->n_head; h++) {
            int64_t lane = t * task->n_head + h;
            float factor = 1.0f / total->sum[lane];
            for (int64_t c = 0; c < w->d_v; c++) y[h * w->d_v + c] = factor * total->ot[c * LANES + lane];
        }
    }
}

static int64_t n_span_of(const lane_task *task)
{
    return (task->longest + SPAN - 1) / SPAN;
}

/* Whole tasks, each thread its own: spans one after the other. */
static void walk_tasks(void *arg, int64_t begin, int64_t end, int thread)
{
    const cached_work *w = arg;
    float *block = w->scratch + thread * w->scratch_count, *qt = block + block_count(w);
    int32_t *last = (int32_t *)(qt + LANES * w->d_qk);
    ml_attention_state total = state_at(w, qt + query_count(w));
    ml_attention_state part = state_at(w, qt + query_count(w) + state_count(w));
    for (int64_t i = begin; i < end; i++) {
        const lane_task *task = &w->tasks[i];
        int64_t n_lane = (int64_t)task->n_token * task->n_head;
        load_queries(w, task, qt, last);
        w->kernel->begin(&total);
        for (int64_t span = 0; span < n_span_of(task); span++) {
            walk_span(w, task, qt, last, span, &part, block);
            w->kernel->merge(&total, &part, n_lane);
        }
        store_output(w, task, &total);
    }
}

/* Spans of one task, shared among the threads. */
static void walk_spans(void *arg, int64_t begin, int64_t end, int thread)
{
    const cached_work *w = arg;
    float *states = w->lanes + query_count(w) + state_count(w);
    for (int64_t span = begin; span < end; span++) {
        ml_attention_state part = state_at(w, states + span * state_count(w));
        walk_span(w, w->task, w->lanes, (int32_t *)(w->lanes + LANES * w->d_qk), span, &part,
                  w->scratch + thread * w->scratch_count);
    }
}

static ml_status walk_task_together(ml_ctx *ctx, cached_work *w, const lane_task *task)
{
    int64_t n_span = n_span_of(task), n_lane = (int64_t)task->n_token * task->n_head;
    size_t mark = ml_arena_mark(&ctx->act);
    w->lanes = ml_ctx_scratch(ctx, (size_t)(query_count(w) + (n_span + 1) * state_count(w)) * sizeof(float));
    if (!w->lanes) return ML_ENOMEM;
    w->task = task;
    load_queries(w, task, w->lanes, (int32_t *)(w->lanes + LANES * w->d_qk));
    ml_parallel_for(n_span, 1, walk_spans, w);
    float *states = w->lanes + query_count(w);
    ml_attention_state total = state_at(w, states);
    w->kernel->begin(&total);
    for (int64_t span = 0; span < n_span; span++) {
        ml_attention_state part = state_at(w, states + (span + 1) * state_count(w));
        w->kernel->merge(&total, &part, n_lane);
    }
    store_output(w, task, &total);
    ml_arena_release(&ctx->act, mark);
    return ML_OK;
}

/* Does the page table have a page for every token? */
static ml_status check_positions(ml_ctx *ctx, const ml_kv_view *kv, const ml_tensor *seq_of_token, const ml_tensor *pos)
{
    const int32_t *s = ml_i32(seq_of_token), *p = ml_i32(pos);
    for (int64_t t = 0; t < pos->dim[0]; t++) {
        if (s[t] >= 0 && p[t] >= 0 && p[t] / kv->page_size < kv->pages_per_seq) continue;
        return ml_ctx_fail(ctx, ML_EINVAL,
                           "position %d of sequence %d has no page in a cache of %lld pages of %d tokens per sequence",
                           p[t], s[t], (long long)kv->pages_per_seq, kv->page_size);
    }
    return ML_OK;
}

/* Cut the batch into tasks: runs of tokens of one sequence, as many as fill the lanes with one key head's queries;
 * a key head with more queries than lanes is cut into parts. */
static ml_status list_tasks(ml_ctx *ctx, cached_work *w)
{
    int64_t n_token = w->q->dim[0], n_group = w->n_group, n_kv_head = w->n_head / n_group;
    int64_t n_part = (n_group + LANES - 1) / LANES, part = (n_group + n_part - 1) / n_part;
    int64_t run = n_group < LANES ? LANES / n_group : 1;
    lane_task *tasks = ml_ctx_scratch(ctx, (size_t)(n_token * n_kv_head * n_part) * sizeof *tasks);
    if (!tasks) return ML_ENOMEM;
    w->tasks = tasks;
    for (int64_t t = 0; t < n_token;) {
        int64_t n = 0;
        int32_t longest = 0;
        for (; n < run && t + n < n_token && w->seq_of_token[t + n] == w->seq_of_token[t]; n++) {
            if (w->pos[t + n] >= longest) longest = w->pos[t + n] + 1;
        }
        for (int64_t h = 0; h < w->n_head;) {
            int64_t left = n_group - h % n_group, n_head = left < part ? left : part;
            tasks[w->n_task++] =
                (lane_task){ (int32_t)t, (int32_t)n, (int32_t)h, (int32_t)n_head, w->seq_of_token[t], longest };
            h += n_head;
        }
        t += n;
    }
    return ML_OK;
}

/* Fill y.  Threads share tasks, or the spans of each task when tasks are too few to occupy them. */
static ml_status attend(ml_ctx *ctx, cached_work *w)
{
    int n_thread = ml_thread_count();
    w->kernel = ml_attention_kernel_get();
    w->rows = ml_row_ops_get();
    ML_TRY(list_tasks(ctx, w));
    w->scratch_count = block_count(w) + query_count(w) + 2 * state_count(w);
    w->scratch = ml_ctx_scratch(ctx, (size_t)(w->scratch_count * n_thread) * sizeof(float));
    if (!w->scratch) return ML_ENOMEM;
    if (w->n_task >= 2 * n_thread || n_thread == 1) {
        ml_parallel_for(w->n_task, 1, walk_tasks, w);
        return ML_OK;
    }
    for (int64_t i = 0; i < w->n_task; i++) ML_TRY(walk_task_together(ctx, w, &w->tasks[i]));
    return ML_OK;
}

#define EXPECT(condition, ...)                                                                                         \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            ml_ctx_fail(ctx, ML_EINVAL, __VA_ARGS__);                                                                  \
            return NULL;                                                                                               \
        }                                                                                                              \
    } while (0)

ml_tensor *ml_attention_cached(ml_ctx *ctx, ml_tensor *q, const ml_kv_view *kv, ml_tensor *seq_of_token, ml_tensor *pos,
                               const ml_attention_param *param)
{
    if (!q || !seq_of_token || !pos) return NULL;
    EXPECT(q->dim[1] == param->n_head * param->d_qk && param->n_head % param->n_kv_head == 0 && param->d_shared == 0,
           "cached attention: %lld columns of q are not %lld heads of %lld shared by %lld key heads",
           (long long)q->dim[1], (long long)param->n_head, (long long)param->d_qk, (long long)param->n_kv_head);
    if (check_positions(ctx, kv, seq_of_token, pos) != ML_OK) return NULL;
    ml_tensor *y = ml_tensor_new_2d(ctx, ML_F32, q->dim[0], param->n_head * param->d_v);
    if (!y) return NULL;
    cached_work work = { .kv = kv,
                         .q = q,
                         .y = y,
                         .seq_of_token = ml_i32(seq_of_token),
                         .pos = ml_i32(pos),
                         .d_qk = param->d_qk,
                         .d_v = param->d_v,
                         .n_head = param->n_head,
                         .n_group = param->n_head / param->n_kv_head,
                         .k_step = param->k_step,
                         .v_step = param->v_step,
                         .scale = param->scale };
    size_t mark = ml_arena_mark(&ctx->act);
    ml_status status = attend(ctx, &work);
    ml_arena_release(&ctx->act, mark);
    return status == ML_OK ? y : NULL;
}

/* The two products with kv_b, a task per head.  Weights are made fp32 once per head and call. */
typedef struct {
    const ml_attention_kernel *kernel;
    const ml_row_ops *rows;
    const ml_mla_param *param;
    const ml_tensor *kv_b, *in, *out;
    float *scratch;
    int64_t scratch_count;
} absorb_work;

/* Rows first .. first + n - 1 of the head's part of kv_b. */
static const float *head_weight(const absorb_work *w, int64_t h, int64_t first, int64_t n, float *buffer)
{
    const ml_mla_param *p = w->param;
    int64_t row = h * (p->d_nope + p->d_v) + first, rank = p->kv_lora_rank;
    const char *from = (const char *)w->kv_b->data + (size_t)(row * rank) * ml_dtype_size(w->kv_b->dtype);
    if (w->kv_b->dtype == ML_F32) return (const float *)(const void *)from;
    w->rows->to_f32(w->kv_b->dtype, from, buffer, n * rank);
    return buffer;
}

/* out[t, h] = [q_nope[t, h] W_uk[h] | q_pe[t, h]] */
static void absorb_query(void *arg, int64_t begin, int64_t end, int thread)
{
    const absorb_work *w = arg;
    const ml_mla_param *p = w->param;
    int64_t rank = p->kv_lora_rank, d_in = p->d_nope + p->n_rot, d_out = rank + p->n_rot;
    for (int64_t h = begin; h < end; h++) {
        const float *w_uk = head_weight(w, h, 0, p->d_nope, w->scratch + thread * w->scratch_count);
        const float *q = ml_f32(w->in) + h * d_in;
        float *out = ml_f32(w->out) + h * d_out;
        w->kernel->product(&(ml_attention_product){ .m = w->in->dim[0],
                                                    .n = rank,
                                                    .k = p->d_nope,
                                                    .a = q,
                                                    .a_row = w->in->stride,
                                                    .a_col = 1,
                                                    .b = w_uk,
                                                    .b_stride = rank,
                                                    .c = out,
                                                    .c_stride = w->out->stride });
        for (int64_t t = 0; t < w->in->dim[0]; t++) {
            memcpy(out + t * w->out->stride + rank, q + t * w->in->stride + p->d_nope,
                   (size_t)p->n_rot * sizeof(float));
        }
    }
}

/* out[t, h] = W_uv[h] in[t, h]; tokens are lanes. */
static void project_value(void *arg, int64_t begin, int64_t end, int thread)
{
    const absorb_work *w = arg;
    const ml_mla_param *p = w->param;
    int64_t rank = p->kv_lora_rank, n_token = w->in->dim[0];
    float *in_lanes = w->scratch + thread * w->scratch_count, *out_lanes = in_lanes + LANES * rank;
    for (int64_t h = begin; h < end; h++) {
        const float *w_uv = head_weight(w, h, p->d_nope, p->d_v, out_lanes + LANES * p->d_v);
        for (int64_t t = 0; t < n_token; t += LANES) {
            int64_t n = n_token - t < LANES ? n_token - t : LANES;
            w->kernel->pack(in_lanes, ml_f32(w->in) + t * w->in->stride + h * rank, w->in->stride, n, rank, 1.0f);
            w->kernel->product(&(ml_attention_product){ .m = p->d_v,
                                                        .n = ml_attention_pad(n),
                                                        .k = rank,
                                                        .a = w_uv,
                                                        .a_row = rank,
                                                        .a_col = 1,
                                                        .b = in_lanes,
                                                        .b_stride = LANES,
                                                        .c = out_lanes,
                                                        .c_stride = LANES });
            w->kernel->unpack(ml_f32(w->out) + t * w->out->stride + h * p->d_v, w->out->stride, out_lanes, NULL, n,
                              p->d_v, false);
        }
    }
}

static ml_status run_absorbed(ml_ctx *ctx, const ml_mla_param *p, cached_work *attention, ml_tensor *kv_b)
{
    int64_t n_token = attention->q->dim[0], rank = p->kv_lora_rank, d_row = rank + p->n_rot;
    ml_tensor *q = ml_tensor_new_2d(ctx, ML_F32, n_token, p->n_head * d_row);
    ml_tensor *latent = ml_tensor_new_2d(ctx, ML_F32, n_token, p->n_head * rank);
    if (!q || !latent) return ML_ENOMEM;
    int64_t n_row = p->d_nope > p->d_v ? p->d_nope : p->d_v;
    absorb_work absorb = { .kernel = ml_attention_kernel_get(),
                           .rows = ml_row_ops_get(),
                           .param = p,
                           .kv_b = kv_b,
                           .in = attention->q,
                           .out = q,
                           .scratch_count = n_row * rank + LANES * (rank + p->d_v) };
    absorb.scratch = ml_ctx_scratch(ctx, (size_t)(absorb.scratch_count * ml_thread_count()) * sizeof(float));
    if (!absorb.scratch) return ML_ENOMEM;
    ml_parallel_for(p->n_head, 1, absorb_query, &absorb);
    const ml_tensor *y = attention->y;
    attention->q = q;
    attention->y = latent;
    ML_TRY(attend(ctx, attention));
    absorb.in = latent;
    absorb.out = y;
    ml_parallel_for(p->n_head, 1, project_value, &absorb);
    return ML_OK;
}

ml_tensor *ml_attention_cached_mla(ml_ctx *ctx, ml_tensor *q, ml_tensor *kv_b, const ml_kv_view *kv,
                                   ml_tensor *seq_of_token, ml_tensor *pos, const ml_mla_param *param)
{
    if (!q || !kv_b || !seq_of_token || !pos) return NULL;
    EXPECT(q->dim[1] == param->n_head * (param->d_nope + param->n_rot) &&
               kv_b->dim[0] == param->n_head * (param->d_nope + param->d_v) && kv_b->dim[1] == param->kv_lora_rank,
           "absorbed attention: q of %lld columns and kv_b of [%lld, %lld] are not %lld heads", (long long)q->dim[1],
           (long long)kv_b->dim[0], (long long)kv_b->dim[1], (long long)param->n_head);
    if (check_positions(ctx, kv, seq_of_token, pos) != ML_OK) return NULL;
    ml_tensor *y = ml_tensor_new_2d(ctx, ML_F32, q->dim[0], param->n_head * param->d_v);
    if (!y) return NULL;
    cached_work work = { .kv = kv,
                         .q = q,
                         .y = y,
                         .seq_of_token = ml_i32(seq_of_token),
                         .pos = ml_i32(pos),
                         .d_qk = param->kv_lora_rank + param->n_rot,
                         .d_v = param->kv_lora_rank,
                         .n_head = param->n_head,
                         .n_group = param->n_head,
                         .v_is_k = true,
                         .scale = param->scale };
    size_t mark = ml_arena_mark(&ctx->act);
    ml_status status = run_absorbed(ctx, param, &work, kv_b);
    ml_arena_release(&ctx->act, mark);
    return status == ML_OK ? y : NULL;
}

typedef struct {
    const ml_kv_view *kv;
    const ml_tensor *k, *k_tail, *v;
    const int32_t *seq_of_token, *pos;
} store_work;

static void store_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const store_work *w = arg;
    const ml_kv_view *kv = w->kv;
    size_t element = ml_dtype_size(kv->dtype);
    for (int64_t t = begin; t < end; t++) {
        int64_t row = cache_row(kv, w->seq_of_token[t], w->pos[t]);
        char *k = kv->k + row * kv->k_row_bytes;
        ml_convert_from_f32(kv->dtype, ml_f32(w->k) + t * w->k->stride, k, w->k->dim[1]);
        if (w->k_tail) {
            ml_convert_from_f32(kv->dtype, ml_f32(w->k_tail) + t * w->k_tail->stride,
                                k + (size_t)w->k->dim[1] * element, w->k_tail->dim[1]);
        }
        if (w->v) {
            ml_convert_from_f32(kv->dtype, ml_f32(w->v) + t * w->v->stride, kv->v + row * kv->v_row_bytes,
                                w->v->dim[1]);
        }
    }
}

ml_status ml_kv_store(ml_ctx *ctx, const ml_kv_view *kv, ml_tensor *k, ml_tensor *k_tail, ml_tensor *v,
                      ml_tensor *seq_of_token, ml_tensor *pos)
{
    if (ctx->error.code != ML_OK || !k || !seq_of_token || !pos) return ctx->error.code;
    int64_t element = (int64_t)ml_dtype_size(kv->dtype);
    int64_t k_bytes = (k->dim[1] + (k_tail ? k_tail->dim[1] : 0)) * element, v_bytes = v ? v->dim[1] * element : 0;
    if (k_bytes > kv->k_row_bytes || v_bytes > kv->v_row_bytes) {
        return ml_ctx_fail(ctx, ML_EINVAL, "a cache row of %lld + %lld bytes cannot hold a token of %lld + %lld",
                           (long long)kv->k_row_bytes, (long long)kv->v_row_bytes, (long long)k_bytes,
                           (long long)v_bytes);
    }
    ML_TRY(check_positions(ctx, kv, seq_of_token, pos));
    store_work work = { kv, k, k_tail, v, ml_i32(seq_of_token), ml_i32(pos) };
    ml_parallel_for(pos->dim[0], ROWS_PER_TASK, store_rows, &work);
    return ML_OK;
}
