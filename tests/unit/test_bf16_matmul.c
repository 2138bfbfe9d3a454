/* Products with bf16 weights: against double precision, the promised order of summation, and the promise that a token's
 * bits do not depend on its neighbours, the threads or the instruction set. */
#include "support/support.h"

#include "base/cpu.h"
#include "base/rng.h"
#include "base/thread.h"
#include "ops/cpu/bf16_matmul.h"
#include "tensor/dtype.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GAP = 5 /* unused elements after each row, NaN where they could do harm */, NAN_BF16 = 0x7fc0 };

typedef struct {
    ml_bf16_matmul p;
    ml_bf16_input bx;
    int64_t n_stored; /* rows of x */
    float *x;         /* [n_stored, k + GAP] */
    uint16_t *w;      /* [n, k + GAP] */
    void *rounded;
    int32_t *x_row;
} problem;

static problem make_problem(int64_t n_token, int64_t n, int64_t k, bool gather)
{
    ml_rng rng = ml_rng_make(6, (uint64_t)(n_token * 7919 + n * 31 + k));
    int64_t stride = k + GAP;
    problem q = { .n_stored = 2 * n_token + 1 };
    q.x = malloc((size_t)(q.n_stored * stride) * sizeof *q.x);
    for (int64_t i = 0; i < q.n_stored * stride; i++) q.x[i] = i % stride < k ? (float)ml_rng_normal(&rng) : NAN;
    q.w = malloc((size_t)(n * stride + 1) * sizeof *q.w);
    for (int64_t i = 0; i < n * stride; i++) {
        q.w[i] = i % stride < k ? ml_f32_to_bf16((float)ml_rng_normal(&rng)) : NAN_BF16;
    }
    q.rounded = malloc(ml_bf16_input_bytes(q.n_stored, k) + 1);
    q.bx = ml_bf16_input_make(q.x, stride, q.n_stored, k, q.rounded);
    if (gather) {
        q.x_row = malloc((size_t)(n_token + 1) * sizeof *q.x_row);
        for (int64_t t = 0; t < n_token; t++) q.x_row[t] = (int32_t)ml_rng_below(&rng, (uint64_t)q.n_stored);
    }
    q.p = (ml_bf16_matmul){
        .n_token = n_token, .n = n, .k = k, .x_row = q.x_row, .w = q.w, .w_stride = stride, .y_stride = n + 2
    };
    return q;
}

static void free_problem(problem *q)
{
    free(q->x);
    free(q->w);
    free(q->rounded);
    free(q->x_row);
}

/* The order that bf16_matmul.h promises, written down once more. */
static float dot_in_order(const uint16_t *x, const uint16_t *w, int64_t k)
{
    float s[16] = { 0 };
    for (int64_t j = 0; j < k; j += 2) {
        float *lane = &s[j % 32 / 2];
        if (j + 1 < k) *lane = fmaf(ml_bf16_to_f32(x[j + 1]), ml_bf16_to_f32(w[j + 1]), *lane);
        *lane = fmaf(ml_bf16_to_f32(x[j]), ml_bf16_to_f32(w[j]), *lane);
    }
    for (int l = 0; l < 8; l++) s[l] += s[l + 8];
    for (int l = 0; l < 4; l++) s[l] += s[l + 4];
    for (int l = 0; l < 2; l++) s[l] += s[l + 2];
    return s[0] + s[1];
}

static void check_values(const problem *q, const float *y)
{
    const ml_bf16_matmul *p = &q->p;
    for (int64_t t = 0; t < p->n_token; t++) {
        int64_t row = p->x_row ? p->x_row[t] : t;
        const float *x = q->x + row * (p->k + GAP);
        for (int64_t i = 0; i < p->y_stride; i++) {
            float found = y[t * p->y_stride + i];
            if (i >= p->n) { /* beyond the row: untouched */
                assert_true(found == 42);
                continue;
            }
            const uint16_t *w = q->w + i * p->w_stride;
            double sum = 0, size = 0;
            for (int64_t j = 0; j < p->k; j++) {
                double product = (double)x[j] * (double)ml_bf16_to_f32(w[j]);
                sum += product;
                size += fabs(product);
            }
            /* x is rounded to 8 bits of mantissa; an element passes through k / 16 + 2 fused steps of its lane at most
             * and 4 additions of the tree. */
            double bound = (0x1p-8 + ((double)p->k / 16 + 6) * FLT_EPSILON / 2) * size;
            if (!(fabs((double)found - sum) <= bound)) {
                fail_msg("[%lld,%lld]: %.9g, expected %.9g within %.3g", (long long)t, (long long)i, (double)found, sum,
                         bound);
            }
            float ordered = dot_in_order(q->bx.x + row * q->bx.stride, w, p->k);
            assert_memory_equal(&found, &ordered, sizeof found);
        }
    }
}

static void check_run(const problem *q, void (*product)(const ml_bf16_matmul *))
{
    ml_bf16_matmul p = q->p;
    p.x = &q->bx;
    p.y = malloc((size_t)(p.n_token * p.y_stride) * sizeof(float) + 1);
    for (int64_t i = 0; i < p.n_token * p.y_stride; i++) p.y[i] = 42;
    product(&p);
    check_values(q, p.y);
    free(p.y);
}

static void check_shape(int64_t n_token, int64_t n, int64_t k, bool gather)
{
    problem q = make_problem(n_token, n, k, gather);
    ml_isa best = ml_cpu_isa();
    for (int isa = ML_ISA_SCALAR; isa <= (int)best; isa++) {
        ml_cpu_set_isa((ml_isa)isa);
        check_run(&q, ml_bf16_matmul_run_serial);
        for (int n_threads = 1; n_threads <= 2; n_threads++) {
            ml_thread_set_count(n_threads);
            check_run(&q, ml_bf16_matmul_run);
        }
        ml_thread_set_count(0);
    }
    ml_cpu_set_isa(best);
    free_problem(&q);
}

static void test_shapes(void **state)
{
    (void)state;
    const int64_t k[] = { 1, 2, 15, 16, 31, 32, 33, 40, 64, 100 };
    for (size_t i = 0; i < sizeof k / sizeof k[0]; i++) {
        for (int64_t n_token = 1; n_token <= 9; n_token++)
            check_shape(n_token, 1 + (n_token * 5) % 13, k[i], n_token % 2);
    }
}

/* More than one task, on several threads. */
static void test_large(void **state)
{
    (void)state;
    check_shape(1, 530, 1408, false);
    check_shape(15, 203, 1000, true);
}

static void test_nothing(void **state)
{
    (void)state;
    check_shape(0, 7, 32, false);
    check_shape(3, 0, 32, false);
    problem q = make_problem(3, 4, 0, false);
    check_run(&q, ml_bf16_matmul_run); /* zeros */
    free_problem(&q);
}

static void test_rounding(void **state)
{
    (void)state;
    /* Ties go to the even mantissa; what is too large for bf16 becomes infinite, NaN stays. */
    const float x[] = { 1.0f + 0x1p-8f, 1.0f + 3 * 0x1p-8f, -1.0f - 0x1p-8f - 0x1p-20f, FLT_MAX, NAN };
    const uint16_t expected[] = { 0x3f80, 0x3f82, 0xbf81, 0x7f80 };
    uint16_t memory[32];
    ml_bf16_input bx = ml_bf16_input_make(x, 5, 1, 5, memory);
    assert_memory_equal(bx.x, expected, sizeof expected);
    assert_true(isnan(ml_bf16_to_f32(bx.x[4])));
    assert_int_equal(bx.stride, 32);
    for (int i = 5; i < 32; i++) assert_int_equal(bx.x[i], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_nothing),
        cmocka_unit_test(test_rounding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
