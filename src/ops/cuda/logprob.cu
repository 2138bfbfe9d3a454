/* Log-probability of each target.  Logits exist for a chunk of tokens at a time, over the whole vocabulary; one block
 * for each token finds the largest, sums exponentials and takes the target's; going backward the chunk is made again
 * and turned into dlogit = dlogp (onehot - softmax), in place or, for bf16 products, rounded beside it.  Logits and
 * what is summed of them are fp32 in either precision. */
#include "ops/cuda/half.cuh"
#include "ops/cuda/mma.cuh"
#include "ops/cuda/rows.cuh"
#include "ops/cuda/sums.cuh"
#include "ops/cuda/weight.cuh"

#include <cfloat>

enum { THREADS = 256 };
static const int64_t CHUNK_BYTES = (int64_t)256 << 20, MIN_CHUNK = 32;

typedef struct {
    ml_rows x;
    ml_cuda_weight w;
    const float *bias;
    const int32_t *target;
    int64_t n_token, n_vocab, chunk;
    float *logits;     /* [chunk, n_vocab] */
    uint16_t *dlogits; /* NULL, or [chunk, n_vocab rounded up to whole chunks of 16 bytes] */
    bool keeps_fp32;   /* dlogits in place, too */
    float *logp, *lse;
    const float *dlogp;
} head;

static __host__ __device__ __forceinline__ int64_t half_stride(const head *h)
{
    return (h->n_vocab + ML_HALF_CHUNK - 1) / ML_HALF_CHUNK * ML_HALF_CHUNK;
}

/* The target of a token, -1 also for one outside the vocabulary. */
static __device__ int32_t target_of(const head *h, int64_t token, ml_fault *fault)
{
    int32_t id = h->target[token];
    if (id >= -1 && id < h->n_vocab) return id;
    if (threadIdx.x == 0) ml_report(fault, ML_FAULT_TARGET, id, token);
    return -1;
}

static __device__ __forceinline__ float logit_at(const head *h, const float *row, int64_t v)
{
    return h->bias ? row[v] + h->bias[v] : row[v];
}

static __global__ void __launch_bounds__(THREADS) score(head h, int64_t first, ml_fault *fault)
{
    __shared__ float shared[THREADS / WARP];
    int64_t token = first + blockIdx.x;
    int32_t target = target_of(&h, token, fault);
    if (target < 0) {
        if (threadIdx.x == 0) h.logp[token] = h.lse[token] = 0;
        return;
    }
    const float *row = h.logits + (int64_t)blockIdx.x * h.n_vocab;
    /* One reading: each thread's sum is relative to the largest of its own logits so far. */
    float most = -FLT_MAX, part = 0;
#pragma unroll 4
    for (int64_t v = threadIdx.x; v < h.n_vocab; v += THREADS) {
        float logit = logit_at(&h, row, v), now = fmaxf(most, logit);
        part = fmaf(part, expf(most - now), expf(logit - now));
        most = now;
    }
    float max = ml_block_max(most, shared);
    float sum = ml_block_sum(part * expf(most - max), shared);
    if (threadIdx.x > 0) return;
    float lse = max + logf(sum);
    h.lse[token] = lse;
    h.logp[token] = logit_at(&h, row, target) - lse;
}

static __global__ void __launch_bounds__(THREADS) make_dlogits(head h, int64_t first, ml_fault *fault)
{
    int64_t token = first + blockIdx.x;
    int32_t target = target_of(&h, token, fault);
    float *row = h.logits + (int64_t)blockIdx.x * h.n_vocab, slope = target < 0 ? 0.0f : h.dlogp[token];
    uint16_t *half = h.dlogits ? h.dlogits + (int64_t)blockIdx.x * half_stride(&h) : NULL;
    for (int64_t v = threadIdx.x; v < h.n_vocab; v += THREADS) {
        float p = slope == 0 ? 0.0f : -slope * expf(logit_at(&h, row, v) - h.lse[token]);
        if (v == target) p += slope;
        if (half) half[v] = (uint16_t)ml_pack_bf16(p, 0);
        if (!half || h.keeps_fp32) row[v] = p;
    }
}

/* Tokens of a chunk.  Going back, the weight's gradient is read and written for each: there should be as many tokens as
 * it has columns, so that this takes no longer than the chunk's own logits. */
static int64_t chunk_of(const head *h, bool is_trained)
{
    int64_t chunk = CHUNK_BYTES / (h->n_vocab * (int64_t)sizeof(float) + 1);
    if (chunk < MIN_CHUNK) chunk = MIN_CHUNK;
    if (is_trained && chunk < h->x.n_col) chunk = h->x.n_col;
    return chunk < h->n_token ? chunk : h->n_token;
}

static ml_status describe(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads, head *h)
{
    const ml_tensor *x = args->in[0], *w = args->in[1];
    memset(h, 0, sizeof *h);
    h->x = ml_rows_of(x);
    h->bias = ml_f32(args->in[2]);
    h->target = ml_i32(args->in[3]);
    h->n_token = x->dim[0];
    h->n_vocab = w->dim[0];
    h->logp = ml_f32(args->out[0]);
    h->lse = ml_f32(args->save[0]);
    if (h->n_vocab > INT32_MAX || h->n_token > INT32_MAX) {
        return ml_ctx_fail(ctx, ML_EINVAL, "logprob: %lld tokens or %lld vocabulary rows are too many for one batch",
                           (long long)h->n_token, (long long)h->n_vocab);
    }
    ML_TRY(ml_cuda_weight_read(ctx, w, &h->w));
    h->chunk = chunk_of(h, grads && grads->in[1]);
    h->logits = (float *)ml_ctx_scratch_data(ctx, (size_t)(h->chunk * h->n_vocab) * sizeof *h->logits);
    if (!h->logits) return ML_ENOMEM;
    if (!grads || ctx->precision != ML_PRECISION_BF16) return ML_OK;
    h->keeps_fp32 = grads->in[2] != NULL;
    h->dlogits = (uint16_t *)ml_ctx_scratch_data(ctx, (size_t)(h->chunk * half_stride(h)) * sizeof *h->dlogits);
    return h->dlogits ? ML_OK : ML_ENOMEM;
}

static void make_logits(ml_ctx *ctx, const head *h, int64_t first, int64_t n)
{
    ml_cuda_gemm g = ml_cuda_gemm_make(n, h->n_vocab, h->x.n_col);
    g.a = ml_cuda_operand_make(h->x.data + first * h->x.stride, h->x.stride, false);
    g.b = ml_cuda_weight_operand(&h->w, true);
    g.c = h->logits;
    g.c_stride = h->n_vocab;
    ml_cuda_gemm_run(ctx, &g);
}

extern "C" ml_status ml_cuda_logprob_forward(ml_ctx *ctx, const ml_op_args *args)
{
    head h;
    ML_TRY(describe(ctx, args, NULL, &h));
    for (int64_t first = 0; first < h.n_token; first += h.chunk) {
        int64_t n = h.n_token - first < h.chunk ? h.n_token - first : h.chunk;
        make_logits(ctx, &h, first, n);
        ML_LAUNCH(ctx->device, score, (unsigned)n, THREADS, 0, h, first, ctx->device->fault);
    }
    return ml_queued(ctx);
}

/* dx, dw and db from a chunk of dlogits. */
static void add_gradients(ml_ctx *ctx, const head *h, const ml_op_args *args, const ml_op_grads *grads, int64_t first,
                          int64_t n)
{
    int64_t d = h->x.n_col;
    ml_cuda_operand dlogits = ml_cuda_operand_make(h->logits, h->n_vocab, false);
    if (h->dlogits) dlogits = ml_cuda_operand_half(h->dlogits, half_stride(h), false);
    if (grads->in[0]) {
        ml_cuda_gemm g = ml_cuda_gemm_make(n, d, h->n_vocab);
        g.a = dlogits;
        g.b = ml_cuda_weight_operand(&h->w, false);
        g.c = grads->in[0] + first * h->x.stride;
        g.c_stride = h->x.stride;
        g.accumulate = true;
        ml_cuda_gemm_run(ctx, &g);
    }
    if (grads->in[1]) {
        ml_cuda_gemm g = ml_cuda_gemm_make(h->n_vocab, d, n);
        g.a = dlogits;
        g.a.transpose = true;
        g.b = ml_cuda_operand_make(h->x.data + first * h->x.stride, h->x.stride, false);
        g.c = grads->in[1];
        g.c_stride = args->in[1]->stride;
        g.accumulate = true;
        ml_cuda_gemm_run(ctx, &g);
    }
    if (grads->in[2]) {
        ml_rows rows;
        rows.data = h->logits;
        rows.n_col = rows.stride = h->n_vocab;
        ml_cuda_add_column_sums(ctx, rows, n, grads->in[2]);
    }
}

extern "C" ml_status ml_cuda_logprob_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    const ml_tensor *w = args->in[1];
    if (grads->in[1] && !ml_is_trainable(w)) {
        return ml_ctx_fail(ctx, ML_EINVAL, "logprob: a weight of type %s cannot be trained: expected f32",
                           ml_dtype_name(w->dtype));
    }
    head h;
    ML_TRY(describe(ctx, args, grads, &h));
    h.dlogp = grads->out[0];
    for (int64_t first = 0; first < h.n_token; first += h.chunk) {
        int64_t n = h.n_token - first < h.chunk ? h.n_token - first : h.chunk;
        make_logits(ctx, &h, first, n);
        ML_LAUNCH(ctx->device, make_dlogits, (unsigned)n, THREADS, 0, h, first, ctx->device->fault);
        add_gradients(ctx, &h, args, grads, first, n);
    }
    return ml_queued(ctx);
}
