/* dq in tiles: a block has 64 rows of queries of one head, a warp 16 of them, and walks the keys as forward does.
 *   s = q k,  p = exp2(s - lse log2(e)),  ds = p (dy v - delta),  dq += scale ds k
 * The next values are copied while dq is summed, the next keys while dy v is. */
#include "ops/cuda/flash.cuh"

typedef struct {
    const uint16_t *q, *k, *v, *dy;
    const float *delta;
    const int32_t *begin;
    ml_rows lse;
    float *dq;
    int64_t dq_stride;
    int n_token, n_head, n_kv_head, d_qk;
    float scale;
} operands;

static __device__ __forceinline__ void differentiate(uint32_t ds[8][2], const float s[8][4], const float d[8][4],
                                                     const float lse[2], const float delta[2])
{
#pragma unroll
    for (int t = 0; t < 8; t++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float low = ml_flash_exp2(s[t][2 * half] - lse[half]) * (d[t][2 * half] - delta[half]);
            float high = ml_flash_exp2(s[t][2 * half + 1] - lse[half]) * (d[t][2 * half + 1] - delta[half]);
            ds[t][half] = ml_pack_bf16(low, high);
        }
    }
}

template <int D_QK, int D_V> static __global__ void __launch_bounds__(FLASH_THREADS, 2) flash_backward_query(operands w)
{
    ML_DYNAMIC_SHARED(uint16_t, q);
    uint16_t *dy = q + FLASH_TILE * ml_flash_row(D_QK), *k = dy + FLASH_TILE * ml_flash_row(D_V);
    uint16_t *v = k + FLASH_TILE * ml_flash_row(D_QK);
    int first = (int)(gridDim.x - 1 - blockIdx.x) * FLASH_TILE, h = (int)blockIdx.y;
    int g = h / (w.n_head / w.n_kv_head);
    int last = first + FLASH_TILE < w.n_token ? first + FLASH_TILE - 1 : w.n_token - 1, begin = w.begin[first];
    int latest_begin = w.begin[last];
    const uint16_t *keys = w.k + (int64_t)g * w.n_token * D_QK, *values = w.v + (int64_t)g * w.n_token * D_V;
    ml_flash_copy<D_QK>(q, w.q + (int64_t)h * w.n_token * D_QK, first, w.n_token);
    ml_flash_copy<D_V>(dy, w.dy + (int64_t)h * w.n_token * D_V, first, w.n_token);
    ml_flash_copy<D_V>(v, values, begin, w.n_token);
    ml_copy_commit();
    ml_flash_copy<D_QK>(k, keys, begin, w.n_token);
    ml_copy_commit();

    int warp_row = (int)threadIdx.x / WARP * 16, row = first + warp_row + (int)threadIdx.x % WARP / 4;
    float lse[2], delta[2], dq[D_QK / 8][4];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int i = row + 8 * half;
        bool inside = i < w.n_token;
        lse[half] = inside ? w.lse.data[h * w.lse.stride + i] * FLASH_LOG2E : 0.0f;
        delta[half] = inside ? w.delta[(int64_t)h * w.n_token + i] : 0.0f;
    }
#pragma unroll
    for (int t = 0; t < D_QK / 8; t++) dq[t][0] = dq[t][1] = dq[t][2] = dq[t][3] = 0;
    for (int key = begin; key <= last; key += FLASH_TILE) {
        float s[8][4], d[8][4];
        uint32_t ds[8][2];
        ml_copy_wait<1>(); /* the values */
        __syncthreads();
        ml_flash_scores<D_V>(d, dy, warp_row, v);
        __syncthreads();
        if (key + FLASH_TILE <= last) ml_flash_copy<D_V>(v, values, key + FLASH_TILE, w.n_token);
        ml_copy_commit();
        ml_copy_wait<1>(); /* the keys */
        __syncthreads();
        ml_flash_scores<D_QK>(s, q, warp_row, k);
        bool whole = key >= latest_begin && key + FLASH_TILE - 1 <= first;
        if (!whole) ml_flash_mask_keys(s, key, row, w.n_token, w.begin);
        differentiate(ds, s, d, lse, delta);
        ml_flash_weigh<D_QK>(dq, ds, k);
        __syncthreads();
        if (key + FLASH_TILE <= last) ml_flash_copy<D_QK>(k, keys, key + FLASH_TILE, w.n_token);
        ml_copy_commit();
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (row + 8 * half >= w.n_token) continue;
        float *to = w.dq + (row + 8 * half) * w.dq_stride + h * w.d_qk;
#pragma unroll
        for (int t = 0; t < D_QK / 8; t++) {
            int c = 8 * t + 2 * ((int)threadIdx.x % 4);
            if (c < w.d_qk) to[c] += w.scale * dq[t][2 * half];
            if (c + 1 < w.d_qk) to[c + 1] += w.scale * dq[t][2 * half + 1];
        }
    }
}

template <int D_QK, int D_V> static void launch(ml_ctx *ctx, const operands &w)
{
    auto *attention_backward_query = flash_backward_query<D_QK, D_V>;
    size_t n_bytes = 2 * FLASH_TILE * (size_t)(ml_flash_row(D_QK) + ml_flash_row(D_V)) * sizeof(uint16_t);
    ml_device_note(
        ctx->device,
        cudaFuncSetAttribute(attention_backward_query, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)n_bytes),
        "shared memory of attention");
    dim3 grid((unsigned)ml_n_blocks(w.n_token, FLASH_TILE), (unsigned)w.n_head);
    ML_LAUNCH(ctx->device, attention_backward_query, grid, FLASH_THREADS, n_bytes, w);
}

ml_status ml_cuda_flash_backward_query(ml_ctx *ctx, const ml_cuda_attention *a, const ml_flash_operands *o)
{
    operands w;
    memset(&w, 0, sizeof w);
    w.q = o->q;
    w.k = o->k;
    w.v = o->v;
    w.dy = o->dy;
    w.delta = o->delta;
    w.begin = o->begin;
    w.lse = a->lse;
    w.dq = a->dq;
    w.dq_stride = a->q.stride;
    w.n_token = (int)a->n_token;
    w.n_head = (int)a->p.n_head;
    w.n_kv_head = (int)a->p.n_kv_head;
    w.d_qk = (int)a->p.d_qk;
    w.scale = a->p.scale;
    switch (ml_flash_size_of(a->p.d_qk, a->p.d_v).d_qk) {
    case 32: launch<32, 32>(ctx, w); break;
    case 64: launch<64, 64>(ctx, w); break;
    case 128: launch<128, 128>(ctx, w); break;
    case 192: launch<192, 128>(ctx, w); break;
    default: launch<256, 256>(ctx, w);
    }
    return ml_queued(ctx);
}
