/* moonlight serve: one process that answers OpenAI's API and ours (docs/api.md).
 *
 *   connection threads (libmicrohttpd) --tasks--> scheduler thread --passes--> engines
 *
 * web.h is a request, routes.c the table of endpoints, guard.c who may ask, models.h what is loaded, scheduler.h what
 * computes, answer.h tokens on their way to text. */
#ifndef ML_SERVE_SERVER_H
#define ML_SERVE_SERVER_H

#include "serve/models.h"

typedef struct {
    const char *const *model; /* [n_model] paths */
    size_t n_model;
    const char *const *adapter; /* [n_adapter] of the first model: "[NAME=]PATH" */
    size_t n_adapter;
    ml_models_config models;
    const char *host;
    int port;                 /* 0: any that is free */
    const char *api_key_file; /* NULL: MOONLIGHT_API_KEY in the environment, or none */
    const char *store;        /* file of conversations and notes; NULL: kept in memory only */
    int64_t queue;            /* requests that may wait */
} ml_server_config;

/* Load the models and begin to answer.  ML_EINVAL for an address beyond this machine without a key, a port that is
 * taken, a model that cannot be opened. */
ml_status ml_server_start(const ml_server_config *config, ml_server **out, ml_error *err);
/* "http://127.0.0.1:8000" */
const char *ml_server_url(const ml_server *s);
/* Ends streams, answers and connections. */
void ml_server_stop(ml_server *s);

#endif
