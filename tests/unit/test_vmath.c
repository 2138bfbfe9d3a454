/* The vector functions, in the copy for any machine: against the C library in double precision. */
#include "ops/cpu/vmath.h"

#include "support/support.h"

#include <math.h>

/* Distance in units of the last place of the nearest float to `expected`. */
static double ulps(float found, double expected)
{
    int exponent;
    frexp(expected, &exponent);
    double unit = ldexp(1, (exponent < -125 ? -125 : exponent) - 24); /* denormals share the smallest unit */
    return fabs((double)found - expected) / unit;
}

static float exp_of(float x)
{
    float lanes[VF_LANES];
    vf_store(lanes, vf_exp(vf_set1(x)));
    return lanes[VF_LANES - 1];
}

static void test_exp_is_accurate(void **state)
{
    (void)state;
    for (int i = 0; i <= 400000; i++) {
        float x = (float)(-104 + 192.7 * i / 400000);
        double expected = exp((double)x), distance = ulps(exp_of(x), expected);
        /* 1 from the polynomial's evaluation without fused operations, 0.5 from the final rounding */
        if (!(distance <= 1.5)) fail_msg("exp(%.9g) is %.9g, %.3g ulp off", (double)x, (double)exp_of(x), distance);
    }
}

static void test_exp_at_the_ends(void **state)
{
    (void)state;
    assert_true(exp_of(0) == 1);
    assert_true(exp_of(-0.0f) == 1);
    assert_true(exp_of(-INFINITY) == 0);
    assert_true(exp_of(-1e30f) == 0);
    assert_true(exp_of(-103.9f) > 0); /* half the smallest denormal is e^-103.97 */
    assert_true(isinf(exp_of(89)));
    assert_true(isinf(exp_of(INFINITY)));
    assert_true(isnan(exp_of(NAN)));
}

static void test_partial_vectors_stay_inside(void **state)
{
    (void)state;
    float from[VF_LANES], to[VF_LANES + 1];
    for (int i = 0; i < VF_LANES; i++) from[i] = (float)(i + 1);
    for (int n = 0; n <= VF_LANES; n++) {
        for (int i = 0; i <= VF_LANES; i++) to[i] = -1;
        vf v = vf_load_first(from, n);
        assert_true(vf_sum(v) == (float)(n * (n + 1) / 2));
        vf_store_first(to, v, n);
        for (int i = 0; i <= VF_LANES; i++) assert_true(to[i] == (i < n ? (float)(i + 1) : -1.0f));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp_is_accurate),
        cmocka_unit_test(test_exp_at_the_ends),
        cmocka_unit_test(test_partial_vectors_stay_inside),
    };
    return cmocka_run_group_tests_name("vector functions", tests, NULL, NULL);
}
