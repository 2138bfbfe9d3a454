/* Products for inference against OpenBLAS's on fp32 weights, in one run.
 *
 *   bench_matvec [seconds per measurement]
 *
 * For few tokens the weights' bytes count (GB/s), for many the arithmetic (GFLOP/s).  The weights of one
 * measurement are 512 MiB of fp32 in several matrices used in turn, so that they come from memory as in
 * a model.  OpenBLAS (sgemv for one token, sgemm otherwise) has fp32 only: its column is its time on the same
 * matrix in fp32, so the ratio at bf16 and f16 shows what the smaller weights save as well.  The last rows round x to
 * bf16 too (ops/cpu/bf16_matmul.h), as inference does where weights are bf16. */
#include "base/clock.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "base/thread.h"
#include "ops/cpu/bf16_matmul.h"
#include "ops/cpu/matvec.h"

#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>

enum { N = 2048, K = 2048, N_MATRIX = 32, MAX_TOKEN = 512 };

typedef struct {
    ml_dtype dtype;
    int n_token;
    float *x, *y, *w; /* w [N_MATRIX, N, K] in fp32 */
    void *stored;     /* the same as dtype */
    bool rounds_x;    /* to bf16 */
    void *rounded;
} problem;

static void *allocate(size_t n_bytes)
{
    void *p = aligned_alloc(64, n_bytes);
    if (!p) exit(1);
    return p;
}

static void run_bf16(const problem *p, int matrix)
{
    ml_bf16_input bx = ml_bf16_input_make(p->x, K, p->n_token, K, p->rounded);
    ml_bf16_matmul q = { .n_token = p->n_token,
                         .n = N,
                         .k = K,
                         .x = &bx,
                         .w = (const uint16_t *)p->stored + (size_t)matrix * N * K,
                         .w_stride = K,
                         .y = p->y,
                         .y_stride = N };
    ml_bf16_matmul_run(&q);
}

static void run_ours(const problem *p, int matrix)
{
    if (p->rounds_x) {
        run_bf16(p, matrix);
        return;
    }
    ml_matvec q = { .n_token = p->n_token,
                    .n = N,
                    .k = K,
                    .x = p->x,
                    .x_stride = K,
                    .w_dtype = p->dtype,
                    .w = (char *)p->stored + (size_t)matrix * N * K * ml_dtype_size(p->dtype),
                    .w_stride = K,
                    .y = p->y,
                    .y_stride = N };
    ml_matvec_run(&q);
}

static void run_openblas(const problem *p, int matrix)
{
    const float *w = p->w + (size_t)matrix * N * K;
    if (p->n_token == 1) {
        cblas_sgemv(CblasRowMajor, CblasNoTrans, N, K, 1.0f, w, K, p->x, 1, 0.0f, p->y, 1);
    } else {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, p->n_token, N, K, 1.0f, p->x, K, w, K, 0.0f, p->y, N);
    }
}

/* Best time of one product, over rounds that last `seconds` in all. */
static void measure(const problem *p, double seconds, double best[2])
{
    void (*const run[2])(const problem *, int) = { run_ours, run_openblas };
    best[0] = best[1] = 1e30;
    double end = ml_clock_seconds() + seconds;
    do {
        for (int which = 0; which < 2; which++) {
            double start = ml_clock_seconds();
            for (int i = 0; i < N_MATRIX; i++) run[which](p, i);
            double t = (ml_clock_seconds() - start) / N_MATRIX;
            if (t < best[which]) best[which] = t;
        }
    } while (ml_clock_seconds() < end);
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0); /* lines appear as they are measured */
    double seconds = argc > 1 ? atof(argv[1]) : 0.5;
    ml_rng rng = ml_rng_make(7, 0);
    size_t n_weight = (size_t)N_MATRIX * N * K;
    problem p = { .x = allocate(sizeof(float) * MAX_TOKEN * K),
                  .y = allocate(sizeof(float) * MAX_TOKEN * N),
                  .w = allocate(sizeof(float) * n_weight),
                  .stored = allocate(sizeof(float) * n_weight),
                  .rounded = allocate(ml_bf16_input_bytes(MAX_TOKEN, K)) };
    for (size_t i = 0; i < n_weight; i++) p.w[i] = (float)ml_rng_uniform(&rng) - 0.5f;
    for (size_t i = 0; i < (size_t)MAX_TOKEN * K; i++) p.x[i] = (float)ml_rng_uniform(&rng) - 0.5f;
    printf("ours: %s; OpenBLAS: %s.  %d x %d weights\n", ml_isa_name(ml_cpu_isa()), openblas_get_corename(), N, K);
    printf("weights  tokens  threads    GB/s  GFLOP/s  OpenBLAS f32 GFLOP/s  ratio\n");
    static const ml_dtype types[] = { ML_F32, ML_F16, ML_BF16, ML_BF16 };
    for (int type = 0; type < 4; type++) {
        p.dtype = types[type];
        p.rounds_x = type == 3;
        ml_convert_from_f32(p.dtype, p.w, p.stored, (int64_t)n_weight);
        const int tokens[] = { 1, 4, 16, MAX_TOKEN };
        for (int i = 0; i < 8; i++) {
            p.n_token = tokens[i / 2];
            int n_threads = 1 + i % 2;
            ml_thread_set_count(n_threads);
            openblas_set_num_threads(n_threads);
            double best[2], flops = 2.0 * N * K * p.n_token, n_bytes = (double)N * K * (double)ml_dtype_size(p.dtype);
            measure(&p, seconds, best);
            printf("%-7s  %6d  %7d  %6.1f  %7.0f  %20.0f  %5.2f\n", p.rounds_x ? "bf16 x" : ml_dtype_name(p.dtype),
                   p.n_token, n_threads, n_bytes / best[0] * 1e-9, flops / best[0] * 1e-9, flops / best[1] * 1e-9,
                   best[1] / best[0]);
        }
    }
    free(p.x);
    free(p.y);
    free(p.w);
    free(p.stored);
    free(p.rounded);
    return 0;
}
