/* Tiles over tokens and weight rows, as in matvec.c: a task's rows of w stay in L2 while the tokens pass by. */
#include "ops/cpu/bf16_matmul.h"

#include "base/cpu.h"
#include "base/thread.h"
#include "ops/cpu/bf16_matmul_kernel.h"
#include "tensor/dtype.h"

#include <string.h>

enum {
    TASK_BYTES = 128 * 1024, /* of weights */
    FEW_TOKENS = 16,         /* up to which a product is limited by reading the weights */
    MIN_PARALLEL = 200000,   /* multiply-adds below which starting the threads costs more than it saves */
    ROUND_PER_TASK = 32768,  /* elements of x */
};

static const ml_bf16_kernel *choose_kernel(void)
{
#if defined(__x86_64__)
    if (ml_cpu_isa() >= ML_ISA_AVX512BF16) return &ml_bf16_kernel_avx512bf16;
    if (ml_cpu_isa() >= ML_ISA_AVX512) return &ml_bf16_kernel_avx512;
    if (ml_cpu_isa() >= ML_ISA_AVX2) return &ml_bf16_kernel_avx2;
#endif
    return &ml_bf16_kernel_scalar;
}

static int64_t padded(int64_t k)
{
    return (k + ML_BF16_STEP - 1) / ML_BF16_STEP * ML_BF16_STEP;
}

size_t ml_bf16_input_bytes(int64_t n_row, int64_t k)
{
    return (size_t)(n_row * padded(k)) * sizeof(uint16_t);
}

typedef struct {
    const float *x;
    int64_t x_stride, k, stride;
    uint16_t *out;
} round_work;

static void round_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const round_work *w = arg;
    for (int64_t i = begin; i < end; i++) {
        uint16_t *row = w->out + i * w->stride;
        ml_convert_from_f32(ML_BF16, w->x + i * w->x_stride, row, w->k);
        memset(row + w->k, 0, (size_t)(w->stride - w->k) * sizeof *row);
    }
}

ml_bf16_input ml_bf16_input_make(const float *x, int64_t x_stride, int64_t n_row, int64_t k, void *memory)
{
    round_work work = { x, x_stride, k, padded(k), memory };
    if (k > 0) ml_parallel_for(n_row, ROUND_PER_TASK / k + 1, round_rows, &work);
    return (ml_bf16_input){ .x = memory, .n_row = n_row, .k = k, .stride = work.stride };
}

/* Tokens [token, token + tile->n_token), weight rows [begin, end).  A tile that sticks out beyond the last row
 * computes that row again and drops it. */
static void run_tiles(const ml_bf16_matmul *p, const ml_bf16_tile *tile, int64_t token, int64_t begin, int64_t end)
{
    const uint16_t *x[ML_BF16_MAX_TOKEN];
    for (int t = 0; t < tile->n_token; t++) {
        x[t] = p->x->x + (p->x_row ? p->x_row[token + t] : token + t) * p->x->stride;
    }
    int64_t ahead = p->n_token <= FEW_TOKENS ? tile->n_row * p->w_stride * (int64_t)sizeof *p->w : 0;
    for (int64_t i = begin; i < end; i += tile->n_row) {
        const uint16_t *w[ML_BF16_MAX_ROW];
        _Alignas(64) float out[ML_BF16_MAX_OUT];
        for (int r = 0; r < tile->n_row; r++) w[r] = p->w + (i + r < end ? i + r : end - 1) * p->w_stride;
        tile->run(p->k, x, w, ahead, out);
        int n = end - i < tile->n_row ? (int)(end - i) : tile->n_row;
        for (int t = 0; t < tile->n_token; t++) {
            memcpy(p->y + (token + t) * p->y_stride + i, out + t * tile->n_row, (size_t)n * sizeof *out);
        }
    }
}

static void run_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const ml_bf16_matmul *p = arg;
    const ml_bf16_tile *tile = choose_kernel()->tile;
    for (int64_t token = 0; token < p->n_token; token += tile->n_token) {
        while (tile->n_token > p->n_token - token) tile++;
        run_tiles(p, tile, token, begin, end);
    }
}

/* Rows of a task, a multiple of every tile's. */
static int64_t rows_per_task(const ml_bf16_matmul *p)
{
    int64_t rows = TASK_BYTES / (p->k * (int64_t)sizeof *p->w);
    return (rows / ML_BF16_MAX_ROW + 1) * ML_BF16_MAX_ROW;
}

void ml_bf16_matmul_run(const ml_bf16_matmul *p)
{
    if ((double)p->n_token * (double)p->n * (double)p->k < MIN_PARALLEL) {
        ml_bf16_matmul_run_serial(p);
        return;
    }
    int64_t grain = rows_per_task(p), share = p->n / (4 * ml_thread_count());
    if (grain > share) grain = (share / ML_BF16_MAX_ROW + 1) * ML_BF16_MAX_ROW;
    void *arg = (void *)(uintptr_t)p;
    if (p->n_token <= FEW_TOKENS) {
        ml_parallel_for_guided(p->n, grain, run_rows, arg);
    } else {
        ml_parallel_for(p->n, grain, run_rows, arg);
    }
}

void ml_bf16_matmul_run_serial(const ml_bf16_matmul *p)
{
    if (p->k <= 0 || p->n <= 0) {
        for (int64_t t = 0; t < p->n_token; t++) {
            for (int64_t i = 0; i < p->n; i++) p->y[t * p->y_stride + i] = 0;
        }
        return;
    }
    int64_t grain = rows_per_task(p);
    for (int64_t i = 0; i < p->n; i += grain) {
        run_rows((void *)(uintptr_t)p, i, i + grain < p->n ? i + grain : p->n, 0);
    }
}
