/* How likely a model finds given continuations: multiple choice by log-likelihood. */
#ifndef ML_INFER_CONTINUATION_H
#define ML_INFER_CONTINUATION_H

#include "model/model.h"

/* One sequence, of which the tokens from n_context on are scored; at least one token is context. */
typedef struct {
    const int32_t *id; /* [n_id] */
    int64_t n_id, n_context;
    double logprob; /* out: sum over the scored tokens, in nats */
    bool greedy;    /* out: each of them is the likeliest at its place */
} ml_continuation;

/* Score n items, several in a pass of about `batch` tokens, with a cache of type kv_dtype.  on_item (may be NULL) hears
 * how many are done. ML_EINVAL when an item is longer than the model's positions or has no context; ML_ECANCEL when
 * stopped. */
ml_status ml_continuation_score(ml_model *model, ml_continuation *items, int64_t n, int64_t batch, ml_dtype kv_dtype,
                                void (*on_item)(void *arg, int64_t n_done), void *arg, ml_error *err);

#endif
