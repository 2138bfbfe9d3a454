/* The engine: answers in a crowd against the same requests alone, and the pages behind it. */
#include "infer/engine.h"

#include "base/thread.h"
#include "infer/generate.h"
#include "infer/session.h"
#include "support/support.h"
#include "support/tiny_run.h"

#include <string.h>

static ml_error err;

enum { N_REQUEST = 14, MAX_PROMPT = 40, MAX_ANSWER = 30 };

typedef struct {
    int32_t prompt[MAX_PROMPT];
    int64_t n_prompt, max_tokens;
    ml_sampling sampling;
    int32_t answer[MAX_ANSWER];
    double logprob[MAX_ANSWER];
    int64_t n_answer;
    int n_end;
    ml_finish finish;
} question;

static ml_model *make_model(test_model which)
{
    ml_config config = test_model_config(which);
    ml_model *m;
    assert_ok(ml_model_make(&config, ML_F32, false, &m, &err));
    ml_model_init(m, 5);
    for (size_t i = 0; i < m->n_weight; i++) {
        ml_weight *w = &m->weight[i];
        float scale = w->kind == ML_PARAM_EMBEDDING ? 5.0f : w->kind == ML_PARAM_MATRIX ? 1.5f : 1.0f;
        for (int64_t k = 0; k < ml_weight_count(w); k++) ((float *)w->data)[k] *= scale;
    }
    return m;
}

/* Prompts of different lengths, several of which begin alike; some greedy, some with a seed. */
static void make_questions(question *q)
{
    ml_rng rng = ml_rng_make(11, 0);
    for (int i = 0; i < N_REQUEST; i++) {
        q[i] = (question){ .n_prompt = 1 + (int64_t)ml_rng_below(&rng, MAX_PROMPT), .sampling = ml_sampling_default() };
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

static bool take_token(void *arg, int32_t id, double logprob)
{
    question *q = arg;
    assert_true(q->n_answer < MAX_ANSWER);
    q->logprob[q->n_answer] = logprob;
    q->answer[q->n_answer++] = id;
    return true;
}

static void take_end(void *arg, ml_finish finish)
{
    question *q = arg;
    q->n_end++;
    q->finish = finish;
}

static const int32_t stop_ids[] = { 3, 17 };

static ml_request request_of(question *q)
{
    return (ml_request){ .prompt = q->prompt,
                         .n_prompt = q->n_prompt,
                         .sampling = q->sampling,
                         .max_tokens = q->max_tokens,
                         .stop_id = stop_ids,
                         .n_stop = 2,
                         .on_token = take_token,
                         .on_end = take_end,
                         .arg = q };
}

/* What a session of its own answers. */
static void answer_alone(ml_model *m, const question *q, question *out)
{
    ml_session *s;
    ml_sampler *sampler;
    ml_generation g;
    ml_generate_config config = { .max_tokens = q->max_tokens, .stop_id = stop_ids, .n_stop = 2 };
    assert_ok(ml_session_make(m, MAX_PROMPT + MAX_ANSWER, true, &s, &err));
    assert_ok(ml_sampler_make(&q->sampling, TEST_VOCAB, TEST_VOCAB, &sampler, &err));
    assert_ok(ml_generate(s, sampler, q->prompt, q->n_prompt, &config, &g, &err));
    *out = *q;
    out->n_answer = g.n;
    out->finish = g.finish;
    memcpy(out->answer, g.id, (size_t)g.n * sizeof *g.id);
    memcpy(out->logprob, g.logprob, (size_t)g.n * sizeof *g.logprob);
    ml_generation_free(&g);
    ml_sampler_free(sampler);
    ml_session_free(s);
}

static void check_same(const question *got, const question *want)
{
    assert_int_equal(got->n_end, 1);
    assert_int_equal(got->finish, want->finish);
    assert_int_equal(got->n_answer, want->n_answer);
    assert_memory_equal(got->answer, want->answer, (size_t)want->n_answer * sizeof *want->answer);
    assert_memory_equal(got->logprob, want->logprob, (size_t)want->n_answer * sizeof *want->logprob);
}

static void run_to_end(ml_engine *e)
{
    int n_step = 0;
    while (ml_engine_is_busy(e)) {
        assert_ok(ml_engine_step(e, &err));
        assert_true(++n_step < 10000);
    }
}

static void test_answers_do_not_depend_on_the_crowd(void **state)
{
    (void)state;
    /* slots, prompt tokens of a pass, tokens of the cache (0: all), threads */
    static const int64_t settings[][4] = { { 1, 512, 0, 1 }, { 3, 7, 0, 1 }, { 8, 64, 0, 2 }, { 8, 512, 150, 1 } };
    for (int which = 0; which < TEST_N_MODEL; which++) {
        ml_model *m = make_model((test_model)which);
        question q[N_REQUEST], alone[N_REQUEST];
        make_questions(q);
        for (int i = 0; i < N_REQUEST; i++) answer_alone(m, &q[i], &alone[i]);
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
                ml_request request = request_of(&q[i]);
                assert_ok(ml_engine_submit(e, &request, &id, &err));
                if (i == 5) assert_ok(ml_engine_step(e, &err)); /* some come while others are answered */
            }
            run_to_end(e);
            for (int i = 0; i < N_REQUEST; i++) check_same(&q[i], &alone[i]);
            ml_engine_free(e);
        }
        ml_thread_set_count(1);
        ml_model_free(m);
    }
}

static void test_cancelled_requests_end_and_others_go_on(void **state)
{
    (void)state;
    ml_model *m = make_model(TEST_MLA_MOE);
    question q[N_REQUEST], alone[N_REQUEST];
    int64_t id[N_REQUEST];
    make_questions(q);
    for (int i = 0; i < N_REQUEST; i++) {
        q[i].max_tokens = MAX_ANSWER;
        answer_alone(m, &q[i], &alone[i]);
    }
    ml_engine_config config = {
        .n_slot = 4, .capacity = MAX_PROMPT + MAX_ANSWER, .n_valid = TEST_VOCAB, .kv_dtype = ML_SESSION_KV
    };
    ml_engine *e;
    assert_ok(ml_engine_make(m, &config, &e, &err));
    for (int i = 0; i < N_REQUEST; i++) {
        ml_request request = request_of(&q[i]);
        assert_ok(ml_engine_submit(e, &request, &id[i], &err));
    }
    assert_ok(ml_engine_step(e, &err));
    ml_engine_cancel(e, id[0]);             /* running, unless it had ended */
    ml_engine_cancel(e, id[N_REQUEST - 1]); /* waiting */
    ml_engine_cancel(e, 12345);
    run_to_end(e);
    assert_int_equal(q[N_REQUEST - 1].n_end, 1);
    assert_int_equal(q[N_REQUEST - 1].finish, ML_FINISH_CANCEL);
    assert_int_equal(q[N_REQUEST - 1].n_answer, 0);
    assert_int_equal(q[0].n_end, 1);
    assert_true(q[0].n_answer <= 1);
    for (int i = 1; i < N_REQUEST - 1; i++) check_same(&q[i], &alone[i]);
    ml_engine_free(e);
    ml_model_free(m);
}

static void test_requests_that_cannot_be_answered(void **state)
{
    (void)state;
    ml_model *m = make_model(TEST_DENSE);
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
    run_to_end(e);
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
