/* Products for inference: against a double-precision reference, the promised order of summation, and the promise
 * that a token's bits do not depend on its neighbours, the threads or the instruction set. */
#include "support/support.h"

#include "base/cpu.h"
#include "base/rng.h"
#include "base/thread.h"
#include "ops/cpu/matvec.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GAP = 5 }; /* unused elements after each row, NaN where they could do harm */

typedef struct {
    ml_matvec p;
    float *x;
    void *w;
    double *w_real; /* [n, k], what the stored weights are worth */
    int32_t *x_row;
} problem;

static problem make_problem(int64_t n_token, int64_t n, int64_t k, ml_dtype dtype, bool gather)
{
    ml_rng rng = ml_rng_make(5, (uint64_t)(n_token * 7919 + n * 31 + k));
    problem q = { 0 };
    int64_t stride = k + GAP, n_stored = 2 * n_token + 1;
    q.x = malloc((size_t)(n_stored * stride) * sizeof *q.x);
    for (int64_t i = 0; i < n_stored * stride; i++) q.x[i] = i % stride < k ? (float)ml_rng_normal(&rng) : NAN;
    float *w = malloc((size_t)(n * stride + 1) * sizeof *w);
    q.w_real = malloc((size_t)(n * k + 1) * sizeof *q.w_real);
    q.w = malloc((size_t)(n * stride + 1) * 4);
    for (int64_t i = 0; i < n * stride; i++) w[i] = i % stride < k ? (float)ml_rng_normal(&rng) : NAN;
    ml_convert_from_f32(dtype, w, q.w, n * stride);
    ml_convert_to_f32(dtype, q.w, w, n * stride);
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < k; j++) q.w_real[i * k + j] = w[i * stride + j];
    }
    free(w);
    if (gather) {
        q.x_row = malloc((size_t)(n_token + 1) * sizeof *q.x_row);
        for (int64_t t = 0; t < n_token; t++) q.x_row[t] = (int32_t)ml_rng_below(&rng, (uint64_t)n_stored);
    }
    q.p = (ml_matvec){ .n_token = n_token,
                       .n = n,
                       .k = k,
                       .x = q.x,
                       .x_stride = stride,
                       .x_row = q.x_row,
                       .w_dtype = dtype,
                       .w = q.w,
                       .w_stride = stride,
                       .y_stride = n + 2 };
    return q;
}

static void free_problem(problem *q)
{
    free(q->x);
    free(q->w);
    free(q->w_real);
    free(q->x_row);
}

static size_t y_bytes(const ml_matvec *p)
{
    return (size_t)(p->n_token * p->y_stride) * sizeof(float);
}

static float *run(const ml_matvec *p, void (*product)(const ml_matvec *))
{
    ml_matvec q = *p;
    q.y = malloc(y_bytes(p) + 1);
    for (int64_t i = 0; i < p->n_token * p->y_stride; i++) q.y[i] = 42;
    product(&q);
    return q.y;
}

static const float *token_of(const ml_matvec *p, int64_t t)
{
    return p->x + (p->x_row ? p->x_row[t] : t) * p->x_stride;
}

/* The order that matvec.h promises, written down once more. */
static float dot_in_order(const float *x, const double *w, int64_t k)
{
    float s[16] = { 0 };
    for (int64_t j = 0; j < (k + 15) / 16 * 16; j++) {
        s[j % 16] = fmaf(j < k ? x[j] : 0, j < k ? (float)w[j] : 0, s[j % 16]);
    }
    for (int l = 0; l < 8; l++) s[l] += s[l + 8];
    for (int l = 0; l < 4; l++) s[l] += s[l + 4];
    for (int l = 0; l < 2; l++) s[l] += s[l + 2];
    return s[0] + s[1];
}

static void check_values(const problem *q, const float *y)
{
    const ml_matvec *p = &q->p;
    for (int64_t t = 0; t < p->n_token; t++) {
        const float *x = token_of(p, t);
        for (int64_t i = 0; i < p->y_stride; i++) {
            float found = y[t * p->y_stride + i];
            if (i >= p->n) { /* beyond the row: untouched */
                assert_true(found == 42);
                continue;
            }
            const double *w = q->w_real + i * p->k;
            double sum = 0, size = 0;
            for (int64_t j = 0; j < p->k; j++) {
                sum += x[j] * w[j];
                size += fabs(x[j] * w[j]);
            }
            /* An element passes through at most k / 16 + 1 fused steps of its lane and 4 additions of the tree. */
            double bound = ((double)p->k / 16 + 5) * FLT_EPSILON / 2 * size;
            if (!(fabs(found - sum) <= bound)) {
                fail_msg("[%lld,%lld]: %.9g, expected %.9g within %.3g", (long long)t, (long long)i, (double)found, sum,
                         bound);
            }
            float ordered = dot_in_order(x, w, p->k);
            assert_memory_equal(&found, &ordered, sizeof found);
        }
    }
}

static void check_shape(int64_t n_token, int64_t n, int64_t k, ml_dtype dtype, bool gather)
{
    problem q = make_problem(n_token, n, k, dtype, gather);
    ml_isa best = ml_cpu_isa();
    for (int isa = ML_ISA_SCALAR; isa <= (int)best; isa++) {
        ml_cpu_set_isa((ml_isa)isa);
        for (int n_threads = 0; n_threads <= 2; n_threads++) {
            ml_thread_set_count(n_threads);
            float *y = run(&q.p, n_threads ? ml_matvec_run : ml_matvec_run_serial);
            check_values(&q, y);
            free(y);
        }
        ml_thread_set_count(0);
    }
    ml_cpu_set_isa(best);
    free_problem(&q);
}

static void test_shapes(void **state)
{
    (void)state;
    const int64_t k[] = { 1, 8, 15, 16, 17, 31, 32, 40, 100 };
    for (int dtype = ML_F32; dtype <= ML_F16; dtype++) {
        for (int64_t n_token = 1; n_token <= 9; n_token++) {
            for (int64_t n = 1; n <= 37; n += 3) {
                check_shape(n_token, n, k[(n_token + n) % 9], (ml_dtype)dtype, (n_token + n) & 1);
            }
        }
        check_shape(1, 700, 600, (ml_dtype)dtype, false); /* large enough for threads */
        check_shape(23, 130, 300, (ml_dtype)dtype, true);
    }
}

static void test_empty(void **state)
{
    (void)state;
    check_shape(0, 5, 7, ML_F32, false);
    check_shape(5, 0, 7, ML_BF16, true);
    check_shape(5, 7, 0, ML_F32, false); /* empty sums are zero */
}

/* Every token of a batch of 11, alone and in every part of the batch: the same bits. */
static void test_batch_invariance(void **state)
{
    (void)state;
    for (int dtype = ML_F32; dtype <= ML_F16; dtype++) {
        problem q = make_problem(11, 333, 250, (ml_dtype)dtype, false);
        float *whole = run(&q.p, ml_matvec_run);
        for (int64_t begin = 0; begin < 11; begin++) {
            for (int64_t n_token = 1; begin + n_token <= 11; n_token++) {
                ml_matvec part = q.p;
                part.x += begin * part.x_stride;
                part.n_token = n_token;
                float *y = run(&part, ml_matvec_run);
                assert_memory_equal(y, whole + begin * part.y_stride, y_bytes(&part));
                free(y);
            }
        }
        free(whole);
        free_problem(&q);
    }
}

/* Tiny negative products round to -0 in every lane, so the sum is -0; but where k is not a multiple of 16, the
 * zeros beyond it make +0 of the lanes they enter.  No implementation may skip them. */
static void test_signed_zero(void **state)
{
    (void)state;
    float x[32], w[32];
    for (int j = 0; j < 32; j++) {
        x[j] = -1e-30f;
        w[j] = 1e-30f;
    }
    ml_isa best = ml_cpu_isa();
    for (int isa = ML_ISA_SCALAR; isa <= (int)best; isa++) {
        ml_cpu_set_isa((ml_isa)isa);
        for (int64_t k = 1; k <= 32; k++) {
            float y, sum = ml_dot_f32(x, w, k);
            assert_true(sum == 0);
            assert_int_equal(signbit(sum) != 0, k % 16 == 0);
            ml_matvec p = { .n_token = 1, .n = 1, .k = k, .x = x, .w_dtype = ML_F32, .w = w, .y = &y };
            ml_matvec_run(&p);
            assert_memory_equal(&y, &sum, sizeof y);
        }
    }
    ml_cpu_set_isa(best);
}

/* ml_dot_f32 is the same sum as ml_matvec's. */
static void test_dot(void **state)
{
    (void)state;
    ml_isa best = ml_cpu_isa();
    for (int64_t k = 0; k < 70; k++) {
        problem q = make_problem(1, 1, k, ML_F32, false);
        float expected = dot_in_order(q.x, q.w_real, k);
        for (int isa = ML_ISA_SCALAR; isa <= (int)best; isa++) {
            ml_cpu_set_isa((ml_isa)isa);
            float found = ml_dot_f32(q.x, q.w, k);
            assert_memory_equal(&found, &expected, sizeof found);
        }
        ml_cpu_set_isa(best);
        free_problem(&q);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),      cmocka_unit_test(test_empty), cmocka_unit_test(test_batch_invariance),
        cmocka_unit_test(test_signed_zero), cmocka_unit_test(test_dot),
    };
    return cmocka_run_group_tests_name("matvec", tests, NULL, NULL);
}
