/* New rows into a paged cache: a warp for each 32 columns of a token's row, which are one block of q8_0. */
#include "ops/cuda/cached.cuh"
#include "ops/cuda/mma.cuh"

enum { WARPS = 8, THREADS = WARPS * WARP };

typedef struct {
    const float *data;
    int64_t stride, n;
    char *to; /* row 0 of the cache at this part's first column */
    int64_t row_bytes;
} stored_part;

typedef struct {
    ml_kv_view kv;
    stored_part part[3];
    int n_part;
    const int32_t *seq, *pos;
    ml_fault *fault;
} store;

/* To nearest, ties to even, as ml_f32_to_f16. */
static __device__ __forceinline__ uint16_t to_f16(float v)
{
#ifdef ML_EMULATED
    return ml_f32_to_f16(v);
#else
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(v));
    return bits;
#endif
}

static __device__ __forceinline__ void put_half(char *to, uint16_t bits)
{
    memcpy(__builtin_assume_aligned(to, 2), &bits, sizeof bits);
}

/* As ml_block_put_q8_0. */
static __device__ __forceinline__ void put_q8(char *block, int lane, float v)
{
    float d = ml_warp_max(fabsf(v)) / 127.0f;
    uint16_t bits = to_f16(d);
    float inverse = ml_f16_bits(bits) == 0.0f ? 0.0f : 1.0f / d;
    if (lane == 0) put_half(block, bits);
    block[2 + lane] = (char)(int8_t)roundf(v * inverse);
}

static __global__ void __launch_bounds__(THREADS) store_rows(store s)
{
    int lane = (int)threadIdx.x % WARP;
    int64_t t = blockIdx.x, row = ml_cached_row(s.kv, s.seq[t], s.pos[t]);
    if (row < 0) {
        if (threadIdx.x == 0) ml_report(s.fault, ML_FAULT_PAGE, s.pos[t], t);
        return;
    }
    for (int i = 0; i < s.n_part; i++) {
        stored_part p = s.part[i];
        char *to = p.to + row * p.row_bytes;
        for (int64_t first = threadIdx.x / WARP * WARP; first < p.n; first += THREADS) {
            int64_t c = first + lane;
            float v = c < p.n ? p.data[t * p.stride + c] : 0.0f;
            bool half = s.kv.dtype == ML_F16 || s.kv.dtype == ML_Q8_0;
            if (half && !(fabsf(v) <= 65504.0f)) ml_report(s.fault, ML_FAULT_CACHE, s.pos[t], t);
            if (s.kv.dtype == ML_Q8_0) {
                put_q8(to + first / 32 * 34, lane, v);
            } else if (c < p.n && s.kv.dtype == ML_F32) {
                memcpy(__builtin_assume_aligned(to + 4 * c, 4), &v, sizeof v);
            } else if (c < p.n) {
                put_half(to + 2 * c, s.kv.dtype == ML_F16 ? to_f16(v) : (uint16_t)ml_pack_bf16(v, 0.0f));
            }
        }
    }
}

static void add_part(store *s, const ml_tensor *x, char *to, int64_t row_bytes)
{
    if (!x) return;
    stored_part *p = &s->part[s->n_part++];
    p->data = ml_f32(x);
    p->stride = x->stride;
    p->n = x->dim[1];
    p->to = to;
    p->row_bytes = row_bytes;
}

extern "C" ml_status ml_cuda_kv_store(ml_ctx *ctx, const ml_kv_view *kv, const ml_tensor *k, const ml_tensor *k_tail,
                                      const ml_tensor *v, const int32_t *seq, const int32_t *pos)
{
    if (k->dim[0] == 0) return ML_OK;
    store s;
    memset(&s, 0, sizeof s);
    s.kv = *kv;
    s.seq = seq;
    s.pos = pos;
    s.fault = ctx->device->fault;
    add_part(&s, k, kv->k, kv->k_row_bytes);
    add_part(&s, k_tail, kv->k + ml_dtype_row_bytes(kv->dtype, k->dim[1]), kv->k_row_bytes);
    add_part(&s, v, kv->v, kv->v_row_bytes);
    ML_LAUNCH(ctx->device, store_rows, (unsigned)k->dim[0], THREADS, 0, s);
    return ml_queued(ctx);
}
