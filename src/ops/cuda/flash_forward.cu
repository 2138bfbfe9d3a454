/* Forward in tiles on mma.sync: a block has FLASH_WARPS * 16 * M rows of queries of one head, a warp 16 * M of them.
 * Keys and values come in tiles of 64; the next keys are copied while values are weighed, the next values while scores
 * are made.  Blocks with the most keys start first. */
#include "ops/cuda/flash_forward.cuh"

#include <cstdlib>

enum { HOPPER = 9 };

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
        clear<D_V>(y[m], most[m], sum[m]);
        if (b.resumed) {
            take_up<D_V, FLASH_THREADS>(state_of<D_V, FLASH_THREADS>(b, m, (int)threadIdx.x), y[m], most[m], sum[m]);
        }
    }
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
            float left[2];
            if (!whole) mask(w, b, s[m], key, row + 16 * m);
            soften<8>(s[m], most[m], sum[m], left);
            shrink<D_V>(y[m], left);
        }
        ml_copy_wait<1>(); /* the values */
        __syncthreads();
#pragma unroll
        for (int c = 0; c < FLASH_TILE; c += 16) {
            uint32_t a[M][4];
#pragma unroll
            for (int m = 0; m < M; m++) pack_weights(a[m], s[m], c / 8);
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
#pragma unroll
    for (int m = 0; m < M; m++) {
        if (b.broken_off) {
            keep<D_V, FLASH_THREADS>(state_of<D_V, FLASH_THREADS>(b, m, (int)threadIdx.x), y[m], most[m], sum[m]);
        } else {
            finish<D_V>(w, b, y[m], most[m], sum[m], b.first + row + 16 * m, h);
        }
    }
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

static bool by_wgmma(ml_ctx *ctx, ml_flash_size size)
{
    const char *wanted = getenv("MOONLIGHT_CUDA_ATTENTION");
    bool made = size.d_qk >= 64 && size.d_qk <= 192;
    return made && ctx->device->major == HOPPER && wanted && !strcmp(wanted, "wgmma");
}

int ml_cuda_flash_forward_keys(ml_ctx *ctx, ml_flash_size size)
{
    return by_wgmma(ctx, size) ? FLASH_WGMMA_KEYS : FLASH_TILE;
}

template <class W> static ml_status launch_size(ml_ctx *ctx, const W &w, int64_t n_tile)
{
    if (by_wgmma(ctx, ml_flash_size_of(w.d_qk, w.d_v))) {
        ml_flash_launch_wgmma(ctx, w, n_tile);
        return ml_queued(ctx);
    }
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
