/* Continuing a sequence, token by token. */
#ifndef ML_INFER_GENERATE_H
#define ML_INFER_GENERATE_H

#include "infer/sampler.h"
#include "infer/session.h"

typedef enum {
    ML_FINISH_STOP,   /* an end-of-sequence id came (it is the last id of the result) */
    ML_FINISH_LENGTH, /* max_tokens reached, or the context is full */
    ML_FINISH_CANCEL, /* the callback said so */
} ml_finish;
/* "stop", "length", "cancel" */
const char *ml_finish_name(ml_finish finish);

typedef struct {
    int64_t max_tokens;
    const int32_t *stop_id; /* [n_stop] */
    int64_t n_stop;
    /* Called for every new token, the end-of-sequence id included; false stops.  NULL: nobody listens. */
    bool (*on_token)(void *arg, int32_t id, double logprob);
    void *arg;
} ml_generate_config;

typedef struct {
    int32_t *id;     /* [n] generated */
    double *logprob; /* [n] */
    int64_t n;
    ml_finish finish;
    double prefill_seconds, decode_seconds;
} ml_generation;

/* Append `prompt` [n_prompt] to the session and generate.  The prompt may be empty only if the session is not.
 * A prompt that fills the context gives 0 tokens and ML_FINISH_LENGTH; one that does not fit is ML_EINVAL with both
 * numbers.  Free the result with ml_generation_free. */
ml_status ml_generate(ml_session *session, ml_sampler *sampler, const int32_t *prompt, int64_t n_prompt,
                      const ml_generate_config *config, ml_generation *out, ml_error *err);
void ml_generation_free(ml_generation *g);

#endif
