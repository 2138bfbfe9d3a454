/* Decoding: one token and its few query heads against a long cache.
 *
 * A token's keys are cut into spans; a span has its own running softmax, and spans are merged in their order.  So the
 * spans of a token may be walked one after the other (many tokens) or by several threads at once (few tokens), with
 * the same result.  Key heads are independent of each other and are shared out among threads only when there are too
 * few spans for them; a cached row is otherwise read once, from end to end.
 *
 * A block of 64 keys becomes fp32 in the second-level cache and stays there for both products, while the memory of
 * the next block is fetched.  Latent rows of q8_0 are multiplied as integers instead (attention_kernel_q8.h). */
#include "ops/cpu/attention_cached.h"

#include "base/thread.h"
#include "ops/cpu/attention_kernel_q8.h"
#include "ops/cpu/attention_kernel_rows.h"

#include <string.h>

enum {
    KEYS = ML_ROWS_KEYS,
    ROWS = ML_ROWS_MAX,
    SPAN = ML_DECODE_SPAN,
    DIRECT_ROWS = 4, /* queries beyond which widening q8_0 again for every few of them costs more than a buffer */
    MAX_SPANS = 64,  /* of a token: later ones are longer */
    STATE_BYTES = 16 << 20, /* of spans whose merging is still to come */
    TASKS_PER_THREAD = 4,   /* tasks that make sharing out their spans pointless */
};

/* One token, key heads g0 .. g0 + n_g - 1. */
typedef struct {
    int32_t token, g0, n_g;
    int32_t n_key, span_keys, n_span;
    int32_t first_item; /* of the spans shared out */
} decode_task;

typedef struct {
    const ml_cached_decode *d;
    const ml_rows_kernel *kernel;
    const decode_task *tasks;
    int64_t q_columns, v_columns; /* padded */
    bool direct;                  /* rows are multiplied as they are stored, not made fp32 first */
    const ml_q8_kernel *q8;       /* latent rows of q8_0: in integers; else NULL */
    int64_t n_tile;               /* tiles of ROWS queries that share a key head, */
    int16_t *q_packed;            /* [n_token, n_kv_head, n_tile][q_columns * ROWS] */
    float *q_scale;               /* and [..][ROWS] */
    float *scratch;
    int64_t scratch_count; /* floats per thread */
    int n_thread;
    const int32_t *task_of_item;
    float *states; /* one per item */
} decode_work;

static int64_t state_count(const decode_work *w)
{
    return w->d->n_head * (w->v_columns + 2);
}

static int64_t block_count(const decode_work *w)
{
    return KEYS * (w->q_columns + (w->d->v_is_k ? 0 : w->v_columns) + ROWS);
}

/* The state of n_row rows from row `first` on, of the state at `at`. */
static ml_rows_state state_rows(const decode_work *w, float *at, int64_t first)
{
    int64_t n = w->d->n_head;
    return (ml_rows_state){
        .max = at + first, .sum = at + n + first, .out = at + 2 * n + first * w->v_columns, .out_stride = w->v_columns
    };
}

/* Stored rows of up to KEYS positions, at key head g0. */
typedef struct {
    const char *k[KEYS], *v[KEYS];
    int64_t n;
} key_rows;

static void find_rows(const ml_cached_decode *d, const decode_task *task, int64_t k0, int64_t end, key_rows *rows)
{
    const ml_kv_view *kv = d->kv;
    int64_t seq = d->seq_of_token[task->token], in_page = k0 % kv->page_size;
    size_t k_at = ml_dtype_row_bytes(kv->dtype, task->g0 * d->k_step);
    size_t v_at = ml_dtype_row_bytes(kv->dtype, task->g0 * d->v_step);
    rows->n = end - k0 < KEYS ? end - k0 : KEYS;
    if (rows->n < 0) rows->n = 0;
    for (int64_t i = 0, row = 0; i < rows->n; i++, row++, in_page++) { /* a division a page, not a key */
        if (i == 0 || in_page == kv->page_size) {
            row = ml_kv_row(kv, seq, k0 + i);
            if (i > 0) in_page = 0;
        }
        rows->k[i] = kv->k + row * kv->k_row_bytes + k_at;
        if (!d->v_is_k) rows->v[i] = kv->v + row * kv->v_row_bytes + v_at;
    }
}

/* Index of a tile of queries: of a token and a key head. */
static int64_t tile_of(const decode_work *w, int64_t token, int64_t g)
{
    return (token * (w->d->n_head / w->d->n_group) + g) * w->n_tile;
}

/* Queries to 16 bits.  Index: token and key head. */
static void pack_queries(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const decode_work *w = arg;
    const ml_cached_decode *d = w->d;
    int64_t n_kv_head = d->n_head / d->n_group;
    for (int64_t i = begin; i < end; i++) {
        const float *q = d->q + (i / n_kv_head * d->n_head + i % n_kv_head * d->n_group) * w->q_columns;
        for (int64_t r = 0; r < d->n_group; r += ROWS) {
            int64_t tile = tile_of(w, i / n_kv_head, i % n_kv_head) + r / ROWS;
            w->q8->pack(q + r * w->q_columns, w->q_columns, d->n_group - r < ROWS ? d->n_group - r : ROWS, d->d_qk,
                        w->q_packed + tile * w->q_columns * ROWS, w->q_scale + tile * ROWS);
        }
    }
}

/* Tiles of queries that share latent rows of q8_0, all of `rows` with each. */
static void walk_latent(const decode_work *w, int64_t token, int64_t g, const key_rows *rows,
                        const ml_rows_ahead *ahead, float *state, float *block)
{
    const ml_cached_decode *d = w->d;
    const ml_rows_ahead none[2] = { { 0 } };
    float *s = block + block_count(w) - KEYS * ROWS, *scale = block;
    w->q8->scales(rows->k, rows->n, d->d_qk, scale);
    ml_q8_rows keys = { rows->k, rows->n, d->d_qk, scale }, values = { rows->k, rows->n, d->d_v, scale };
    for (int64_t r = 0; r < d->n_group; r += ROWS) {
        int64_t n_row = d->n_group - r < ROWS ? d->n_group - r : ROWS, tile = tile_of(w, token, g) + r / ROWS;
        ml_rows_state part = state_rows(w, state, g * d->n_group + r);
        w->q8->scores(&keys, w->q_packed + tile * w->q_columns * ROWS, w->q_scale + tile * ROWS, n_row,
                      r == 0 ? ahead : none, s);
        w->kernel->softmax(&part, s, n_row, rows->n);
        w->q8->values(&values, s, n_row, part.out, part.out_stride);
    }
}

/* One key head's part of a block: `rows` now, and what to fetch meanwhile. */
static void walk_head(const decode_work *w, const decode_task *task, int64_t g, const key_rows *rows,
                      const ml_rows_ahead *ahead, float *state, float *block)
{
    const ml_cached_decode *d = w->d;
    if (w->q8) {
        walk_latent(w, task->token, task->g0 + g, rows, ahead, state, block);
        return;
    }
    ml_dtype dtype = d->kv->dtype;
    float *k = block, *v = k + KEYS * w->q_columns, *s = block + block_count(w) - KEYS * ROWS;
    size_t k_at = ml_dtype_row_bytes(dtype, g * d->k_step), v_at = ml_dtype_row_bytes(dtype, g * d->v_step);
    const char *k_row[KEYS], *v_row[KEYS];
    for (int64_t i = 0; i < rows->n; i++) {
        k_row[i] = rows->k[i] + k_at;
        v_row[i] = d->v_is_k ? k_row[i] : rows->v[i] + v_at;
        if (w->direct) continue;
        w->kernel->load(dtype, k_row[i], k + i * w->q_columns, d->d_qk);
        if (!d->v_is_k) w->kernel->load(dtype, v_row[i], v + i * w->v_columns, d->d_v);
        k_row[i] = (const char *)(k + i * w->q_columns);
        v_row[i] = d->v_is_k ? k_row[i] : (const char *)(v + i * w->v_columns);
    }
    for (int64_t i = rows->n; i % 8; i++) k_row[i] = k_row[rows->n - 1];
    int64_t head0 = (task->g0 + g) * d->n_group;
    const float *q = d->q + (task->token * d->n_head + head0) * w->q_columns;
    const ml_rows_ahead none[2] = { { 0 } };
    ml_rows_values values = { w->direct ? dtype : ML_F32, v_row, rows->n, w->v_columns };
    for (int64_t r = 0; r < d->n_group; r += ROWS) {
        int64_t n_row = d->n_group - r < ROWS ? d->n_group - r : ROWS;
        ml_rows_state part = state_rows(w, state, head0 + r);
        ml_rows_keys keys = { values.dtype, k_row, rows->n, w->q_columns, q + r * w->q_columns, w->q_columns };
        w->kernel->scores(&keys, n_row, r == 0 ? ahead : none, s);
        w->kernel->softmax(&part, s, n_row, rows->n);
        w->kernel->values(&values, s, n_row, &part);
    }
}

/* Keys begin .. end - 1 into a fresh state.  The memory of each next block is fetched ahead; at the end that of keys
 * next .. next_end - 1, which this thread is likely to walk then. */
static void walk_span(const decode_work *w, const decode_task *task, int64_t begin, int64_t end, int64_t next,
                      int64_t next_end, float *state, float *block)
{
    const ml_cached_decode *d = w->d;
    ml_rows_state whole = state_rows(w, state, task->g0 * d->n_group);
    w->kernel->begin(&whole, task->n_g * d->n_group);
    key_rows rows[2];
    int now = 0;
    int64_t k_bytes = (int64_t)ml_dtype_row_bytes(d->kv->dtype, (task->n_g - 1) * d->k_step + d->d_qk);
    int64_t v_bytes = (int64_t)ml_dtype_row_bytes(d->kv->dtype, (task->n_g - 1) * d->v_step + d->d_v);
    find_rows(d, task, begin, end, &rows[0]);
    for (int64_t k0 = begin; k0 < end; k0 += KEYS, now = !now) {
        key_rows *ahead = &rows[!now];
        bool more = k0 + KEYS < end;
        find_rows(d, task, more ? k0 + KEYS : next, more ? end : next_end, ahead);
        for (int64_t g = 0; g < task->n_g; g++) {
            /* Whole rows, an equal part by every head: memory is read from end to end. */
            int64_t first = ahead->n * g / task->n_g, n = ahead->n * (g + 1) / task->n_g - first;
            ml_rows_ahead fetch[2] = { { ahead->k + first, n, k_bytes },
                                       { ahead->v + first, d->v_is_k ? 0 : n, v_bytes } };
            walk_head(w, task, g, &rows[now], fetch, state, block);
        }
    }
}

static int64_t span_end(const decode_task *task, int64_t span)
{
    int64_t end = (span + 1) * task->span_keys;
    return end < task->n_key ? end : task->n_key;
}

static void store_output(const decode_work *w, int64_t token, int64_t head, const ml_rows_state *total, int64_t r)
{
    const ml_cached_decode *d = w->d;
    float *y = d->y + token * d->y_stride + head * d->d_v, factor = 1.0f / total->sum[r];
    const float *out = total->out + r * total->out_stride;
    for (int64_t c = 0; c < d->d_v; c++) y[c] = factor * out[c];
}

/* Whole tasks: spans one after the other. */
static void walk_tasks(void *arg, int64_t begin, int64_t end, int thread)
{
    const decode_work *w = arg;
    const ml_cached_decode *d = w->d;
    float *block = w->scratch + thread * w->scratch_count, *sum = block + block_count(w), *part = sum + state_count(w);
    for (int64_t i = begin; i < end; i++) {
        const decode_task *task = &w->tasks[i];
        int64_t head0 = task->g0 * d->n_group, n_row = task->n_g * d->n_group;
        ml_rows_state total = state_rows(w, sum, head0), piece = state_rows(w, part, head0);
        w->kernel->begin(&total, n_row);
        for (int64_t span = 0; span < task->n_span; span++) {
            int64_t end_key = span_end(task, span);
            walk_span(w, task, span * task->span_keys, end_key, end_key, task->n_key, part, block);
            for (int64_t r = 0; r < n_row; r++) w->kernel->merge(&total, &piece, r);
        }
        for (int64_t r = 0; r < n_row; r++) store_output(w, task->token, head0 + r, &total, r);
    }
}

/* Items: single spans of tasks.  Threads take turns, so the next one of this thread is n_thread further on. */
static void walk_items(void *arg, int64_t begin, int64_t end, int thread)
{
    const decode_work *w = arg;
    float *block = w->scratch + thread * w->scratch_count;
    for (int64_t i = begin; i < end; i++) {
        const decode_task *task = &w->tasks[w->task_of_item[i]];
        int64_t span = i - task->first_item, next = span + w->n_thread;
        walk_span(w, task, span * task->span_keys, span_end(task, span), next * task->span_keys, span_end(task, next),
                  w->states + i * state_count(w), block);
    }
}

/* Index: task and row of its heads. */
static void merge_items(void *arg, int64_t begin, int64_t end, int thread)
{
    const decode_work *w = arg;
    const ml_cached_decode *d = w->d;
    float *sum = w->scratch + thread * w->scratch_count + block_count(w);
    for (int64_t i = begin; i < end; i++) {
        const decode_task *task = &w->tasks[i / d->n_head];
        int64_t head = i % d->n_head, head0 = task->g0 * d->n_group;
        if (head < head0 || head >= head0 + task->n_g * d->n_group) continue;
        ml_rows_state total = state_rows(w, sum, head);
        w->kernel->begin(&total, 1);
        for (int64_t span = 0; span < task->n_span; span++) {
            ml_rows_state part = state_rows(w, w->states + (task->first_item + span) * state_count(w), head);
            w->kernel->merge(&total, &part, 0);
        }
        store_output(w, task->token, head, &total, 0);
    }
}

/* Tasks [0, n) whose n_item spans all threads share. */
static ml_status share_spans(ml_ctx *ctx, decode_work *w, decode_task *tasks, int64_t n, int64_t n_item)
{
    size_t mark = ml_arena_mark(&ctx->act);
    int32_t *task_of_item = ml_ctx_scratch(ctx, (size_t)n_item * sizeof *task_of_item);
    w->states = ml_ctx_scratch(ctx, (size_t)(n_item * state_count(w)) * sizeof(float));
    if (!task_of_item || !w->states) return ML_ENOMEM;
    int32_t item = 0;
    for (int64_t i = 0; i < n; i++) {
        tasks[i].first_item = item;
        for (int32_t span = 0; span < tasks[i].n_span; span++) task_of_item[item++] = (int32_t)i;
    }
    w->task_of_item = task_of_item;
    w->tasks = tasks;
    ml_parallel_for(n_item, 1, walk_items, w);
    int64_t n_row = n * w->d->n_head;
    ml_parallel_for(n_row, (n_row + w->n_thread - 1) / w->n_thread, merge_items, w);
    ml_arena_release(&ctx->act, mark);
    return ML_OK;
}

static bool have_one_span(const decode_task *tasks, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (tasks[i].n_span > 1) return false;
    }
    return true;
}

/* Tasks for n_split parts of the key heads; returns their number. */
static int64_t list_tasks(const ml_cached_decode *d, int64_t n_split, decode_task *tasks)
{
    int64_t n_kv_head = d->n_head / d->n_group, part = (n_kv_head + n_split - 1) / n_split, n = 0;
    for (int64_t t = 0; t < d->n_token; t++) {
        int64_t n_key = (int64_t)d->pos[t] + 1, blocks = (n_key + (int64_t)SPAN * MAX_SPANS - 1) / (SPAN * MAX_SPANS);
        int64_t span = SPAN * blocks;
        for (int64_t g = 0; g < n_kv_head; g += part) {
            tasks[n++] = (decode_task){ .token = (int32_t)t,
                                        .g0 = (int32_t)g,
                                        .n_g = (int32_t)(n_kv_head - g < part ? n_kv_head - g : part),
                                        .n_key = (int32_t)n_key,
                                        .span_keys = (int32_t)span,
                                        .n_span = (int32_t)((n_key + span - 1) / span) };
        }
    }
    return n;
}

/* Parts of the key heads that give every thread something to do. */
static int64_t choose_split(const ml_cached_decode *d, int n_thread)
{
    int64_t n_item = 0, n_kv_head = d->n_head / d->n_group;
    for (int64_t t = 0; t < d->n_token; t++) n_item += d->pos[t] / SPAN + 1;
    if (n_item <= 0 || n_item >= 2 * n_thread) return 1;
    int64_t n_split = (2 * n_thread + n_item - 1) / n_item;
    return n_split < n_kv_head ? n_split : n_kv_head;
}

static ml_status prepare_latent(ml_ctx *ctx, decode_work *w)
{
    const ml_cached_decode *d = w->d;
    w->q8 = ml_q8_kernel_get();
    w->n_tile = (d->n_group + ROWS - 1) / ROWS;
    int64_t n_kv_head = d->n_head / d->n_group, n = d->n_token * n_kv_head * w->n_tile;
    w->q_packed = ml_ctx_scratch(ctx, (size_t)(n * w->q_columns * ROWS) * sizeof *w->q_packed);
    w->q_scale = ml_ctx_scratch(ctx, (size_t)(n * ROWS) * sizeof *w->q_scale);
    if (!w->q_packed || !w->q_scale) return ML_ENOMEM;
    ml_parallel_for(d->n_token * n_kv_head, 1, pack_queries, w);
    return ML_OK;
}

ml_status ml_cached_decode_run(ml_ctx *ctx, const ml_cached_decode *d)
{
    if (d->n_token == 0) return ML_OK;
    int n_thread = ml_thread_count();
    decode_work w = { .d = d,
                      .n_thread = n_thread,
                      .kernel = ml_rows_kernel_get(),
                      .q_columns = ml_rows_pad(d->d_qk),
                      .v_columns = ml_rows_pad(d->d_v) };
    bool widened_often = d->kv->dtype == ML_Q8_0 && d->n_group > DIRECT_ROWS;
    w.direct = !widened_often && w.q_columns == d->d_qk && w.v_columns == d->d_v;
    if (d->v_is_k && d->kv->dtype == ML_Q8_0) ML_TRY(prepare_latent(ctx, &w));
    int64_t n_split = choose_split(d, n_thread);
    decode_task *tasks = ml_ctx_scratch(ctx, (size_t)(d->n_token * n_split) * sizeof *tasks);
    w.scratch_count = block_count(&w) + 2 * state_count(&w);
    w.scratch = ml_ctx_scratch(ctx, (size_t)(w.scratch_count * n_thread) * sizeof(float));
    if (!tasks || !w.scratch) return ML_ENOMEM;
    int64_t n_task = list_tasks(d, n_split, tasks);
    if (n_thread == 1 || n_task >= TASKS_PER_THREAD * n_thread || have_one_span(tasks, n_task)) {
        w.tasks = tasks;
        ml_parallel_for(n_task, 1, walk_tasks, &w);
        return ML_OK;
    }
    int64_t limit = STATE_BYTES / (state_count(&w) * (int64_t)sizeof(float));
    for (int64_t i = 0; i < n_task;) {
        int64_t n = 0, n_item = 0;
        for (; i + n < n_task && (n == 0 || n_item + tasks[i + n].n_span <= limit); n++) n_item += tasks[i + n].n_span;
        ML_TRY(share_spans(ctx, &w, tasks + i, n, n_item));
        i += n;
    }
    return ML_OK;
}
