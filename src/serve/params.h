/* What requests for answers have in common: the keys of their JSON.
 *
 * Every key is a row of one table (params.c), which says for which endpoints it is.  A key that is not there is an
 * error, so nothing that is asked for is passed over in silence. */
#ifndef ML_SERVE_PARAMS_H
#define ML_SERVE_PARAMS_H

#include "infer/sampler.h"
#include "serve/web.h"

/* For which endpoints a key is. */
enum {
    ML_FOR_CHAT = 1,
    ML_FOR_COMPLETION = 2,
    ML_FOR_STREAM = 4, /* /generate-stream */
    ML_FOR_TRACE = 8,
    ML_FOR_EMBEDDING = 16,
    ML_FOR_ANSWERS = ML_FOR_CHAT | ML_FOR_COMPLETION,
    ML_FOR_SAMPLING = ML_FOR_ANSWERS | ML_FOR_TRACE
};

typedef struct {
    int32_t id;
    float bias;
} ml_bias;

/* Texts and JSON live in the body. */
typedef struct {
    const char *model;
    ml_sampling sampling;
    bool has_seed;
    int64_t max_tokens; /* -1: what the context leaves */
    int64_t n;
    const char **stop; /* [n_stop] owned */
    size_t n_stop;
    double frequency_penalty, presence_penalty;
    ml_bias *bias; /* [n_bias] owned */
    size_t n_bias;
    bool stream, include_usage, echo, logprobs, kv_cache, trace, base64;
    bool tools_off, must_call, single_call; /* tool_choice none; required, or the tool `tool` */
    const char *tool;
    int64_t n_top; /* alternatives */
    json_t *messages, *tools, *prompt, *input, *schema;
    bool any_object; /* response_format json_object; json_schema is `schema` */
} ml_params;

/* Read the body for one endpoint; free also when it fails. */
ml_status ml_params_read(ml_web *h, int where, ml_params *p, ml_error *err);
void ml_params_free(ml_params *p);

#endif
