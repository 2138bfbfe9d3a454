/* dk and dv in tiles: a block has 64 rows of keys of one key head, a warp 16 of them, and walks the queries that see
 * them, head after head of the group, in the order of tiles.  Scores stand transposed, keys down, queries across, so
 * that they are what the matrix unit takes next without leaving registers:
 *   s = k q,  p = exp2(s - lse log2(e)),  dv += p dy,  ds = p (v dy - delta),  dk += ln(2) ds q
 * Heads of more than 192 columns are walked twice, for dv and for dk: both sums together exceed the registers. */
#include "ops/cuda/flash.cuh"

typedef struct {
    const uint16_t *q, *k, *v, *dy;
    const float *delta;
    const int32_t *end;
    ml_rows lse;
    float *dk, *dv, *dk_shared;
    int64_t dk_stride, dv_stride, dk_step, dv_step;
    int n_token, n_group, d_own, d_shared, d_v;
} operands;

/* The block's queries: 64 of them, of one head. */
typedef struct {
    uint16_t *q, *dy;
    float *lse, *delta;
} query_tile;

template <int D_QK> static __device__ void copy_queries(const operands &w, const query_tile &to, int h, int first)
{
    ml_flash_copy<D_QK>(to.q, w.q + (int64_t)h * w.n_token * D_QK, first, w.n_token);
    if (threadIdx.x >= FLASH_TILE) return;
    int i = first + (int)threadIdx.x;
    bool inside = i < w.n_token;
    to.lse[threadIdx.x] = inside ? w.lse.data[h * w.lse.stride + i] * FLASH_LOG2E : 0.0f;
    to.delta[threadIdx.x] = inside ? w.delta[(int64_t)h * w.n_token + i] : 0.0f;
}

/* Queries from the key itself to the end of its sequence see it; keys behind the batch count as its last one. */
static __device__ __forceinline__ void mask_queries(const operands &w, float s[8][4], int query, int row)
{
    int low[2] = { row < w.n_token ? row : w.n_token - 1, row + 8 < w.n_token ? row + 8 : w.n_token - 1 };
    int high[2] = { w.end[low[0]] - 1, w.end[low[1]] - 1 };
    ml_flash_mask(s, query, low, high);
}

static __device__ __forceinline__ void find_weights(uint32_t p[8][2], const float s[8][4], const float *lse)
{
    int column = 2 * ((int)threadIdx.x % 4);
#pragma unroll
    for (int t = 0; t < 8; t++) {
        float a = lse[column + 8 * t], b = lse[column + 8 * t + 1];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            p[t][half] = ml_pack_bf16(ml_flash_exp2(s[t][2 * half] - a), ml_flash_exp2(s[t][2 * half + 1] - b));
        }
    }
}

/* p becomes ds. */
static __device__ __forceinline__ void differentiate(uint32_t p[8][2], const float d[8][4], const float *delta)
{
    int column = 2 * ((int)threadIdx.x % 4);
#pragma unroll
    for (int t = 0; t < 8; t++) {
        float a = delta[column + 8 * t], b = delta[column + 8 * t + 1];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float low = ml_bf16_low(p[t][half]) * (d[t][2 * half] - a);
            float high = ml_bf16_high(p[t][half]) * (d[t][2 * half + 1] - b);
            p[t][half] = ml_pack_bf16(low, high);
        }
    }
}

static __device__ __forceinline__ void store_key(const operands &w, int j, int g, int c, float v)
{
    if (c < w.d_own) {
        if (w.dk) w.dk[j * w.dk_stride + g * w.dk_step + c] += v;
    } else if (c < w.d_own + w.d_shared && w.dk_shared) {
        w.dk_shared[((int64_t)g * w.n_token + j) * w.d_shared + c - w.d_own] = v;
    }
}

template <int D_QK, int D_V, bool WITH_K, bool WITH_V>
static __global__ void __launch_bounds__(FLASH_THREADS, 2) flash_backward_key(operands w)
{
    ML_DYNAMIC_SHARED(uint16_t, k);
    uint16_t *v = k + FLASH_TILE * ml_flash_row(D_QK);
    query_tile to;
    to.q = v + FLASH_TILE * ml_flash_row(D_V);
    to.dy = to.q + FLASH_TILE * ml_flash_row(D_QK);
    to.lse = (float *)(void *)(to.dy + FLASH_TILE * ml_flash_row(D_V));
    to.delta = to.lse + FLASH_TILE;
    int first = (int)blockIdx.x * FLASH_TILE, g = (int)blockIdx.y;
    int last = first + FLASH_TILE < w.n_token ? first + FLASH_TILE - 1 : w.n_token - 1, end = w.end[last];
    int earliest_end = w.end[first];
    int n_tile = (end - first + FLASH_TILE - 1) / FLASH_TILE, n_step = n_tile * w.n_group, h = g * w.n_group;
    ml_flash_copy<D_QK>(k, w.k + (int64_t)g * w.n_token * D_QK, first, w.n_token);
    if (WITH_K) ml_flash_copy<D_V>(v, w.v + (int64_t)g * w.n_token * D_V, first, w.n_token);
    ml_flash_copy<D_V>(to.dy, w.dy + (int64_t)h * w.n_token * D_V, first, w.n_token);
    copy_queries<D_QK>(w, to, h, first);
    ml_copy_commit();

    int warp_row = (int)threadIdx.x / WARP * 16, row = first + warp_row + (int)threadIdx.x % WARP / 4;
    float dk[WITH_K ? D_QK / 8 : 1][4], dv[WITH_V ? D_V / 8 : 1][4];
#pragma unroll
    for (int t = 0; t < D_QK / 8 && WITH_K; t++) dk[t][0] = dk[t][1] = dk[t][2] = dk[t][3] = 0;
#pragma unroll
    for (int t = 0; t < D_V / 8 && WITH_V; t++) dv[t][0] = dv[t][1] = dv[t][2] = dv[t][3] = 0;
    for (int step = 0, query = first; step < n_step; step++) {
        float s[8][4];
        uint32_t p[8][2];
        int next = query + FLASH_TILE < end ? query + FLASH_TILE : first, next_h = next > query ? h : h + 1;
        ml_copy_wait<0>();
        __syncthreads();
        ml_flash_scores<D_QK>(s, k, warp_row, to.q);
        bool whole = query >= first + FLASH_TILE - 1 && query + FLASH_TILE <= earliest_end;
        if (!whole) mask_queries(w, s, query, row);
        find_weights(p, s, to.lse);
        if constexpr (WITH_V) ml_flash_weigh<D_V>(dv, p, to.dy);
        if constexpr (WITH_K) {
            ml_flash_scores<D_V>(s, v, warp_row, to.dy);
            differentiate(p, s, to.delta);
        }
        __syncthreads(); /* dy has been read */
        if (step + 1 < n_step) ml_flash_copy<D_V>(to.dy, w.dy + (int64_t)next_h * w.n_token * D_V, next, w.n_token);
        if constexpr (WITH_K) ml_flash_weigh<D_QK>(dk, p, to.q);
        __syncthreads();
        if (step + 1 < n_step) copy_queries<D_QK>(w, to, next_h, next);
        ml_copy_commit();
        query = next;
        h = next_h;
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int j = row + 8 * half;
        if (j >= w.n_token) continue;
#pragma unroll
        for (int t = 0; t < D_QK / 8 && WITH_K; t++) {
            int c = 8 * t + 2 * ((int)threadIdx.x % 4);
            store_key(w, j, g, c, FLASH_LN2 * dk[t][2 * half]);
            store_key(w, j, g, c + 1, FLASH_LN2 * dk[t][2 * half + 1]);
        }
        if (!w.dv) continue;
        float *out = w.dv + j * w.dv_stride + g * w.dv_step;
#pragma unroll
        for (int t = 0; t < D_V / 8 && WITH_V; t++) {
            int c = 8 * t + 2 * ((int)threadIdx.x % 4);
            if (c < w.d_v) out[c] += dv[t][2 * half];
            if (c + 1 < w.d_v) out[c + 1] += dv[t][2 * half + 1];
        }
    }
}

template <int D_QK, int D_V, bool WITH_K, bool WITH_V> static void launch(ml_ctx *ctx, const operands &w, int n_kv_head)
{
    auto *attention_backward_key = flash_backward_key<D_QK, D_V, WITH_K, WITH_V>;
    size_t n_bytes = 2 * FLASH_TILE * (size_t)(ml_flash_row(D_QK) + ml_flash_row(D_V)) * sizeof(uint16_t) +
                     2 * FLASH_TILE * sizeof(float);
    ml_device_note(
        ctx->device,
        cudaFuncSetAttribute(attention_backward_key, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)n_bytes),
        "shared memory of attention");
    dim3 grid((unsigned)ml_n_blocks(w.n_token, FLASH_TILE), (unsigned)n_kv_head);
    ML_LAUNCH(ctx->device, attention_backward_key, grid, FLASH_THREADS, n_bytes, w);
}

ml_status ml_cuda_flash_backward_key(ml_ctx *ctx, const ml_cuda_attention *a, const ml_flash_operands *o)
{
    operands w;
    memset(&w, 0, sizeof w);
    w.q = o->q;
    w.k = o->k;
    w.v = o->v;
    w.dy = o->dy;
    w.delta = o->delta;
    w.end = o->end;
    w.lse = a->lse;
    w.dk = a->dk;
    w.dv = a->dv;
    w.dk_shared = a->dk_shared;
    w.dk_stride = a->k.stride;
    w.dv_stride = a->v.stride;
    w.dk_step = a->p.k_step;
    w.dv_step = a->p.v_step;
    w.n_token = (int)a->n_token;
    w.n_group = (int)(a->p.n_head / a->p.n_kv_head);
    w.d_own = (int)(a->p.d_qk - a->p.d_shared);
    w.d_shared = (int)a->p.d_shared;
    w.d_v = (int)a->p.d_v;
    int n_kv_head = (int)a->p.n_kv_head;
    switch (ml_flash_size_of(a->p.d_qk, a->p.d_v).d_qk) {
    case 32: launch<32, 32, true, true>(ctx, w, n_kv_head); break;
    case 64: launch<64, 64, true, true>(ctx, w, n_kv_head); break;
    case 128: launch<128, 128, true, true>(ctx, w, n_kv_head); break;
    case 192: launch<192, 128, true, true>(ctx, w, n_kv_head); break;
    default:
        if (w.dv) launch<256, 256, false, true>(ctx, w, n_kv_head);
        if (w.dk || w.dk_shared) launch<256, 256, true, false>(ctx, w, n_kv_head);
    }
    return ml_queued(ctx);
}
