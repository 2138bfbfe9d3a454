/* Contexts of 8192 tokens: the same bits however they were cut, up to the last position and not beyond it. */
#include "base/thread.h"
#include "infer/session.h"
#include "support/support.h"
#include "support/tiny_run.h"

#include <math.h>
#include <string.h>

static ml_error err;

enum { N = 8192 };

static int32_t ids[N + 1];

static ml_model *make_model(test_model which)
{
    ml_config config = test_model_config(which);
    ml_model *m;
    config.max_position_embeddings = N;
    config.num_hidden_layers = 1;
    config.first_k_dense_replace = 0;
    assert_ok(ml_model_make(&config, ML_F32, false, &m, &err));
    ml_model_init(m, 5);
    ml_rng rng = ml_rng_make(4, 2);
    for (int i = 0; i <= N; i++) ids[i] = (int32_t)ml_rng_below(&rng, TEST_VOCAB);
    return m;
}

/* Logits behind all of them; the last n_decode come one by one, as generated. */
static void fill(ml_model *m, int64_t chunk, int64_t n_decode, float *logits)
{
    ml_session *s;
    assert_ok(ml_session_make_as(m, N, true, ML_F16, &s, &err));
    for (int64_t i = 0; i < N - n_decode; i += chunk) {
        int64_t left = N - n_decode - i;
        assert_ok(ml_session_append(s, ids + i, left < chunk ? left : chunk, &err));
    }
    for (int64_t i = N - n_decode; i < N; i++) assert_ok(ml_session_append_generated(s, ids[i], &err));
    assert_int_equal(ml_session_count(s), N);
    memcpy(logits, ml_session_logits(s), TEST_VOCAB * sizeof *logits);
    for (int i = 0; i < TEST_VOCAB; i++) assert_true(isfinite(logits[i]));
    assert_fails(ml_session_append(s, ids + N, 1, &err), ML_EINVAL, "8192");
    assert_int_equal(ml_session_count(s), N);
    assert_memory_equal(logits, ml_session_logits(s), TEST_VOCAB * sizeof *logits);
    ml_session_free(s);
}

static void check(test_model which)
{
    ml_model *m = make_model(which);
    float whole[TEST_VOCAB], pieces[TEST_VOCAB], decoded[TEST_VOCAB];
    fill(m, N, 0, whole);
    ml_thread_set_count(2);
    fill(m, 700, 0, pieces);
    ml_thread_set_count(0);
    assert_memory_equal(whole, pieces, sizeof whole);
    /* Two exact algorithms with sums in another order: as close as fp32 and a cache of halves leave them. */
    fill(m, 2048, 5, decoded);
    for (int i = 0; i < TEST_VOCAB; i++) assert_true(fabsf(whole[i] - decoded[i]) < 1e-3f);
    ml_model_free(m);
}

static void test_latent_attention(void **state)
{
    (void)state;
    check(TEST_MLA_MOE);
}

static void test_grouped_attention(void **state)
{
    (void)state;
    check(TEST_GQA_MOE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_latent_attention),
        cmocka_unit_test(test_grouped_attention),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
