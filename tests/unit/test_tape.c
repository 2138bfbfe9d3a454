/* Gradients on the tape: what an input takes over from a result, and when it must not. */
#include "ops/ops.h"
#include "support/support.h"

#include <stdlib.h>
#include <string.h>

enum { ROWS = 3, COLUMNS = 5, N = ROWS * COLUMNS };

static ml_error err;
static ml_ctx ctx;

static int setup(void **state)
{
    (void)state;
    assert_ok(ml_ctx_init(&ctx, (size_t)1 << 20, (size_t)1 << 20, &err));
    ctx.recording = true;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    ml_ctx_free(&ctx);
    return 0;
}

static ml_tensor *make(int64_t columns)
{
    ml_tensor *t = ml_tensor_new_2d(&ctx, ML_F32, ROWS, columns);
    memset(t->data, 0, (size_t)ml_tensor_count(t) * sizeof(float));
    t->needs_grad = true;
    return t;
}

/* Whole numbers: sums of few of them are exact. */
static float seed_of(int which, int64_t i)
{
    return (float)((which + 1) * (i % 7 - 3));
}

static void seed(ml_tensor *t, int which)
{
    float *grad = ml_tape_grad(&ctx, t);
    for (int64_t i = 0; i < N; i++) grad[i] = seed_of(which, i);
}

/* first * seed 0 + second * seed 1 */
static void expect(ml_tensor *t, float first, float second)
{
    const float *grad = ml_tape_grad(&ctx, t);
    for (int64_t i = 0; i < N; i++) {
        int64_t at = i / COLUMNS * t->stride + i % COLUMNS;
        assert_true(grad[at] == first * seed_of(0, i) + second * seed_of(1, i));
    }
}

static void test_second_term_takes_the_sums_gradient(void **state)
{
    (void)state;
    ml_tensor *a = make(COLUMNS), *b = make(COLUMNS), *y = ml_add(&ctx, a, b, 1);
    seed(y, 0);
    assert_ok(ml_tape_backward(&ctx, &err));
    assert_ptr_equal(b->grad, y->grad);
    expect(a, 1, 0);
    expect(b, 1, 0);
}

static void test_what_read_it_before_adds_to_it(void **state)
{
    (void)state;
    ml_tensor *a = make(COLUMNS), *b = make(COLUMNS), *c = make(COLUMNS);
    ml_tensor *other = ml_add(&ctx, b, c, 2), *y = ml_add(&ctx, a, b, 1);
    seed(y, 0);
    seed(other, 1);
    assert_ok(ml_tape_backward(&ctx, &err));
    assert_ptr_equal(b->grad, y->grad);
    expect(a, 1, 0);
    expect(b, 1, 1);
    expect(c, 0, 2);
}

static void test_what_read_it_later_keeps_them_apart(void **state)
{
    (void)state;
    ml_tensor *a = make(COLUMNS), *b = make(COLUMNS), *c = make(COLUMNS);
    ml_tensor *y = ml_add(&ctx, a, b, 1), *other = ml_add(&ctx, b, c, 2);
    seed(y, 0);
    seed(other, 1);
    assert_ok(ml_tape_backward(&ctx, &err));
    assert_ptr_not_equal(b->grad, y->grad);
    expect(y, 1, 0);
    expect(a, 1, 0);
    expect(b, 1, 1);
    expect(c, 0, 2);
}

static void test_a_scaled_or_equal_term_keeps_its_own(void **state)
{
    (void)state;
    ml_tensor *a = make(COLUMNS), *b = make(COLUMNS), *y = ml_add(&ctx, a, b, 3), *z = ml_add(&ctx, a, a, 1);
    seed(y, 0);
    seed(z, 1);
    assert_ok(ml_tape_backward(&ctx, &err));
    expect(a, 1, 2);
    expect(b, 3, 0);
}

static void test_views(void **state)
{
    (void)state;
    ml_tensor *a = make(COLUMNS), *wide = make(COLUMNS + 2), *whole = make(COLUMNS);
    ml_tensor *part = ml_tensor_cols(&ctx, wide, 1, COLUMNS);
    ml_tensor *y = ml_add(&ctx, a, part, 1), *z = ml_add(&ctx, a, ml_tensor_cols(&ctx, whole, 0, COLUMNS), 1);
    seed(y, 0);
    seed(z, 1);
    assert_ok(ml_tape_backward(&ctx, &err));
    assert_ptr_equal(whole->grad, z->grad);
    expect(a, 1, 1);
    expect(part, 1, 0);
    expect(whole, 0, 1);
    for (int t = 0; t < ROWS; t++) assert_true(wide->grad[t * wide->stride] == 0);
}

static void test_sum_and_norm(void **state)
{
    (void)state;
    ml_tensor *a = make(COLUMNS), *b = make(COLUMNS), *w = ml_tensor_new_1d(&ctx, ML_F32, COLUMNS);
    memset(w->data, 0, COLUMNS * sizeof(float)); /* nothing comes through the norm */
    ml_normed_sum s;
    assert_true(ml_add_rmsnorm(&ctx, a, b, w, 1, &s));
    seed(s.sum, 0);
    seed(s.y, 1);
    assert_ok(ml_tape_backward(&ctx, &err));
    assert_ptr_equal(b->grad, s.sum->grad);
    expect(a, 1, 0);
    expect(b, 1, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_second_term_takes_the_sums_gradient, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_read_it_before_adds_to_it, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_read_it_later_keeps_them_apart, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_scaled_or_equal_term_keeps_its_own, setup, teardown),
        cmocka_unit_test_setup_teardown(test_views, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sum_and_norm, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
