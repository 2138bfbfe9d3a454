/* The engine: answers in a crowd against the same requests alone, and the pages behind it. */
#include "infer/engine.h"

#include "base/thread.h"
#include "infer/session.h"
#include "support/question.h"
#include "support/support.h"

#include <string.h>

static ml_error err;
static const int32_t stop_ids[] = { 3, 17 };

enum { N_REQUEST = 14, MAX_PROMPT = 40, MAX_ANSWER = 30 };

/* Prompts of different lengths, several of which begin alike; some greedy, some with a seed. */
static void make_questions(test_question *q)
{
    ml_rng rng = ml_rng_make(11, 0);
    for (int i = 0; i < N_REQUEST; i++) {
        q[i] = (test_question){ .n_prompt = 1 + (int64_t)ml_rng_below(&rng, MAX_PROMPT),
                                .sampling = ml_sampling_default(),
                                .stop_id = stop_ids,
                                .n_stop = 2 };
        for (int64_t k = 0; k < q[i].n_prompt; k++) {
            q[i].prompt[k] = i % 2 && k < 8 ? (int32_t)k : (int32_t)ml_rng_below(&rng, TEST_VOCAB);
        }
        q[i].max_tokens = 1 + (int64_t)ml_rng_below(&rng, MAX_ANSWER);
        q[i].sampling.temperature = i % 3 ? 0.9 : 0;
        q[i].sampling.top_p = i % 4 ? 1 : 0.9;
        q[i].sampling.repetition_penalty = i % 5 ? 1 : 1.2;
        q[i].sampling.seed = (uint64_t)i;
    }
}

static void test_answers_do_not_depend_on_the_crowd(void **state)
{
    (void)state;
    /* slots, prompt tokens of a pass, tokens of the cache (0: all), threads */
    static const int64_t settings[][4] = { { 1, 512, 0, 1 }, { 3, 7, 0, 1 }, { 8, 64, 0, 2 }, { 8, 512, 150, 1 } };
    for (int which = 0; which < 2 * TEST_N_MODEL; which++) { /* the second time with bf16 weights */
        ml_model *m = test_model_make_sharp((test_model)(which % TEST_N_MODEL), MAX_PROMPT + MAX_ANSWER);
        if (which >= TEST_N_MODEL) m = test_model_round_to_bf16(m);
        test_question q[N_REQUEST], alone[N_REQUEST];
        make_questions(q);
        for (int i = 0; i < N_REQUEST; i++) test_question_answer_alone(m, &q[i], &alone[i]);
        for (size_t k = 0; k < sizeof settings / sizeof settings[0]; k++) {
            ml_engine_config config = { .n_slot = settings[k][0],
                                        .capacity = MAX_PROMPT + MAX_ANSWER,
                                        .chunk = settings[k][1],
                                        .cache_token = settings[k][2],
                                        .n_valid = TEST_VOCAB,
                                        .kv_dtype = ML_SESSION_KV };
            ml_engine *e;
            ml_thread_set_count((int)settings[k][3]);
            assert_ok(ml_engine_make(m, &config, &e, &err));
            make_questions(q);
            for (int i = 0; i < N_REQUEST; i++) {
                int64_t id;
                ml_request request = test_question_request(&q[i]);
                assert_ok(ml_engine_submit(e, &request, &id, &err));
                if (i == 5) assert_ok(ml_engine_step(e, &err)); /* some come while others are answered */
            }
            test_engine_run(e);
            for (int i = 0; i < N_REQUEST; i++) test_question_assert_same(&q[i], &alone[i]);
            ml_engine_free(e);
        }
        ml_thread_set_count(1);
        ml_model_free(m);
    }
}

static void test_cancelled_requests_end_and_others_go_on(void **state)
{
    (void)state;
    ml_model *m = test_model_make_sharp(TEST_MLA_MOE, MAX_PROMPT + MAX_ANSWER);
    test_question q[N_REQUEST], alone[N_REQUEST];
    int64_t id[N_REQUEST];
    make_questions(q);
    for (int i = 0; i < N_REQUEST; i++) {
        q[i].max_tokens = MAX_ANSWER;
        test_question_answer_alone(m, &q[i], &alone[i]);
    }
    ml_engine_config config = {
        .n_slot = 4, .capacity = MAX_PROMPT + MAX_ANSWER, .n_valid = TEST_VOCAB, .kv_dtype = ML_SESSION_KV
    };
    ml_engine *e;
    assert_ok(ml_engine_make(m, &config, &e, &err));
    for (int i = 0; i < N_REQUEST; i++) {
        ml_request request = test_question_request(&q[i]);
        assert_ok(ml_engine_submit(e, &request, &id[i], &err));
    }
    assert_ok(ml_engine_step(e, &err));
    ml_engine_cancel(e, id[0]);             /* running, unless it had ended */
    ml_engine_cancel(e, id[N_REQUEST - 1]); /* waiting */
    ml_engine_cancel(e, 12345);
    test_engine_run(e);
    assert_int_equal(q[N_REQUEST - 1].n_end, 1);
    assert_int_equal(q[N_REQUEST - 1].finish, ML_FINISH_CANCEL);
    assert_int_equal(q[N_REQUEST - 1].n_answer, 0);
    assert_int_equal(q[0].n_end, 1);
    assert_true(q[0].n_answer <= 1);
    for (int i = 1; i < N_REQUEST - 1; i++) test_question_assert_same(&q[i], &alone[i]);
    ml_engine_free(e);
    ml_model_free(m);
}

static void test_requests_that_cannot_be_answered(void **state)
{
    (void)state;
    ml_model *m = test_model_make_sharp(TEST_DENSE, MAX_PROMPT + MAX_ANSWER);
    ml_engine_config config = { .n_slot = 2, .capacity = 10, .n_valid = TEST_VOCAB, .kv_dtype = ML_SESSION_KV };
    ml_engine *e;
    int64_t id;
    assert_ok(ml_engine_make(m, &config, &e, &err));
    int32_t prompt[10] = { 0 };
    ml_request good = { .prompt = prompt, .n_prompt = 9, .sampling = ml_sampling_default(), .max_tokens = 1 }, bad;
    assert_ok(ml_engine_submit(e, &good, &id, &err));
    bad = good;
    bad.n_prompt = 0;
    assert_int_equal(ml_engine_submit(e, &bad, &id, &err), ML_EINVAL);
    bad.n_prompt = 10;
    assert_int_equal(ml_engine_submit(e, &bad, &id, &err), ML_EINVAL);
    assert_non_null(strstr(err.message, "10 tokens"));
    bad = good;
    bad.max_tokens = 0;
    assert_int_equal(ml_engine_submit(e, &bad, &id, &err), ML_EINVAL);
    bad = good;
    bad.sampling.top_p = 2;
    assert_int_equal(ml_engine_submit(e, &bad, &id, &err), ML_EINVAL);
    prompt[3] = TEST_VOCAB;
    assert_int_equal(ml_engine_submit(e, &good, &id, &err), ML_EINVAL);
    test_engine_run(e);
    ml_engine_free(e);
    ml_model_free(m);
}

static void test_pages(void **state)
{
    (void)state;
    ml_pages p;
    assert_ok(ml_pages_make(&p, 5, 8, 3, 32, &err));
    assert_int_equal(p.pages_per_seq, 4);
    assert_true(ml_pages_reserve(&p, 0, 9)); /* 2 pages */
    assert_true(ml_pages_reserve(&p, 1, 24));
    assert_int_equal(p.n_free, 0);
    assert_false(ml_pages_reserve(&p, 2, 1));
    assert_true(ml_pages_reserve(&p, 0, 16)); /* has them already */
    for (int i = 0; i < 2; i++) {
        for (int j = 0; j < 3; j++) assert_int_not_equal(p.table[i], p.table[4 + j]);
    }
    ml_pages_adopt(&p, 2, p.table + 4, 2); /* begins as sequence 1 does */
    ml_pages_truncate(&p, 1, 0);
    assert_int_equal(p.n_free, 1); /* the third page; the shared ones have an owner */
    ml_pages_truncate(&p, 2, 8);
    assert_int_equal(p.n_free, 2);
    ml_pages_truncate(&p, 2, 0);
    ml_pages_truncate(&p, 0, 0);
    assert_int_equal(p.n_free, 5);
    ml_pages_free(&p);
}

int main(void)
{
    ml_thread_set_count(1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers_do_not_depend_on_the_crowd),
        cmocka_unit_test(test_cancelled_requests_end_and_others_go_on),
        cmocka_unit_test(test_requests_that_cannot_be_answered),
        cmocka_unit_test(test_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
