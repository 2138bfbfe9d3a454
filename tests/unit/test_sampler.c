/* Sampling on logits made by hand: what may be chosen, how often, and that the seed decides. */
#include "infer/sampler.h"
#include "support/support.h"

#include <math.h>
#include <string.h>

static ml_error err;

static const double ROUNDING = 2e-6; /* of the fp32 sum of exponentials */

enum { N = 8 };

static ml_sampler *make(ml_sampling s)
{
    ml_sampler *sampler;
    assert_ok(ml_sampler_make(&s, N, N, &sampler, &err));
    return sampler;
}

/* Bit i is set when id i came up in many draws. */
static unsigned chosen_set(ml_sampling s, const float *logits)
{
    unsigned set = 0;
    ml_sampler *sampler = make(s);
    for (int i = 0; i < 20000; i++) {
        int32_t id = ml_sampler_choose(sampler, logits, NULL, 0, NULL);
        assert_in_range(id, 0, N - 1);
        set |= 1u << id;
    }
    ml_sampler_free(sampler);
    return set;
}

/* Probabilities 0.4, 0.2, 0.15, 0.1, 0.08, 0.04, 0.02, 0.01 at shuffled ids. */
static const double probability[N] = { 0.02, 0.4, 0.1, 0.01, 0.2, 0.08, 0.15, 0.04 };

static void make_logits(float *logits)
{
    for (int i = 0; i < N; i++) logits[i] = (float)(log(probability[i]) + 3);
}

static void test_greedy(void **state)
{
    (void)state;
    float logits[N] = { 1, 5, 5, 2, 5, 0, -1, -2 };
    double logprob;
    ml_sampler *s = make(ml_sampling_default());
    assert_int_equal(ml_sampler_choose(s, logits, NULL, 0, &logprob), 1); /* ties: the lowest id */
    double sum = 0;
    for (int i = 0; i < N; i++) sum += exp((double)logits[i]);
    assert_true(fabs(logprob - (5 - log(sum))) < ROUNDING);
    for (int i = 0; i < N; i++) logits[i] = -3;
    assert_int_equal(ml_sampler_choose(s, logits, NULL, 0, &logprob), 0);
    assert_true(fabs(logprob + log(N)) < ROUNDING);
    ml_sampler_free(s);
}

static void test_padding_rows_are_never_chosen(void **state)
{
    (void)state;
    float logits[N] = { 0, 1, 0, 0, 0, 9, 9, 9 };
    ml_sampling greedy = ml_sampling_default(), hot = greedy;
    hot.temperature = 50;
    ml_sampler *s;
    double logprob;
    assert_ok(ml_sampler_make(&greedy, N, 5, &s, &err));
    assert_int_equal(ml_sampler_choose(s, logits, NULL, 0, &logprob), 1);
    assert_true(fabs(logprob - (1 - log(exp(1) + 4))) < ROUNDING);
    ml_sampler_free(s);
    assert_ok(ml_sampler_make(&hot, N, 5, &s, &err));
    for (int i = 0; i < 5000; i++) assert_in_range(ml_sampler_choose(s, logits, NULL, 0, NULL), 0, 4);
    ml_sampler_free(s);
}

static void test_sets(void **state)
{
    (void)state;
    float logits[N];
    make_logits(logits);
    ml_sampling s = ml_sampling_default();
    s.temperature = 1;
    assert_int_equal(chosen_set(s, logits), 0xff);
    s.top_k = 3;
    assert_int_equal(chosen_set(s, logits), 1u << 1 | 1u << 4 | 1u << 6);
    s.top_k = 1;
    assert_int_equal(chosen_set(s, logits), 1u << 1);
    s.top_k = 100;
    assert_int_equal(chosen_set(s, logits), 0xff);
    s.top_k = 0;
    s.top_p = 0.59; /* 0.4 + 0.2 reach it */
    assert_int_equal(chosen_set(s, logits), 1u << 1 | 1u << 4);
    s.top_p = 0.61; /* and now 0.15 is needed */
    assert_int_equal(chosen_set(s, logits), 1u << 1 | 1u << 4 | 1u << 6);
    s.top_p = 1e-9; /* never none */
    assert_int_equal(chosen_set(s, logits), 1u << 1);
    s.top_p = 1;
    s.min_p = 0.24; /* 0.1 / 0.4 = 0.25 is in, 0.08 / 0.4 = 0.2 is not */
    assert_int_equal(chosen_set(s, logits), 1u << 1 | 1u << 4 | 1u << 6 | 1u << 2);
    /* Temperature comes first: at 0.5 probabilities are squared, 0.4 of 0.2448 in all is 0.65. */
    s.min_p = 0;
    s.temperature = 0.5;
    s.top_p = 0.65;
    assert_int_equal(chosen_set(s, logits), 1u << 1);
    s.temperature = 1;
    assert_int_equal(chosen_set(s, logits), 1u << 1 | 1u << 4 | 1u << 6);
    /* top-k cuts before top-p, which then counts what is left: 0.4 of 0.6. */
    s.top_k = 2;
    s.top_p = 0.66;
    assert_int_equal(chosen_set(s, logits), 1u << 1);
    /* Of equal logits the lower ids stay. */
    float equal[N] = { 0 };
    s.top_k = 3;
    s.top_p = 1;
    assert_int_equal(chosen_set(s, equal), 0x7);
}

static void test_repetition_penalty(void **state)
{
    (void)state;
    float logits[N] = { 2, 1.5f, -1, -1.5f, -9, -9, -9, -9 };
    int32_t recent[] = { 0, 0, 0 }, all[] = { 0, 1 }, low[] = { 2 }, odd[] = { -1, 99, 0 };
    ml_sampling sampling = ml_sampling_default();
    sampling.repetition_penalty = 1.4;
    ml_sampler *s = make(sampling);
    double logprob, sum = 0;
    for (int i = 0; i < N; i++) sum += exp((double)logits[i]);
    assert_int_equal(ml_sampler_choose(s, logits, NULL, 0, NULL), 0);
    assert_int_equal(ml_sampler_choose(s, logits, recent, 1, &logprob), 1); /* 2 / 1.4 = 1.43 */
    assert_true(fabs(logprob - (1.5 - log(sum))) < ROUNDING);               /* under the unmodified logits */
    assert_int_equal(ml_sampler_choose(s, logits, all, 2, NULL), 0);        /* 1.43 against 1.07 */
    assert_int_equal(ml_sampler_choose(s, logits, odd, 3, NULL), 1);        /* ids that are none are passed over */
    ml_sampler_free(s);
    /* Seen three times is as seen once: at 1.3, 2 / 1.3 = 1.54 stays ahead of 1.5. */
    sampling.repetition_penalty = 1.3;
    s = make(sampling);
    assert_int_equal(ml_sampler_choose(s, logits, recent, 3, NULL), 0);
    ml_sampler_free(s);
    /* A negative logit is multiplied: -1 becomes -2, under -1.5. */
    float negative[N] = { -9, -9, -1, -1.5f, -9, -9, -9, -9 };
    sampling.repetition_penalty = 2;
    s = make(sampling);
    assert_int_equal(ml_sampler_choose(s, negative, low, 1, NULL), 3);
    ml_sampler_free(s);
    /* The window: only the newest of `all` counts. */
    sampling.repetition_penalty = 1.4;
    sampling.repetition_window = 1;
    s = make(sampling);
    assert_int_equal(ml_sampler_choose(s, logits, all, 2, NULL), 0);
    int32_t reversed[] = { 1, 0 };
    assert_int_equal(ml_sampler_choose(s, logits, reversed, 2, NULL), 1);
    ml_sampler_free(s);
}

/* Pearson's chi-square of n draws against p; the seed is fixed, so a right sampler passes always. */
static double chi_square(ml_sampling s, const float *logits, const double *p, int n)
{
    int count[N] = { 0 };
    ml_sampler *sampler = make(s);
    for (int i = 0; i < n; i++) count[ml_sampler_choose(sampler, logits, NULL, 0, NULL)]++;
    ml_sampler_free(sampler);
    double x = 0;
    for (int i = 0; i < N; i++) {
        if (p[i] == 0) {
            assert_int_equal(count[i], 0);
            continue;
        }
        double expected = p[i] * n;
        x += (count[i] - expected) * (count[i] - expected) / expected;
    }
    return x;
}

static void test_draws_follow_the_softmax(void **state)
{
    (void)state;
    /* 7 degrees of freedom: above 24.3 in one of a thousand seeds; the mean is 7, and a wrong table gives hundreds. */
    const double limit = 24.3;
    float logits[N];
    double p[N], sum = 0;
    make_logits(logits);
    ml_sampling s = ml_sampling_default();
    s.temperature = 1;
    s.seed = 11;
    double x = chi_square(s, logits, probability, 100000);
    if (!(x < limit)) fail_msg("chi-square %g", x);
    s.temperature = 2;                                              /* square roots */
    assert_true(chi_square(s, logits, probability, 100000) > 1000); /* the test can tell */
    for (int i = 0; i < N; i++) sum += p[i] = sqrt(probability[i]);
    for (int i = 0; i < N; i++) p[i] /= sum;
    x = chi_square(s, logits, p, 100000);
    if (!(x < limit)) fail_msg("temperature 2: chi-square %g", x);
    /* What is kept is renormalised. */
    s.temperature = 1;
    s.top_k = 3;
    memset(p, 0, sizeof p);
    p[1] = 0.4 / 0.75;
    p[4] = 0.2 / 0.75;
    p[6] = 0.15 / 0.75;
    x = chi_square(s, logits, p, 100000);
    if (!(x < 13.8)) fail_msg("top-k: chi-square %g", x); /* 2 degrees of freedom */
}

static void test_seed_decides(void **state)
{
    (void)state;
    float logits[N];
    int32_t first[64], second[64], other[64];
    make_logits(logits);
    ml_sampling s = ml_sampling_default();
    s.temperature = 1;
    s.seed = 5;
    ml_sampler *a = make(s), *b = make(s);
    s.seed = 6;
    ml_sampler *c = make(s);
    for (int i = 0; i < 64; i++) first[i] = ml_sampler_choose(a, logits, NULL, 0, NULL);
    for (int i = 0; i < 64; i++) second[i] = ml_sampler_choose(b, logits, NULL, 0, NULL);
    for (int i = 0; i < 64; i++) other[i] = ml_sampler_choose(c, logits, NULL, 0, NULL);
    assert_memory_equal(first, second, sizeof first);
    assert_memory_not_equal(first, other, sizeof first);
    ml_sampler_reset(a);
    for (int i = 0; i < 64; i++) second[i] = ml_sampler_choose(a, logits, NULL, 0, NULL);
    assert_memory_equal(first, second, sizeof first);
    ml_sampler_free(a);
    ml_sampler_free(b);
    ml_sampler_free(c);
}

/* A model that went wrong still gives an id. */
static void test_extreme_logits(void **state)
{
    (void)state;
    ml_sampling s = ml_sampling_default();
    float huge[N] = { -3e38f, 3e38f, 0, 0, -INFINITY, 0, 0, 0 };
    for (int hot = 0; hot < 2; hot++) {
        s.temperature = hot;
        double logprob;
        ml_sampler *sampler = make(s);
        assert_int_equal(ml_sampler_choose(sampler, huge, NULL, 0, &logprob), 1);
        assert_true(logprob == 0);
        ml_sampler_free(sampler);
        float nan[N];
        for (int i = 0; i < N; i++) nan[i] = NAN;
        sampler = make(s);
        assert_in_range(ml_sampler_choose(sampler, nan, NULL, 0, &logprob), 0, N - 1);
        ml_sampler_free(sampler);
    }
}

/* What the rule is made of, against the C library and 128-bit integers. */
static void test_rule(void **state)
{
    (void)state;
    ml_rng rng = ml_rng_make(3, 1);
    for (int i = 0; i < 100000; i++) {
        double x = i < 1000 ? -0.044 * i : -45 * ml_rng_uniform(&rng), expected = exp(x);
        /* Three roundings of the reduced argument and the last two of the series. */
        if (!(fabs(ml_rule_exp(x) - expected) <= 8e-16 * expected)) fail_msg("exp(%.17g) is off", x);
        uint64_t a = ml_rng_u64(&rng), b = ml_rng_u64(&rng);
        assert_true(ml_rule_high_product(a, b) == (uint64_t)((unsigned __int128)a * b >> 64));
    }
    assert_true(ml_rule_exp(0) == 1 && ml_rule_exp(-INFINITY) < 1e-27 && ml_rule_exp((double)NAN) < 1e-27);
    ml_sampling s = ml_sampling_default();
    s.temperature = 0.5;
    ml_sampler *sampler = make(s);
    ml_sample_rule rule = ml_sampler_get_rule(sampler);
    ml_sampler_free(sampler);
    assert_true(rule.one == 0x1p51);
    assert_true(ml_rule_weight(&rule, 3, 3) == (uint64_t)1 << 51 && ml_rule_weight(&rule, -INFINITY, 3) == 0);
    assert_true(ml_rule_weight(&rule, INFINITY, INFINITY) == (uint64_t)1 << 51);
    uint64_t half = ml_rule_weight(&rule, (float)(3 - 0.5 * log(2)), 3); /* the logit is rounded to 2^-23 */
    assert_true(fabs((double)half * 0x1p-51 - 0.5) < 5e-7);
    rule.top_p = 0.5;
    assert_true(ml_rule_goal(&rule, 1000) == 500 && ml_rule_goal(&rule, 1) == 1);
    assert_ok(ml_sampler_make(&s, 163840, 163840, &sampler, &err));
    assert_true(ml_sampler_get_rule(sampler).one == 0x1p43); /* 163840 of them stay below 2^62 */
    ml_sampler_free(sampler);
}

/* Equal tokens, and a share that falls exactly between two of them: no rounding decides. */
static void test_top_p_between_tokens(void **state)
{
    (void)state;
    const float equal[N] = { 1, 1, 1, 1, -9, -9, -9, -9 };
    ml_sampling s = ml_sampling_default();
    s.temperature = 1;
    s.min_p = 0.5;
    s.top_p = 0.5;
    assert_int_equal(chosen_set(s, equal), 0x3);
    s.top_p = nextafter(0.5, 1);
    assert_int_equal(chosen_set(s, equal), 0x7);
    s.top_p = nextafter(1, 0);
    assert_int_equal(chosen_set(s, equal), 0xf);
}

static void test_settings_out_of_range(void **state)
{
    (void)state;
    ml_sampler *sampler;
    ml_sampling ok = ml_sampling_default(), s;
#define REFUSED(field, value, name)                                                                                    \
    s = ok;                                                                                                            \
    s.field = value;                                                                                                   \
    assert_fails(ml_sampler_make(&s, N, N, &sampler, &err), ML_EINVAL, name);                                          \
    assert_null(sampler)
    REFUSED(temperature, -1, "temperature");
    REFUSED(temperature, (double)NAN, "temperature");
    REFUSED(top_k, -1, "top-k");
    REFUSED(top_p, 0, "top-p");
    REFUSED(top_p, 1.01, "top-p");
    REFUSED(min_p, 1, "min-p");
    REFUSED(min_p, -0.1, "min-p");
    REFUSED(repetition_penalty, 0, "repetition-penalty");
    REFUSED(repetition_window, -1, "repetition-window");
#undef REFUSED
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_padding_rows_are_never_chosen),
        cmocka_unit_test(test_sets),
        cmocka_unit_test(test_repetition_penalty),
        cmocka_unit_test(test_draws_follow_the_softmax),
        cmocka_unit_test(test_seed_decides),
        cmocka_unit_test(test_extreme_logits),
        cmocka_unit_test(test_rule),
        cmocka_unit_test(test_top_p_between_tokens),
        cmocka_unit_test(test_settings_out_of_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
