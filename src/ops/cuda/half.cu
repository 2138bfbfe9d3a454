/* One thread rounds eight neighbours: 32 bytes in, 16 out. */
#include "ops/cuda/half.cuh"

#include "ops/cuda/mma.cuh"

enum { THREADS = 256 };

typedef struct {
    ml_cuda_operand from;
    uint16_t *to; /* [n_product, n_row, n_chunk * 8], zero beyond n_col */
    int64_t n, n_row, n_col, n_chunk;
    bool vector; /* fp32 rows begin at multiples of 16 bytes */
} rounding;

static __device__ __forceinline__ float element(const ml_cuda_operand *o, int64_t at)
{
    return o->data ? o->data[at] : __uint_as_float((uint32_t)o->half[at] << 16);
}

static __global__ void __launch_bounds__(THREADS) round_rows(rounding w)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= w.n) return;
    int64_t chunk = i % w.n_chunk, stored = i / w.n_chunk % w.n_row, product = i / w.n_chunk / w.n_row;
    int64_t row = w.from.row ? w.from.row[stored] : stored, first = chunk * ML_HALF_CHUNK;
    int64_t at = product * w.from.product + row * w.from.stride + first;
    float v[ML_HALF_CHUNK];
    if (w.vector && first + ML_HALF_CHUNK <= w.n_col) {
        float4 low = *(const float4 *)(const void *)(w.from.data + at);
        float4 high = *(const float4 *)(const void *)(w.from.data + at + 4);
        v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
        v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
    } else {
#pragma unroll
        for (int c = 0; c < ML_HALF_CHUNK; c++) v[c] = first + c < w.n_col ? element(&w.from, at + c) : 0.0f;
    }
    uint4 packed;
    packed.x = ml_pack_bf16(v[0], v[1]);
    packed.y = ml_pack_bf16(v[2], v[3]);
    packed.z = ml_pack_bf16(v[4], v[5]);
    packed.w = ml_pack_bf16(v[6], v[7]);
    *(uint4 *)(void *)(w.to + i * ML_HALF_CHUNK) = packed;
}

static bool begins_aligned(const void *data, int64_t stride, int64_t product, int64_t n_product, int64_t each)
{
    return (uintptr_t)data % 16 == 0 && stride % each == 0 && (n_product == 1 || product % each == 0);
}

ml_status ml_cuda_half_operand(ml_ctx *ctx, ml_cuda_operand *o, int64_t n_product, int64_t n_row, int64_t n_col)
{
    if (o->half && begins_aligned(o->half, o->stride, o->product, n_product, ML_HALF_CHUNK)) return ML_OK;
    rounding w;
    memset(&w, 0, sizeof w);
    w.from = *o;
    if (o->product == 0) n_product = 1; /* one matrix for all products */
    w.n_row = n_row;
    w.n_col = n_col;
    w.n_chunk = ml_n_blocks(n_col, ML_HALF_CHUNK);
    w.n = n_product * n_row * w.n_chunk;
    w.vector = o->data && begins_aligned(o->data, o->stride, o->product, n_product, 4);
    w.to = (uint16_t *)ml_ctx_scratch_data(ctx, (size_t)(w.n * ML_HALF_CHUNK) * sizeof *w.to);
    if (!w.to) return ML_ENOMEM;
    o->data = NULL;
    o->half = w.to;
    o->stride = w.n_chunk * ML_HALF_CHUNK;
    o->product = n_product == 1 ? 0 : n_row * o->stride;
    o->row = NULL;
    if (w.n == 0) return ML_OK;
    ML_LAUNCH(ctx->device, round_rows, (unsigned)ml_n_blocks(w.n, THREADS), THREADS, 0, w);
    return ml_queued(ctx);
}
