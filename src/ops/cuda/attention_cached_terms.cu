/* A block has one head of one token.  Numbers of the low rank go through shared memory, RANK of them at a time. */
#include "ops/cuda/attention_cached_terms.cuh"

enum { WARPS = 4, THREADS = WARPS * WARP, RANK = 128, LINE = 16 /* floats of 64 bytes, where scratch begins */ };

typedef struct {
    ml_token_terms terms;
    int64_t d_nope, n_rot, d_v, rank; /* rank: kv_lora_rank */
    const float *from;
    int64_t from_stride, to_stride;
    float *to;
} work;

static __device__ __forceinline__ const ml_token_term *term_of_block(const work &w)
{
    return ml_find_term(w.terms, blockIdx.x);
}

/* The first row of kv_b that is this head's. */
static __device__ __forceinline__ int64_t first_row(const work &w)
{
    return (int64_t)blockIdx.y * (w.d_nope + w.d_v);
}

static __global__ void __launch_bounds__(THREADS) scale_query(work w)
{
    const ml_token_term *t = term_of_block(w);
    int64_t head = w.d_nope + w.n_rot, at = (int64_t)blockIdx.y * head, row = first_row(w);
    const float *q = w.from + blockIdx.x * w.from_stride + at;
    float *to = w.to + blockIdx.x * w.to_stride + at;
    for (int64_t i = threadIdx.x; i < w.d_nope; i += THREADS) to[i] = t ? ml_token_factor(t, row + i) * q[i] : q[i];
}

static __global__ void __launch_bounds__(THREADS) add_absorbed(work w)
{
    __shared__ float low[RANK];
    const ml_token_term *t = term_of_block(w);
    if (!t) return;
    const float *q = w.from + blockIdx.x * w.from_stride + (int64_t)blockIdx.y * (w.d_nope + w.n_rot);
    const float *b = t->b + first_row(w) * t->rank;
    float *to = w.to + blockIdx.x * w.to_stride + (int64_t)blockIdx.y * w.rank;
    for (int64_t r0 = 0; r0 < t->rank; r0 += RANK) {
        int n = t->rank - r0 < RANK ? (int)(t->rank - r0) : RANK;
        if ((int)threadIdx.x < n) {
            float sum = 0;
#pragma unroll 8
            for (int64_t i = 0; i < w.d_nope; i++) sum = fmaf(q[i], b[i * t->rank + r0 + threadIdx.x], sum);
            low[threadIdx.x] = t->scale * sum;
        }
        __syncthreads();
        for (int64_t c = threadIdx.x; c < w.rank; c += THREADS) {
            const float *a = t->a + r0 * w.rank + c;
            float sum = to[c];
            for (int r = 0; r < n; r++) sum = fmaf(low[r], a[r * w.rank], sum);
            to[c] = sum;
        }
        __syncthreads();
    }
}

static __global__ void __launch_bounds__(THREADS) add_projected(work w)
{
    __shared__ float low[RANK];
    const ml_token_term *t = term_of_block(w);
    if (!t) return;
    const float *z = w.from + blockIdx.x * w.from_stride + (int64_t)blockIdx.y * w.rank;
    float *to = w.to + blockIdx.x * w.to_stride + (int64_t)blockIdx.y * w.d_v;
    int64_t row = first_row(w) + w.d_nope;
    for (int64_t r0 = 0; r0 < t->rank; r0 += RANK) {
        int n = t->rank - r0 < RANK ? (int)(t->rank - r0) : RANK;
        for (int r = (int)threadIdx.x / WARP; r < n; r += WARPS) {
            const float *a = t->a + (r0 + r) * w.rank;
            float sum = 0;
            for (int64_t c = threadIdx.x % WARP; c < w.rank; c += WARP) sum = fmaf(a[c], z[c], sum);
            sum = ml_warp_sum(sum);
            if (threadIdx.x % WARP == 0) low[r] = t->scale * sum;
        }
        __syncthreads();
        for (int64_t j = threadIdx.x; j < w.d_v; j += THREADS) {
            const float *b = t->b + (row + j) * t->rank + r0;
            float sum = to[j];
            for (int r = 0; r < n; r++) sum = fmaf(b[r], low[r], sum);
            to[j] = r0 + n == t->rank ? ml_token_factor(t, row + j) * sum : sum;
        }
        __syncthreads();
    }
}

static work make_work(const ml_cuda_latent_terms *t, const float *from, int64_t from_stride, float *to,
                      int64_t to_stride)
{
    work w;
    memset(&w, 0, sizeof w);
    w.terms = t->terms;
    w.d_nope = t->p->d_nope;
    w.n_rot = t->p->n_rot;
    w.d_v = t->p->d_v;
    w.rank = t->p->kv_lora_rank;
    w.from = from;
    w.from_stride = from_stride;
    w.to = to;
    w.to_stride = to_stride;
    return w;
}

static dim3 blocks_of(const ml_cuda_latent_terms *t)
{
    return dim3((unsigned)t->n, (unsigned)t->p->n_head);
}

const float *ml_cuda_latent_scale_query(ml_ctx *ctx, const ml_cuda_latent_terms *t, const float *q, int64_t q_stride)
{
    if (t->n == 0 || !t->terms.scales) return q;
    float *to = (float *)ml_ctx_scratch_data(ctx, ((size_t)(t->n * q_stride) + LINE) * sizeof *to);
    if (!to) return NULL;
    to += (uintptr_t)q / sizeof *q % LINE;
    ML_LAUNCH(ctx->device, scale_query, blocks_of(t), THREADS, 0, make_work(t, q, q_stride, to, q_stride));
    return to;
}

void ml_cuda_latent_add_absorbed(ml_ctx *ctx, const ml_cuda_latent_terms *t, const float *q, int64_t q_stride,
                                 float *q_abs)
{
    if (t->n == 0 || t->terms.most_rank == 0) return;
    ML_LAUNCH(ctx->device, add_absorbed, blocks_of(t), THREADS, 0,
              make_work(t, q, q_stride, q_abs, t->p->n_head * t->p->kv_lora_rank));
}

void ml_cuda_latent_add_projected(ml_ctx *ctx, const ml_cuda_latent_terms *t, const float *z, float *y,
                                  int64_t y_stride)
{
    if (t->n == 0 || t->terms.most_rank == 0) return;
    ML_LAUNCH(ctx->device, add_projected, blocks_of(t), THREADS, 0,
              make_work(t, z, t->p->n_head * t->p->kv_lora_rank, y, y_stride));
}
