/* The fp32 matrix product: against a double-precision reference, and the promise that the bits of an element
 * depend on its row of A and its column of B alone. */
#include "support/support.h"

#include "base/cpu.h"
#include "base/rng.h"
#include "base/thread.h"
#include "ops/cpu/gemm.h"
#include "ops/cpu/gemm_memory.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int64_t m, n, k;
    bool transpose_a, transpose_b, gather_a, gather_b, scatter, accumulate;
} shape;

/* A problem with its own memory.  Rows of all operands are longer than they need be, and what lies between
 * them is NaN: reading it would spoil the result, and overwriting it (in c) is noticed. */
typedef struct {
    shape s;
    ml_gemm g;
    float *a, *b, *c0; /* c0: contents of c before the product */
    int32_t *a_row, *b_row, *c_row;
    int64_t c_rows; /* stored rows of c */
} problem;

enum { GAP = 3 };

/* n distinct stored rows out of 2 n + 1, in no order. */
static int32_t *choose_rows(int64_t n, ml_rng *rng)
{
    int32_t *row = malloc((size_t)(n + 1) * sizeof *row);
    for (int64_t i = 0; i < n; i++) row[i] = (int32_t)(2 * i + (int64_t)ml_rng_below(rng, 2));
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = (int64_t)ml_rng_below(rng, (uint64_t)i + 1);
        int32_t t = row[i];
        row[i] = row[j];
        row[j] = t;
    }
    return row;
}

static float *make_rows(int64_t rows, int64_t cols, ml_rng *rng)
{
    int64_t stride = cols + GAP;
    float *x = malloc((size_t)(rows * stride + 1) * sizeof *x);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < stride; j++) x[i * stride + j] = j < cols ? (float)ml_rng_normal(rng) : NAN;
    }
    return x;
}

static problem make_problem(const shape *s)
{
    ml_rng rng = ml_rng_make(99, (uint64_t)(s->m * 1000003 + s->n * 1009 + s->k));
    problem p = { .s = *s };
    int64_t a_rows = s->transpose_a ? s->k : s->m, a_cols = s->transpose_a ? s->m : s->k;
    int64_t b_rows = s->transpose_b ? s->n : s->k, b_cols = s->transpose_b ? s->k : s->n;
    p.a = make_rows(2 * a_rows + 1, a_cols, &rng);
    p.b = make_rows(2 * b_rows + 1, b_cols, &rng);
    p.c_rows = 2 * s->m + 1;
    p.c0 = make_rows(p.c_rows, s->n, &rng);
    if (s->gather_a) p.a_row = choose_rows(a_rows, &rng);
    if (s->gather_b) p.b_row = choose_rows(b_rows, &rng);
    if (s->scatter) p.c_row = choose_rows(s->m, &rng);
    p.g = (ml_gemm){ .m = s->m,
                     .n = s->n,
                     .k = s->k,
                     .a = { .data = p.a, .stride = a_cols + GAP, .row = p.a_row, .transpose = s->transpose_a },
                     .b = { .data = p.b, .stride = b_cols + GAP, .row = p.b_row, .transpose = s->transpose_b },
                     .c_stride = s->n + GAP,
                     .c_row = p.c_row,
                     .accumulate = s->accumulate };
    return p;
}

static void free_problem(problem *p)
{
    free(p->a);
    free(p->b);
    free(p->c0);
    free(p->a_row);
    free(p->b_row);
    free(p->c_row);
}

static size_t c_bytes(const problem *p)
{
    return (size_t)(p->c_rows * p->g.c_stride) * sizeof(float);
}

/* A fresh c after the product; the caller frees it. */
static float *run(const problem *p, void (*product)(const ml_gemm *))
{
    ml_gemm g = p->g;
    g.c = malloc(c_bytes(p) + 1);
    memcpy(g.c, p->c0, c_bytes(p));
    product(&g);
    return g.c;
}

static double element(const ml_gemm_operand *x, int64_t i, int64_t j)
{
    int64_t row = x->transpose ? j : i, col = x->transpose ? i : j;
    return x->data[(x->row ? x->row[row] : row) * x->stride + col];
}

static void check_against_reference(const problem *p, const float *c)
{
    const ml_gemm *g = &p->g;
    bool *written = calloc((size_t)p->c_rows + 1, sizeof *written);
    for (int64_t i = 0; i < g->m; i++) {
        int64_t row = g->c_row ? g->c_row[i] : i;
        written[row] = true;
        for (int64_t j = 0; j < g->n; j++) {
            double sum = 0, size = 0, before = p->c0[row * g->c_stride + j];
            for (int64_t k = 0; k < g->k; k++) {
                double product = element(&g->a, i, k) * element(&g->b, k, j);
                sum += product;
                size += fabs(product);
            }
            if (g->accumulate) {
                sum += before;
                size += fabs(before);
            }
            /* Error of a sum of n terms by recursive summation: at most n u sum|terms| (u = eps / 2); terms of a
             * block of 512 are summed first, then the blocks, so n is at most 512 + k / 512 + 2. */
            double n_step = (double)(g->k < 512 ? g->k : 512) + (double)g->k / 512 + 2;
            double bound = n_step * FLT_EPSILON / 2 * size;
            double found = c[row * g->c_stride + j];
            if (!(fabs(found - sum) <= bound)) {
                fail_msg("%lldx%lldx%lld [%lld,%lld]: %.9g, expected %.9g within %.3g", (long long)g->m,
                         (long long)g->n, (long long)g->k, (long long)i, (long long)j, found, sum, bound);
            }
        }
    }
    for (int64_t row = 0; row < p->c_rows; row++) {
        int64_t from = written[row] ? g->n : 0;
        assert_memory_equal(c + row * g->c_stride + from, p->c0 + row * g->c_stride + from,
                            (size_t)(g->c_stride - from) * sizeof *c);
    }
    free(written);
}

/* Every instruction set, 1 to 3 threads, the serial call, and without room for large blocks: right, and the same
 * bits. */
static void check_shape(const shape *s)
{
    problem p = make_problem(s);
    ml_isa best = ml_cpu_isa();
    float *first = run(&p, ml_gemm_run);
    check_against_reference(&p, first);
    ml_gemm_memory_force_small(true);
    float *small = run(&p, ml_gemm_run);
    ml_gemm_memory_force_small(false);
    assert_memory_equal(small, first, c_bytes(&p));
    free(small);
    for (int isa = ML_ISA_SCALAR; isa <= (int)best; isa++) {
        ml_cpu_set_isa((ml_isa)isa);
        for (int n_threads = 0; n_threads <= 3; n_threads++) {
            ml_thread_set_count(n_threads);
            float *c = run(&p, n_threads ? ml_gemm_run : ml_gemm_run_serial);
            if (memcmp(first, c, c_bytes(&p))) {
                fail_msg("%lldx%lldx%lld: other bits with %s and %d threads", (long long)s->m, (long long)s->n,
                         (long long)s->k, ml_isa_name((ml_isa)isa), n_threads);
            }
            free(c);
        }
        ml_thread_set_count(0);
    }
    ml_cpu_set_isa(best);
    free(first);
    free_problem(&p);
}

static void test_edges(void **state)
{
    (void)state;
    /* Around the tiles of all kernels (4 x 4, 6 x 16, 12 x 32) and the vector lengths along k. */
    const int64_t m[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 24, 31 };
    const int64_t n[] = { 1, 3, 4, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 49, 65 };
    const int64_t k[] = { 1, 2, 7, 8, 9, 15, 16, 17, 33 };
    int variant = 0;
    for (size_t i = 0; i < sizeof m / sizeof m[0]; i++) {
        for (size_t j = 0; j < sizeof n / sizeof n[0]; j++, variant++) {
            shape s = { .m = m[i],
                        .n = n[j],
                        .k = k[(i + j) % (sizeof k / sizeof k[0])],
                        .transpose_a = variant & 1,
                        .transpose_b = variant & 2,
                        .gather_a = variant & 4,
                        .gather_b = variant & 8,
                        .scatter = variant & 16,
                        .accumulate = variant & 32 };
            check_shape(&s);
        }
    }
}

static void test_all_variants(void **state)
{
    (void)state;
    /* Every combination of options; k crosses a block. */
    for (int v = 0; v < 64; v++) {
        shape s = { 13, 19, 515, v & 1, v & 2, v & 4, v & 8, v & 16, v & 32 };
        check_shape(&s);
    }
}

static void test_large(void **state)
{
    (void)state;
    const shape shapes[] = {
        { 400, 20, 60, false, true, true, false, true, false },     /* blocks of rows */
        { 3, 300, 2100, true, false, true, false, false, true },    /* many blocks of k */
        { 2, 9000, 64, false, true, false, false, false, false },   /* parts of n */
        { 2, 1100, 1027, false, false, false, false, false, true }, /* parts of n and of k */
        { 6300, 5, 9, false, true, true, false, true, false },      /* parts of m */
    };
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) check_shape(&shapes[i]);
}

static void test_empty(void **state)
{
    (void)state;
    const shape shapes[] = {
        { 0, 5, 4, false, true, true, false, true, false },
        { 5, 0, 4, false, false, false, false, false, true },
        { 5, 9, 0, false, true, false, false, false, true }, /* adds nothing */
        { 5, 9, 0, true, false, false, false, true, false }, /* writes zeros, to the scattered rows only */
    };
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) check_shape(&shapes[i]);
}

/* A row of the product is the same bits alone, in a short batch and in a long one, wherever it stands; and so
 * is a column. */
static void test_embedding(void **state)
{
    (void)state;
    const shape s = { 130, 70, 100, false, true, false, false, false, false };
    problem p = make_problem(&s);
    float *whole = run(&p, ml_gemm_run);
    const int64_t counts[] = { 1, 2, 5, 12, 13, 97 };
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        for (int64_t at = 0; at + counts[i] <= s.m; at += 11) {
            problem part = p;
            part.g.m = counts[i];
            part.g.a.data += at * p.g.a.stride;
            float *c = run(&part, ml_gemm_run);
            for (int64_t r = 0; r < counts[i]; r++) {
                assert_memory_equal(c + r * p.g.c_stride, whole + (at + r) * p.g.c_stride, (size_t)s.n * sizeof *c);
            }
            free(c);
        }
    }
    for (int64_t at = 0; at < s.n; at += 9) {
        problem part = p;
        part.g.n = s.n - at < 17 ? s.n - at : 17;
        part.g.b.data += at * p.g.b.stride;
        float *c = run(&part, ml_gemm_run);
        for (int64_t r = 0; r < s.m; r++) {
            assert_memory_equal(c + r * p.g.c_stride, whole + r * p.g.c_stride + at, (size_t)part.g.n * sizeof *c);
        }
        free(c);
    }
    free(whole);
    free_problem(&p);
}

/* The order that gemm.h promises, written down once more: a chain of fma within blocks of 512, blocks added. */
static void test_order(void **state)
{
    (void)state;
    const shape s = { 3, 5, 1300, false, false, false, false, false, true };
    problem p = make_problem(&s);
    float *c = run(&p, ml_gemm_run);
    for (int64_t i = 0; i < s.m; i++) {
        for (int64_t j = 0; j < s.n; j++) {
            float expected = p.c0[i * p.g.c_stride + j];
            for (int64_t begin = 0; begin < s.k; begin += 512) {
                float sum = 0;
                for (int64_t k = begin; k < begin + 512 && k < s.k; k++) {
                    sum = fmaf((float)element(&p.g.a, i, k), (float)element(&p.g.b, k, j), sum);
                }
                expected += sum;
            }
            assert_memory_equal(&expected, &c[i * p.g.c_stride + j], sizeof expected);
        }
    }
    free(c);
    free_problem(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_edges), cmocka_unit_test(test_all_variants), cmocka_unit_test(test_large),
        cmocka_unit_test(test_empty), cmocka_unit_test(test_embedding),    cmocka_unit_test(test_order),
    };
    return cmocka_run_group_tests_name("gemm", tests, NULL, NULL);
}
