/* Many requests answered at once: continuous batching over one model.
 *
 *   submit ->  queue  ->  slot: prompt, in chunks  ->  slot: one token a pass  ->  end
 *
 * Every pass takes one token of each sequence that is generating, and fills up with pieces of prompts, the oldest
 * first, so that a long prompt does not stall the others.  A request waits in the queue until a slot and the pages for
 * its prompt and all it may generate are free; first come, first served.  The answer to a request does not depend on
 * what else is being answered, bit for bit.
 *
 * One thread at a time; callbacks are called from ml_engine_step and may submit and cancel. */
#ifndef ML_INFER_ENGINE_H
#define ML_INFER_ENGINE_H

#include "infer/runner.h"

typedef struct ml_engine ml_engine;

typedef struct {
    int64_t n_slot;      /* requests at once */
    int64_t capacity;    /* tokens of one at most, prompt and answer */
    int64_t cache_token; /* tokens that the cache has room for; 0: n_slot * capacity */
    int64_t chunk;       /* prompt tokens of one pass; 0: 512 */
    int64_t n_valid;     /* ids from here on are never chosen */
    ml_dtype kv_dtype;
} ml_engine_config;

/* The model must outlive the engine. */
ml_status ml_engine_make(ml_model *model, const ml_engine_config *config, ml_engine **out, ml_error *err);
/* Requests not yet ended get no further call. */
void ml_engine_free(ml_engine *e);

typedef struct {
    const int32_t *prompt; /* [n_prompt], at least one; copied */
    int64_t n_prompt;
    ml_sampling sampling;
    int64_t max_tokens;     /* at least 1; the capacity may end the answer sooner */
    const int32_t *stop_id; /* [n_stop]; copied */
    int64_t n_stop;
    /* Of this model, living until the request has ended; NULL: what the model has, ml_adapter_none: none. */
    const ml_adapter *adapter;
    /* Each new token, the stop id included; false cancels. */
    bool (*on_token)(void *arg, int32_t id, double logprob);
    /* Once, after the last token. */
    void (*on_end)(void *arg, ml_finish finish);
    void *arg;
} ml_request;

/* *id names the request.  ML_EINVAL when the prompt is empty, has an id outside the vocabulary or leaves no room for an
 * answer, or a sampling setting is out of range. */
ml_status ml_engine_submit(ml_engine *e, const ml_request *request, int64_t *id, ml_error *err);
/* End a request with ML_FINISH_CANCEL; nothing when it has ended. */
void ml_engine_cancel(ml_engine *e, int64_t id);
/* Whether any request waits or runs. */
bool ml_engine_is_busy(const ml_engine *e);
/* One pass.  A failure (memory) leaves the engine usable only for being freed. */
ml_status ml_engine_step(ml_engine *e, ml_error *err);

#endif
