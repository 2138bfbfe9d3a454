/* Measuring a device: reading much more than its caches hold, and multiplying large matrices. */
#include "ops/cuda/gemm.cuh"
#include "ops/cuda/quads.cuh"

extern "C" {
#include "ops/device_limits.h"
}

#include <cstdlib>

enum { THREADS = 256, ROUNDS = 7 };
#ifdef ML_EMULATED
enum { READ_MB = 1, SIDE = 64 };
#else
enum { READ_MB = 512, SIDE = 8192 };
#endif

/* Every thread reads 16 bytes after 16 bytes; what it found would be written if it were one number, which keeps the
 * compiler from dropping the reads. */
static __global__ void __launch_bounds__(THREADS) read_all(const uint8_t *from, int64_t n_bytes, uint32_t *out)
{
    uint32_t found = 0;
    int64_t step = (int64_t)gridDim.x * THREADS * 16;
#pragma unroll 8
    for (int64_t at = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * 16; at < n_bytes; at += step) {
        uint4 v = ml_stream_16(from + at);
        found |= v.x ^ v.y ^ v.z ^ v.w;
    }
    if (found == 0x12345678u) *out = found;
}

static __global__ void fill(uint32_t *to, int64_t n)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    uint32_t bits = (uint32_t)i * 2654435761u; /* two halves of bf16 in [1, 2) with signs */
    to[i] = (bits & 0x807f807fu) | 0x3f803f80u;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct {
    ml_ctx *ctx;
    uint8_t *memory;
    float *c;
    int n_sm;
} measured;

static void read_once(const measured *m)
{
    ML_LAUNCH(m->ctx->device, read_all, (unsigned)(m->n_sm * 8), THREADS, 0, m->memory, (int64_t)READ_MB << 20,
              (uint32_t *)(void *)m->c);
}

static void multiply_once(const measured *m)
{
    ml_cuda_gemm g = ml_cuda_gemm_make(SIDE, SIDE, SIDE);
    const uint16_t *half = (const uint16_t *)(const void *)m->memory;
    g.a = ml_cuda_operand_half(half, SIDE, false);
    g.b = ml_cuda_operand_half(half + (int64_t)SIDE * SIDE, SIDE, true);
    g.c_half = (uint16_t *)(void *)m->c;
    g.c_stride = SIDE;
    ml_cuda_gemm_run(m->ctx, &g);
}

static ml_status time_median(const measured *m, void (*once)(const measured *m), double *seconds, ml_error *err)
{
    double round[ROUNDS];
    for (int i = -1; i < ROUNDS; i++) { /* the first one loads kernels */
        ml_device_timer *timer;
        double took;
        ML_TRY(ml_device_timer_start(m->ctx->device, &timer, err));
        once(m);
        ML_TRY(ml_device_timer_stop(timer, &took, err));
        if (i >= 0) round[i] = took > 0 ? took : 1e-9;
    }
    qsort(round, ROUNDS, sizeof *round, compare);
    *seconds = round[ROUNDS / 2];
    return ML_OK;
}

static ml_status measure(ml_ctx *ctx, ml_device_limits *out, ml_error *err)
{
    measured m;
    double seconds;
    size_t n_bytes = (size_t)READ_MB << 20;
    m.ctx = ctx;
    m.n_sm = ml_device_get_info(ctx->device).n_sm;
    m.memory = (uint8_t *)ml_ctx_scratch_data(ctx, n_bytes);
    m.c = (float *)ml_ctx_scratch_data(ctx, (size_t)SIDE * SIDE * sizeof(uint16_t));
    ML_TRY(ml_ctx_status(ctx, err));
    int64_t n_word = (int64_t)(n_bytes / sizeof(uint32_t));
    ML_LAUNCH(ctx->device, fill, (unsigned)ml_n_blocks(n_word, THREADS), THREADS, 0, (uint32_t *)(void *)m.memory,
              n_word);
    ML_TRY(time_median(&m, read_once, &seconds, err));
    out->read_bytes = (double)n_bytes / seconds;
    ctx->precision = ML_PRECISION_BF16;
    ML_TRY(time_median(&m, multiply_once, &seconds, err));
    ML_TRY(ml_ctx_status(ctx, err));
    out->bf16_macs = (double)SIDE * SIDE * SIDE / seconds;
    return ML_OK;
}

extern "C" ml_status ml_device_limits_measure(ml_device *device, ml_device_limits *out, ml_error *err)
{
    ml_ctx ctx;
    memset(out, 0, sizeof *out);
    size_t n_bytes = ((size_t)READ_MB << 20) + (size_t)SIDE * SIDE * sizeof(uint16_t) + ((size_t)4 << 20);
    ML_TRY(ml_ctx_init_on(&ctx, device, n_bytes, 0, err));
    ml_status status = measure(&ctx, out, err);
    ml_ctx_free(&ctx);
    return status;
}
