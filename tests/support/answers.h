/* What tests ask of models (support/tiny_run.h) and keep of what they answer. */
#ifndef ML_TESTS_ANSWERS_H
#define ML_TESTS_ANSWERS_H

#include "support/tiny_run.h"

enum { TEST_ANSWER_MOST = 16, TEST_PROMPT = 20, TEST_SAID = 24 };

/* Tokens of an answer. */
typedef struct {
    int32_t id[TEST_ANSWER_MOST];
    double logprob[TEST_ANSWER_MOST];
    int n;
} test_answer;

/* An ml_request's on_token; arg: a test_answer. */
bool test_take_token(void *arg, int32_t id, double logprob);

/* A new session's prompt of the first TEST_PROMPT of id[TEST_SAID], in pieces of `chunk`, then the others as if they
 * had been generated: the logits behind either.  adapter: as for ml_session_set_adapter. */
void test_converse(ml_model *m, const ml_adapter *adapter, const int32_t *id, int64_t chunk,
                   float logits[2][TEST_VOCAB]);

#endif
