/* Answers of a language model behind an OpenAI-compatible endpoint: POST <endpoint>/chat/completions.
 *
 * One client serves one thread; what they share, the pace of requests, is in ml_request_pace.  What may pass is tried
 * again (http.h), and so is an answer that is no completion. */
#ifndef ML_FETCH_COMPLETION_H
#define ML_FETCH_COMPLETION_H

#include "fetch/http.h"

#include <pthread.h>

/* Requests of all clients are at least `interval` seconds apart. */
typedef struct {
    pthread_mutex_t lock;
    double interval;
    double next; /* when the next may be made, by ml_clock_seconds */
} ml_request_pace;

/* 0 requests a minute: as fast as can be. */
void ml_request_pace_init(ml_request_pace *p, double per_minute);
void ml_request_pace_free(ml_request_pace *p);

typedef struct {
    const char *endpoint; /* "http://host:port/v1"; with nothing behind the host, /v1 is meant */
    const char *model;
    const char *key; /* of the API; NULL: none */
    double temperature;
    int64_t max_tokens; /* of an answer */
    double stall_seconds;
    int64_t n_retry;
    double retry_wait;
    ml_request_pace *pace;
} ml_completion_config;

typedef struct ml_completion_client ml_completion_client;

/* Texts of the configuration must outlive it.  ML_EINVAL for what is no URL. */
ml_status ml_completion_open(const ml_completion_config *config, ml_completion_client **out, ml_error *err);
void ml_completion_close(ml_completion_client *c);
void ml_completion_stop_with(ml_completion_client *c, const ml_progress *progress);

/* Start zeroed. */
typedef struct {
    char *text;       /* 0-terminated; ml_free it */
    bool is_cut;      /* the answer was longer than max_tokens */
    int64_t n_prompt; /* tokens as the server counts them; 0 where it does not say */
    int64_t n_completion;
    char model[128]; /* as the server names it */
} ml_completion;

void ml_completion_free(ml_completion *a);
/* What the model answers to one user's message.  ML_EIO, naming the URL and what the server says, for a refusal and
 * when all attempts failed; ML_EFORMAT when its answers are no completions; ML_ECANCEL when stopped. */
ml_status ml_completion_ask(ml_completion_client *c, const char *prompt, ml_completion *answer, ml_error *err);

#endif
