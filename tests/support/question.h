/* Questions to the engine: a model whose choices are not near ties, a prompt with its sampling, what came back, and
 * what a session of its own answers to the same. */
#ifndef ML_TESTS_QUESTION_H
#define ML_TESTS_QUESTION_H

#include "infer/engine.h"
#include "support/tiny_run.h"

enum { TEST_MAX_PROMPT = 400, TEST_MAX_ANSWER = 40 };

typedef struct {
    int32_t prompt[TEST_MAX_PROMPT];
    int64_t n_prompt, max_tokens;
    ml_sampling sampling;
    const int32_t *stop_id; /* [n_stop] */
    int64_t n_stop;
    int64_t id; /* at the engine */
    int32_t answer[TEST_MAX_ANSWER];
    double logprob[TEST_MAX_ANSWER];
    int64_t n_answer;
    int n_end, turn; /* `turn`: how many had ended before it, since the test set test_n_ended to 0 */
    ml_finish finish;
    ml_request_stats stats;
} test_question;

extern int test_n_ended;

/* Weights are drawn wider than an initialiser's. */
ml_model *test_model_make_sharp(test_model which, int64_t n_position);
/* A request that fills the question's answer and statistics. */
ml_request test_question_request(test_question *q);
/* What ml_generate answers to `q` in a session of TEST_MAX_PROMPT positions at most: answer, logprob and finish of
 * `out`. */
void test_question_answer_alone(ml_model *m, const test_question *q, test_question *out);
/* It ended once, as `want` did, with the same tokens and the same bits of their log-probabilities. */
void test_question_assert_same(const test_question *got, const test_question *want);
/* Steps until nothing is left to do. */
void test_engine_run(ml_engine *e);

#endif
