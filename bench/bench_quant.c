/* Products with weights of block types: is decode limited by reading, and how fast is prefill?
 *
 *   bench_quant [seconds per measurement] [type]
 *
 * Decode: one token, weights of 256 MiB and more in matrices used in turn, so that they come from memory as in a
 * model; GB/s of stored weights, and the share of what a plain read loop over the same memory reaches in the same
 * round.  Prefill: 512 tokens, GMAC/s.  Each weight type as rows (as in a file) and as panels.  What is compared takes
 * turns, and the best time for one matrix counts: other programs then disturb little. */
#include "base/clock.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "base/thread.h"
#include "ops/cpu/limits.h"
#include "ops/cpu/qmatmul.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_TOKEN = 512, MAX_K = 11264, POOL_BYTES = 256 << 20 };

typedef struct {
    ml_dtype dtype;
    int64_t n, k;
    uint8_t *rows, *panels; /* pools: whole matrices, one after the other */
    int64_t n_matrix;
    size_t matrix_bytes;
    float *x, *y;
    void *qx;
} problem;

static void *allocate(size_t n_bytes)
{
    void *p = aligned_alloc(64, n_bytes);
    if (!p) exit(1);
    return p;
}

static void run_product(const problem *p, int n_token, ml_layout layout, int64_t matrix)
{
    ml_qx qx = ml_qx_make(p->dtype, p->x, p->k, n_token, p->k, p->qx);
    ml_qmatmul q = { .n_token = n_token,
                     .n = p->n,
                     .k = p->k,
                     .x = &qx,
                     .w_dtype = p->dtype,
                     .w_layout = layout,
                     .w = (layout == ML_LAYOUT_ROWS ? p->rows : p->panels) + (size_t)matrix * p->matrix_bytes,
                     .y = p->y,
                     .y_stride = p->n };
    ml_qmatmul_run(&q);
}

/* Best seconds for one matrix: [0] rows, [1] panels, [2] reading. */
static void measure_decode(const problem *p, double seconds, double *best)
{
    double end = ml_clock_seconds() + seconds;
    for (int way = 0; way < 3; way++) best[way] = 1e30;
    do {
        for (int way = 0; way < 3; way++) {
            for (int64_t i = 0; i < p->n_matrix; i++) {
                double start = ml_clock_seconds();
                if (way == 2) {
                    ml_limits_read(p->rows + (size_t)i * p->matrix_bytes, p->matrix_bytes);
                } else {
                    run_product(p, 1, (ml_layout)way, i);
                }
                double t = ml_clock_seconds() - start;
                if (t < best[way]) best[way] = t;
            }
        }
    } while (ml_clock_seconds() < end);
}

static void measure_prefill(const problem *p, double seconds, double *best)
{
    double end = ml_clock_seconds() + seconds;
    best[0] = best[1] = 1e30;
    int64_t matrix = 0;
    do {
        for (int way = 0; way < 2; way++) {
            double start = ml_clock_seconds();
            run_product(p, N_TOKEN, (ml_layout)way, matrix % p->n_matrix);
            double t = ml_clock_seconds() - start;
            if (t < best[way]) best[way] = t;
        }
        matrix++;
    } while (ml_clock_seconds() < end);
}

/* Random codes and scales; halves are made small so that nothing overflows. */
static void fill(problem *p)
{
    ml_rng rng = ml_rng_make(3, 0);
    size_t n_bytes = ml_dtype_row_bytes(p->dtype, p->k) * (size_t)p->n;
    p->matrix_bytes = n_bytes;
    p->n_matrix = (int64_t)(POOL_BYTES / n_bytes);
    for (size_t i = 0; i + 8 <= n_bytes; i += 8) {
        uint64_t word = ml_rng_u64(&rng) & 0x3fff3fff3fff3fffu;
        memcpy(p->rows + i, &word, 8);
    }
    ml_qpack(p->dtype, p->rows, p->n, p->k, p->panels);
    for (int64_t i = 1; i < p->n_matrix; i++) {
        memcpy(p->rows + (size_t)i * n_bytes, p->rows, n_bytes);
        memcpy(p->panels + (size_t)i * n_bytes, p->panels, n_bytes);
    }
}

static void measure(problem *p, double seconds)
{
    fill(p);
    for (int n_threads = 1; n_threads <= 2; n_threads++) {
        ml_thread_set_count(n_threads);
        double t[3], u[2], n_bytes = (double)p->matrix_bytes;
        measure_decode(p, seconds, t);
        measure_prefill(p, seconds, u);
        double mac = (double)p->n * (double)p->k * N_TOKEN;
        printf("%-7s %6lld %6lld  %7d  %6.1f %6.1f  %6.1f  %5.2f %5.2f  %8.0f %8.0f\n", ml_dtype_name(p->dtype),
               (long long)p->n, (long long)p->k, n_threads, n_bytes / t[0] * 1e-9, n_bytes / t[1] * 1e-9,
               n_bytes / t[2] * 1e-9, t[2] / t[0], t[2] / t[1], mac / u[0] * 1e-9, mac / u[1] * 1e-9);
    }
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0); /* lines appear as they are measured */
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    ml_rng rng = ml_rng_make(7, 0);
    problem p = { .rows = allocate(POOL_BYTES),
                  .panels = allocate(POOL_BYTES),
                  .x = allocate(sizeof(float) * N_TOKEN * MAX_K),
                  .y = allocate(sizeof(float) * N_TOKEN * MAX_K),
                  .qx = allocate(ml_qx_bytes(ML_Q8_0, N_TOKEN, MAX_K)) };
    for (int i = 0; i < N_TOKEN * MAX_K; i++) p.x[i] = (float)ml_rng_uniform(&rng) - 0.5f;
    const int64_t shapes[][2] = { { 2048, 2048 }, { 2048, 11264 }, { 11264, 2048 } };
    printf("kernels: %s\n", ml_isa_name(ml_cpu_isa()));
    printf("                               decode, GB/s         of reading    prefill, GMAC/s\n");
    printf("type         n      k  threads    rows panels reading   rows panels     rows   panels\n");
    for (int dtype = ML_Q8_0; dtype < ML_N_DTYPE; dtype++) {
        p.dtype = (ml_dtype)dtype;
        if (argc > 2 && strcmp(argv[2], ml_dtype_name(p.dtype))) continue;
        for (int s = 0; s < 3; s++) {
            p.n = shapes[s][0];
            p.k = shapes[s][1];
            measure(&p, seconds);
        }
    }
    free(p.rows);
    free(p.panels);
    free(p.x);
    free(p.y);
    free(p.qx);
    return 0;
}
