/* Answers to many prompts at once, as ids: the engine (engine.h) run to the end. */
#ifndef ML_INFER_ANSWER_H
#define ML_INFER_ANSWER_H

#include "base/log.h"
#include "infer/engine.h"
#include "token/tokenizer.h"

typedef struct {
    ml_ids prompt;
    ml_ids answer; /* out: with the stop id, when one came */
    ml_finish finish;
} ml_answer;

typedef struct {
    ml_sampling sampling; /* of the first; each next one has a seed higher by one */
    int64_t max_tokens;
    const int32_t *stop_id; /* [n_stop] */
    int64_t n_stop;
    int64_t n_valid;       /* ids from here on are never chosen */
    int64_t parallel;      /* answers at once */
    ml_dtype kv_dtype;     /* of the cache */
    ml_progress *progress; /* in answers; may be NULL */
    const char *note;      /* shown with it: a text that on_answer may change; may be NULL */
    /* Told of each answer as it is complete, by its place; it may free answer and prompt.  A failure ends the work.
     * May be NULL. */
    ml_status (*on_answer)(void *arg, size_t i, ml_error *err);
    void *arg;
} ml_answer_config;

/* Fill the answers of n prompts.  An answer depends on its prompt and seed alone.  ML_EINVAL for a prompt that leaves
 * no room, naming its place from 1; ML_ECANCEL when stopped. */
ml_status ml_answer_all(ml_model *model, const ml_answer_config *config, ml_answer *item, size_t n, ml_error *err);

#endif
