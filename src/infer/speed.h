/* How fast a model answers: prefill and decode, for the bench verb. */
#ifndef ML_INFER_SPEED_H
#define ML_INFER_SPEED_H

#include "model/model.h"

typedef struct {
    int64_t n_prompt; /* tokens of one prefill; 0: not measured */
    int64_t n_gen;    /* tokens of one decode; 0: not measured */
    int64_t depth;    /* tokens already in the sequence */
    int64_t n_batch;  /* sequences that are decoded together; 0: 1.  A prefill is of one. */
    int64_t n_repeat;
    ml_dtype kv_dtype; /* of the cache */
    uint64_t seed;     /* of the random token ids */
} ml_speed_config;

/* Tokens per second: mean over the repeats and its sample standard deviation. */
typedef struct {
    double mean, sd;
} ml_rate;

typedef struct {
    ml_rate prefill, decode;
    int64_t cache_token_bytes; /* what a token takes in the cache */
    int64_t n_launch;          /* of a decode pass on a device; 0: not known */
} ml_speed;

/* One round before the measured ones brings weights and caches into memory.  ML_ECANCEL when the user stops it. */
ml_status ml_speed_measure(ml_model *model, const ml_speed_config *config, ml_speed *out, ml_error *err);

#endif
