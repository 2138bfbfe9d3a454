#include "support/answers.h"

#include "infer/session.h"
#include "support/support.h"

#include <string.h>

static ml_error err;

bool test_take_token(void *arg, int32_t id, double logprob)
{
    test_answer *a = arg;
    assert_true(a->n < TEST_ANSWER_MOST);
    a->id[a->n] = id;
    a->logprob[a->n++] = logprob;
    return true;
}

void test_converse(ml_model *m, const ml_adapter *adapter, const int32_t *id, int64_t chunk,
                   float logits[2][TEST_VOCAB])
{
    ml_session *s;
    assert_ok(ml_session_make(m, 32, true, &s, &err));
    ml_session_set_adapter(s, adapter);
    for (int64_t i = 0; i < TEST_PROMPT; i += chunk) {
        int64_t left = TEST_PROMPT - i;
        assert_ok(ml_session_append(s, id + i, left < chunk ? left : chunk, &err));
    }
    memcpy(logits[0], ml_session_logits(s), sizeof logits[0]);
    for (int i = TEST_PROMPT; i < TEST_SAID; i++) assert_ok(ml_session_append_generated(s, id[i], &err));
    memcpy(logits[1], ml_session_logits(s), sizeof logits[1]);
    ml_session_free(s);
}
