#include "support/question.h"

#include "infer/generate.h"
#include "infer/session.h"
#include "support/support.h"

#include <string.h>

static ml_error err;
int test_n_ended;

ml_model *test_model_make_sharp(test_model which, int64_t n_position)
{
    ml_config config = test_model_config(which);
    ml_model *m;
    config.max_position_embeddings = n_position;
    assert_ok(ml_model_make(&config, ML_F32, false, &m, &err));
    ml_model_init(m, 5);
    for (size_t i = 0; i < m->n_weight; i++) {
        ml_weight *w = &m->weight[i];
        float scale = w->kind == ML_PARAM_EMBEDDING ? 5.0f : w->kind == ML_PARAM_MATRIX ? 1.5f : 1.0f;
        for (int64_t k = 0; k < ml_weight_count(w); k++) ((float *)w->data)[k] *= scale;
    }
    return m;
}

static bool take_token(void *arg, int32_t id, double logprob)
{
    test_question *q = arg;
    assert_true(q->n_answer < TEST_MAX_ANSWER);
    q->logprob[q->n_answer] = logprob;
    q->answer[q->n_answer++] = id;
    return true;
}

static void take_end(void *arg, ml_finish finish)
{
    test_question *q = arg;
    q->n_end++;
    q->turn = test_n_ended++;
    q->finish = finish;
}

ml_request test_question_request(test_question *q)
{
    return (ml_request){ .prompt = q->prompt,
                         .n_prompt = q->n_prompt,
                         .sampling = q->sampling,
                         .max_tokens = q->max_tokens,
                         .stop_id = q->stop_id,
                         .n_stop = q->n_stop,
                         .stats = &q->stats,
                         .on_token = take_token,
                         .on_end = take_end,
                         .arg = q };
}

void test_question_answer_alone(ml_model *m, const test_question *q, test_question *out)
{
    ml_session *s;
    ml_sampler *sampler;
    ml_generation g;
    ml_generate_config config = { .max_tokens = q->max_tokens, .stop_id = q->stop_id, .n_stop = q->n_stop };
    int64_t capacity = m->config.max_position_embeddings;
    assert_ok(ml_session_make(m, capacity < TEST_MAX_PROMPT ? capacity : TEST_MAX_PROMPT, true, &s, &err));
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

void test_question_assert_same(const test_question *got, const test_question *want)
{
    assert_int_equal(got->n_end, 1);
    assert_int_equal(got->finish, want->finish);
    assert_int_equal(got->n_answer, want->n_answer);
    assert_memory_equal(got->answer, want->answer, (size_t)want->n_answer * sizeof *want->answer);
    assert_memory_equal(got->logprob, want->logprob, (size_t)want->n_answer * sizeof *want->logprob);
}

void test_engine_run(ml_engine *e)
{
    int n_step = 0;
    while (ml_engine_is_busy(e)) {
        assert_ok(ml_engine_step(e, &err));
        assert_true(++n_step < 20000);
    }
}
