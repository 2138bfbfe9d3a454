/* Causal softmax attention over ragged sequences, in blocks (Dao et al., arXiv:2205.14135):
 *   s = scale * q k^T,  p = softmax(s),  y = p v
 * Forward: a task is one block of queries of one head; it walks the key blocks with a running softmax and leaves
 * y and lse = log(sum(exp(s))).
 * Backward: p is made again from lse; with delta = rowsum(dy * y):
 *   dv = p^T dy,  ds = p * (dy v^T - delta),  dq = scale * ds k,  dk = scale * ds^T q
 * A task is one sequence and one key/value head with all query heads that read it, so that dk and dv have one
 * owner, who adds in one order: head, query block, key block.  The part of the key that all heads share gets one
 * gradient per key head, and these are added in the order of the heads. */
#include "ops/cpu/cpu.h"

#include "base/thread.h"
#include "ops/cpu/attention_kernel.h"

#include <math.h>
#include <string.h>

enum { LANES = ML_ATTENTION_LANES, KEYS = ML_ATTENTION_KEYS, N_LANE_ARRAY = 6 };

/* A block of queries: tokens q0 .. q0 + n - 1 of the sequence that begins at token `begin`. */
typedef struct {
    int32_t begin, q0, n;
} query_block;

typedef struct {
    const ml_attention_kernel *kernel;
    const ml_attention_param *param;
    const ml_tensor *q, *k, *v, *k_shared, *y, *lse;
    const int32_t *seq;
    const query_block *blocks; /* forward */
    const float *dy;
    float *dq, *dk, *dv;
    float *dk_shared; /* [n_kv_head, tokens, d_shared], or NULL */
    int64_t n_seq;
    float *scratch;
    int64_t scratch_count; /* floats per thread */
} attention_work;

/* What one thread needs for a block; the arrays of one float per lane come last. */
typedef struct {
    float *qt, *s, *dp, *ot, *dot, *dqt;
    float *max, *sum, *lse, *delta;
    int32_t *last;
} block_scratch;

static int64_t scratch_count(const ml_attention_param *p)
{
    return LANES * (2 * p->d_qk + 2 * p->d_v + 2 * KEYS + N_LANE_ARRAY);
}

static block_scratch take_scratch(const attention_work *w, int thread)
{
    const ml_attention_param *p = w->param;
    float *at = w->scratch + thread * w->scratch_count;
    block_scratch b;
    b.qt = at;
    b.dqt = b.qt + LANES * p->d_qk;
    b.ot = b.dqt + LANES * p->d_qk;
    b.dot = b.ot + LANES * p->d_v;
    b.s = b.dot + LANES * p->d_v;
    b.dp = b.s + LANES * KEYS;
    b.max = b.dp + LANES * KEYS;
    b.sum = b.max + LANES;
    b.lse = b.sum + LANES;
    b.delta = b.lse + LANES;
    b.last = (int32_t *)(b.delta + LANES);
    return b;
}

/* Lanes [d][LANES] of a block's rows, stride apart, and back. */
static void pack_rows(const attention_work *w, float *lanes, const float *rows, int64_t stride, int64_t n, int64_t d,
                      float scale)
{
    const float *row[LANES];
    for (int64_t i = 0; i < n; i++) row[i] = rows + i * stride;
    w->kernel->pack(lanes, LANES, row, n, d, scale);
}

static void unpack_rows(const attention_work *w, float *rows, int64_t stride, const float *lanes, const float *factor,
                        int64_t n, int64_t d, bool accumulate)
{
    float *row[LANES];
    for (int64_t i = 0; i < n; i++) row[i] = rows + i * stride;
    w->kernel->unpack(row, lanes, factor, n, d, accumulate);
}

/* s[key, lane] = q . k for n_key keys from token `row`, of key head g. */
static void make_scores(const attention_work *w, const block_scratch *b, int64_t g, int64_t row, int64_t n_key,
                        int64_t n_lane)
{
    const ml_attention_param *p = w->param;
    int64_t d_own = p->d_qk - p->d_shared;
    ml_attention_product own = { .m = n_key,
                                 .n = ml_attention_pad(n_lane),
                                 .k = d_own,
                                 .a = ml_f32(w->k) + row * w->k->stride + g * p->k_step,
                                 .a_row = w->k->stride,
                                 .a_col = 1,
                                 .b = b->qt,
                                 .b_stride = LANES,
                                 .c = b->s,
                                 .c_stride = LANES };
    w->kernel->product(&own);
    if (!p->d_shared) return;
    ml_attention_product shared = own;
    shared.k = p->d_shared;
    shared.a = ml_f32(w->k_shared) + row * w->k_shared->stride;
    shared.a_row = w->k_shared->stride;
    shared.b = b->qt + d_own * LANES;
    shared.accumulate = true;
    w->kernel->product(&shared);
}

/* Token j of the block sees keys 0 .. q0 + j of its sequence; lanes beyond the queries see what the last does. */
static void set_last(int32_t *last, int32_t q0, int32_t n)
{
    for (int i = 0; i < LANES; i++) last[i] = q0 + (i < n ? i : n - 1);
}

static void forward_block(const attention_work *w, const block_scratch *b, query_block block, int64_t h)
{
    const ml_attention_param *p = w->param;
    int64_t g = h / (p->n_head / p->n_kv_head), token = block.begin + block.q0;
    pack_rows(w, b->qt, ml_f32(w->q) + token * w->q->stride + h * p->d_qk, w->q->stride, block.n, p->d_qk, p->scale);
    set_last(b->last, block.q0, block.n);
    ml_attention_state state = { .max = b->max, .sum = b->sum, .ot = b->ot, .d_v = p->d_v };
    w->kernel->begin(&state);
    int64_t n_visible = block.q0 + block.n;
    for (int64_t k0 = 0; k0 < n_visible; k0 += KEYS) {
        int64_t n_key = n_visible - k0 < KEYS ? n_visible - k0 : KEYS, row = block.begin + k0;
        make_scores(w, b, g, row, n_key, block.n);
        w->kernel->softmax(&state, b->s, n_key, k0, b->last, block.n);
        w->kernel->product(&(ml_attention_product){ .m = p->d_v,
                                                    .n = ml_attention_pad(block.n),
                                                    .k = n_key,
                                                    .a = ml_f32(w->v) + row * w->v->stride + g * p->v_step,
                                                    .a_row = 1,
                                                    .a_col = w->v->stride,
                                                    .b = b->s,
                                                    .b_stride = LANES,
                                                    .c = b->ot,
                                                    .c_stride = LANES,
                                                    .accumulate = true });
    }
    float *lse = ml_f32(w->lse) + h * w->lse->stride + token;
    for (int i = 0; i < block.n; i++) {
        lse[i] = b->max[i] + logf(b->sum[i]);
        b->sum[i] = 1.0f / b->sum[i];
    }
    unpack_rows(w, ml_f32(w->y) + token * w->y->stride + h * p->d_v, w->y->stride, b->ot, b->sum, block.n, p->d_v,
                false);
}

static void forward_tasks(void *arg, int64_t begin, int64_t end, int thread)
{
    const attention_work *w = arg;
    block_scratch b = take_scratch(w, thread);
    int64_t n_head = w->param->n_head;
    for (int64_t i = begin; i < end; i++) forward_block(w, &b, w->blocks[i / n_head], i % n_head);
}

/* Query blocks of all sequences, the longest walks first so that threads finish together. */
static ml_status list_blocks(ml_ctx *ctx, attention_work *w, int64_t *n_block)
{
    int64_t n = 0, longest = 0;
    for (int64_t s = 0; s < w->n_seq; s++) {
        int64_t n_here = (w->seq[s + 1] - w->seq[s] + LANES - 1) / LANES;
        n += n_here;
        if (n_here > longest) longest = n_here;
    }
    query_block *blocks = ml_ctx_scratch(ctx, (size_t)n * sizeof *blocks);
    if (!blocks) return ML_ENOMEM;
    n = 0;
    for (int64_t i = longest - 1; i >= 0; i--) {
        for (int64_t s = 0; s < w->n_seq; s++) {
            int64_t left = w->seq[s + 1] - w->seq[s] - i * LANES;
            if (left <= 0) continue;
            blocks[n++] = (query_block){ w->seq[s], (int32_t)(i * LANES), (int32_t)(left < LANES ? left : LANES) };
        }
    }
    w->blocks = blocks;
    *n_block = n;
    return ML_OK;
}

/* The parts of the work that both directions share, and the sequences' offsets checked. */
static ml_status prepare(ml_ctx *ctx, const ml_op_args *args, attention_work *w)
{
    *w = (attention_work){ .kernel = ml_attention_kernel_get(),
                           .param = args->param,
                           .q = args->in[0],
                           .k = args->in[1],
                           .v = args->in[2],
                           .k_shared = args->in[3],
                           .y = args->out[0],
                           .lse = args->save[0],
                           .seq = ml_i32(args->in[4]),
                           .n_seq = args->in[4]->dim[0] - 1 };
    bool good = w->n_seq >= 0 && w->seq[0] == 0 && w->seq[w->n_seq] == w->q->dim[0];
    for (int64_t s = 0; good && s < w->n_seq; s++) good = w->seq[s] <= w->seq[s + 1];
    if (!good) {
        return ml_ctx_fail(ctx, ML_EINVAL, "attention: the sequences' offsets do not rise from 0 to the %lld tokens",
                           (long long)w->q->dim[0]);
    }
    w->scratch_count = scratch_count(w->param);
    w->scratch = ml_ctx_scratch(ctx, (size_t)(w->scratch_count * ml_thread_count()) * sizeof(float));
    return w->scratch ? ML_OK : ML_ENOMEM;
}

ml_status ml_cpu_attention_forward(ml_ctx *ctx, const ml_op_args *args)
{
    attention_work work;
    int64_t n_block;
    ML_TRY(prepare(ctx, args, &work));
    ML_TRY(list_blocks(ctx, &work, &n_block));
    ml_parallel_for(n_block * work.param->n_head, 1, forward_tasks, &work);
    return ML_OK;
}

/* delta[i] = dy[i] . y[i], in eight partial sums so that it can be vectorised. */
static void make_delta(float *delta, const float *dy, const float *y, int64_t stride, int64_t n, int64_t d)
{
    for (int64_t i = 0; i < n; i++, dy += stride, y += stride) {
        float part[8] = { 0 }, sum = 0;
        int64_t c = 0;
        for (; c + 8 <= d; c += 8) {
            for (int j = 0; j < 8; j++) part[j] += dy[c + j] * y[c + j];
        }
        for (; c < d; c++) sum += dy[c] * y[c];
        for (int j = 0; j < 8; j++) sum += part[j];
        delta[i] = sum;
    }
}

/* Both parts of the key: `own` and, with d_shared, `shared`; rows from one token on. */
typedef struct {
    const float *own, *shared;
    float *d_own, *d_shared;
} key_rows;

static key_rows key_rows_at(const attention_work *w, int64_t g, int64_t row)
{
    const ml_attention_param *p = w->param;
    key_rows r = { .own = ml_f32(w->k) + row * w->k->stride + g * p->k_step };
    if (w->dk) r.d_own = w->dk + row * w->k->stride + g * p->k_step;
    if (p->d_shared) r.shared = ml_f32(w->k_shared) + row * w->k_shared->stride;
    if (w->dk_shared) r.d_shared = w->dk_shared + (g * w->q->dim[0] + row) * p->d_shared;
    return r;
}

/* dqt[c, lane] += sum over keys of k[key, c] * ds[key, lane] */
static void add_dq(const attention_work *w, const block_scratch *b, const key_rows *r, int64_t n_key, int64_t n_lane)
{
    const ml_attention_param *p = w->param;
    int64_t d_own = p->d_qk - p->d_shared;
    ml_attention_product product = { .m = d_own,
                                     .n = ml_attention_pad(n_lane),
                                     .k = n_key,
                                     .a = r->own,
                                     .a_row = 1,
                                     .a_col = w->k->stride,
                                     .b = b->dp,
                                     .b_stride = LANES,
                                     .c = b->dqt,
                                     .c_stride = LANES,
                                     .accumulate = true };
    w->kernel->product(&product);
    if (!p->d_shared) return;
    product.m = p->d_shared;
    product.a = r->shared;
    product.a_col = w->k_shared->stride;
    product.c = b->dqt + d_own * LANES;
    w->kernel->product(&product);
}

/* rows[key, c] += sum over lanes of lanes[key, lane] * x[lane, c], x being n_lane rows of n columns */
static void add_rows(const attention_work *w, float *rows, int64_t stride, const float *lanes, const float *x,
                     int64_t x_stride, int64_t n_key, int64_t n_lane, int64_t n)
{
    if (!rows) return;
    w->kernel->product(&(ml_attention_product){ .m = n_key,
                                                .n = n,
                                                .k = n_lane,
                                                .a = lanes,
                                                .a_row = LANES,
                                                .a_col = 1,
                                                .b = x,
                                                .b_stride = x_stride,
                                                .c = rows,
                                                .c_stride = stride,
                                                .accumulate = true });
}

static void backward_block(const attention_work *w, const block_scratch *b, query_block block, int64_t h)
{
    const ml_attention_param *p = w->param;
    int64_t g = h / (p->n_head / p->n_kv_head), token = block.begin + block.q0, n = block.n;
    int64_t d_own = p->d_qk - p->d_shared, y_stride = w->y->stride;
    const float *q = ml_f32(w->q) + token * w->q->stride + h * p->d_qk;
    const float *y = ml_f32(w->y) + token * y_stride + h * p->d_v, *dy = w->dy + token * y_stride + h * p->d_v;
    pack_rows(w, b->qt, q, w->q->stride, n, p->d_qk, p->scale);
    pack_rows(w, b->dot, dy, y_stride, n, p->d_v, 1.0f);
    make_delta(b->delta, dy, y, y_stride, n, p->d_v);
    memcpy(b->lse, ml_f32(w->lse) + h * w->lse->stride + token, (size_t)n * sizeof *b->lse);
    for (int64_t i = n; i < LANES; i++) b->lse[i] = b->delta[i] = 0;
    set_last(b->last, block.q0, block.n);
    memset(b->dqt, 0, (size_t)(p->d_qk * LANES) * sizeof *b->dqt);
    int64_t n_visible = block.q0 + block.n;
    for (int64_t k0 = 0; k0 < n_visible; k0 += KEYS) {
        int64_t n_key = n_visible - k0 < KEYS ? n_visible - k0 : KEYS, row = block.begin + k0;
        key_rows r = key_rows_at(w, g, row);
        make_scores(w, b, g, row, n_key, n);
        w->kernel->product(&(ml_attention_product){ .m = n_key,
                                                    .n = ml_attention_pad(n),
                                                    .k = p->d_v,
                                                    .a = ml_f32(w->v) + row * w->v->stride + g * p->v_step,
                                                    .a_row = w->v->stride,
                                                    .a_col = 1,
                                                    .b = b->dot,
                                                    .b_stride = LANES,
                                                    .c = b->dp,
                                                    .c_stride = LANES });
        w->kernel->gradient(b->s, b->dp, b->lse, b->delta, p->scale, n_key, k0, b->last, n);
        if (w->dv) {
            float *dv = w->dv + row * w->v->stride + g * p->v_step;
            add_rows(w, dv, w->v->stride, b->s, dy, y_stride, n_key, n, p->d_v);
        }
        add_rows(w, r.d_own, w->k->stride, b->dp, q, w->q->stride, n_key, n, d_own);
        add_rows(w, r.d_shared, p->d_shared, b->dp, q + d_own, w->q->stride, n_key, n, p->d_shared);
        if (w->dq) add_dq(w, b, &r, n_key, n);
    }
    if (!w->dq) return;
    float *dq = w->dq + token * w->q->stride + h * p->d_qk;
    unpack_rows(w, dq, w->q->stride, b->dqt, NULL, n, p->d_qk, true);
}

/* Task: sequence and key head. */
static void backward_tasks(void *arg, int64_t first, int64_t end, int thread)
{
    const attention_work *w = arg;
    const ml_attention_param *p = w->param;
    block_scratch b = take_scratch(w, thread);
    int64_t n_group = p->n_head / p->n_kv_head;
    for (int64_t i = first; i < end; i++) {
        int64_t s = i / p->n_kv_head, g = i % p->n_kv_head;
        int32_t begin = w->seq[s], n_token = w->seq[s + 1] - begin;
        if (w->dk_shared) {
            memset(w->dk_shared + (g * w->q->dim[0] + begin) * p->d_shared, 0,
                   (size_t)(n_token * p->d_shared) * sizeof(float));
        }
        for (int64_t h = g * n_group; h < (g + 1) * n_group; h++) {
            for (int32_t q0 = 0; q0 < n_token; q0 += LANES) {
                int32_t n = n_token - q0 < LANES ? n_token - q0 : LANES;
                backward_block(w, &b, (query_block){ begin, q0, n }, h);
            }
        }
    }
}

typedef struct {
    const attention_work *work;
    float *dk_shared;
    int64_t stride;
} shared_sum;

static void sum_shared_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const shared_sum *sum = arg;
    const attention_work *w = sum->work;
    int64_t d = w->param->d_shared, n_token = w->q->dim[0];
    for (int64_t t = begin; t < end; t++) {
        float *dst = sum->dk_shared + t * sum->stride;
        for (int64_t g = 0; g < w->param->n_kv_head; g++) {
            const float *part = w->dk_shared + (g * n_token + t) * d;
            for (int64_t c = 0; c < d; c++) dst[c] += part[c];
        }
    }
}

ml_status ml_cpu_attention_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    attention_work work;
    ML_TRY(prepare(ctx, args, &work));
    const ml_attention_param *p = work.param;
    work.dy = grads->out[0];
    work.dq = grads->in[0];
    work.dk = grads->in[1];
    work.dv = grads->in[2];
    bool shared = p->d_shared && grads->in[3];
    if (shared) {
        size_t n = (size_t)(p->n_kv_head * work.q->dim[0] * p->d_shared);
        work.dk_shared = ml_ctx_scratch(ctx, n * sizeof(float));
        if (!work.dk_shared) return ML_ENOMEM;
    }
    ml_parallel_for(work.n_seq * p->n_kv_head, 1, backward_tasks, &work);
    if (shared) {
        shared_sum sum = { &work, grads->in[3], work.k_shared->stride };
        ml_parallel_for(work.q->dim[0], 64, sum_shared_rows, &sum);
    }
    return ML_OK;
}
