/* Our matrix product against OpenBLAS's, in one run: GFLOP/s and their ratio.
 *
 *   bench_gemm [seconds per measurement]
 *
 * OpenBLAS picks its kernel when it is loaded; OPENBLAS_CORETYPE=SkylakeX (or Haswell) chooses another, and
 * MOONLIGHT_ISA=avx2 lowers ours.  The two take turns, and the best round of each counts: on a shared machine
 * interference only ever slows a round down. */
#include "base/clock.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "base/thread.h"
#include "ops/cpu/gemm.h"

#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    const char *what;
    int m, n, k;
    bool transpose_a, transpose_b, gather;
} shape;

static const shape shapes[] = {
    { "square", 2048, 2048, 2048, false, false, false },
    { "linear forward", 2048, 1024, 192, false, true, false },
    { "linear forward", 2048, 192, 512, false, true, false },
    { "linear dx", 2048, 512, 192, false, false, false },
    { "linear dw", 512, 192, 4096, true, false, false },
    { "logits", 256, 10000, 192, false, true, false },
    { "projection", 4096, 192, 192, false, true, false },
    { "expert forward, gathered", 256, 1024, 192, false, true, true },
    { "expert dw, gathered", 512, 192, 256, true, false, true },
    { "few rows", 16, 1024, 192, false, true, false },
    { "one row", 1, 1024, 1024, false, true, false },
};

typedef struct {
    const shape *s;
    float *a, *b, *c;
    int32_t *row;
    int lda, ldb;
} problem;

static float *random_floats(size_t n, ml_rng *rng)
{
    float *x = aligned_alloc(64, (n * sizeof *x + 63) / 64 * 64);
    if (!x) exit(1);
    for (size_t i = 0; i < n; i++) x[i] = (float)ml_rng_uniform(rng) - 0.5f;
    return x;
}

static problem make_problem(const shape *s)
{
    ml_rng rng = ml_rng_make(7, 0);
    problem p = { .s = s, .lda = s->transpose_a ? s->m : s->k, .ldb = s->transpose_b ? s->k : s->n };
    size_t m = (size_t)s->m, n = (size_t)s->n, k = (size_t)s->k;
    size_t n_row = s->transpose_a ? k : m;
    /* A gathered operand picks each row once from a store of four times as many: what an expert sees. */
    p.a = random_floats(m * k * (s->gather ? 4 : 1), &rng);
    p.b = random_floats(n * k, &rng);
    p.c = random_floats(m * n, &rng);
    if (s->gather) {
        p.row = malloc(n_row * sizeof *p.row);
        if (!p.row) exit(1);
        for (size_t i = 0; i < n_row; i++) p.row[i] = (int32_t)(4 * i + ml_rng_below(&rng, 4));
    }
    return p;
}

static void run_ours(const problem *p)
{
    const shape *s = p->s;
    ml_gemm g = { .m = s->m,
                  .n = s->n,
                  .k = s->k,
                  .a = { .data = p->a, .stride = p->lda, .row = p->row, .transpose = s->transpose_a },
                  .b = { .data = p->b, .stride = p->ldb, .transpose = s->transpose_b },
                  .c = p->c,
                  .c_stride = s->n };
    ml_gemm_run(&g);
}

/* OpenBLAS cannot gather: it gets the first rows of the store, as if someone had copied them for free. */
static void run_openblas(const problem *p)
{
    const shape *s = p->s;
    cblas_sgemm(CblasRowMajor, s->transpose_a ? CblasTrans : CblasNoTrans, s->transpose_b ? CblasTrans : CblasNoTrans,
                s->m, s->n, s->k, 1.0f, p->a, p->lda, p->b, p->ldb, 0.0f, p->c, s->n);
}

/* Best time of one call, over rounds that last `seconds` in all. */
static void measure(const problem *p, double seconds, double best[2])
{
    void (*const run[2])(const problem *) = { run_ours, run_openblas };
    double flops = 2.0 * p->s->m * p->s->n * p->s->k;
    int n_call = (int)(2e8 / flops) + 1;
    best[0] = best[1] = 1e30;
    double end = ml_clock_seconds() + seconds;
    do {
        for (int which = 0; which < 2; which++) {
            run[which](p); /* its packed data, not the other's, in the caches */
            double start = ml_clock_seconds();
            for (int i = 0; i < n_call; i++) run[which](p);
            double t = (ml_clock_seconds() - start) / n_call;
            if (t < best[which]) best[which] = t;
        }
    } while (ml_clock_seconds() < end);
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0); /* lines appear as they are measured */
    double seconds = argc > 1 ? atof(argv[1]) : 0.5;
    printf("ours: %s; OpenBLAS: %s.  GFLOP/s\n", ml_isa_name(ml_cpu_isa()), openblas_get_corename());
    printf("%-26s %5s %6s %5s  op  threads   ours  OpenBLAS  ratio\n", "", "m", "n", "k");
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        problem p = make_problem(&shapes[i]);
        const shape *s = &shapes[i];
        for (int n_threads = 1; n_threads <= 2; n_threads++) {
            ml_thread_set_count(n_threads);
            openblas_set_num_threads(n_threads);
            double best[2], flops = 2.0 * s->m * s->n * s->k;
            measure(&p, seconds, best);
            printf("%-26s %5d %6d %5d  %c%c  %7d  %5.0f  %8.0f  %5.2f\n", s->what, s->m, s->n, s->k,
                   s->transpose_a ? 'T' : 'N', s->transpose_b ? 'T' : 'N', n_threads, flops / best[0] * 1e-9,
                   flops / best[1] * 1e-9, best[1] / best[0]);
        }
        free(p.a);
        free(p.b);
        free(p.c);
        free(p.row);
    }
    return 0;
}
