/* Tiles over tokens and weight rows.  A task is a range of weight rows small enough to stay in L2 while the
 * tokens pass by; a tile of tokens stays in L1 while the rows pass by. */
#include "ops/cpu/matvec.h"

#include "base/cpu.h"
#include "base/thread.h"
#include "ops/cpu/matvec_kernel.h"

enum {
    TASK_BYTES = 128 * 1024, /* of weights */
    MIN_PARALLEL = 200000,   /* multiply-adds below which starting the threads costs more than it saves */
};

static const ml_matvec_kernel *choose_kernel(void)
{
#if defined(__x86_64__)
    if (ml_cpu_isa() >= ML_ISA_AVX512) return &ml_matvec_kernel_avx512;
    if (ml_cpu_isa() >= ML_ISA_AVX2) return &ml_matvec_kernel_avx2;
#endif
    return &ml_matvec_kernel_scalar;
}

/* Tokens [token, token + tile->n_token), weight rows [begin, end).  A tile that sticks out beyond the last row
 * computes that row again and drops it. */
static void run_tiles(const ml_matvec *p, const ml_matvec_tile *tile, int64_t token, int64_t begin, int64_t end)
{
    const float *x[ML_MATVEC_MAX_TILE];
    for (int t = 0; t < tile->n_token; t++) {
        x[t] = p->x + (p->x_row ? p->x_row[token + t] : token + t) * p->x_stride;
    }
    size_t row_bytes = (size_t)p->w_stride * ml_dtype_size(p->w_dtype);
    for (int64_t i = begin; i < end; i += tile->n_row) {
        const void *w[ML_MATVEC_MAX_TILE];
        float out[ML_MATVEC_MAX_TILE];
        for (int r = 0; r < tile->n_row; r++) {
            w[r] = (const char *)p->w + (size_t)(i + r < end ? i + r : end - 1) * row_bytes;
        }
        tile->run[p->w_dtype](p->k, x, w, out);
        int n = end - i < tile->n_row ? (int)(end - i) : tile->n_row;
        for (int t = 0; t < tile->n_token; t++) {
            for (int r = 0; r < n; r++) p->y[(token + t) * p->y_stride + i + r] = out[t * tile->n_row + r];
        }
    }
}

static void run_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const ml_matvec *p = arg;
    const ml_matvec_tile *tile = choose_kernel()->tile;
    for (int64_t token = 0; token < p->n_token; token += tile->n_token) {
        while (tile->n_token > p->n_token - token) tile++;
        run_tiles(p, tile, token, begin, end);
    }
}

void ml_matvec_run(const ml_matvec *p)
{
    if ((double)p->n_token * (double)p->n * (double)p->k < MIN_PARALLEL) {
        ml_matvec_run_serial(p);
        return;
    }
    int64_t grain = TASK_BYTES / (p->k * (int64_t)ml_dtype_size(p->w_dtype));
    int64_t share = p->n / (4 * ml_thread_count());
    if (grain > share) grain = share;
    grain = (grain / ML_MATVEC_MAX_TILE + 1) * ML_MATVEC_MAX_TILE;
    ml_parallel_for(p->n, grain, run_rows, (void *)p);
}

void ml_matvec_run_serial(const ml_matvec *p)
{
    if (p->k <= 0 || p->n <= 0) {
        for (int64_t t = 0; t < p->n_token; t++) {
            for (int64_t i = 0; i < p->n; i++) p->y[t * p->y_stride + i] = 0;
        }
        return;
    }
    int64_t grain = TASK_BYTES / (p->k * (int64_t)ml_dtype_size(p->w_dtype));
    grain = (grain / ML_MATVEC_MAX_TILE + 1) * ML_MATVEC_MAX_TILE;
    for (int64_t i = 0; i < p->n; i += grain) {
        run_rows((void *)p, i, i + grain < p->n ? i + grain : p->n, 0);
    }
}

float ml_dot_f32(const float *a, const float *b, int64_t n)
{
    return choose_kernel()->dot(a, b, n);
}
