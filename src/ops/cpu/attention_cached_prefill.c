/* Prefill: many tokens of a prompt against the cache.
 *
 * The cache is walked in windows of positions.  A window's keys and values become fp32 once, for a group of key heads,
 * and then meet all tokens of the call: blocks of up to 64 lanes (tokens x the query heads of a key head), each a task
 * of its own that goes on with its running softmax from window to window.  Blocks of 64 keys begin at multiples of 64,
 * so what a lane adds up, and in which order, does not depend on how a prompt was cut into calls. */
#include "ops/cpu/attention_cached.h"

#include "base/thread.h"
#include "ops/cpu/attention_kernel.h"

#include <stdlib.h>
#include <string.h>

enum { LANES = ML_ATTENTION_LANES, KEYS = ML_ATTENTION_KEYS, WINDOW = ML_PREFILL_WINDOW };

_Static_assert((int)ML_PREFILL_KEYS == (int)KEYS && WINDOW % KEYS == 0, "windows are whole blocks of keys");

/* Lanes [token][head]: tokens order[first] .. order[first + n_token - 1], query heads head0 .. + n_head - 1. */
typedef struct {
    int32_t first, n_token, head0, n_head;
    int32_t longest; /* keys that some lane sees */
} lane_block;

typedef struct {
    const ml_cached_prefill *p;
    const ml_attention_kernel *kernel;
    const int32_t *order; /* tokens of the batch, those of one sequence together */
    const lane_block *blocks;
    float *states; /* one per block */
    int64_t g0;    /* first key head of the window */
    int64_t begin, n_key;
    float *scratch;
    int64_t scratch_count; /* floats per thread */
} prefill_work;

static int64_t state_count(const ml_cached_prefill *p)
{
    return LANES * (p->heads.d_v + 2);
}

static ml_attention_state state_at(const ml_cached_prefill *p, float *at)
{
    return (ml_attention_state){ .max = at, .sum = at + LANES, .ot = at + 2 * LANES, .d_v = p->heads.d_v };
}

/* Queries into lanes, and the last position each sees. */
static void load_queries(const prefill_work *w, const lane_block *block, float *qt, int32_t *last)
{
    const ml_cached_heads *a = &w->p->heads;
    const float *row[LANES];
    int64_t n = 0;
    for (int64_t t = 0; t < block->n_token; t++) {
        int64_t token = w->order[block->first + t];
        for (int64_t h = 0; h < block->n_head; h++) {
            row[n] = ml_f32(a->q) + token * a->q->stride + (block->head0 + h) * a->d_qk;
            last[n++] = a->pos[token];
        }
    }
    for (int64_t i = n; i < ml_attention_pad(n); i++) last[i] = last[n - 1];
    w->kernel->pack(qt, LANES, row, n, a->d_qk, a->scale);
}

/* One block of keys, of which the lanes see some. */
static void walk_keys(const prefill_work *w, int64_t n_lane, const float *qt, const int32_t *last, const float *keys,
                      const float *shared, int64_t k0, int64_t n_key, const ml_attention_state *state, float *s)
{
    const ml_prefill_window *window = &w->p->window;
    int64_t d_own = w->p->heads.d_qk - window->d_shared, n_pad = ml_attention_pad(n_lane);
    ml_attention_product scores = { .m = n_key,
                                    .n = n_pad,
                                    .k = d_own,
                                    .a = keys,
                                    .a_row = window->k_row,
                                    .a_col = window->k_column,
                                    .b = qt,
                                    .b_stride = LANES,
                                    .c = s,
                                    .c_stride = LANES };
    w->kernel->product(&scores);
    if (window->d_shared) {
        scores.k = window->d_shared;
        scores.a = shared;
        scores.a_row = window->d_shared;
        scores.a_col = 1;
        scores.b = qt + d_own * LANES;
        scores.accumulate = true;
        w->kernel->product(&scores);
    }
    w->kernel->softmax(state, s, n_key, k0, last, n_lane);
    w->kernel->product(&(ml_attention_product){ .m = state->d_v,
                                                .n = n_pad,
                                                .k = n_key,
                                                .a = keys + window->v_at,
                                                .a_row = window->v_column,
                                                .a_col = window->v_row,
                                                .b = s,
                                                .b_stride = LANES,
                                                .c = state->ot,
                                                .c_stride = LANES,
                                                .accumulate = true });
}

/* Blocks of lanes with the window's keys. */
static void walk_window(void *arg, int64_t begin, int64_t end, int thread)
{
    const prefill_work *w = arg;
    const ml_cached_prefill *p = w->p;
    const ml_prefill_window *window = &p->window;
    float *qt = w->scratch + thread * w->scratch_count, *s = qt + LANES * p->heads.d_qk;
    int32_t last[LANES];
    for (int64_t i = begin; i < end; i++) {
        const lane_block *block = &w->blocks[i];
        if (block->longest <= w->begin) continue;
        ml_attention_state state = state_at(p, w->states + i * state_count(p));
        int64_t g = block->head0 / p->heads.n_group - w->g0, n_lane = (int64_t)block->n_token * block->n_head;
        int64_t n = block->longest - w->begin < w->n_key ? block->longest - w->begin : w->n_key;
        load_queries(w, block, qt, last);
        for (int64_t k = 0; k < n; k += KEYS) {
            const float *keys = window->data + g * window->head_floats + k / KEYS * window->block_floats;
            const float *shared = window->d_shared ? window->shared + k * window->d_shared : NULL;
            walk_keys(w, n_lane, qt, last, keys, shared, w->begin + k, n - k < KEYS ? n - k : KEYS, &state, s);
        }
    }
}

static void begin_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const prefill_work *w = arg;
    for (int64_t i = begin; i < end; i++) {
        ml_attention_state state = state_at(w->p, w->states + i * state_count(w->p));
        w->kernel->begin(&state);
    }
}

static void store_blocks(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const prefill_work *w = arg;
    const ml_cached_heads *a = &w->p->heads;
    for (int64_t i = begin; i < end; i++) {
        const lane_block *block = &w->blocks[i];
        ml_attention_state state = state_at(w->p, w->states + i * state_count(w->p));
        float *row[LANES], factor[LANES];
        int64_t n = 0;
        for (int64_t t = 0; t < block->n_token; t++) {
            int64_t token = w->order[block->first + t];
            for (int64_t h = 0; h < block->n_head; h++, n++) {
                row[n] = ml_f32(a->y) + token * a->y->stride + (block->head0 + h) * a->d_v;
                factor[n] = 1.0f / state.sum[n];
            }
        }
        w->kernel->unpack(row, state.ot, factor, n, a->d_v, false);
    }
}

/* Lane blocks of key heads g0 .. + n_g - 1 for the tokens order[first .. first + n_token), head after head so that
 * a thread meets the same keys again; returns their number. */
static int64_t list_blocks(const ml_cached_heads *a, const int32_t *order, int64_t first, int64_t n_token, int64_t g0,
                           int64_t n_g, lane_block *blocks)
{
    int64_t n_part = (a->n_group + LANES - 1) / LANES, part = (a->n_group + n_part - 1) / n_part, n = 0;
    int64_t run = LANES / part;
    for (int64_t h = g0 * a->n_group; h < (g0 + n_g) * a->n_group;) {
        int64_t left = a->n_group - h % a->n_group, n_head = left < part ? left : part;
        for (int64_t t = 0; t < n_token; t += run) {
            int64_t count = n_token - t < run ? n_token - t : run;
            int32_t longest = 0;
            for (int64_t i = 0; i < count; i++) {
                int32_t pos = a->pos[order[first + t + i]];
                if (pos >= longest) longest = pos + 1;
            }
            blocks[n++] = (lane_block){ (int32_t)(first + t), (int32_t)count, (int32_t)h, (int32_t)n_head, longest };
        }
        h += n_head;
    }
    return n;
}

/* Tokens order[first .. first + n_token), of one sequence, with key heads g0 .. + n_g - 1. */
static ml_status attend_heads(ml_ctx *ctx, prefill_work *w, int64_t first, int64_t n_token, int64_t g0, int64_t n_g)
{
    const ml_cached_prefill *p = w->p;
    size_t mark = ml_arena_mark(&ctx->act);
    int64_t n_head = n_g * p->heads.n_group;
    lane_block *blocks = ml_ctx_scratch(ctx, (size_t)(n_token * n_head) * sizeof *blocks);
    if (!blocks) return ML_ENOMEM;
    int64_t n_block = list_blocks(&p->heads, w->order, first, n_token, g0, n_g, blocks), longest = 0;
    for (int64_t i = 0; i < n_block; i++) longest = blocks[i].longest > longest ? blocks[i].longest : longest;
    w->blocks = blocks;
    w->g0 = g0;
    w->states = ml_ctx_scratch(ctx, (size_t)(n_block * state_count(p)) * sizeof(float));
    if (!w->states) return ML_ENOMEM;
    ml_parallel_for(n_block, 1, begin_blocks, w);
    for (w->begin = 0; w->begin < longest; w->begin += WINDOW) {
        w->n_key = longest - w->begin < WINDOW ? longest - w->begin : WINDOW;
        p->fill(p, p->heads.seq_of_token[w->order[first]], w->begin, w->n_key, g0, n_g);
        ml_parallel_for(n_block, 1, walk_window, w);
    }
    ml_parallel_for(n_block, 1, store_blocks, w);
    ml_arena_release(&ctx->act, mark);
    return ML_OK;
}

typedef struct {
    int32_t seq, token;
} token_key;

static int compare_tokens(const void *a, const void *b)
{
    const token_key *x = a, *y = b;
    if (x->seq != y->seq) return x->seq < y->seq ? -1 : 1;
    return (x->token > y->token) - (x->token < y->token);
}

/* The tokens of each sequence together, in their order. */
static const int32_t *order_tokens(ml_ctx *ctx, const ml_cached_prefill *p)
{
    token_key *keys = ml_ctx_scratch(ctx, (size_t)p->n_token * sizeof *keys);
    int32_t *order = ml_ctx_scratch(ctx, (size_t)p->n_token * sizeof *order);
    if (!keys || !order) return NULL;
    bool sorted = true;
    for (int64_t i = 0; i < p->n_token; i++) {
        keys[i] = (token_key){ p->heads.seq_of_token[p->token0 + i], (int32_t)(p->token0 + i) };
        sorted = sorted && (i == 0 || keys[i - 1].seq <= keys[i].seq);
    }
    if (!sorted) qsort(keys, (size_t)p->n_token, sizeof *keys, compare_tokens);
    for (int64_t i = 0; i < p->n_token; i++) order[i] = keys[i].token;
    return order;
}

ml_status ml_cached_prefill_run(ml_ctx *ctx, const ml_cached_prefill *p)
{
    const int32_t *order = order_tokens(ctx, p);
    prefill_work w = { .p = p, .kernel = ml_attention_kernel_get(), .order = order };
    w.scratch_count = LANES * (p->heads.d_qk + KEYS);
    w.scratch = ml_ctx_scratch(ctx, (size_t)(w.scratch_count * ml_thread_count()) * sizeof(float));
    if (!order || !w.scratch) return ML_ENOMEM;
    const int32_t *seq = p->heads.seq_of_token;
    int64_t n_kv_head = p->heads.n_head / p->heads.n_group;
    for (int64_t first = 0, n; first < p->n_token; first += n) {
        for (n = 1; first + n < p->n_token && seq[order[first + n]] == seq[order[first]];) n++;
        for (int64_t g = 0; g < n_kv_head; g += ML_PREFILL_HEADS) {
            int64_t n_g = n_kv_head - g < ML_PREFILL_HEADS ? n_kv_head - g : ML_PREFILL_HEADS;
            ML_TRY(attend_heads(ctx, &w, first, n, g, n_g));
        }
    }
    return ML_OK;
}
