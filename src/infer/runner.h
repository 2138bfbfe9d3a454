/* Tokens of several sequences through the model in one pass, with their keys and values in a paged cache.
 *
 * What a token computes depends on its sequence before it and on its phase (prompt or generated: ops/cached.h), not
 * on what else is in the pass nor on how prompts are cut into passes, bit for bit. */
#ifndef ML_INFER_RUNNER_H
#define ML_INFER_RUNNER_H

#include "infer/cuda/sample.h"
#include "infer/pages.h"
#include "model/adapter.h"

typedef struct ml_runner ml_runner;

typedef struct {
    int64_t n_seq;       /* sequences at once */
    int64_t capacity;    /* tokens of one at most */
    int64_t cache_token; /* tokens that the cache has room for, of all sequences; 0: n_seq * capacity */
    int64_t max_token;   /* of one pass at most */
    ml_dtype kv_dtype;   /* of the cache */
} ml_runner_config;

/* Tokens of a prompt in one pass of a single sequence.  A device reads all weights and makes latent attention's keys
 * and values anew for each pass, and has enough to do in parallel only in long ones. */
enum { ML_PROMPT_PASS = 1024, ML_DEVICE_PROMPT_PASS = 8192 };
/* How many, of a context of `capacity` tokens: on a device so many that a runner's work, beside the weights there and
 * such a cache, takes at most a quarter of what is free, and ML_PROMPT_PASS at least. */
int64_t ml_runner_choose_pass(const ml_model *model, int64_t capacity, ml_dtype kv_dtype);

/* Where the model's weights are, there are the cache and the work.  The model must outlive the runner.  ML_EINVAL when
 * capacity is not in 1 .. the model's positions. */
ml_status ml_runner_make(ml_model *model, const ml_runner_config *config, ml_runner **out, ml_error *err);
void ml_runner_free(ml_runner *r);
/* Bytes of a device's memory that a runner of such a model takes, at most; widest_bytes: of the weights that one
 * operator reads together, as fp32. */
int64_t ml_runner_plan_device(const ml_config *c, const ml_runner_config *config, int64_t widest_bytes);
/* Bytes of the cache when full. */
int64_t ml_runner_cache_bytes(const ml_runner *r);
/* The sequences' pages, to be reserved before their tokens are run. */
ml_pages *ml_runner_pages(ml_runner *r);

/* Tell the observer (NULL: nobody) what the routers choose in the passes that follow; it must outlive them. */
void ml_runner_observe(ml_runner *r, const ml_routing_observer *observer);

/* The adapter (of this model; where it computes on a device, placed there) of a sequence, from its first token on;
 * NULL: what the model has (ml_model.adapter), ml_adapter_none: none.  Sequences of one pass may have different ones.
 * It must outlive the runner, or be forgotten. */
void ml_runner_set_adapter(ml_runner *r, int64_t seq, const ml_adapter *adapter);
void ml_runner_forget_adapter(ml_runner *r, const ml_adapter *adapter);

/* One pass: n tokens, the first n_decode of which are being generated and the others prompt; id, position and sequence
 * of each [n].  Of one sequence, positions ascend and all before them are in the cache or earlier in the pass.
 * ML_EINVAL for an id outside the vocabulary. */
ml_status ml_runner_forward(ml_runner *r, int64_t n, int64_t n_decode, const int32_t *id, const int32_t *pos,
                            const int32_t *seq, ml_error *err);
/* The final hidden state of a token of the last pass, [hidden_size]; the memory is the runner's until its next call. */
ml_status ml_runner_hidden(ml_runner *r, int64_t row, const float **out, ml_error *err);
/* Of the tokens of the last pass: logits of rows want[n_want] -> [n_want, vocab_size]. */
ml_status ml_runner_logits(ml_runner *r, int64_t n_want, const int32_t *want, float *logits, ml_error *err);
/* On a device: tokens drawn there from the logits of rows of the last pass (ml_sample_row.row), ids below n_valid; the
 * logits stay there.  out [n_row]; see infer/cuda/sample.h. */
ml_status ml_runner_sample(ml_runner *r, int64_t n_valid, ml_sample_row *row, int64_t n_row, const int32_t *penalised,
                           int64_t n_penalised, ml_sample_choice *out, ml_error *err);
/* Memory for n logits that ml_runner_logits fills fastest; NULL when there is none. */
float *ml_runner_alloc_logits(const ml_model *model, size_t n);
void ml_runner_free_logits(const ml_model *model, float *logits);
/* Launches of the last pass, when a device did it as a graph; else 0. */
int64_t ml_runner_count_launches(const ml_runner *r);
/* The log-probability of a target behind each token of a pass of prompts (-1: none, 0 then): target, logprob [n]. */
ml_status ml_runner_logprob(ml_runner *r, const int32_t *target, float *logprob, ml_error *err);

#endif
