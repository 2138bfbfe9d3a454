/* Forward in tiles: a block has FLASH_WARPS * 16 * M rows of queries of one head, a warp 16 * M of them; its scores,
 * running maxima and sums, and weighted values stay in registers.  Keys and values come in tiles of 64; the next keys
 * are copied while values are weighed, the next values while scores are made.  Blocks with the most keys start first.
 *
 * What a block has is the only difference between a batch of training and prompts over a cache: find_tile, mask and
 * finish of each.  A row's sums are the same bits whatever rows it shares its tile with, as long as tiles of keys begin
 * at the same ones: a tile of which a row sees nothing multiplies that row's sums by 1 and adds 0.  So a walk that is
 * broken off at a tile and resumed from what it kept is the walk itself. */
#include "ops/cuda/flash.cuh"

/* Training: the tokens of a whole batch. */
typedef struct {
    ml_rows q, y, lse;
    const uint16_t *k, *v;
    const int32_t *begin;
    int n_token, n_head, n_kv_head, d_qk, d_v;
    float factor;
    bool aligned;
} batch;

typedef ml_flash_cached cached;

/* What a block has. */
typedef struct {
    int first, end;                /* rows of q from `first` on; those from `end` on are somebody else's */
    const uint16_t *keys, *values; /* packed, of its head */
    int begin, last, limit;        /* packed keys it walks, and where they end: rows from there on count as zeros */
    int low, high;                 /* the keys from low to high are seen by all rows */
    float *state;                  /* NULL, or where the thread's numbers lie between windows, FLASH_THREADS apart */
    bool resumed, broken_off;      /* keys before `begin` have been walked; keys after `last` are to come */
} block_tile;

template <int D_QK, int D_V, int M> static constexpr size_t shared_bytes()
{
    return (size_t)FLASH_TILE * ((M + 1) * ml_flash_row(D_QK) + ml_flash_row(D_V)) * sizeof(uint16_t);
}

/* The block's queries, each read by this block alone: rounded on the way, no copy in memory. */
template <int D, int ROWS, class W>
static __device__ void load_queries(const W &w, uint16_t *tile, int first, int end, int h)
{
    const float *from = w.q.data + first * w.q.stride + h * w.d_qk;
    for (int i = (int)threadIdx.x; i < ROWS * (D / 8); i += FLASH_THREADS) {
        int row = i / (D / 8), c = i % (D / 8) * 8;
        float x[8];
        ml_flash_load_8(x, from + row * w.q.stride + c, first + row < end ? w.d_qk - c : 0, w.aligned);
        ml_flash_store_8(tile + row * ml_flash_row(D) + c, x, w.factor);
    }
}

/* One row of a warp's scores: its thread's part of the maximum and of the sum, over 8 pairs of columns. */
static __device__ __forceinline__ float find_largest(const float s[8][4], int half)
{
    float most = -INFINITY;
#pragma unroll
    for (int t = 0; t < 8; t++) most = fmaxf(most, fmaxf(s[t][2 * half], s[t][2 * half + 1]));
    most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1));
    return fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
}

/* Scores -> weights relative to the row's maximum so far; what was summed before shrinks as that grows. */
template <int D_V>
static __device__ __forceinline__ void soften(float s[8][4], float most[2], float sum[2], float y[D_V / 8][4])
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float now = fmaxf(most[half], find_largest(s, half));
        float base = now == -INFINITY ? 0.0f : now, keep = ml_flash_exp2(most[half] - base), added = 0;
        most[half] = now;
#pragma unroll
        for (int t = 0; t < 8; t++) {
            added += s[t][2 * half] = ml_flash_exp2(s[t][2 * half] - base);
            added += s[t][2 * half + 1] = ml_flash_exp2(s[t][2 * half + 1] - base);
        }
        sum[half] = fmaf(sum[half], keep, added);
#pragma unroll
        for (int t = 0; t < D_V / 8; t++) {
            y[t][2 * half] *= keep;
            y[t][2 * half + 1] *= keep;
        }
    }
}

/* Rows of y; lse NULL: nobody wants it. */
template <int D_V, class W>
static __device__ __forceinline__ void store_rows(const W &w, const ml_rows *lse, const float y[D_V / 8][4],
                                                  const float most[2], const float sum_in[2], int row, int end, int h)
{
    int pair = (int)threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = sum_in[half] + __shfl_xor_sync(ALL_LANES, sum_in[half], 1);
        sum += __shfl_xor_sync(ALL_LANES, sum, 2);
        int i = row + 8 * half;
        if (i >= end) continue;
        float *to = w.y.data + i * w.y.stride + h * w.d_v;
        float inverse = 1.0f / sum;
#pragma unroll
        for (int t = 0; t < D_V / 8; t++) {
            int c = 8 * t + 2 * pair;
            if (c < w.d_v) to[c] = y[t][2 * half] * inverse;
            if (c + 1 < w.d_v) to[c + 1] = y[t][2 * half + 1] * inverse;
        }
        if (lse && pair == 0) lse->data[h * lse->stride + i] = most[half] * FLASH_LN2 + logf(sum);
    }
}

/* ---- of a batch ---- */

template <int D_QK, int D_V, int M>
static __device__ __forceinline__ bool find_tile(const batch &w, int h, block_tile *b)
{
    constexpr int ROWS = FLASH_TILE * M;
    int64_t head = (int64_t)(h / (w.n_head / w.n_kv_head)) * w.n_token;
    b->first = (int)(gridDim.x - 1 - blockIdx.x) * ROWS;
    b->end = b->limit = w.n_token;
    b->last = b->first + ROWS < w.n_token ? b->first + ROWS - 1 : w.n_token - 1;
    b->begin = w.begin[b->first];
    b->low = w.begin[b->last];
    b->high = b->first;
    b->keys = w.k + head * D_QK;
    b->values = w.v + head * D_V;
    b->state = NULL;
    b->resumed = b->broken_off = false;
    return true;
}

/* Scores of the block's rows `row` and row + 8. */
static __device__ __forceinline__ void mask(const batch &w, const block_tile &b, float s[8][4], int key, int row)
{
    ml_flash_mask_keys(s, key, b.first + row, w.n_token, w.begin);
}

template <int D_V>
static __device__ __forceinline__ void finish(const batch &w, const block_tile &b, const float y[D_V / 8][4],
                                              const float most[2], const float sum[2], int row, int h)
{
    store_rows<D_V>(w, &w.lse, y, most, sum, row, b.end, h);
}

/* ---- of a cache ---- */

/* False: windows before have seen all of the tile's keys. */
template <int D_QK, int D_V, int M>
static __device__ __forceinline__ bool find_tile(const cached &w, int h, block_tile *b)
{
    constexpr int ROWS = FLASH_TILE * M;
    int number = (int)(gridDim.x - 1 - blockIdx.x), i = 0;
    while (i + 1 < w.n_slice && w.slice[i + 1].tile <= number) i++;
    const ml_flash_slice &s = w.slice[i];
    int at = (number - s.tile) * ROWS, n_row = s.n_token - at < ROWS ? s.n_token - at : ROWS;
    int64_t row = (int64_t)(h / (w.n_head / w.n_kv_head)) * w.n_position + s.key;
    b->first = s.token + at;
    b->end = s.token + s.n_token;
    b->begin = b->low = 0;
    b->high = s.pos + at - s.first;
    b->last = b->high + n_row - 1;
    b->limit = s.n_key;
    b->keys = w.k + row * D_QK;
    b->values = w.v + row * D_V;
    b->resumed = s.first > 0;
    b->broken_off = b->last >= s.n_key;
    b->state = NULL;
    if (w.state) b->state = w.state + ((int64_t)number * w.n_head + h) * (ROWS * (D_V + 8)) + threadIdx.x;
    if (b->last < 0) return false;
    if (b->broken_off) b->last = s.n_key - 1;
    return true;
}

/* Rows behind the slice see at least what its last one does; nobody takes their sums. */
static __device__ __forceinline__ void mask(const cached &, const block_tile &b, float s[8][4], int key, int row)
{
    const int high[2] = { b.high + row, b.high + row + 8 }, low[2] = { 0, 0 };
    ml_flash_mask(s, key, low, high);
}

template <int D_V>
static __device__ __forceinline__ void finish(const cached &w, const block_tile &b, const float y[D_V / 8][4],
                                              const float most[2], const float sum[2], int row, int h)
{
    store_rows<D_V>(w, NULL, y, most, sum, row, b.end, h);
}

/* ---- of both ---- */

/* A thread's part of M fragments goes where the next window finds it. */
template <int D_V, int M>
static __device__ __forceinline__ void keep(const block_tile &b, const float y[M][D_V / 8][4], const float most[M][2],
                                            const float sum[M][2])
{
    float *to = b.state;
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++, to += 2 * FLASH_THREADS) {
            to[0] = most[m][half];
            to[FLASH_THREADS] = sum[m][half];
        }
#pragma unroll
        for (int i = 0; i < D_V / 2; i++, to += FLASH_THREADS) *to = y[m][i / 4][i % 4];
    }
}

/* What an earlier window kept. */
template <int D_V, int M>
static __device__ __forceinline__ void take_up(const block_tile &b, float y[M][D_V / 8][4], float most[M][2],
                                               float sum[M][2])
{
    const float *from = b.state;
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++, from += 2 * FLASH_THREADS) {
            most[m][half] = from[0];
            sum[m][half] = from[FLASH_THREADS];
        }
#pragma unroll
        for (int i = 0; i < D_V / 2; i++, from += FLASH_THREADS) y[m][i / 4][i % 4] = *from;
    }
}

template <int D_QK, int D_V, int M, class W>
static __global__ void __launch_bounds__(FLASH_THREADS, 2) flash_forward(const W w)
{
    constexpr int ROWS = FLASH_TILE * M;
    ML_DYNAMIC_SHARED(uint16_t, q);
    uint16_t *k = q + ROWS * ml_flash_row(D_QK), *v = k + FLASH_TILE * ml_flash_row(D_QK);
    int h = (int)blockIdx.y;
    block_tile b;
    if (!find_tile<D_QK, D_V, M>(w, h, &b)) return;
    ml_flash_copy<D_QK>(k, b.keys, b.begin, b.limit);
    ml_copy_commit();
    ml_flash_copy<D_V>(v, b.values, b.begin, b.limit);
    ml_copy_commit();
    load_queries<D_QK, ROWS>(w, q, b.first, b.end, h);

    int warp_row = (int)threadIdx.x / WARP * 16 * M, row = warp_row + (int)threadIdx.x % WARP / 4;
    float y[M][D_V / 8][4], most[M][2], sum[M][2];
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            most[m][half] = -INFINITY;
            sum[m][half] = 0;
        }
#pragma unroll
        for (int t = 0; t < D_V / 8; t++) y[m][t][0] = y[m][t][1] = y[m][t][2] = y[m][t][3] = 0;
    }
    if (b.resumed) take_up<D_V, M>(b, y, most, sum);
    for (int key = b.begin; key <= b.last; key += FLASH_TILE) {
        float s[M][8][4];
#pragma unroll
        for (int m = 0; m < M; m++) {
#pragma unroll
            for (int t = 0; t < 8; t++) s[m][t][0] = s[m][t][1] = s[m][t][2] = s[m][t][3] = 0;
        }
        ml_copy_wait<1>(); /* the keys */
        __syncthreads();
#pragma unroll
        for (int c = 0; c < D_QK; c += 16) {
            uint32_t a[M][4];
#pragma unroll
            for (int m = 0; m < M; m++) ml_flash_load_a<D_QK>(a[m], q, warp_row + 16 * m, c);
#pragma unroll
            for (int t = 0; t < 8; t += 2) {
                uint32_t two[4];
                ml_flash_load_b<D_QK>(two, k, 8 * t, c);
#pragma unroll
                for (int m = 0; m < M; m++) {
                    ml_mma_bf16(s[m][t], a[m], two);
                    ml_mma_bf16(s[m][t + 1], a[m], two + 2);
                }
            }
        }
        __syncthreads(); /* the keys have been read */
        if (key + FLASH_TILE <= b.last) ml_flash_copy<D_QK>(k, b.keys, key + FLASH_TILE, b.limit);
        ml_copy_commit();
        bool whole = key >= b.low && key + FLASH_TILE - 1 <= b.high;
#pragma unroll
        for (int m = 0; m < M; m++) {
            if (!whole) mask(w, b, s[m], key, row + 16 * m);
            soften<D_V>(s[m], most[m], sum[m], y[m]);
        }
        ml_copy_wait<1>(); /* the values */
        __syncthreads();
#pragma unroll
        for (int c = 0; c < FLASH_TILE; c += 16) {
            uint32_t a[M][4];
#pragma unroll
            for (int m = 0; m < M; m++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const float *weight = s[m][c / 8 + e / 2] + e % 2 * 2;
                    a[m][e] = ml_pack_bf16(weight[0], weight[1]);
                }
            }
#pragma unroll
            for (int t = 0; t < D_V / 8; t += 2) {
                uint32_t two[4];
                ml_flash_load_b_rows<D_V>(two, v, c, 8 * t);
#pragma unroll
                for (int m = 0; m < M; m++) {
                    ml_mma_bf16(y[m][t], a[m], two);
                    ml_mma_bf16(y[m][t + 1], a[m], two + 2);
                }
            }
        }
        __syncthreads(); /* the values have been read */
        if (key + FLASH_TILE <= b.last) ml_flash_copy<D_V>(v, b.values, key + FLASH_TILE, b.limit);
        ml_copy_commit();
    }
    if (b.broken_off) {
        keep<D_V, M>(b, y, most, sum);
        return;
    }
#pragma unroll
    for (int m = 0; m < M; m++) finish<D_V>(w, b, y[m], most[m], sum[m], b.first + row + 16 * m, h);
}

template <int D_QK, int D_V, class W> static void launch(ml_ctx *ctx, const W &w, int64_t n_tile)
{
    constexpr int M = ml_flash_forward_rows(D_QK) / FLASH_TILE;
    auto *attention_forward = flash_forward<D_QK, D_V, M, W>;
    size_t n_bytes = shared_bytes<D_QK, D_V, M>();
    ml_device_note(ctx->device,
                   cudaFuncSetAttribute(attention_forward, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)n_bytes),
                   "shared memory of attention");
    dim3 grid((unsigned)n_tile, (unsigned)w.n_head);
    ML_LAUNCH(ctx->device, attention_forward, grid, FLASH_THREADS, n_bytes, w);
}

template <class W> static ml_status launch_size(ml_ctx *ctx, const W &w, int64_t n_tile)
{
    switch (ml_flash_size_of(w.d_qk, w.d_v).d_qk) {
    case 32: launch<32, 32>(ctx, w, n_tile); break;
    case 64: launch<64, 64>(ctx, w, n_tile); break;
    case 128: launch<128, 128>(ctx, w, n_tile); break;
    case 192: launch<192, 128>(ctx, w, n_tile); break;
    default: launch<256, 256>(ctx, w, n_tile);
    }
    return ml_queued(ctx);
}

ml_status ml_cuda_flash_forward_packed(ml_ctx *ctx, const ml_cuda_attention *a, const ml_flash_operands *o)
{
    batch w;
    memset(&w, 0, sizeof w);
    w.q = a->q;
    w.y = a->y;
    w.lse = a->lse;
    w.k = o->k;
    w.v = o->v;
    w.begin = o->begin;
    w.n_token = (int)a->n_token;
    w.n_head = (int)a->p.n_head;
    w.n_kv_head = (int)a->p.n_kv_head;
    w.d_qk = (int)a->p.d_qk;
    w.d_v = (int)a->p.d_v;
    w.factor = a->p.scale * FLASH_LOG2E;
    w.aligned = ml_flash_is_aligned(a->q.data, a->q.stride, a->p.d_qk);
    return launch_size(ctx, w, ml_n_blocks(w.n_token, ml_flash_forward_rows(ml_flash_size_of(w.d_qk, w.d_v).d_qk)));
}

ml_status ml_cuda_flash_forward_cached(ml_ctx *ctx, const ml_flash_cached *w)
{
    const ml_flash_slice *last = &w->slice[w->n_slice - 1];
    int rows = ml_flash_forward_rows(ml_flash_size_of(w->d_qk, w->d_v).d_qk);
    return launch_size(ctx, *w, last->tile + ml_n_blocks(last->n_token, rows));
}
