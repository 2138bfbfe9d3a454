/* Log-probability of each target under softmax(x w^T + b): the loss of every training stage.
 *
 * Only tokens with a target ("active" ones) are computed: their rows of x are gathered while packing.
 *
 * Forward, in tiles of tokens x vocabulary that stay in a core's cache:
 *
 *              vocabulary
 *            +---+---+---+      every tile leaves, for each of its tokens, the largest logit and the sum of
 *     tokens | 0 | 1 | 2 |      exp(logit - largest); the log-sum-exp of a token then joins its tiles from
 *            +---+---+---+      left to right, so its bits do not depend on which thread made which tile.
 *            | 3 | 4 | 5 |
 *            +---+---+---+
 *
 * Backward, one block of at most TOKENS x VOCAB logits at a time, shared by all threads: the logits are made again
 * and turned into dlogit = dlogp (onehot - softmax); then dx[tokens] += dlogit w and dw[vocab] += dlogit^T x.
 * Blocks run down the tokens first, so that a block's rows of dw are still in cache for the next.  A weight that is not
 * fp32 is not trained; its products are those of ops/cpu/weight.h. */
#include "ops/cpu/cpu.h"

#include "base/thread.h"
#include "ops/cpu/gemm.h"
#include "ops/cpu/rowops.h"
#include "ops/cpu/weight.h"

#include <math.h>
#include <string.h>

enum {
    TILE_TOKENS = 256, /* a tile of logits: 512 KiB */
    TILE_VOCAB = 512,
    BLOCK_TOKENS = 512, /* a block of logits, going backward: 5 MiB */
    BLOCK_VOCAB = 2560,
};

typedef struct {
    const ml_tensor *x, *w;
    const float *bias;
    const int32_t *target;
    const int32_t *token; /* [n_active] */
    int64_t n_active, n_vocab, n_token_tile, n_vocab_tile;
    float *logits;     /* forward: a tile of each thread */
    float *max, *sum;  /* [n_vocab_tile, n_active] */
    float *picked;     /* [n_active] logit of the target */
    float *logp, *lse; /* [tokens] */
    bool inference;    /* products of ops/cpu/weight.h */
    ml_weight_input input;
    const ml_row_ops *row_ops;
} forward_work;

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Tokens with a target and, going backward, with a gradient.  NULL on failure (error in ctx). */
static int32_t *list_active(ml_ctx *ctx, const ml_tensor *target, int64_t n_vocab, const float *dlogp,
                            int64_t *n_active)
{
    int64_t n_token = target->dim[0];
    if (n_token > INT32_MAX || n_vocab > INT32_MAX) {
        ml_ctx_fail(ctx, ML_EINVAL, "logprob: %lld tokens or %lld vocabulary rows are too many for one batch",
                    (long long)n_token, (long long)n_vocab);
        return NULL;
    }
    int32_t *token = ml_ctx_scratch(ctx, (size_t)n_token * sizeof *token);
    *n_active = 0;
    for (int64_t t = 0; t < n_token && token; t++) {
        int32_t id = ml_i32(target)[t];
        if (id < -1 || id >= n_vocab) {
            ml_ctx_fail(ctx, ML_EINVAL, "logprob: target %d of token %lld is outside a vocabulary of %lld", (int)id,
                        (long long)t, (long long)n_vocab);
            return NULL;
        }
        if (id >= 0 && (!dlogp || dlogp[t] != 0)) token[(*n_active)++] = (int32_t)t;
    }
    return token;
}

/* [n_token rows of x] x [n_vocab rows of w]^T -> logits, rows `stride` apart, by the product of training */
static void make_logits(const ml_tensor *x, const int32_t *token, int64_t n_token, const ml_tensor *w, int64_t vocab,
                        int64_t n_vocab, float *logits, int64_t stride)
{
    ml_gemm g = { .m = n_token,
                  .n = n_vocab,
                  .k = x->dim[1],
                  .a = { .data = ml_f32(x), .stride = x->stride, .row = token },
                  .b = { .data = ml_f32(w) + vocab * w->stride, .stride = w->stride, .transpose = true },
                  .c = logits,
                  .c_stride = stride };
    ml_gemm_run_serial(&g);
}

static void forward_tiles(void *arg, int64_t begin, int64_t end, int thread)
{
    const forward_work *f = arg;
    float *logits = f->logits + (int64_t)thread * TILE_TOKENS * TILE_VOCAB;
    for (int64_t i = begin; i < end; i++) {
        int64_t tile = i / f->n_token_tile, row = i % f->n_token_tile * TILE_TOKENS, vocab = tile * TILE_VOCAB;
        int64_t n_row = smaller(f->n_active - row, TILE_TOKENS), n = smaller(f->n_vocab - vocab, TILE_VOCAB);
        if (f->inference) {
            ml_weight_product_serial(&f->input, f->token + row, n_row, f->w, vocab, n, logits, TILE_VOCAB);
        } else {
            make_logits(f->x, f->token + row, n_row, f->w, vocab, n, logits, TILE_VOCAB);
        }
        for (int64_t r = 0; r < n_row; r++) {
            int64_t at = tile * f->n_active + row + r, target = f->target[f->token[row + r]] - vocab;
            float *logit = logits + r * TILE_VOCAB;
            f->row_ops->max_sum_exp(logit, f->bias ? f->bias + vocab : NULL, n, &f->max[at], &f->sum[at]);
            if (target >= 0 && target < n) f->picked[row + r] = logit[target];
        }
    }
}

/* log sum exp of each active token from its tiles. */
static void join_tiles(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const forward_work *f = arg;
    for (int64_t r = begin; r < end; r++) {
        float max = f->max[r], sum = 0;
        for (int64_t i = 1; i < f->n_vocab_tile; i++) {
            float m = f->max[i * f->n_active + r];
            max = m > max ? m : max;
        }
        for (int64_t i = 0; i < f->n_vocab_tile; i++) {
            int64_t at = i * f->n_active + r;
            sum += f->sum[at] * expf(f->max[at] - max);
        }
        float lse = max + logf(sum);
        f->lse[f->token[r]] = lse;
        f->logp[f->token[r]] = f->picked[r] - lse;
    }
}

ml_status ml_cpu_logprob_forward(ml_ctx *ctx, const ml_op_args *args)
{
    const ml_tensor *x = args->in[0], *w = args->in[1];
    forward_work f = { .x = x,
                       .w = w,
                       .bias = ml_f32(args->in[2]),
                       .target = ml_i32(args->in[3]),
                       .n_vocab = w->dim[0],
                       .logp = ml_f32(args->out[0]),
                       .lse = ml_f32(args->save[0]),
                       .inference = ctx->mode == ML_MODE_FAST || w->dtype != ML_F32,
                       .row_ops = ml_row_ops_get() };
    f.token = list_active(ctx, args->in[3], f.n_vocab, NULL, &f.n_active);
    if (!f.token) return ctx->error.code;
    if (f.inference) {
        f.input = ml_weight_input_make(ctx, ml_f32(x), x->dim[0], x->dim[1], x->stride);
        ML_TRY(ml_weight_input_prepare(ctx, &f.input, w));
    }
    f.n_token_tile = (f.n_active + TILE_TOKENS - 1) / TILE_TOKENS;
    f.n_vocab_tile = (f.n_vocab + TILE_VOCAB - 1) / TILE_VOCAB;
    size_t n_part = (size_t)(f.n_vocab_tile * f.n_active);
    f.logits = ml_ctx_scratch(ctx, (size_t)ml_thread_count() * TILE_TOKENS * TILE_VOCAB * sizeof(float));
    f.max = ml_ctx_scratch(ctx, n_part * sizeof(float));
    f.sum = ml_ctx_scratch(ctx, n_part * sizeof(float));
    f.picked = ml_ctx_scratch(ctx, (size_t)f.n_active * sizeof(float));
    if (!f.logits || !f.max || !f.sum || !f.picked) return ML_ENOMEM;
    memset(f.logp, 0, (size_t)x->dim[0] * sizeof(float));
    memset(f.lse, 0, (size_t)x->dim[0] * sizeof(float));
    ml_parallel_for(f.n_token_tile * f.n_vocab_tile, 1, forward_tiles, &f);
    ml_parallel_for(f.n_active, TILE_TOKENS, join_tiles, &f);
    return ML_OK;
}

/* One block of logits going backward. */
typedef struct {
    const ml_tensor *x, *w;
    const float *bias, *lse, *dlogp;
    const int32_t *target;
    const int32_t *token; /* the block's tokens: [n_token] */
    int64_t n_token, vocab, n_vocab;
    float *logits;                /* [n_token, n_vocab], rows BLOCK_VOCAB apart; becomes dlogit */
    const ml_weight_input *input; /* NULL, or for the products with a weight that is not fp32 */
    float *dx, *dw, *dbias;
    const ml_row_ops *row_ops;
} block;

enum { GRAIN = 128 }; /* rows of dx or of dw in one task */

static void make_dlogits(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const block *b = arg;
    int64_t n_tile = (b->n_vocab + TILE_VOCAB - 1) / TILE_VOCAB;
    for (int64_t i = begin; i < end; i++) {
        int64_t row = i / n_tile * TILE_TOKENS, col = i % n_tile * TILE_VOCAB, vocab = b->vocab + col;
        int64_t n_row = smaller(b->n_token - row, TILE_TOKENS), n = smaller(b->n_vocab - col, TILE_VOCAB);
        float *tile = b->logits + row * BLOCK_VOCAB + col;
        if (b->input) {
            ml_weight_product_serial(b->input, b->token + row, n_row, b->w, vocab, n, tile, BLOCK_VOCAB);
        } else {
            make_logits(b->x, b->token + row, n_row, b->w, vocab, n, tile, BLOCK_VOCAB);
        }
        for (int64_t r = 0; r < n_row; r++) {
            int64_t t = b->token[row + r], target = b->target[t] - vocab;
            float *dlogit = tile + r * BLOCK_VOCAB;
            b->row_ops->softmax_backward(dlogit, b->bias ? b->bias + vocab : NULL, b->lse[t], b->dlogp[t], n);
            if (target >= 0 && target < n) dlogit[target] += b->dlogp[t];
        }
    }
}

/* dx[token] += dlogit w, tokens begin .. end of the block */
static void add_input_gradient(const block *b, int64_t begin, int64_t end)
{
    ml_gemm g = { .m = end - begin,
                  .n = b->x->dim[1],
                  .k = b->n_vocab,
                  .a = { .data = b->logits + begin * BLOCK_VOCAB, .stride = BLOCK_VOCAB },
                  .b = { .data = ml_f32(b->w) + b->vocab * b->w->stride, .stride = b->w->stride },
                  .c = b->dx,
                  .c_stride = b->x->stride,
                  .c_row = b->token + begin,
                  .accumulate = true };
    ml_gemm_run_serial(&g);
}

/* dw[vocab] += dlogit^T x, vocabulary rows begin .. end of the block */
static void add_weight_gradient(const block *b, int64_t begin, int64_t end)
{
    ml_gemm g = { .m = end - begin,
                  .n = b->x->dim[1],
                  .k = b->n_token,
                  .a = { .data = b->logits + begin, .stride = BLOCK_VOCAB, .transpose = true },
                  .b = { .data = ml_f32(b->x), .stride = b->x->stride, .row = b->token },
                  .c = b->dw + (b->vocab + begin) * b->w->stride,
                  .c_stride = b->w->stride,
                  .accumulate = true };
    ml_gemm_run_serial(&g);
}

static void add_bias_gradient(const block *b, int64_t begin, int64_t end)
{
    for (int64_t r = 0; r < b->n_token; r++) {
        const float *dlogit = b->logits + r * BLOCK_VOCAB;
        for (int64_t v = begin; v < end; v++) b->dbias[b->vocab + v] += dlogit[v];
    }
}

/* Tasks of a block: first the rows of dx, then those of dw and dbias.  Each is owned by one task. */
static void add_gradients(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const block *b = arg;
    int64_t n_token_task = (b->n_token + GRAIN - 1) / GRAIN;
    for (int64_t i = begin; i < end; i++) {
        if (i < n_token_task) {
            if (b->dx && !b->input) add_input_gradient(b, i * GRAIN, smaller((i + 1) * GRAIN, b->n_token));
            continue;
        }
        int64_t row = (i - n_token_task) * GRAIN, stop = smaller(row + GRAIN, b->n_vocab);
        if (b->dw) add_weight_gradient(b, row, stop);
        if (b->dbias) add_bias_gradient(b, row, stop);
    }
}

/* dx[token] += dlogit w through a weight that is not trained. */
static void add_frozen_gradient(const block *b)
{
    ml_tensor rows = *b->w;
    rows.dim[0] = b->n_vocab;
    rows.data = (char *)rows.data + (size_t)b->vocab * ml_dtype_row_bytes(rows.dtype, rows.stride);
    ml_weight_back back = { .n_token = b->n_token,
                            .dy = b->logits,
                            .dy_stride = BLOCK_VOCAB,
                            .dx = b->dx,
                            .dx_stride = b->x->stride,
                            .dx_row = b->token };
    ml_weight_back_run(&back, &rows);
}

static int64_t n_parts(int64_t n, int64_t size)
{
    return (n + size - 1) / size;
}

ml_status ml_cpu_logprob_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    block b = { .x = args->in[0],
                .w = args->in[1],
                .bias = ml_f32(args->in[2]),
                .target = ml_i32(args->in[3]),
                .lse = ml_f32(args->save[0]),
                .dlogp = grads->out[0],
                .dx = grads->in[0],
                .dw = grads->in[1],
                .dbias = grads->in[2],
                .row_ops = ml_row_ops_get() };
    ml_weight_input input = ml_weight_input_make(ctx, ml_f32(b.x), b.x->dim[0], b.x->dim[1], b.x->stride);
    if (b.w->dtype != ML_F32) {
        if (b.dw) {
            return ml_ctx_fail(ctx, ML_EINVAL, "logprob: a weight of type %s cannot be trained: expected f32",
                               ml_dtype_name(b.w->dtype));
        }
        ML_TRY(ml_weight_back_check(ctx, b.w));
        ML_TRY(ml_weight_input_prepare(ctx, &input, b.w));
        b.input = &input;
    }
    int64_t n_active, n_vocab = b.w->dim[0];
    const int32_t *token = list_active(ctx, args->in[3], n_vocab, b.dlogp, &n_active);
    if (!token) return ctx->error.code;
    b.logits = ml_ctx_scratch(ctx, (size_t)smaller(n_active, BLOCK_TOKENS) * BLOCK_VOCAB * sizeof(float));
    if (!b.logits) return ML_ENOMEM;
    for (b.vocab = 0; b.vocab < n_vocab; b.vocab += BLOCK_VOCAB) {
        b.n_vocab = smaller(n_vocab - b.vocab, BLOCK_VOCAB);
        for (int64_t first = 0; first < n_active; first += BLOCK_TOKENS) {
            b.token = token + first;
            b.n_token = smaller(n_active - first, BLOCK_TOKENS);
            ml_parallel_for(n_parts(b.n_token, TILE_TOKENS) * n_parts(b.n_vocab, TILE_VOCAB), 1, make_dlogits, &b);
            ml_parallel_for(n_parts(b.n_token, GRAIN) + n_parts(b.n_vocab, GRAIN), 1, add_gradients, &b);
            if (b.dx && b.input) add_frozen_gradient(&b);
        }
    }
    return ML_OK;
}
