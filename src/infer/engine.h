/* Many requests answered at once: continuous batching over one model.
 *
 *   submit ->  queue  ->  slot: prompt, in chunks  ->  slot: one token a pass  ->  end
 *
 * Every pass takes one token of each sequence that is generating, and fills up with pieces of prompts, in turns, so
 * that a long prompt stalls neither the answers nor the other prompts.  A request waits in the queue until a
 * slot and the pages for its prompt and all it may generate are free.  The next one to get a slot is that of the client
 * who has the fewest, among those the first that came; it is not overtaken while it waits for pages.  With `reuse`,
 * prompts that begin alike share pages (infer/prefix.h), also while the first of them is still being read.
 *
 * The answer to a request does not depend on what else is being answered or was before, bit for bit.
 *
 * One thread at a time; callbacks are called from ml_engine_step and may submit and cancel. */
#ifndef ML_INFER_ENGINE_H
#define ML_INFER_ENGINE_H

#include "infer/routing_trace.h"
#include "infer/runner.h"

typedef struct ml_engine ml_engine;

typedef struct {
    int64_t n_slot;      /* requests at once */
    int64_t capacity;    /* tokens of one at most, prompt and answer */
    int64_t cache_token; /* tokens that the cache has room for; 0: n_slot * capacity */
    int64_t chunk;       /* prompt tokens of one pass; 0: 512 */
    double pass_seconds; /* 0, or: while others generate, as many prompt tokens as take about so long, or when more
                          * prompts wait than answers, so many times longer */
    int64_t n_valid;     /* ids from here on are never chosen */
    ml_dtype kv_dtype;
    bool reuse; /* share and keep the pages of prompts */
} ml_engine_config;

/* The model must outlive the engine. */
ml_status ml_engine_make(ml_model *model, const ml_engine_config *config, ml_engine **out, ml_error *err);
/* Requests not yet ended get no further call. */
void ml_engine_free(ml_engine *e);

/* How a request went. */
typedef struct {
    int64_t n_reused; /* prompt tokens whose keys and values were there */
    double queue_seconds, prefill_seconds, decode_seconds;
} ml_request_stats;

typedef struct {
    const int32_t *prompt; /* [n_prompt], at least one; copied */
    int64_t n_prompt;
    ml_sampling sampling;
    int64_t max_tokens; /* at least 1, or 0 when the prompt is listened to; the capacity may end the answer sooner */
    const int32_t *stop_id; /* [n_stop]; copied */
    int64_t n_stop;
    uint64_t client;         /* whose it is, for turns */
    bool no_cache;           /* compute the whole text again for each token: the same bits, slower */
    ml_routing_trace *trace; /* NULL, or filled; with a capacity of n_prompt + max_tokens */
    ml_request_stats *stats; /* NULL, or filled before on_end */
    /* Before a choice: change logits [vocab] (a copy), knowing the answer so far; false ends the answer with
     * ML_FINISH_STOP.  NULL: they stay. */
    bool (*adjust)(void *arg, const int32_t *answer, int64_t n_answer, float *logits);
    /* Before on_token: the logits that the model gave, for the choice of id.  NULL: not wanted. */
    void (*on_logits)(void *arg, const float *logits, int32_t id);
    /* Of this model, living until the request has ended; NULL: what the model has, ml_adapter_none: none. */
    const ml_adapter *adapter;
    /* Each new token, the stop id included; false cancels. */
    bool (*on_token)(void *arg, int32_t id, double logprob);
    /* For each prompt token in order: the logits behind it, its hidden state [hidden_size].  NULL: not wanted. */
    void (*on_prompt_logits)(void *arg, int64_t pos, const float *logits);
    void (*on_prompt_hidden)(void *arg, int64_t pos, const float *hidden);
    /* Once, after the last token. */
    void (*on_end)(void *arg, ml_finish finish);
    void *arg;
} ml_request;

/* ML_EINVAL when the prompt is empty, has an id outside the vocabulary or leaves no room for an
 * answer, or a sampling setting is out of range. */
ml_status ml_engine_check(const ml_model *model, const ml_engine_config *config, const ml_request *request,
                          ml_error *err);
/* *id names the request.  ML_EINVAL as above. */
ml_status ml_engine_submit(ml_engine *e, const ml_request *request, int64_t *id, ml_error *err);
/* End a request with ML_FINISH_CANCEL; nothing when it has ended. */
void ml_engine_cancel(ml_engine *e, int64_t id);
/* An adapter is about to go, and no request has it: forget the prompts that were read with it. */
void ml_engine_forget_adapter(ml_engine *e, const ml_adapter *adapter);
/* Whether any request waits or runs. */
bool ml_engine_is_busy(const ml_engine *e);
/* One pass.  A failure (memory, keys too large for their type) leaves the engine usable only for being freed. */
ml_status ml_engine_step(ml_engine *e, ml_error *err);

typedef struct {
    int64_t n_waiting, n_running;
    int64_t n_page, n_free_page, n_kept_page;                       /* kept: in the store of prompts */
    int64_t n_pass, n_prompt_token, n_decode_token, n_reused_token; /* since it was made */
} ml_engine_stats;

ml_engine_stats ml_engine_get_stats(const ml_engine *e);

#endif
