/* Forward in tiles: a block has FLASH_WARPS * 16 * M rows of queries of one head, a warp 16 * M of them; its scores,
 * running maxima and sums, and weighted values stay in registers.  Keys and values come in tiles of 64; the next keys
 * are copied while values are weighed, the next values while scores are made.  Blocks with the most keys start first.
 */
#include "ops/cuda/flash.cuh"

typedef struct {
    ml_rows q, y, lse;
    const uint16_t *k, *v;
    const int32_t *begin;
    int n_token, n_head, n_kv_head, d_qk, d_v;
    float factor; /* of q: scale * log2(e) */
    bool aligned; /* q's rows are whole 16-byte pieces */
} operands;

template <int D_QK, int D_V, int M> static constexpr size_t shared_bytes()
{
    return (size_t)FLASH_TILE * ((M + 1) * ml_flash_row(D_QK) + ml_flash_row(D_V)) * sizeof(uint16_t);
}

/* The block's queries, each read by this block alone: rounded on the way, no copy in memory. */
template <int D, int ROWS> static __device__ void load_queries(const operands &w, uint16_t *tile, int first, int h)
{
    const float *from = w.q.data + first * w.q.stride + h * w.d_qk;
    for (int i = (int)threadIdx.x; i < ROWS * (D / 8); i += FLASH_THREADS) {
        int row = i / (D / 8), c = i % (D / 8) * 8;
        float x[8];
        ml_flash_load_8(x, from + row * w.q.stride + c, first + row < w.n_token ? w.d_qk - c : 0, w.aligned);
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

template <int D_V>
static __device__ void store_rows(const operands &w, const float y[D_V / 8][4], const float most[2],
                                  const float sum_in[2], int row, int h)
{
    int pair = (int)threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = sum_in[half] + __shfl_xor_sync(ALL_LANES, sum_in[half], 1);
        sum += __shfl_xor_sync(ALL_LANES, sum, 2);
        int i = row + 8 * half;
        if (i >= w.n_token) continue;
        float *to = w.y.data + i * w.y.stride + h * w.d_v;
        float inverse = 1.0f / sum;
#pragma unroll
        for (int t = 0; t < D_V / 8; t++) {
            int c = 8 * t + 2 * pair;
            if (c < w.d_v) to[c] = y[t][2 * half] * inverse;
            if (c + 1 < w.d_v) to[c + 1] = y[t][2 * half + 1] * inverse;
        }
        if (pair == 0) w.lse.data[h * w.lse.stride + i] = most[half] * FLASH_LN2 + logf(sum);
    }
}

template <int D_QK, int D_V, int M> static __global__ void __launch_bounds__(FLASH_THREADS, 2) flash_forward(operands w)
{
    constexpr int ROWS = FLASH_TILE * M;
    ML_DYNAMIC_SHARED(uint16_t, q);
    uint16_t *k = q + ROWS * ml_flash_row(D_QK), *v = k + FLASH_TILE * ml_flash_row(D_QK);
    int first = (int)(gridDim.x - 1 - blockIdx.x) * ROWS, h = (int)blockIdx.y, g = h / (w.n_head / w.n_kv_head);
    int last = first + ROWS < w.n_token ? first + ROWS - 1 : w.n_token - 1;
    int begin = w.begin[first], latest_begin = w.begin[last];
    const uint16_t *keys = w.k + (int64_t)g * w.n_token * D_QK, *values = w.v + (int64_t)g * w.n_token * D_V;
    ml_flash_copy<D_QK>(k, keys, begin, w.n_token);
    ml_copy_commit();
    ml_flash_copy<D_V>(v, values, begin, w.n_token);
    ml_copy_commit();
    load_queries<D_QK, ROWS>(w, q, first, h);

    int warp_row = (int)threadIdx.x / WARP * 16 * M, row = first + warp_row + (int)threadIdx.x % WARP / 4;
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
    for (int key = begin; key <= last; key += FLASH_TILE) {
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
                uint32_t b[4];
                ml_flash_load_b<D_QK>(b, k, 8 * t, c);
#pragma unroll
                for (int m = 0; m < M; m++) {
                    ml_mma_bf16(s[m][t], a[m], b);
                    ml_mma_bf16(s[m][t + 1], a[m], b + 2);
                }
            }
        }
        __syncthreads(); /* the keys have been read */
        if (key + FLASH_TILE <= last) ml_flash_copy<D_QK>(k, keys, key + FLASH_TILE, w.n_token);
        ml_copy_commit();
        bool whole = key >= latest_begin && key + FLASH_TILE - 1 <= first;
#pragma unroll
        for (int m = 0; m < M; m++) {
            if (!whole) ml_flash_mask_keys(s[m], key, row + 16 * m, w.n_token, w.begin);
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
                uint32_t b[4];
                ml_flash_load_b_rows<D_V>(b, v, c, 8 * t);
#pragma unroll
                for (int m = 0; m < M; m++) {
                    ml_mma_bf16(y[m][t], a[m], b);
                    ml_mma_bf16(y[m][t + 1], a[m], b + 2);
                }
            }
        }
        __syncthreads(); /* the values have been read */
        if (key + FLASH_TILE <= last) ml_flash_copy<D_V>(v, values, key + FLASH_TILE, w.n_token);
        ml_copy_commit();
    }
#pragma unroll
    for (int m = 0; m < M; m++) store_rows<D_V>(w, y[m], most[m], sum[m], row + 16 * m, h);
}

template <int D_QK, int D_V, int M> static void launch(ml_ctx *ctx, const operands &w)
{
    auto *attention_forward = flash_forward<D_QK, D_V, M>;
    size_t n_bytes = shared_bytes<D_QK, D_V, M>();
    ml_device_note(ctx->device,
                   cudaFuncSetAttribute(attention_forward, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)n_bytes),
                   "shared memory of attention");
    dim3 grid((unsigned)ml_n_blocks(w.n_token, FLASH_TILE * M), (unsigned)w.n_head);
    ML_LAUNCH(ctx->device, attention_forward, grid, FLASH_THREADS, n_bytes, w);
}

ml_status ml_cuda_flash_forward_packed(ml_ctx *ctx, const ml_cuda_attention *a, const ml_flash_operands *o)
{
    operands w;
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
    switch (ml_flash_size_of(&a->p).d_qk) {
    case 32: launch<32, 32, 2>(ctx, w); break;
    case 64: launch<64, 64, 2>(ctx, w); break;
    case 128: launch<128, 128, 2>(ctx, w); break;
    case 192: launch<192, 128, 2>(ctx, w); break;
    default: launch<256, 256, 1>(ctx, w);
    }
    return ml_queued(ctx);
}
