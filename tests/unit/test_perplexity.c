/* Perplexity, divergence and scores of continuations, against logits that a session gives token by token. */
#include "infer/perplexity.h"

#include "base/thread.h"
#include "infer/continuation.h"
#include "infer/generate.h"
#include "infer/session.h"
#include "support/support.h"
#include "support/tiny_run.h"

#include <math.h>
#include <string.h>

static ml_error err;

enum { N_TEXT = 53, WINDOW = 16, BOS = 2 };

static const double ROUNDING = 2e-5; /* of fp32 log-probabilities of about 5 */

static ml_model *make_model(uint64_t seed)
{
    ml_config config = test_model_config(TEST_MLA_MOE);
    ml_model *m;
    assert_ok(ml_model_make(&config, ML_F32, false, &m, &err));
    ml_model_init(m, seed);
    for (size_t i = 0; i < m->n_weight; i++) {
        ml_weight *w = &m->weight[i];
        for (int64_t k = 0; k < ml_weight_count(w) && w->kind == ML_PARAM_EMBEDDING; k++) ((float *)w->data)[k] *= 5;
    }
    return m;
}

/* log softmax of the logits after `id` [n], as doubles [TEST_VOCAB]. */
static void log_softmax_after(ml_model *m, const int32_t *id, int64_t n, double *out)
{
    ml_session *s;
    assert_ok(ml_session_make(m, WINDOW, true, &s, &err));
    assert_ok(ml_session_append(s, id, n, &err));
    const float *logits = ml_session_logits(s);
    double sum = 0;
    for (int i = 0; i < TEST_VOCAB; i++) sum += exp((double)logits[i]);
    for (int i = 0; i < TEST_VOCAB; i++) out[i] = (double)logits[i] - log(sum);
    ml_session_free(s);
}

static void make_text(int32_t *text)
{
    ml_rng rng = ml_rng_make(3, 1);
    for (int i = 0; i < N_TEXT; i++) text[i] = (int32_t)ml_rng_below(&rng, TEST_VOCAB);
}

static int largest(const double *x)
{
    int best = 0;
    for (int i = 1; i < TEST_VOCAB; i++) best = x[i] > x[best] ? i : best;
    return best;
}

static void check_perplexity(int32_t bos)
{
    ml_model *m = make_model(5), *other = make_model(6);
    int32_t text[N_TEXT], window[WINDOW];
    make_text(text);
    double nll = 0, other_nll = 0, kl = 0, p[TEST_VOCAB], q[TEST_VOCAB];
    int64_t n = 0, n_same = 0, n_window = 0, step = WINDOW - (bos >= 0);
    for (int64_t begin = 0; begin < N_TEXT; begin += step) {
        int64_t n_id = 0;
        n_window++;
        if (bos >= 0) window[n_id++] = bos;
        for (int64_t t = begin; t < begin + step && t < N_TEXT; t++) {
            if (n_id > 0) {
                log_softmax_after(m, window, n_id, q);
                log_softmax_after(other, window, n_id, p);
                nll -= q[text[t]];
                other_nll -= p[text[t]];
                for (int i = 0; i < TEST_VOCAB; i++) kl += exp(p[i]) * (p[i] - q[i]);
                n_same += largest(p) == largest(q);
                n++;
            }
            window[n_id++] = text[t];
        }
    }
    for (int64_t batch = 8; batch <= 64; batch *= 4) {
        ml_perplexity_config config = { .id = text,
                                        .n_id = N_TEXT,
                                        .window = WINDOW,
                                        .batch = batch,
                                        .bos = bos,
                                        .kv_dtype = ML_SESSION_KV,
                                        .base = other };
        ml_perplexity got;
        assert_ok(ml_perplexity_measure(m, &config, &got, &err));
        assert_int_equal(got.n_token, n);
        assert_int_equal(got.n_window, n_window);
        assert_int_equal(ml_perplexity_count_windows(&config), n_window);
        assert_true(fabs(got.nll - nll / (double)n) < ROUNDING);
        assert_true(fabs(got.base_nll - other_nll / (double)n) < ROUNDING);
        assert_true(fabs(got.kl - kl / (double)n) < ROUNDING);
        assert_true(fabs(got.same_top - (double)n_same / (double)n) < 1e-12);
        assert_true(got.nll_error > 0 && got.nll_error < got.nll);
        config.base = m;
        assert_ok(ml_perplexity_measure(m, &config, &got, &err));
        assert_true(got.kl == 0 && got.same_top == 1);
    }
    ml_model_free(m);
    ml_model_free(other);
}

static void test_perplexity(void **state)
{
    (void)state;
    check_perplexity(-1);
    check_perplexity(BOS);
}

static void test_limits(void **state)
{
    (void)state;
    ml_model *m = make_model(5);
    int32_t text[N_TEXT];
    make_text(text);
    ml_perplexity got;
    ml_perplexity_config config = { .id = text,
                                    .n_id = N_TEXT,
                                    .window = WINDOW,
                                    .batch = 64,
                                    .bos = -1,
                                    .kv_dtype = ML_SESSION_KV },
                         bad = config;
    bad.window = 1;
    assert_int_equal(ml_perplexity_measure(m, &bad, &got, &err), ML_EINVAL);
    bad.window = m->config.max_position_embeddings + 1;
    assert_int_equal(ml_perplexity_measure(m, &bad, &got, &err), ML_EINVAL);
    bad = config;
    bad.n_id = 1;
    assert_int_equal(ml_perplexity_measure(m, &bad, &got, &err), ML_EINVAL);
    config.max_window = 2;
    assert_ok(ml_perplexity_measure(m, &config, &got, &err));
    assert_int_equal(got.n_token, 2 * (WINDOW - 1));
    ml_model_free(m);
}

static void test_continuations(void **state)
{
    (void)state;
    enum { N = 9 };
    ml_model *m = make_model(5);
    int32_t id[N][WINDOW];
    ml_continuation item[N];
    double want[N], p[TEST_VOCAB];
    bool greedy[N];
    ml_rng rng = ml_rng_make(8, 0);
    for (int i = 0; i < N; i++) {
        int64_t n = 2 + (int64_t)ml_rng_below(&rng, WINDOW - 2),
                n_context = 1 + (int64_t)ml_rng_below(&rng, (uint64_t)n - 1);
        want[i] = 0;
        greedy[i] = true;
        for (int64_t t = 0; t < n; t++) {
            id[i][t] = (int32_t)ml_rng_below(&rng, TEST_VOCAB);
            if (t < n_context) continue;
            log_softmax_after(m, id[i], t, p);
            if (i % 3 == 0) id[i][t] = largest(p);
            greedy[i] = greedy[i] && largest(p) == id[i][t];
            want[i] += p[id[i][t]];
        }
        item[i] = (ml_continuation){ .id = id[i], .n_id = n, .n_context = n_context };
    }
    for (int64_t batch = 4; batch <= 256; batch *= 8) {
        assert_ok(ml_continuation_score(m, item, N, batch, ML_SESSION_KV, NULL, NULL, &err));
        for (int i = 0; i < N; i++) {
            assert_true(fabs(item[i].logprob - want[i]) < 10 * ROUNDING);
            assert_int_equal(item[i].greedy, greedy[i]);
        }
    }
    item[3].n_context = 0;
    assert_int_equal(ml_continuation_score(m, item, N, 64, ML_SESSION_KV, NULL, NULL, &err), ML_EINVAL);
    ml_model_free(m);
}

/* A model that computes no numbers is an error, not a result. */
static void test_nan(void **state)
{
    (void)state;
    ml_model *m = make_model(1);
    int32_t id[N_TEXT] = { 0 };
    ml_perplexity result;
    ml_perplexity_config config = { .id = id, .n_id = N_TEXT, .window = WINDOW, .batch = WINDOW, .bos = BOS };
    assert_ok(ml_perplexity_measure(m, &config, &result, &err));
    for (size_t i = 0; i < m->n_weight; i++) {
        if (!strcmp(m->weight[i].name, "model.norm.weight")) ((float *)m->weight[i].data)[0] = NAN;
    }
    assert_fails(ml_perplexity_measure(m, &config, &result, &err), ML_EFORMAT, "computes no numbers (NaN)");
    ml_session *s;
    ml_sampler *sampler;
    ml_generation g;
    ml_sampling sampling = ml_sampling_default();
    const ml_generate_config how = { .max_tokens = 4 };
    sampling.temperature = 0;
    assert_ok(ml_session_make(m, WINDOW, true, &s, &err));
    assert_ok(ml_sampler_make(&sampling, TEST_VOCAB, TEST_VOCAB, &sampler, &err));
    assert_fails(ml_generate(s, sampler, id, 3, &how, &g, &err), ML_EFORMAT, "computes no numbers (NaN)");
    assert_null(g.id);
    ml_sampler_free(sampler);
    ml_session_free(s);
    ml_model_free(m);
}

int main(void)
{
    ml_thread_set_count(1);
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_nan), cmocka_unit_test(test_perplexity),
                                        cmocka_unit_test(test_limits), cmocka_unit_test(test_continuations) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
