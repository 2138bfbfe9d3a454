/* Causal attention over ragged sequences; here in fp32: one warp for each query and head, or for each key and key head.
 * A lane holds columns lane, lane + 32, ... of a head, so a score is a sum over the warp; keys (going backward for
 * keys: queries and heads) are walked one by one in their order, which fixes every sum.  No shared memory, no matrix
 * units: this is what the tiles of ML_PRECISION_BF16 (ops/cuda/flash.cuh) are measured against.
 *
 *   forward     running maximum m, sum l and weighted values, rescaled when m grows;  lse = m + log l
 *   delta[h,i]  <dy, y>
 *   query       p = exp(s - lse);  ds = p (<dy, v> - delta) scale;  dq += ds k
 *   key         dv += p dy;  dk += ds q;  the shared part of k gets a row for each key head, summed afterwards */
#include "ops/cuda/attention.cuh"
#include "ops/cuda/sequences.cuh"

enum { WARPS = 4, MAX_D = 256, PER_LANE = MAX_D / WARP };

typedef ml_cuda_attention attention;

/* Columns lane, lane + 32, ... of n, zeros beyond. */
static __device__ __forceinline__ void load_columns(float *to, const float *from, int64_t n)
{
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        int c = (int)(threadIdx.x % WARP) + WARP * i;
        to[i] = c < n ? from[c] : 0.0f;
    }
}

/* The key of head g at a token: its own part, then the shared one. */
static __device__ __forceinline__ void load_key(const attention *w, int64_t token, int64_t g, float *to)
{
    int64_t d_own = w->p.d_qk - w->p.d_shared;
    const float *own = w->k.data + token * w->k.stride + g * w->p.k_step;
    const float *shared = w->p.d_shared ? w->k_shared.data + token * w->k_shared.stride : own;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        int c = (int)(threadIdx.x % WARP) + WARP * i;
        to[i] = c < d_own ? own[c] : c < w->p.d_qk ? shared[c - d_own] : 0.0f;
    }
}

static __device__ __forceinline__ float dot(const float *a, const float *b)
{
    float sum = 0;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) sum = fmaf(a[i], b[i], sum);
    return ml_warp_sum(sum);
}

static __global__ void __launch_bounds__(WARPS *WARP) forward(attention w)
{
    int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP, h = blockIdx.y, begin, end;
    if (i >= w.n_token) return;
    int64_t g = h / (w.p.n_head / w.p.n_kv_head);
    float q[PER_LANE], k[PER_LANE], v[PER_LANE], sum[PER_LANE], m = -INFINITY, l = 0;
    ml_find_sequence(w.seq, w.n_seq, w.n_token, i, &begin, &end);
    load_columns(q, w.q.data + i * w.q.stride + h * w.p.d_qk, w.p.d_qk);
#pragma unroll
    for (int c = 0; c < PER_LANE; c++) sum[c] = 0;
    for (int64_t j = begin; j <= i; j++) {
        load_key(&w, j, g, k);
        load_columns(v, w.v.data + j * w.v.stride + g * w.p.v_step, w.p.d_v);
        float s = w.p.scale * dot(q, k), most = fmaxf(m, s), keep = expf(m - most), p = expf(s - most);
        m = most;
        l = fmaf(l, keep, p);
#pragma unroll
        for (int c = 0; c < PER_LANE; c++) sum[c] = fmaf(p, v[c], sum[c] * keep);
    }
    float *y = w.y.data + i * w.y.stride + h * w.p.d_v;
#pragma unroll
    for (int c = 0; c < PER_LANE; c++) {
        int column = (int)(threadIdx.x % WARP) + WARP * c;
        if (column < w.p.d_v) y[column] = sum[c] / l;
    }
    if (threadIdx.x % WARP == 0) w.lse.data[h * w.lse.stride + i] = m + logf(l);
}

static __global__ void __launch_bounds__(WARPS *WARP) make_delta(attention w, float *delta)
{
    int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP, h = blockIdx.y;
    if (i >= w.n_token) return;
    float y[PER_LANE], dy[PER_LANE];
    load_columns(y, w.y.data + i * w.y.stride + h * w.p.d_v, w.p.d_v);
    load_columns(dy, w.dy + i * w.y.stride + h * w.p.d_v, w.p.d_v);
    float sum = dot(y, dy);
    if (threadIdx.x % WARP == 0) delta[h * w.n_token + i] = sum;
}

static __global__ void __launch_bounds__(WARPS *WARP) backward_query(attention w)
{
    int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP, h = blockIdx.y, begin, end;
    if (i >= w.n_token) return;
    int64_t g = h / (w.p.n_head / w.p.n_kv_head);
    float q[PER_LANE], k[PER_LANE], v[PER_LANE], dy[PER_LANE], dq[PER_LANE];
    ml_find_sequence(w.seq, w.n_seq, w.n_token, i, &begin, &end);
    load_columns(q, w.q.data + i * w.q.stride + h * w.p.d_qk, w.p.d_qk);
    load_columns(dy, w.dy + i * w.y.stride + h * w.p.d_v, w.p.d_v);
    float lse = w.lse.data[h * w.lse.stride + i], delta = w.delta[h * w.n_token + i];
#pragma unroll
    for (int c = 0; c < PER_LANE; c++) dq[c] = 0;
    for (int64_t j = begin; j <= i; j++) {
        load_key(&w, j, g, k);
        load_columns(v, w.v.data + j * w.v.stride + g * w.p.v_step, w.p.d_v);
        float p = expf(w.p.scale * dot(q, k) - lse), ds = p * (dot(dy, v) - delta) * w.p.scale;
#pragma unroll
        for (int c = 0; c < PER_LANE; c++) dq[c] = fmaf(ds, k[c], dq[c]);
    }
    float *to = w.dq + i * w.q.stride + h * w.p.d_qk;
#pragma unroll
    for (int c = 0; c < PER_LANE; c++) {
        int column = (int)(threadIdx.x % WARP) + WARP * c;
        if (column < w.p.d_qk) to[column] += dq[c];
    }
}

static __device__ void store_key(const attention *w, int64_t j, int64_t g, const float *dk, const float *dv)
{
    int64_t d_own = w->p.d_qk - w->p.d_shared;
#pragma unroll
    for (int c = 0; c < PER_LANE; c++) {
        int column = (int)(threadIdx.x % WARP) + WARP * c;
        if (w->dk && column < d_own) w->dk[j * w->k.stride + g * w->p.k_step + column] += dk[c];
        if (w->dk_shared && column >= d_own && column < w->p.d_qk) {
            w->dk_shared[(g * w->n_token + j) * w->p.d_shared + column - d_own] = dk[c];
        }
        if (w->dv && column < w->p.d_v) w->dv[j * w->v.stride + g * w->p.v_step + column] += dv[c];
    }
}

static __global__ void __launch_bounds__(WARPS *WARP) backward_key(attention w)
{
    int64_t j = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP, g = blockIdx.y, begin, end;
    if (j >= w.n_token) return;
    int64_t n_group = w.p.n_head / w.p.n_kv_head;
    float q[PER_LANE], k[PER_LANE], v[PER_LANE], dy[PER_LANE], dk[PER_LANE], dv[PER_LANE];
    ml_find_sequence(w.seq, w.n_seq, w.n_token, j, &begin, &end);
    load_key(&w, j, g, k);
    load_columns(v, w.v.data + j * w.v.stride + g * w.p.v_step, w.p.d_v);
#pragma unroll
    for (int c = 0; c < PER_LANE; c++) dk[c] = dv[c] = 0;
    for (int64_t h = g * n_group; h < (g + 1) * n_group; h++) {
        for (int64_t i = j; i < end; i++) {
            load_columns(q, w.q.data + i * w.q.stride + h * w.p.d_qk, w.p.d_qk);
            load_columns(dy, w.dy + i * w.y.stride + h * w.p.d_v, w.p.d_v);
            float p = expf(w.p.scale * dot(q, k) - w.lse.data[h * w.lse.stride + i]);
            float ds = p * (dot(dy, v) - w.delta[h * w.n_token + i]) * w.p.scale;
#pragma unroll
            for (int c = 0; c < PER_LANE; c++) {
                dk[c] = fmaf(ds, q[c], dk[c]);
                dv[c] = fmaf(p, dy[c], dv[c]);
            }
        }
    }
    store_key(&w, j, g, dk, dv);
}

static __global__ void sum_shared(attention w, ml_rows dk_shared, int64_t n)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float sum = 0;
    for (int64_t g = 0; g < w.p.n_kv_head; g++) sum += w.dk_shared[g * n + i];
    *ml_at(dk_shared, i) += sum;
}

static ml_status prepare(ml_ctx *ctx, const ml_op_args *args, attention *w)
{
    memset(w, 0, sizeof *w);
    w->p = *(const ml_attention_param *)args->param;
    w->q = ml_rows_of(args->in[0]);
    w->k = ml_rows_of(args->in[1]);
    w->v = ml_rows_of(args->in[2]);
    if (w->p.d_shared) w->k_shared = ml_rows_of(args->in[3]);
    w->y = ml_rows_of(args->out[0]);
    w->lse = ml_rows_of(args->save[0]);
    w->seq = ml_i32(args->in[4]);
    w->n_seq = args->in[4]->dim[0] - 1;
    w->n_token = args->in[0]->dim[0];
    if (w->p.d_qk > MAX_D || w->p.d_v > MAX_D || w->p.n_head > MAX_GRID_Y) {
        return ml_ctx_fail(ctx, ML_EINVAL, "attention on the GPU: expected heads of at most %d columns, found %lld",
                           MAX_D, (long long)(w->p.d_qk > w->p.d_v ? w->p.d_qk : w->p.d_v));
    }
    if (w->n_seq < 0 || (w->n_seq == 0 && w->n_token > 0)) {
        return ml_ctx_fail(ctx, ML_EINVAL, "attention: sequence offsets do not cover the tokens");
    }
    return ML_OK;
}

static dim3 grid_of(const attention *w, int64_t n_head)
{
    return dim3((unsigned)ml_n_blocks(w->n_token, WARPS), (unsigned)n_head);
}

/* A device whose blocks have too little shared memory for these heads computes in fp32. */
static bool in_tiles(ml_ctx *ctx, const attention *w)
{
    return ctx->precision == ML_PRECISION_BF16 && ml_cuda_flash_fits(ctx, w->p.d_qk, w->p.d_v);
}

extern "C" ml_status ml_cuda_attention_forward(ml_ctx *ctx, const ml_op_args *args)
{
    attention w;
    ML_TRY(prepare(ctx, args, &w));
    if (w.n_token == 0) return ML_OK;
    ml_cuda_check_sequences(ctx, w.seq, w.n_seq, w.n_token);
    if (in_tiles(ctx, &w)) return ml_cuda_flash_forward(ctx, &w);
    ML_LAUNCH(ctx->device, forward, grid_of(&w, w.p.n_head), WARPS * WARP, 0, w);
    return ml_queued(ctx);
}

static ml_status backward_rows(ml_ctx *ctx, attention *w)
{
    float *delta = (float *)ml_ctx_scratch_data(ctx, (size_t)(w->p.n_head * w->n_token) * sizeof *delta);
    if (!delta) return ML_ENOMEM;
    ML_LAUNCH(ctx->device, make_delta, grid_of(w, w->p.n_head), WARPS * WARP, 0, *w, delta);
    w->delta = delta;
    if (w->dq) ML_LAUNCH(ctx->device, backward_query, grid_of(w, w->p.n_head), WARPS * WARP, 0, *w);
    if (w->dk || w->dv || w->dk_shared) {
        ML_LAUNCH(ctx->device, backward_key, grid_of(w, w->p.n_kv_head), WARPS * WARP, 0, *w);
    }
    return ml_queued(ctx);
}

extern "C" ml_status ml_cuda_attention_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    attention w;
    ML_TRY(prepare(ctx, args, &w));
    if (w.n_token == 0) return ML_OK;
    w.dy = grads->out[0];
    w.dq = grads->in[0];
    w.dk = grads->in[1];
    w.dv = grads->in[2];
    if (w.p.d_shared && grads->in[3]) {
        w.dk_shared =
            (float *)ml_ctx_scratch_data(ctx, (size_t)(w.p.n_kv_head * w.n_token * w.p.d_shared) * sizeof *w.dk_shared);
        if (!w.dk_shared) return ML_ENOMEM;
    }
    ML_TRY(in_tiles(ctx, &w) ? ml_cuda_flash_backward(ctx, &w) : backward_rows(ctx, &w));
    if (w.dk_shared) {
        int64_t n = w.n_token * w.p.d_shared;
        ML_LAUNCH(ctx->device, sum_shared, (unsigned)ml_n_blocks(n, ML_ROWS_THREADS), ML_ROWS_THREADS, 0, w,
                  ml_rows_like(args->in[3], grads->in[3]), n);
    }
    return ml_queued(ctx);
}
