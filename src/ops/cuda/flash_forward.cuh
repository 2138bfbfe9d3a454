/* Forward in tiles, what its two kernels share: flash_forward.cu (mma.sync, every supported GPU) and
 * flash_forward_wgmma.cu (Hopper).  A block has some rows of queries of one head; each thread keeps scores, running
 * maxima and sums, and weighted values of its rows in registers, as mma.cuh says.
 *
 * What a block has is the only difference between a batch of training and prompts over a cache: find_tile, mask and
 * finish of each.  A row's sums are the same bits whatever rows it shares its tile with, as long as tiles of keys begin
 * at the same ones: a tile of which a row sees nothing multiplies that row's sums by 1 and adds 0.  So a walk that is
 * broken off at a tile and resumed from what it kept is the walk itself. */
#ifndef ML_OPS_CUDA_FLASH_FORWARD_CUH
#define ML_OPS_CUDA_FLASH_FORWARD_CUH

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
    float *state;                  /* NULL, or where its numbers lie between windows */
    bool resumed, broken_off;      /* keys before `begin` have been walked; keys after `last` are to come */
} block_tile;

/* One row of a warp's scores: its thread's part of the maximum and of the sum, over N pairs of columns. */
template <int N> static __device__ __forceinline__ float find_largest(const float s[N][4], int half)
{
    float most = -INFINITY;
#pragma unroll
    for (int t = 0; t < N; t++) most = fmaxf(most, fmaxf(s[t][2 * half], s[t][2 * half + 1]));
    most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1));
    return fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
}

/* Scores -> weights relative to the row's maximum so far; as that grows, what was summed before shrinks to `left`. */
template <int N>
static __device__ __forceinline__ void soften(float s[N][4], float most[2], float sum[2], float left[2])
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float now = fmaxf(most[half], find_largest<N>(s, half));
        float base = now == -INFINITY ? 0.0f : now, added = 0;
        left[half] = ml_flash_exp2(most[half] - base);
        most[half] = now;
#pragma unroll
        for (int t = 0; t < N; t++) {
            added += s[t][2 * half] = ml_flash_exp2(s[t][2 * half] - base);
            added += s[t][2 * half + 1] = ml_flash_exp2(s[t][2 * half + 1] - base);
        }
        sum[half] = fmaf(sum[half], left[half], added);
    }
}

template <int D_V> static __device__ __forceinline__ void shrink(float y[D_V / 8][4], const float left[2])
{
#pragma unroll
    for (int t = 0; t < D_V / 8; t++) {
#pragma unroll
        for (int e = 0; e < 4; e++) y[t][e] *= left[e / 2];
    }
}

/* Weights of 16 keys, those of fragments t and t + 1, as the matrix unit's a. */
static __device__ __forceinline__ void pack_weights(uint32_t a[4], const float s[][4], int t)
{
#pragma unroll
    for (int e = 0; e < 4; e++) {
        const float *weight = s[t + e / 2] + e % 2 * 2;
        a[e] = ml_pack_bf16(weight[0], weight[1]);
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
    if (w.state) b->state = w.state + ((int64_t)number * w.n_head + h) * (ROWS * (D_V + 8));
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

/* Nothing has been walked. */
template <int D_V> static __device__ __forceinline__ void clear(float y[D_V / 8][4], float most[2], float sum[2])
{
    most[0] = most[1] = -INFINITY;
    sum[0] = sum[1] = 0;
#pragma unroll
    for (int t = 0; t < D_V / 8; t++) y[t][0] = y[t][1] = y[t][2] = y[t][3] = 0;
}

/* Where number 0 of a thread's part m lies between windows; those after it are a block's threads apart. */
template <int D_V, int THREADS>
static __device__ __forceinline__ float *state_of(const block_tile &b, int m, int thread)
{
    return b.state + m * (D_V / 2 + 4) * THREADS + thread;
}

/* A thread's part goes where the next window finds it. */
template <int D_V, int THREADS>
static __device__ __forceinline__ void keep(float *to, const float y[D_V / 8][4], const float most[2],
                                            const float sum[2])
{
#pragma unroll
    for (int half = 0; half < 2; half++, to += 2 * THREADS) {
        to[0] = most[half];
        to[THREADS] = sum[half];
    }
#pragma unroll
    for (int i = 0; i < D_V / 2; i++, to += THREADS) *to = y[i / 4][i % 4];
}

/* What an earlier window kept. */
template <int D_V, int THREADS>
static __device__ __forceinline__ void take_up(const float *from, float y[D_V / 8][4], float most[2], float sum[2])
{
#pragma unroll
    for (int half = 0; half < 2; half++, from += 2 * THREADS) {
        most[half] = from[0];
        sum[half] = from[THREADS];
    }
#pragma unroll
    for (int i = 0; i < D_V / 2; i++, from += THREADS) y[i / 4][i % 4] = *from;
}

/* Tiles of a batch or of slices by wgmma, where a kernel is made for heads of this size. */
void ml_flash_launch_wgmma(ml_ctx *ctx, const batch &w, int64_t n_tile);
void ml_flash_launch_wgmma(ml_ctx *ctx, const cached &w, int64_t n_tile);

#endif
