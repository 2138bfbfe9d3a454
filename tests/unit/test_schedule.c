/* Learning rates at stated points: closed forms by hand, and the published rates of Moonlight; where the batch grows
 * and the bias rests. */
#include "optim/schedule.h"
#include "support/support.h"

#include <math.h>
#include <string.h>

static ml_error err;

static void assert_lr(const ml_schedule *s, int64_t step, double wanted)
{
    double lr = ml_schedule_get_lr(s, step);
    /* the same formula in the same doubles: a few roundings apart */
    if (fabs(lr - wanted) > 1e-12 * fabs(wanted) + 1e-18)
        fail_msg("step %lld: %.17g, not %.17g", (long long)step, lr, wanted);
}

static void test_warmup_and_constant(void **state)
{
    (void)state;
    ml_schedule s = { .kind = ML_SCHEDULE_CONSTANT, .lr = 1e-3, .warmup = 4, .steps = 10 };
    assert_ok(ml_schedule_check(&s, &err));
    static const double wanted[] = { 0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3 };
    for (int i = 0; i < 5; i++) assert_lr(&s, i, wanted[i]);
    assert_lr(&s, 1000, 1e-3);
    s.warmup = 0;
    assert_lr(&s, 0, 1e-3);
}

static void test_linear(void **state)
{
    (void)state;
    ml_schedule s = { .kind = ML_SCHEDULE_LINEAR, .lr = 1.0, .lr_min = 0.2, .warmup = 2, .steps = 10 };
    assert_ok(ml_schedule_check(&s, &err));
    assert_lr(&s, 2, 1.0);
    assert_lr(&s, 4, 0.8);
    assert_lr(&s, 9, 0.3);
    assert_lr(&s, 10, 0.2);
    assert_lr(&s, 99, 0.2);
}

/* nano-moe: 3e-4 to a tenth of it, warmup 1000 of 14265 steps */
static void test_cosine(void **state)
{
    (void)state;
    ml_schedule s = { .kind = ML_SCHEDULE_COSINE, .lr = 3e-4, .lr_min = 3e-5, .warmup = 1000, .steps = 13000 };
    assert_ok(ml_schedule_check(&s, &err));
    assert_lr(&s, 0, 3e-7);
    assert_lr(&s, 999, 3e-4);
    assert_lr(&s, 1000, 3e-4);
    assert_lr(&s, 5000, 3e-5 + 2.7e-4 * 0.75); /* a third of the way: cos 60 degrees = 1/2 */
    assert_lr(&s, 7000, 1.65e-4);
    assert_lr(&s, 9000, 3e-5 + 2.7e-4 * 0.25);
    assert_lr(&s, 13000, 3e-5);
    assert_lr(&s, 20000, 3e-5);
}

static void test_wsd(void **state)
{
    (void)state;
    ml_schedule s = { .kind = ML_SCHEDULE_WSD, .lr = 1.0, .lr_min = 0.0, .warmup = 5, .steps = 100, .decay = 20 };
    assert_ok(ml_schedule_check(&s, &err));
    assert_lr(&s, 4, 1.0);
    assert_lr(&s, 79, 1.0);
    assert_lr(&s, 80, 1.0);
    assert_lr(&s, 81, 0.95);
    assert_lr(&s, 90, 0.5);
    assert_lr(&s, 99, 0.05);
    assert_lr(&s, 100, 0.0);
    s.decay = 96;
    assert_fails(ml_schedule_check(&s, &err), ML_EINVAL, "5 steps of warmup and 96 of the last stage do not fit");
}

/* arXiv:2502.16982: 2048 x 8192 tokens a step, twice that from step 12k; 5.2T tokens, then 500B. */
static void test_moonlight(void **state)
{
    (void)state;
    const double batch = 2048.0 * 8192.0;
    int64_t cosine_end = 12000 + (int64_t)((5.2e12 - 12000 * batch) / (2.0 * batch) + 0.5);
    int64_t last = (int64_t)(5e11 / (2.0 * batch) + 0.5);
    ml_schedule s = { .kind = ML_SCHEDULE_MOONLIGHT,
                      .lr = 4.2e-4,
                      .lr_min = 4.2e-5,
                      .warmup = 2000,
                      .steps = cosine_end + last,
                      .decay = last,
                      .rewarm = 100,
                      .rewarm_lr = 1e-4,
                      .ramp = { { 12000, 2 } },
                      .n_ramp = 1 };
    assert_ok(ml_schedule_check(&s, &err));
    assert_lr(&s, 999, 2.1e-4);
    assert_lr(&s, 1999, 4.2e-4);
    assert_lr(&s, 2000, 4.2e-4);
    /* published: 3.738e-4 at step 42k; four digits */
    assert_true(fabs(ml_schedule_get_lr(&s, 42000) - 3.738e-4) < 5e-8);
    assert_true(fabs(ml_schedule_get_lr(&s, cosine_end - 1) - 4.2e-5) < 1e-9);
    assert_lr(&s, cosine_end + 49, 4.2e-5 + 0.5 * 5.8e-5);
    assert_lr(&s, cosine_end + 99, 1e-4);
    assert_lr(&s, cosine_end + 100, 1e-4);
    assert_lr(&s, cosine_end + 100 + (last - 100) / 4,
              1e-4 * (1.0 - (double)((last - 100) / 4) / (double)(last - 100)));
    assert_lr(&s, s.steps, 0.0);
    s.rewarm = last + 1;
    assert_fails(ml_schedule_check(&s, &err), ML_EINVAL, "rewarm");
}

static void test_batch_grows(void **state)
{
    (void)state;
    ml_schedule s = { .kind = ML_SCHEDULE_CONSTANT, .lr = 1.0, .steps = 40, .n_ramp = 3 };
    static const char *const text[] = { "10: 2", " 20 :4 ", "20:8" };
    for (int i = 0; i < 3; i++) assert_ok(ml_schedule_parse_ramp(text[i], &s.ramp[i], &err));
    assert_ok(ml_schedule_check(&s, &err));
    int64_t n = 0;
    for (int64_t step = 0; step <= 40; step++) {
        int64_t wanted = step < 10 ? 1 : step < 20 ? 2 : 8; /* of two at one step the last counts */
        assert_int_equal(ml_schedule_get_factor(&s, step), wanted);
        assert_int_equal(ml_schedule_count_batches(&s, step), n);
        n += wanted;
    }
    s.ramp[2].step = 40; /* after the last step there is no larger one */
    assert_int_equal(ml_schedule_get_factor(&s, 39), 4);
    assert_int_equal(ml_schedule_get_factor(&s, 40), 4);
    s.ramp[2].step = 19;
    assert_fails(ml_schedule_check(&s, &err), ML_EINVAL, "at step 19, expected at least 20");
    s.ramp[2] = (ml_batch_ramp){ 30, 0 };
    assert_fails(ml_schedule_check(&s, &err), ML_EINVAL, "is 0 times the first");
    s.n_ramp = ML_MAX_RAMP + 1;
    assert_fails(ml_schedule_check(&s, &err), ML_EINVAL, "17 times");
    static const char *const bad[] = { "", "12", "12:", ": 2", "-1: 2", "1: 2 3", "1: x2", "99999999999999999999: 2" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_fails(ml_schedule_parse_ramp(bad[i], &s.ramp[0], &err), ML_EINVAL, "STEP:N");
}

static void test_bias_rests_last(void **state)
{
    (void)state;
    ml_schedule s = { .kind = ML_SCHEDULE_CONSTANT, .lr = 1.0, .steps = 40 };
    assert_true(ml_schedule_moves_bias(&s, 0) && ml_schedule_moves_bias(&s, 39));
    s.bias_rest = 15;
    assert_ok(ml_schedule_check(&s, &err));
    assert_true(ml_schedule_moves_bias(&s, 24) && !ml_schedule_moves_bias(&s, 25) && !ml_schedule_moves_bias(&s, 40));
    s.bias_rest = 41;
    assert_fails(ml_schedule_check(&s, &err), ML_EINVAL, "last 41 steps, expected 0 to all 40");
}

static void test_bad_values_are_named(void **state)
{
    (void)state;
    ml_schedule s = { .kind = ML_SCHEDULE_COSINE, .lr = -1.0, .steps = 10 };
    assert_fails(ml_schedule_check(&s, &err), ML_EINVAL, "lr is -1");
    s.lr = 1.0;
    s.lr_min = (double)NAN;
    assert_fails(ml_schedule_check(&s, &err), ML_EINVAL, "lr_min is");
    s.lr_min = 0.0;
    s.warmup = 11;
    assert_fails(ml_schedule_check(&s, &err), ML_EINVAL, "do not fit into 10 steps");
    ml_schedule_kind kind;
    assert_ok(ml_schedule_parse_kind("wsd", &kind, &err));
    assert_int_equal(kind, ML_SCHEDULE_WSD);
    assert_fails(ml_schedule_parse_kind("cosin", &kind, &err), ML_EINVAL, "expected constant, linear, cosine");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_warmup_and_constant),
        cmocka_unit_test(test_linear),
        cmocka_unit_test(test_cosine),
        cmocka_unit_test(test_wsd),
        cmocka_unit_test(test_moonlight),
        cmocka_unit_test(test_batch_grows),
        cmocka_unit_test(test_bias_rests_last),
        cmocka_unit_test(test_bad_values_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
