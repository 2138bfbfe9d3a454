/* A session against the exact forward pass, and against itself: chunks, cache, threads. */
#include "infer/session.h"

#include "base/thread.h"
#include "infer/generate.h"
#include "support/support.h"
#include "support/tiny_run.h"

#include <math.h>
#include <string.h>

static ml_error err;

enum { N_TOKEN = 120 };

static int32_t tokens[N_TOKEN];

/* Random weights, the matrices enlarged until logits are of order 1 and attention is not flat. */
static ml_model *make_model(ml_config config)
{
    ml_model *m;
    assert_ok(ml_model_make(&config, ML_F32, false, &m, &err));
    ml_model_init(m, 5);
    ml_rng rng = ml_rng_make(9, 1);
    for (size_t i = 0; i < m->n_weight; i++) {
        ml_weight *w = &m->weight[i];
        float *data = w->data;
        for (int64_t k = 0; k < ml_weight_count(w); k++) {
            if (!w->trained) data[k] = (float)(0.1 * (ml_rng_uniform(&rng) - 0.5)); /* the router's bias */
            if (w->kind == ML_PARAM_NORM) data[k] = (float)(0.5 + ml_rng_uniform(&rng));
            if (w->kind == ML_PARAM_MATRIX) data[k] *= 1.5f;
            if (w->kind == ML_PARAM_EMBEDDING) data[k] *= 5;
        }
    }
    ml_rng ids = ml_rng_make(4, 2);
    for (int i = 0; i < N_TOKEN; i++) tokens[i] = (int32_t)ml_rng_below(&ids, TEST_VOCAB);
    return m;
}

/* Logits after the first n tokens, handed over `chunk` at a time. */
static void session_logits(ml_model *m, int64_t n, int64_t chunk, bool use_cache, float *logits)
{
    ml_session *s;
    assert_ok(ml_session_make(m, N_TOKEN, use_cache, &s, &err));
    assert_null(ml_session_logits(s));
    for (int64_t i = 0; i < n; i += chunk) {
        assert_ok(ml_session_append(s, tokens + i, n - i < chunk ? n - i : chunk, &err));
    }
    assert_int_equal(ml_session_count(s), n);
    memcpy(logits, ml_session_logits(s), TEST_VOCAB * sizeof *logits);
    ml_session_free(s);
}

static void test_logits_do_not_depend_on_chunks_or_cache(void **state)
{
    (void)state;
    static const int64_t chunks[] = { 7, 64, 256 };
    for (int which = 0; which < TEST_N_MODEL; which++) {
        ml_model *m = make_model(test_model_config((test_model)which));
        float one_by_one[TEST_VOCAB], logits[TEST_VOCAB];
        session_logits(m, N_TOKEN, 1, true, one_by_one);
        for (size_t i = 0; i < 3; i++) {
            session_logits(m, N_TOKEN, chunks[i], true, logits);
            assert_memory_equal(logits, one_by_one, sizeof logits);
        }
        session_logits(m, N_TOKEN, 64, false, logits);
        assert_memory_equal(logits, one_by_one, sizeof logits);
        ml_thread_set_count(2);
        session_logits(m, N_TOKEN, 64, true, logits);
        assert_memory_equal(logits, one_by_one, sizeof logits);
        ml_thread_set_count(1);
        session_logits(m, N_TOKEN - 1, 64, true, logits);
        assert_memory_not_equal(logits, one_by_one, sizeof logits);
        ml_model_free(m);
    }
}

/* Longer than a chunk of the session itself. */
static void test_long_prompts_are_cut_inside(void **state)
{
    (void)state;
    enum { LONG = 600 };
    ml_config config = test_model_config(TEST_MLA_MOE);
    config.max_position_embeddings = LONG;
    ml_model *m = make_model(config);
    int32_t id[LONG];
    for (int i = 0; i < LONG; i++) id[i] = tokens[i % 97];
    ml_session *whole, *parts;
    assert_ok(ml_session_make(m, LONG, true, &whole, &err));
    assert_ok(ml_session_make(m, LONG, true, &parts, &err));
    assert_ok(ml_session_append(whole, id, LONG, &err));
    for (int at = 0, n; at < LONG; at += n) {
        n = at % 3 ? 251 : 100;
        if (n > LONG - at) n = LONG - at;
        assert_ok(ml_session_append(parts, id + at, n, &err));
    }
    assert_memory_equal(ml_session_logits(whole), ml_session_logits(parts), TEST_VOCAB * sizeof(float));
    ml_session_free(whole);
    ml_session_free(parts);
    ml_model_free(m);
}

/* The training forward, over the whole sequence at once, in exact mode. */
static void exact_logits(ml_model *m, int64_t n, float *out)
{
    int32_t pos[N_TOKEN], seq[2] = { 0, (int32_t)n };
    int64_t two = 2;
    ml_ctx ctx;
    for (int i = 0; i < N_TOKEN; i++) pos[i] = i;
    assert_ok(ml_ctx_init(&ctx, (size_t)64 << 20, 0, &err));
    ml_model_input in = { .id = ml_tensor_wrap(&ctx, ML_I32, 1, &n, tokens),
                          .pos = ml_tensor_wrap(&ctx, ML_I32, 1, &n, pos),
                          .seq = ml_tensor_wrap(&ctx, ML_I32, 1, &two, seq) };
    ml_tensor *hidden = ml_model_forward(&ctx, m, &in);
    ml_tensor *logits = ml_model_logits(&ctx, m, hidden); // [n, vocab]
    assert_ok(ml_ctx_status(&ctx, &err));
    memcpy(out, ml_f32(logits), (size_t)(n * TEST_VOCAB) * sizeof *out);
    ml_ctx_free(&ctx);
}

static void test_fast_logits_are_the_exact_ones(void **state)
{
    (void)state;
    static float exact[N_TOKEN * TEST_VOCAB];
    for (int which = 0; which < TEST_N_MODEL; which++) {
        ml_model *m = make_model(test_model_config((test_model)which));
        exact_logits(m, N_TOKEN, exact);
        ml_session *s;
        double largest = 0, distance = 0;
        assert_ok(ml_session_make(m, N_TOKEN, true, &s, &err));
        for (int64_t t = 0; t < N_TOKEN; t++) {
            assert_ok(ml_session_append(s, tokens + t, 1, &err));
            for (int i = 0; i < TEST_VOCAB; i++) {
                double x = (double)exact[t * TEST_VOCAB + i], y = (double)ml_session_logits(s)[i];
                largest = fmax(largest, fabs(x));
                distance = fmax(distance, fabs(x - y));
            }
        }
        /* Both are fp32 with other orders of summation, over two layers: some hundred roundings of 6e-8. */
        print_message("  model %d: logits up to %.2f, fast and exact differ by up to %.1e\n", which, largest, distance);
        assert_true(largest > 0.5 && largest < 20);
        assert_true(distance < 1e-4);
        ml_session_free(s);
        ml_model_free(m);
    }
}

static void test_truncating_goes_back(void **state)
{
    (void)state;
    for (int use_cache = 0; use_cache < 2; use_cache++) {
        ml_model *m = make_model(test_model_config(TEST_MLA_LORA));
        float expected[TEST_VOCAB];
        session_logits(m, 50, 50, true, expected);
        ml_session *s;
        assert_ok(ml_session_make(m, N_TOKEN, use_cache, &s, &err));
        assert_ok(ml_session_append(s, tokens, 30, &err));
        assert_ok(ml_session_append(s, tokens + 70, 40, &err)); /* another continuation */
        ml_session_truncate(s, 30);
        assert_int_equal(ml_session_count(s), 30);
        assert_null(ml_session_logits(s));
        assert_ok(ml_session_append(s, tokens + 30, 20, &err));
        assert_memory_equal(ml_session_logits(s), expected, sizeof expected);
        assert_memory_equal(ml_session_ids(s), tokens, 50 * sizeof *tokens);
        ml_session_free(s);
        ml_model_free(m);
    }
}

static void test_refusals_change_nothing(void **state)
{
    (void)state;
    ml_model *m = make_model(test_model_config(TEST_DENSE));
    ml_session *s;
    int32_t bad[] = { 1, TEST_VOCAB }, negative = -1;
    assert_fails(ml_session_make(m, 129, true, &s, &err), ML_EINVAL, "1 to 128");
    assert_fails(ml_session_make(m, 0, true, &s, &err), ML_EINVAL, "1 to 128");
    assert_ok(ml_session_make(m, 10, true, &s, &err));
    assert_ok(ml_session_append(s, tokens, 4, &err));
    float before[TEST_VOCAB];
    memcpy(before, ml_session_logits(s), sizeof before);
    assert_fails(ml_session_append(s, bad, 2, &err), ML_EINVAL, "token id 64 at position 5");
    assert_fails(ml_session_append(s, &negative, 1, &err), ML_EINVAL, "token id -1");
    assert_fails(ml_session_append(s, tokens, 7, &err), ML_EINVAL, "context of 10");
    assert_int_equal(ml_session_count(s), 4);
    assert_memory_equal(ml_session_logits(s), before, sizeof before);
    ml_session_free(s);
    ml_model_free(m);
}

/* ---- generating ---- */

static bool stop_at_third(void *arg, int32_t id, double logprob)
{
    (void)id;
    (void)logprob;
    return ++*(int *)arg < 3;
}

static void generate(ml_model *m, int64_t n_prompt, const ml_generate_config *config, ml_generation *out)
{
    ml_session *s;
    ml_sampler *sampler;
    ml_sampling greedy = ml_sampling_default();
    assert_ok(ml_session_make(m, 40, true, &s, &err));
    assert_ok(ml_sampler_make(&greedy, TEST_VOCAB, TEST_VOCAB, &sampler, &err));
    assert_ok(ml_generate(s, sampler, tokens, n_prompt, config, out, &err));
    ml_sampler_free(sampler);
    ml_session_free(s);
}

static void test_how_generation_ends(void **state)
{
    (void)state;
    ml_model *m = make_model(test_model_config(TEST_GQA_MOE));
    ml_generation g;
    ml_generate_config config = { .max_tokens = 12 };
    generate(m, 10, &config, &g);
    assert_int_equal(g.n, 12);
    assert_int_equal(g.finish, ML_FINISH_LENGTH);
    int32_t fifth = g.id[4];
    int64_t first_of_it = 0;
    while (g.id[first_of_it] != fifth) first_of_it++;
    ml_generation_free(&g);

    config.stop_id = &fifth; /* an end-of-sequence id is the last of the result */
    config.n_stop = 1;
    generate(m, 10, &config, &g);
    assert_int_equal(g.n, first_of_it + 1);
    assert_int_equal(g.finish, ML_FINISH_STOP);
    ml_generation_free(&g);

    int n_call = 0;
    config = (ml_generate_config){ .max_tokens = 12, .on_token = stop_at_third, .arg = &n_call };
    generate(m, 10, &config, &g);
    assert_int_equal(g.n, 3);
    assert_int_equal(g.finish, ML_FINISH_CANCEL);
    ml_generation_free(&g);

    config = (ml_generate_config){ .max_tokens = 1000 }; /* the context is full */
    generate(m, 10, &config, &g);
    assert_int_equal(g.n, 30);
    assert_int_equal(g.finish, ML_FINISH_LENGTH);
    ml_generation_free(&g);
    generate(m, 40, &config, &g);
    assert_int_equal(g.n, 0);
    assert_int_equal(g.finish, ML_FINISH_LENGTH);
    ml_generation_free(&g);

    ml_session *s;
    ml_sampler *sampler;
    ml_sampling greedy = ml_sampling_default();
    assert_ok(ml_session_make(m, 40, true, &s, &err));
    assert_ok(ml_sampler_make(&greedy, TEST_VOCAB, TEST_VOCAB, &sampler, &err));
    assert_fails(ml_generate(s, sampler, tokens, 41, &config, &g, &err), ML_EINVAL, "context of 40");
    assert_fails(ml_generate(s, sampler, tokens, 0, &config, &g, &err), ML_EINVAL, "empty");
    ml_sampler_free(sampler);
    ml_session_free(s);
    ml_model_free(m);
}

/* logprob is that of the id under the softmax of the logits it was chosen from. */
static void test_logprobs(void **state)
{
    (void)state;
    static float exact[N_TOKEN * TEST_VOCAB];
    ml_model *m = make_model(test_model_config(TEST_GQA_SIGMOID));
    ml_generation g;
    ml_generate_config config = { .max_tokens = 20 };
    generate(m, 10, &config, &g);
    memcpy(tokens + 10, g.id, 20 * sizeof *tokens);
    exact_logits(m, 30, exact);
    for (int t = 0; t < 20; t++) {
        const float *z = exact + (9 + t) * TEST_VOCAB;
        double sum = 0;
        for (int i = 0; i < TEST_VOCAB; i++) sum += exp((double)z[i]);
        assert_true(fabs(g.logprob[t] - ((double)z[g.id[t]] - log(sum))) < 2e-4); /* logits within 1e-4, see above */
    }
    ml_generation_free(&g);
    ml_model_free(m);
}

int main(void)
{
    ml_thread_set_count(1); /* as fast for such models, also on a busy machine */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits_do_not_depend_on_chunks_or_cache),
        cmocka_unit_test(test_long_prompts_are_cut_inside),
        cmocka_unit_test(test_fast_logits_are_the_exact_ones),
        cmocka_unit_test(test_truncating_goes_back),
        cmocka_unit_test(test_refusals_change_nothing),
        cmocka_unit_test(test_how_generation_ends),
        cmocka_unit_test(test_logprobs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
