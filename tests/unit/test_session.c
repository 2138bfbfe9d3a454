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

/* Random weights, and tokens. */
static ml_model *make_model(ml_config config)
{
    ml_model *m;
    assert_ok(ml_model_make(&config, ML_F32, false, &m, &err));
    ml_model_init(m, 5);
    ml_rng rng = ml_rng_make(9, 1);
    test_model_enlarge(m, &rng);
    ml_rng ids = ml_rng_make(4, 2);
    for (int i = 0; i < N_TOKEN; i++) tokens[i] = (int32_t)ml_rng_below(&ids, TEST_VOCAB);
    return m;
}

static const char *const kv_types[] = { "f32", "f16", "bf16", "q8_0" };
enum { N_KV_TYPE = 4 };

/* Can the cache of this model have this type?  q8_0 stores whole blocks of 32. */
static bool has_kv_type(const ml_model *m, const char *type)
{
    const ml_config *c = &m->config;
    int64_t d = c->attention == ML_ATTENTION_MLA ? c->kv_lora_rank | c->qk_rope_head_dim : c->head_dim;
    return strcmp(type, "q8_0") != 0 || d % 32 == 0;
}

/* Logits after the first n tokens, handed over `chunk` at a time. */
static void session_logits_as(ml_model *m, const char *kv_type, int64_t n, int64_t chunk, bool use_cache, float *logits)
{
    ml_session *s;
    assert_ok(ml_session_make_typed(m, N_TOKEN, use_cache, kv_type, &s, &err));
    assert_null(ml_session_logits(s));
    for (int64_t i = 0; i < n; i += chunk) {
        assert_ok(ml_session_append(s, tokens + i, n - i < chunk ? n - i : chunk, &err));
    }
    assert_int_equal(ml_session_count(s), n);
    memcpy(logits, ml_session_logits(s), TEST_VOCAB * sizeof *logits);
    ml_session_free(s);
}

static void session_logits(ml_model *m, int64_t n, int64_t chunk, bool use_cache, float *logits)
{
    session_logits_as(m, "f16", n, chunk, use_cache, logits);
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

/* A conversation: prompt, answer, prompt in pieces, answer. */
static void converse(ml_session *s, float *logits)
{
    static const int pieces[] = { 30, -20, 17, 13, -25 }; /* negative: generated, one at a time */
    int64_t at = 0;
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        if (pieces[i] > 0) {
            assert_ok(ml_session_append(s, tokens + at, pieces[i], &err));
            at += pieces[i];
        }
        for (int k = 0; k < -pieces[i]; k++) assert_ok(ml_session_append_generated(s, tokens[at++], &err));
    }
    assert_int_equal(ml_session_count(s), at);
    memcpy(logits, ml_session_logits(s), TEST_VOCAB * sizeof *logits);
}

/* Each token keeps its phase and each row its rounding, so computing everything again changes nothing. */
static void test_cache_off_computes_the_same_conversation(void **state)
{
    (void)state;
    for (int which = 0; which < TEST_N_MODEL; which++) {
        ml_model *m = make_model(test_model_config((test_model)which));
        float first[TEST_VOCAB] = { 0 };
        for (int type = 0; type < N_KV_TYPE; type++) {
            float logits[2][TEST_VOCAB];
            if (!has_kv_type(m, kv_types[type])) continue;
            for (int use_cache = 0; use_cache < 2; use_cache++) {
                ml_session *s;
                assert_ok(ml_session_make_typed(m, N_TOKEN, use_cache, kv_types[type], &s, &err));
                converse(s, logits[use_cache]);
                ml_session_free(s);
            }
            assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
            assert_memory_not_equal(logits[0], first, sizeof first); /* the type is in use */
            memcpy(first, logits[0], sizeof first);
        }
        ml_model_free(m);
    }
}

/* Twice the longest of the chunks and some more, so that each is cut at other places. */
static void test_prompts_in_chunks_of_1_7_64_512(void **state)
{
    (void)state;
    enum { N = 1100 };
    static const int64_t chunks[] = { 1, 7, 64, 512 };
    int32_t id[N];
    for (int which = 0; which < TEST_N_MODEL; which++) {
        ml_config config = test_model_config((test_model)which);
        config.max_position_embeddings = N;
        ml_model *m = make_model(config);
        for (int i = 0; i < N; i++) id[i] = tokens[i % 97];
        float first[TEST_VOCAB];
        for (size_t k = 0; k < sizeof chunks / sizeof chunks[0]; k++) {
            ml_session *s;
            assert_ok(ml_session_make(m, N, true, &s, &err));
            for (int64_t i = 0; i < N; i += chunks[k]) {
                assert_ok(ml_session_append(s, id + i, N - i < chunks[k] ? N - i : chunks[k], &err));
            }
            if (k == 0) memcpy(first, ml_session_logits(s), sizeof first);
            assert_memory_equal(ml_session_logits(s), first, sizeof first);
            ml_session_free(s);
        }
        ml_model_free(m);
    }
}

/* The prompt in chunks, then tokens generated greedily: logits after the prompt and after the last of them. */
static void answer_in_chunks(ml_model *m, const int32_t *id, int64_t n, int64_t chunk, int n_answer, int32_t *answer,
                             float (*logits)[TEST_VOCAB])
{
    ml_session *s;
    assert_ok(ml_session_make(m, n + n_answer, true, &s, &err));
    for (int64_t i = 0; i < n; i += chunk) {
        assert_ok(ml_session_append(s, id + i, n - i < chunk ? n - i : chunk, &err));
    }
    memcpy(logits[0], ml_session_logits(s), sizeof logits[0]);
    for (int i = 0; i < n_answer; i++) {
        const float *y = ml_session_logits(s);
        answer[i] = 0;
        for (int32_t t = 1; t < TEST_VOCAB; t++) answer[i] = y[t] > y[answer[i]] ? t : answer[i];
        assert_ok(ml_session_append_generated(s, answer[i], &err));
    }
    memcpy(logits[1], ml_session_logits(s), sizeof logits[1]);
    ml_session_free(s);
}

/* Products with bf16 weights have kernels of their own for one token, few and many: the same bits from all of them. */
static void test_bf16_weights_in_chunks_of_1_7_64_512(void **state)
{
    (void)state;
    enum { N = 600, ANSWER = 12 };
    static const int64_t chunks[] = { 1, 7, 64, 512 };
    int32_t id[N], answer[ANSWER], first_answer[ANSWER];
    for (int which = 0; which < TEST_N_MODEL; which++) {
        ml_config config = test_model_config((test_model)which);
        config.max_position_embeddings = N + ANSWER;
        ml_model *m = test_model_round_to_bf16(make_model(config));
        for (int i = 0; i < N; i++) id[i] = tokens[i % 97];
        float first[2][TEST_VOCAB], logits[2][TEST_VOCAB];
        for (size_t k = 0; k < 2 * sizeof chunks / sizeof chunks[0]; k++) {
            ml_thread_set_count(k < 4 ? 1 : 2);
            answer_in_chunks(m, id, N, chunks[k % 4], ANSWER, k ? answer : first_answer, k ? logits : first);
            if (k == 0) continue;
            assert_memory_equal(logits, first, sizeof first);
            assert_memory_equal(answer, first_answer, sizeof answer);
        }
        ml_thread_set_count(1);
        ml_model_free(m);
    }
}

/* Longer than the chunks of the session itself, which grow with the depth. */
static void test_long_prompts_are_cut_inside(void **state)
{
    (void)state;
    enum { LONG = 2700 };
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

/* Logits [N_TOKEN, TEST_VOCAB] after each token, all of them prompt or all generated. */
static void logits_of(ml_model *m, const char *kv_type, bool generated, float *out)
{
    ml_session *s;
    assert_ok(ml_session_make_typed(m, N_TOKEN, true, kv_type, &s, &err));
    for (int64_t t = 0; t < N_TOKEN; t++) {
        assert_ok(generated ? ml_session_append_generated(s, tokens[t], &err)
                            : ml_session_append(s, tokens + t, 1, &err));
        memcpy(out + t * TEST_VOCAB, ml_session_logits(s), TEST_VOCAB * sizeof *out);
    }
    ml_session_free(s);
}

static double distance_of(const float *a, const float *b)
{
    double distance = 0;
    for (int i = 0; i < N_TOKEN * TEST_VOCAB; i++) distance = fmax(distance, fabs((double)a[i] - (double)b[i]));
    return distance;
}

static double rms_of(const float *a, const float *b)
{
    double sum = 0;
    for (int i = 0; i < N_TOKEN * TEST_VOCAB; i++) sum += pow((double)a[i] - (double)b[i], 2);
    return sqrt(sum / (N_TOKEN * TEST_VOCAB));
}

static void test_fast_logits_are_the_exact_ones(void **state)
{
    (void)state;
    static float exact[N_TOKEN * TEST_VOCAB], fast[N_TOKEN * TEST_VOCAB];
    for (int which = 0; which < TEST_N_MODEL; which++) {
        ml_model *m = make_model(test_model_config((test_model)which));
        exact_logits(m, N_TOKEN, exact);
        for (int generated = 0; generated < 2; generated++) {
            double largest = 0;
            for (int i = 0; i < N_TOKEN * TEST_VOCAB; i++) largest = fmax(largest, fabs((double)exact[i]));
            logits_of(m, "f32", generated, fast);
            double distance = distance_of(exact, fast);
            /* Both are fp32 with other orders of summation, over two layers: some hundred roundings of 6e-8. */
            print_message("  model %d: logits up to %.2f, fast and exact differ by up to %.1e\n", which, largest,
                          distance);
            assert_true(largest > 0.5 && largest < 20);
            assert_true(distance < 1e-4);
        }
        ml_model_free(m);
    }
}

/* ---- a model that has learned something ---- */

static int likeliest(const float *logits)
{
    int best = 0;
    for (int i = 1; i < TEST_VOCAB; i++) best = logits[i] > logits[best] ? i : best;
    return best;
}

/* Latent attention, with rows that divide into blocks of 32; 150 steps. */
static void train_model(test_run *r)
{
    ml_config config = test_model_config(TEST_MLA_MOE);
    ml_train_config train = test_train_config();
    config.kv_lora_rank = config.qk_rope_head_dim = config.rotary_dim = 32;
    train.schedule.steps = 150;
    test_run_start(r, &config, &train);
    for (int64_t i = 0; i < train.schedule.steps; i++) test_run_step(r);
}

/* A text that the model would write, now and then with something else; how far its logits spread. */
static double write_text(ml_model *m)
{
    ml_session *s;
    double spread = 0;
    assert_ok(ml_session_make_typed(m, N_TOKEN, true, "f32", &s, &err));
    tokens[0] = 1;
    for (int32_t t = 0; t + 1 < N_TOKEN; t++) {
        assert_ok(ml_session_append(s, tokens + t, 1, &err));
        const float *z = ml_session_logits(s);
        int best = likeliest(z);
        for (int i = 0; i < TEST_VOCAB; i++) spread = fmax(spread, (double)(z[best] - z[i]));
        tokens[t + 1] = t % 7 == 3 ? t % TEST_VOCAB : best;
    }
    ml_session_free(s);
    return spread;
}

/* The likeliest tokens are the same, but where the first two are closer than `bound`. */
static void expect_same_choices(const float *a, const float *b, double bound)
{
    for (int t = 0; t < N_TOKEN; t++) {
        const float *z = a + t * TEST_VOCAB;
        int first = likeliest(z), other = likeliest(b + t * TEST_VOCAB);
        if (first != other) assert_true((double)(z[first] - z[other]) < bound);
    }
}

/* Absorbed and decompressed attention are as close as two orders of summation.  With a q8_0 cache generated tokens have
 * their queries and the keys' weights rounded to 2^-16 of the largest of them, where fp32 rounds to 2^-24 of each: 256
 * times the 2e-6 to 3e-6 that the phases differ by otherwise, and a few times that where a router is near a tie. */
static void test_phases_agree(void **state)
{
    (void)state;
    static float prompt[N_TOKEN * TEST_VOCAB], generated[N_TOKEN * TEST_VOCAB];
    test_run r;
    train_model(&r);
    double spread = write_text(r.model);
    assert_true(spread > 4); /* not a fresh model, whose logits are all alike */
    for (int type = 0; type < N_KV_TYPE; type++) {
        logits_of(r.model, kv_types[type], false, prompt);
        logits_of(r.model, kv_types[type], true, generated);
        double distance = distance_of(prompt, generated), bound = strcmp(kv_types[type], "q8_0") ? 2e-4 : 1e-2;
        print_message("  cache %s: phases differ by up to %.1e in logits that spread over %.1f\n", kv_types[type],
                      distance, spread);
        assert_true(distance > 0 && distance < bound);
        expect_same_choices(prompt, generated, bound);
    }
    test_run_end(&r, false);
}

/* What a smaller cache costs: every stored number is rounded by up to half a unit of its own size (of q8_0: of the
 * largest of 32), and what comes of it in the logits is of that order: in the mean, since a router may now and then
 * choose another expert. */
static void test_cache_types_are_close(void **state)
{
    (void)state;
    static const double half_unit[N_KV_TYPE] = { 0x1p-24, 0x1p-11, 0x1p-8, 1.0 / 127 };
    static float exact[N_TOKEN * TEST_VOCAB], rounded[N_TOKEN * TEST_VOCAB];
    test_run r;
    train_model(&r);
    double spread = write_text(r.model);
    logits_of(r.model, "f32", true, exact);
    for (int type = 1; type < N_KV_TYPE; type++) {
        logits_of(r.model, kv_types[type], true, rounded);
        double rms = rms_of(exact, rounded);
        print_message("  cache %s: logits move by %.1e (rms), up to %.1e, of %.1f\n", kv_types[type], rms,
                      distance_of(exact, rounded), spread);
        assert_true(rms > 0 && rms < half_unit[type] * spread);
    }
    test_run_end(&r, false);
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
    assert_fails(ml_session_make_typed(m, 10, true, "q9", &s, &err), ML_EINVAL, "no type q9 for keys and values");
    assert_fails(ml_session_make_typed(m, 10, true, "q4_k", &s, &err), ML_EINVAL, "expected f32, f16, bf16 or q8_0");
    assert_fails(ml_session_make_typed(m, 10, true, "q8_0", &s, &err), ML_EINVAL, "use --kv-cache-type f16");
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
    assert_ok(ml_session_make_typed(m, 40, true, "f32", &s, &err));
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
    assert_ok(ml_session_make_typed(m, 40, true, "f32", &s, &err));
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
        cmocka_unit_test(test_prompts_in_chunks_of_1_7_64_512),
        cmocka_unit_test(test_bf16_weights_in_chunks_of_1_7_64_512),
        cmocka_unit_test(test_long_prompts_are_cut_inside),
        cmocka_unit_test(test_cache_off_computes_the_same_conversation),
        cmocka_unit_test(test_fast_logits_are_the_exact_ones),
        cmocka_unit_test(test_phases_agree),
        cmocka_unit_test(test_cache_types_are_close),
        cmocka_unit_test(test_truncating_goes_back),
        cmocka_unit_test(test_refusals_change_nothing),
        cmocka_unit_test(test_how_generation_ends),
        cmocka_unit_test(test_logprobs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
