/* Attention over a paged cache.
 *
 *            keys ->
 *     head   | 4 | 4 | 4 | 4 | ...       a warp has one query head of one token and walks keys four at a time with one
 *     head   | 4 | 4 | 4 | 4 | ...       running softmax; a lane owns pairs of columns 64 apart, of q, k and v alike.
 *
 * Decode: the keys of a token are cut into spans, a warp for each, whose states (largest score, sum, weighted values)
 * are merged in order; a span is 64 keys, or longer when a token has more than 64 * MAX_SPAN.  Prefill in fp32: one
 * span; in ML_PRECISION_BF16 it goes through tiles (prompt.cuh).  Warps of a block have neighbouring heads, which read
 * the same keys out of the first-level cache.
 *
 * What a token computes depends on its own position only: not on the batch, the chunk of the prompt or the pages. */
#include "ops/cuda/cached.cuh"
#include "ops/cuda/prompt.cuh"

enum { WARPS = 4, THREADS = WARPS * WARP, KEYS = 4, SPAN = 64, MAX_SPAN = 32, STATE_BYTES = 64 << 20 };

static __host__ __device__ __forceinline__ int64_t span_keys(int64_t n_key)
{
    return (n_key + SPAN * MAX_SPAN - 1) / (SPAN * MAX_SPAN) * SPAN;
}

typedef struct {
    float max, sum;
} softmax;

/* Floats of a span's state: largest score, sum, values. */
static __host__ __device__ __forceinline__ int64_t state_floats(int64_t d_v)
{
    return 2 + d_v;
}

/* The rows of KEYS keys from key k on; those from `end` on are the last one again. */
typedef struct {
    const ml_kv_view *kv;
    const int32_t *page; /* of the sequence */
    int in_page, page_id;
} walk;

static __device__ __forceinline__ int64_t next_row(walk *w)
{
    int64_t row = (int64_t)w->page[w->page_id] * w->kv->page_size + w->in_page;
    if (++w->in_page == w->kv->page_size) {
        w->in_page = 0;
        w->page_id++;
    }
    return row;
}

template <ml_dtype T, int C>
static __device__ __forceinline__ void load_row(const char *row, int lane, int64_t d, float to[C][2])
{
#pragma unroll
    for (int i = 0; i < C; i++) {
        int c = 64 * i + 2 * lane;
        to[i][0] = to[i][1] = 0;
        if (c + 1 < d) {
            ml_cached_pair<T>(row, c, to[i]);
        } else if (c < d) { /* the last of an odd number */
            float both[2] = { 0, 0 };
            both[0] = T == ML_F32   ? ml_block_element(ML_F32, (const uint8_t *)row, c)
                      : T == ML_F16 ? ml_f16_bits(ml_half_word((const uint8_t *)row + 2 * c))
                                    : __uint_as_float(ml_half_word((const uint8_t *)row + 2 * c) << 16);
            to[i][0] = both[0];
        }
    }
}

/* Keys k0 .. end - 1 of a token into the state. */
template <ml_dtype T, int C, bool SAME>
static __device__ __forceinline__ void attend(const ml_cuda_cached &a, int64_t token, int64_t h, int64_t k0,
                                              int64_t end, int lane, softmax *state, float sum[C][2])
{
    int64_t g = h / a.n_group;
    const float *q = a.q + token * a.q_stride + h * a.q_head;
    const float *tail = a.q_tail + token * a.tail_stride + h * a.tail_head - a.d_first;
    float query[C][2];
#pragma unroll
    for (int i = 0; i < C; i++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
            int64_t c = 64 * i + 2 * lane + e;
            query[i][e] = c >= a.d_qk ? 0.0f : a.scale * (c < a.d_first ? q[c] : tail[c]);
            sum[i][e] = 0;
        }
    }
    state->max = -INFINITY;
    state->sum = 0;
    walk at = { &a.kv, a.kv.page_table + (int64_t)a.seq[token] * a.kv.pages_per_seq, (int)(k0 % a.kv.page_size),
                (int)(k0 / a.kv.page_size) };
    for (int64_t k = k0; k < end; k += KEYS) {
        float key[KEYS][C][2], score[KEYS];
        int64_t row[KEYS];
#pragma unroll
        for (int j = 0; j < KEYS; j++) row[j] = k + j < end ? next_row(&at) : row[j > 0 ? j - 1 : 0];
#pragma unroll
        for (int j = 0; j < KEYS; j++) {
            load_row<T, C>(a.kv.k + row[j] * a.kv.k_row_bytes + g * a.k_head_bytes, lane, a.d_qk, key[j]);
        }
#pragma unroll
        for (int j = 0; j < KEYS; j++) {
            score[j] = 0;
#pragma unroll
            for (int i = 0; i < C; i++) {
                score[j] = fmaf(query[i][0], key[j][i][0], score[j]);
                score[j] = fmaf(query[i][1], key[j][i][1], score[j]);
            }
            score[j] = ml_warp_sum(score[j]);
        }
        float most = state->max;
#pragma unroll
        for (int j = 0; j < KEYS; j++) {
            if (k + j >= end) score[j] = -INFINITY;
            most = fmaxf(most, score[j]);
        }
        float keep = expf(state->max - most);
        state->max = most;
        state->sum *= keep;
#pragma unroll
        for (int i = 0; i < C; i++) sum[i][0] *= keep, sum[i][1] *= keep;
#pragma unroll
        for (int j = 0; j < KEYS; j++) {
            float p = expf(score[j] - most);
            if (!SAME) load_row<T, C>(a.kv.v + row[j] * a.kv.v_row_bytes + g * a.v_head_bytes, lane, a.d_v, key[j]);
            state->sum += p;
#pragma unroll
            for (int i = 0; i < C; i++) {
                sum[i][0] = fmaf(p, key[j][i][0], sum[i][0]);
                sum[i][1] = fmaf(p, key[j][i][1], sum[i][1]);
            }
        }
    }
}

template <int C>
static __device__ __forceinline__ void put(float *to, int64_t d, int lane, float factor, const float sum[C][2])
{
#pragma unroll
    for (int i = 0; i < C; i++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
            int64_t c = 64 * i + 2 * lane + e;
            if (c < d) to[c] = sum[i][e] * factor;
        }
    }
}

/* states: NULL, or [n_token, n_head, n_span, state_floats] where spans go */
template <ml_dtype T, int C, bool SAME>
static __global__ void __launch_bounds__(THREADS) walk_keys(ml_cuda_cached a, float *states, int64_t n_span)
{
    int lane = (int)threadIdx.x % WARP;
    int64_t token = blockIdx.x, h = (int64_t)blockIdx.z * WARPS + threadIdx.x / WARP, span = blockIdx.y;
    if (h >= a.n_head) return;
    int64_t n_key = (int64_t)a.pos[token] + 1, k0 = 0, end = n_key;
    if (ml_cached_row(a.kv, a.seq[token], a.pos[token]) < 0) {
        if (lane == 0) ml_report(a.fault, ML_FAULT_PAGE, a.pos[token], token);
        return;
    }
    if (states) {
        int64_t n = span_keys(n_key);
        k0 = span * n;
        if (k0 >= n_key) return;
        end = k0 + n < n_key ? k0 + n : n_key;
    }
    softmax state;
    float sum[C][2];
    attend<T, C, SAME>(a, token, h, k0, end, lane, &state, sum);
    if (!states) {
        put<C>(a.y + token * a.y_stride + h * a.d_v, a.d_v, lane, 1.0f / state.sum, sum);
        return;
    }
    float *to = states + ((token * a.n_head + h) * n_span + span) * state_floats(a.d_v);
    if (lane == 0) to[0] = state.max;
    if (lane == 0) to[1] = state.sum;
    put<C>(to + 2, a.d_v, lane, 1.0f, sum);
}

/* Spans of a token and head, in order. */
static __global__ void __launch_bounds__(THREADS) merge(ml_cuda_cached a, const float *states, int64_t n_span)
{
    int64_t token = blockIdx.x, h = blockIdx.y, n_key = (int64_t)a.pos[token] + 1, keys = span_keys(n_key);
    int64_t n = (n_key + keys - 1) / keys, size = state_floats(a.d_v);
    const float *s = states + (token * a.n_head + h) * n_span * size;
    float most = s[0], sum = 0;
    for (int64_t i = 1; i < n; i++) most = fmaxf(most, s[i * size]);
    for (int64_t i = 0; i < n; i++) sum = fmaf(expf(s[i * size] - most), s[i * size + 1], sum);
    for (int64_t c = threadIdx.x; c < a.d_v; c += THREADS) {
        float v = 0;
        for (int64_t i = 0; i < n; i++) v = fmaf(expf(s[i * size] - most), s[i * size + 2 + c], v);
        a.y[token * a.y_stride + h * a.d_v + c] = v / sum;
    }
}

/* Tokens from `first` on. */
static ml_cuda_cached from_token(const ml_cuda_cached *a, int64_t first, int64_t n)
{
    ml_cuda_cached part = *a;
    part.seq += first;
    part.pos += first;
    part.q += first * a->q_stride;
    part.q_tail += first * a->tail_stride;
    part.y += first * a->y_stride;
    part.n_token = n;
    return part;
}

template <ml_dtype T, int C, bool SAME>
static void launch(ml_ctx *ctx, const ml_cuda_cached *a, float *states, int64_t n_span)
{
    dim3 grid((unsigned)a->n_token, (unsigned)(states ? n_span : 1), (unsigned)ml_n_blocks(a->n_head, WARPS));
    ML_LAUNCH(ctx->device, (walk_keys<T, C, SAME>), grid, THREADS, 0, *a, states, n_span);
    if (!states) return;
    ML_LAUNCH(ctx->device, merge, dim3((unsigned)a->n_token, (unsigned)a->n_head), THREADS, 0, *a, states, n_span);
}

template <ml_dtype T> static void launch_type(ml_ctx *ctx, const ml_cuda_cached *a, float *states, int64_t n_span)
{
    int64_t d = a->d_qk > a->d_v ? a->d_qk : a->d_v;
    if (a->v_is_k) {
        if (d <= 128) {
            launch<T, 2, true>(ctx, a, states, n_span);
        } else {
            launch<T, 9, true>(ctx, a, states, n_span);
        }
    } else if (d <= 64) {
        launch<T, 1, false>(ctx, a, states, n_span);
    } else if (d <= 128) {
        launch<T, 2, false>(ctx, a, states, n_span);
    } else {
        launch<T, 4, false>(ctx, a, states, n_span);
    }
}

static ml_status run_some(ml_ctx *ctx, const ml_cuda_cached *a, float *states, int64_t n_span)
{
    switch (a->kv.dtype) {
    case ML_F32: launch_type<ML_F32>(ctx, a, states, n_span); break;
    case ML_BF16: launch_type<ML_BF16>(ctx, a, states, n_span); break;
    case ML_F16: launch_type<ML_F16>(ctx, a, states, n_span); break;
    default: launch_type<ML_Q8_0>(ctx, a, states, n_span);
    }
    return ml_queued(ctx);
}

static ml_status check(ml_ctx *ctx, const ml_cuda_cached *a)
{
    int64_t d = a->d_qk > a->d_v ? a->d_qk : a->d_v, most = a->v_is_k ? 576 : 256;
    if (d <= most && a->n_head <= MAX_GRID_Y && a->kv.k_row_bytes % 2 == 0 && a->kv.v_row_bytes % 2 == 0) return ML_OK;
    return ml_ctx_fail(ctx, ML_EINVAL, "cached attention on the GPU: expected rows of at most %lld columns, found %lld",
                       (long long)most, (long long)d);
}

ml_status ml_cuda_cached_run(ml_ctx *ctx, const ml_cuda_cached *a, bool decode)
{
    ML_TRY(check(ctx, a));
    if (a->n_token == 0) return ML_OK;
    if (!decode) return run_some(ctx, a, NULL, 0);
    int64_t positions = a->kv.pages_per_seq * a->kv.page_size, n_span = (positions + SPAN - 1) / SPAN;
    if (n_span > MAX_SPAN) n_span = MAX_SPAN;
    int64_t each = a->n_head * n_span * state_floats(a->d_v) * (int64_t)sizeof(float);
    int64_t n_most = STATE_BYTES / each > 1 ? STATE_BYTES / each : 1;
    if (n_most > a->n_token) n_most = a->n_token;
    float *states = (float *)ml_ctx_scratch_data(ctx, (size_t)(n_most * each));
    if (!states) return ML_ENOMEM;
    for (int64_t t = 0; t < a->n_token; t += n_most) {
        ml_cuda_cached part = from_token(a, t, a->n_token - t < n_most ? a->n_token - t : n_most);
        ML_TRY(run_some(ctx, &part, states, n_span));
    }
    return ML_OK;
}

extern "C" ml_status ml_cuda_attention_cached(ml_ctx *ctx, const ml_cached_heads *h, int64_t n_decode)
{
    ml_cuda_cached a;
    memset(&a, 0, sizeof a);
    a.kv = *h->kv;
    a.seq = h->seq_of_token;
    a.pos = h->pos;
    a.n_token = h->q->dim[0];
    a.q = a.q_tail = ml_f32(h->q);
    a.q_stride = a.tail_stride = h->q->stride;
    a.q_head = a.tail_head = a.d_first = h->d_qk;
    a.y = ml_f32(h->y);
    a.y_stride = h->y->stride;
    a.n_head = h->n_head;
    a.n_group = h->n_group;
    a.d_qk = h->d_qk;
    a.d_v = h->d_v;
    a.k_head_bytes = (int64_t)ml_dtype_row_bytes(h->kv->dtype, h->k_step);
    a.v_head_bytes = (int64_t)ml_dtype_row_bytes(h->kv->dtype, h->v_step);
    a.scale = h->scale;
    a.fault = ctx->device->fault;
    ml_cuda_cached generated = from_token(&a, 0, n_decode), prompt = from_token(&a, n_decode, a.n_token - n_decode);
    ML_TRY(ml_cuda_cached_run(ctx, &generated, true));
    if (ml_cuda_prompt_in_tiles(ctx, h)) return ml_cuda_prompt_grouped(ctx, h, n_decode);
    return ml_cuda_cached_run(ctx, &prompt, false);
}
