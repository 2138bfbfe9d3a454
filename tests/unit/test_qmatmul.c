/* Quantised products: against double precision on the dequantised weights, and the promise that a token's bits do not
 * depend on its neighbours, the threads, the instruction set or the layout of the weights. */
#include "support/support.h"

#include "base/alloc.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "base/thread.h"
#include "ops/cpu/qmatmul.h"
#include "tensor/blocks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GAP = 3 }; /* unused columns between rows of x and of y */

typedef enum {
    RANDOM,
    LARGEST_CODES,  /* all bits set, x of one sign: the largest integer sums */
    SMALLEST_CODES, /* 0x80 bytes: q8_0's -128 */
} content;

typedef struct {
    ml_qmatmul p;
    ml_qx qx;
    float *x;
    void *qx_memory, *rows, *panels;
    double *w; /* [n, k] dequantised */
    int32_t *x_row;
} problem;

/* Offsets of a block's halves, -1 when there is one only. */
static void find_halves(ml_dtype dtype, int at[2])
{
    int end = (int)ml_dtype_block_bytes(dtype);
    at[0] = 0;
    at[1] = -1;
    switch (dtype) {
    case ML_Q4_1:
    case ML_Q5_1:
    case ML_Q4_K:
    case ML_Q5_K: at[1] = 2; break;
    case ML_Q2_K:
        at[0] = end - 4;
        at[1] = end - 2;
        break;
    case ML_Q3_K:
    case ML_Q6_K: at[0] = end - 2; break;
    default: break;
    }
}

static void make_weights(problem *q, content c, ml_rng *rng)
{
    size_t n_bytes = ml_dtype_row_bytes(q->p.w_dtype, q->p.k) * (size_t)q->p.n;
    size_t block = ml_dtype_block_bytes(q->p.w_dtype);
    int at[2];
    find_halves(q->p.w_dtype, at);
    uint8_t *b = malloc(n_bytes + 1);
    for (size_t i = 0; i < n_bytes; i++)
        b[i] = c == RANDOM ? (uint8_t)ml_rng_u32(rng) : c == LARGEST_CODES ? 0xff : 0x80;
    for (size_t i = 0; i < n_bytes; i += block) {
        for (int h = 0; h < 2; h++) {
            float size = i / block % 3 == 2 ? 5e-5f : 0.05f; /* subnormal, which small weights bring about, and not */
            uint16_t half = ml_f32_to_f16((float)(ml_rng_uniform(rng) - 0.3) * size);
            if (at[h] >= 0) memcpy(b + i + at[h], &half, 2);
        }
    }
    q->rows = b;
    q->panels = ml_alloc(ml_qpack_bytes(q->p.w_dtype, q->p.n, q->p.k));
    ml_qpack(q->p.w_dtype, q->rows, q->p.n, q->p.k, q->panels);
    float *w = malloc((size_t)(q->p.n * q->p.k + 1) * sizeof *w);
    q->w = malloc((size_t)(q->p.n * q->p.k + 1) * sizeof *q->w);
    ml_dequantize(q->p.w_dtype, q->rows, w, q->p.n * q->p.k);
    for (int64_t i = 0; i < q->p.n * q->p.k; i++) q->w[i] = w[i];
    free(w);
}

static problem make_problem(ml_dtype dtype, int64_t n_token, int64_t n, int64_t k, content c)
{
    ml_rng rng = ml_rng_make(11, (uint64_t)(n_token * 7919 + n * 31 + k));
    problem q = { .p = { .n_token = n_token, .n = n, .k = k, .w_dtype = dtype, .y_stride = n + GAP } };
    int64_t stride = k + GAP;
    q.x = malloc((size_t)(n_token * stride) * sizeof *q.x);
    for (int64_t i = 0; i < n_token * stride; i++) q.x[i] = c == RANDOM ? (float)ml_rng_normal(&rng) : 1.0f;
    make_weights(&q, c, &rng);
    q.qx_memory = ml_alloc(ml_qx_bytes(dtype, n_token, k));
    q.qx = ml_qx_make(dtype, q.x, stride, n_token, k, q.qx_memory);
    return q;
}

static void free_problem(problem *q)
{
    free(q->x);
    ml_free(q->qx_memory);
    free(q->rows);
    ml_free(q->panels);
    free(q->w);
    free(q->x_row);
}

/* y of the tokens [first, first + n_token), in rows of n. */
static float *run(const problem *q, ml_layout layout, int64_t first, int64_t n_token,
                  void (*product)(const ml_qmatmul *))
{
    ml_qmatmul p = q->p;
    int32_t *row = malloc((size_t)n_token * sizeof *row + 1);
    for (int64_t t = 0; t < n_token; t++) row[t] = (int32_t)(first + t);
    p.x = &q->qx;
    p.n_token = n_token;
    p.x_row = first || n_token < q->p.n_token ? row : NULL;
    p.w_layout = layout;
    p.w = layout == ML_LAYOUT_ROWS ? q->rows : q->panels;
    p.y = malloc((size_t)(n_token * p.y_stride + 1) * sizeof(float));
    for (int64_t i = 0; i < n_token * p.y_stride; i++) p.y[i] = 42;
    product(&p);
    for (int64_t t = 0; t < n_token; t++) {
        for (int64_t i = p.n; i < p.y_stride; i++) assert_true(p.y[t * p.y_stride + i] == 42);
    }
    free(row);
    return p.y;
}

/* The stated rounding of x, in double: unit by unit. */
static void round_x(const float *x, int64_t k, int64_t unit, double *rounded, double *half_step)
{
    for (int64_t u = 0; u < k; u += unit) {
        float largest = 0;
        for (int64_t j = u; j < u + unit; j++) largest = fmaxf(largest, fabsf(x[j]));
        double d = (double)(largest / 127);
        for (int64_t j = u; j < u + unit; j++) {
            rounded[j] = d * (double)nearbyintf(x[j] * (127 / largest));
            half_step[j] = d / 2;
        }
    }
}

static void check_values(const problem *q, const float *y)
{
    int64_t k = q->p.k, unit = ml_dtype_block_length(q->p.w_dtype);
    double *rounded = malloc((size_t)k * sizeof *rounded), *half_step = malloc((size_t)k * sizeof *half_step);
    for (int64_t t = 0; t < q->p.n_token; t++) {
        const float *x = q->x + t * (k + GAP);
        round_x(x, k, unit, rounded, half_step);
        for (int64_t i = 0; i < q->p.n; i++) {
            double exact = 0, sum = 0, bound = 0, x_size = 0, w_largest = 0;
            for (int64_t j = 0; j < k; j++) {
                double w = q->w[i * k + j];
                exact += w * (double)x[j];
                sum += w * rounded[j];
                bound += half_step[j] * fabs(w);
                x_size += fabs(rounded[j]);
                w_largest = fmax(w_largest, fabs(w));
            }
            /* Each unit adds two rounded terms to a sum that is at most 3 x_size w_largest (a type with minima adds a
             * larger scale term and subtracts the minima; the dequantised w are rounded as well): 2^-24 each, and
             * the errors of up to 80 units add up like their square root at the least likely. */
            double rounding = 2e-6 * x_size * w_largest;
            double got = (double)y[t * q->p.y_stride + i];
            if (!(fabs(got - sum) <= rounding) || !(fabs(got - exact) <= 1.0001 * bound + rounding)) {
                fail_msg("%s %s token %lld row %lld k %lld: %.9g, expected %.9g +- %.2g (exact %.9g +- %.2g)",
                         ml_dtype_name(q->p.w_dtype), ml_isa_name(ml_cpu_isa()), (long long)t, (long long)i,
                         (long long)k, got, sum, rounding, exact, bound);
            }
        }
    }
    free(rounded);
    free(half_step);
}

static void expect_same(const problem *q, const float *want, const float *got, int64_t first, int64_t n_token,
                        const char *what)
{
    for (int64_t t = 0; t < n_token; t++) {
        if (memcmp(want + (first + t) * q->p.y_stride, got + t * q->p.y_stride, (size_t)q->p.n * sizeof *got)) {
            fail_msg("%s, %s: token %lld of %lld differs (%s)", ml_dtype_name(q->p.w_dtype), ml_isa_name(ml_cpu_isa()),
                     (long long)(first + t), (long long)q->p.n_token, what);
        }
    }
}

static void check_problem(ml_dtype dtype, int64_t n_token, int64_t n, int64_t k, content c)
{
    problem q = make_problem(dtype, n_token, n, k, c);
    ml_isa best = ml_cpu_isa();
    float *want = run(&q, ML_LAYOUT_ROWS, 0, n_token, ml_qmatmul_run);
    check_values(&q, want);
    for (int isa = ML_ISA_SCALAR; isa <= (int)best; isa++) {
        ml_cpu_set_isa((ml_isa)isa);
        for (int layout = 0; layout < 2; layout++) {
            float *y = run(&q, (ml_layout)layout, 0, n_token, ml_qmatmul_run_serial);
            expect_same(&q, want, y, 0, n_token, layout ? "panels" : "rows");
            free(y);
            for (int64_t t = 0; t < n_token; t += 3) {
                int64_t some = 1 + t / 3 % 4; /* 1, 2, 3, 4, ... */
                if (some > n_token - t) some = n_token - t;
                y = run(&q, (ml_layout)layout, t, some, ml_qmatmul_run);
                expect_same(&q, want, y, t, some, "part of the batch");
                free(y);
            }
        }
    }
    ml_cpu_set_isa(best);
    free(want);
    free_problem(&q);
}

static void test_shapes(void **state)
{
    (void)state;
    for (int dtype = ML_Q8_0; dtype < ML_N_DTYPE; dtype++) {
        int64_t unit = ml_dtype_block_length((ml_dtype)dtype);
        check_problem((ml_dtype)dtype, 1, 1, unit, RANDOM);
        check_problem((ml_dtype)dtype, 13, 37, 3 * unit, RANDOM);
        check_problem((ml_dtype)dtype, 7, 50, 2304 + unit, RANDOM); /* more than one chunk */
    }
}

/* Codes and activations at their extremes: intermediate sums of 16 bits must not saturate. */
static void test_extremes(void **state)
{
    (void)state;
    for (int dtype = ML_Q8_0; dtype < ML_N_DTYPE; dtype++) {
        check_problem((ml_dtype)dtype, 11, 33, 512, LARGEST_CODES);
        check_problem((ml_dtype)dtype, 11, 17, 512, SMALLEST_CODES);
    }
}

static void test_threads(void **state)
{
    (void)state;
    const ml_dtype types[] = { ML_Q4_K, ML_Q6_K, ML_Q8_0 };
    for (int i = 0; i < 3; i++) {
        problem q = make_problem(types[i], 9, 200, 512, RANDOM);
        float *want = run(&q, ML_LAYOUT_ROWS, 0, 9, ml_qmatmul_run_serial);
        for (int n_threads = 1; n_threads <= 3; n_threads++) {
            ml_thread_set_count(n_threads);
            float *y = run(&q, ML_LAYOUT_PANELS, 0, 9, ml_qmatmul_run);
            expect_same(&q, want, y, 0, 9, "threads");
            free(y);
            ml_qx qx = ml_qx_make(types[i], q.x, q.p.k + GAP, 9, q.p.k, q.qx_memory);
            assert_ptr_equal(qx.q, q.qx.q);
            y = run(&q, ML_LAYOUT_ROWS, 0, 9, ml_qmatmul_run);
            expect_same(&q, want, y, 0, 9, "x rounded by threads");
            free(y);
        }
        ml_thread_set_count(0);
        free(want);
        free_problem(&q);
    }
}

/* Several products in one loop: of types and heights of their own, as panels and as rows, for few tokens and many. */
static void test_list(void **state)
{
    (void)state;
    const struct {
        ml_dtype dtype;
        int64_t n;
    } part[] = { { ML_Q4_K, 416 }, { ML_Q5_0, 401 }, { ML_Q6_K, 1000 }, { ML_IQ4_NL, 450 } };
    enum { N = 4, K = 512 };
    const int64_t n_tokens[] = { 1, 2, 3, 9 };
    for (int i = 0; i < 4; i++) {
        problem q[N];
        float *want[N];
        for (int j = 0; j < N; j++) {
            q[j] = make_problem(part[j].dtype, n_tokens[i], part[j].n, K, RANDOM);
            want[j] = run(&q[j], ML_LAYOUT_ROWS, 0, n_tokens[i], ml_qmatmul_run_serial);
        }
        for (int n_threads = 1; n_threads <= 3; n_threads++) {
            ml_qmatmul list[N];
            ml_thread_set_count(n_threads);
            for (int j = 0; j < N; j++) {
                list[j] = q[j].p;
                list[j].x = &q[j].qx;
                list[j].w_layout = j == 2 ? ML_LAYOUT_ROWS : ML_LAYOUT_PANELS;
                list[j].w = j == 2 ? q[j].rows : q[j].panels;
                list[j].y = calloc((size_t)(n_tokens[i] * list[j].y_stride), sizeof(float));
            }
            ml_qmatmul_run_list(list, N);
            for (int j = 0; j < N; j++) {
                expect_same(&q[j], want[j], list[j].y, 0, n_tokens[i], "in a list");
                free(list[j].y);
            }
        }
        ml_thread_set_count(0);
        for (int j = 0; j < N; j++) {
            free(want[j]);
            free_problem(&q[j]);
        }
    }
}

static void expect_same_rounding(ml_dtype dtype, const float *x, int64_t n_row, int64_t k)
{
    ml_isa best = ml_cpu_isa();
    size_t n_bytes = ml_qx_bytes(dtype, n_row, k);
    void *first = ml_calloc(1, n_bytes), *other = ml_calloc(1, n_bytes);
    ml_qx_make(dtype, x, k, n_row, k, first);
    for (int isa = ML_ISA_SCALAR; isa < (int)best; isa++) {
        ml_cpu_set_isa((ml_isa)isa);
        ml_qx_make(dtype, x, k, n_row, k, other);
        assert_memory_equal(first, other, n_bytes);
    }
    ml_cpu_set_isa(best);
    ml_free(first);
    ml_free(other);
}

/* The rounding of x has the same bits on every instruction set, and treats its edges as stated. */
static void test_rounding_of_x(void **state)
{
    (void)state;
    enum { K = 512 };
    float x[3 * K];
    ml_rng rng = ml_rng_make(4, 4);
    for (int i = 0; i < 3 * K; i++) x[i] = (float)ml_rng_normal(&rng);
    for (int i = 0; i < 256; i++) x[K + i] = i % 2 ? 1e-35f : -0.0f; /* below 2^-100: zero */
    x[K + 300] = 127;
    x[K + 301] = 2.5f; /* d = 1: ties go to the even neighbour */
    x[K + 302] = -3.5f;
    x[2 * K + 3] = INFINITY;
    x[2 * K + 400] = NAN;
    void *memory = ml_alloc(ml_qx_bytes(ML_Q4_K, 3, K));
    ml_qx qx = ml_qx_make(ML_Q4_K, x, K, 3, K, memory);
    for (int i = 0; i < 2 * K / 16; i++) {
        int sum = 0;
        for (int j = 0; j < 16; j++) sum += qx.q[16 * i + j];
        assert_int_equal(qx.sum[i], sum);
    }
    for (int i = 0; i < 256; i++) assert_int_equal(qx.q[K + i], 0);
    assert_true(qx.d[2] == 0 && qx.d[3] == 1);
    assert_int_equal(qx.q[K + 300], 127);
    assert_int_equal(qx.q[K + 301], 2);
    assert_int_equal(qx.q[K + 302], -4);
    assert_true(isnan(qx.d[4]) && isnan(qx.d[5]));
    ml_free(memory);
    expect_same_rounding(ML_Q4_K, x, 3, K);
    expect_same_rounding(ML_Q5_0, x, 3, K);
}

/* A NaN in one token stays there. */
static void test_not_finite(void **state)
{
    (void)state;
    problem q = make_problem(ML_Q4_K, 5, 20, 256, RANDOM);
    float *want = run(&q, ML_LAYOUT_ROWS, 0, 5, ml_qmatmul_run);
    q.x[2 * (256 + GAP) + 17] = NAN;
    ml_qx_make(ML_Q4_K, q.x, 256 + GAP, 5, 256, q.qx_memory);
    float *y = run(&q, ML_LAYOUT_ROWS, 0, 5, ml_qmatmul_run);
    for (int i = 0; i < 20; i++) assert_true(isnan(y[2 * q.p.y_stride + i]));
    expect_same(&q, want, y, 0, 2, "beside a NaN");
    expect_same(&q, want, y + 3 * q.p.y_stride, 3, 2, "beside a NaN");
    free(y);
    free(want);
    free_problem(&q);
}

static void test_empty(void **state)
{
    (void)state;
    const int64_t sizes[][3] = { { 0, 5, 256 }, { 2, 0, 256 }, { 2, 5, 0 } };
    for (int i = 0; i < 3; i++) {
        problem q = make_problem(ML_Q6_K, sizes[i][0], sizes[i][1], sizes[i][2], RANDOM);
        float *y = run(&q, ML_LAYOUT_PANELS, 0, q.p.n_token, ml_qmatmul_run);
        for (int64_t t = 0; t < q.p.n_token; t++) {
            for (int64_t j = 0; j < q.p.n; j++) assert_true(y[t * q.p.y_stride + j] == 0);
        }
        free(y);
        free_problem(&q);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list),    cmocka_unit_test(test_shapes),        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_threads), cmocka_unit_test(test_rounding_of_x), cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_empty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
