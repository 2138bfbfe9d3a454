/* What the server's files share. */
#ifndef ML_SERVE_SERVER_INTERNAL_H
#define ML_SERVE_SERVER_INTERNAL_H

#include "serve/counters.h"
#include "serve/scheduler.h"
#include "serve/server.h"
#include "serve/store.h"
#include "serve/traces.h"

struct MHD_Daemon;

struct ml_server {
    struct MHD_Daemon *daemon;
    ml_models *models;
    ml_scheduler *scheduler;
    ml_traces *traces;
    ml_store *store;
    ml_counters counters;
    char **key; /* [n_key] hashes of keys, hex */
    size_t n_key;
    bool loopback;
    char url[128];
    const char *runs;
    atomic_bool stopping;
    _Atomic int64_t body_bytes;
    atomic_int n_connection;
};

/* ---- server.c ---- */
bool ml_server_is_stopping(const ml_server *s);
void ml_server_count_reply(ml_server *s, int status);
void ml_server_forget_body(ml_server *s, size_t n);

/* ---- guard.c ---- */
/* Keys from a file (may be NULL) or else the environment. */
ml_status ml_guard_read_keys(ml_server *s, const char *file, ml_error *err);
void ml_guard_free(ml_server *s);
/* Whether this request may be answered at all; says whose it is.  `open`: no key needed. */
ml_status ml_guard_check(ml_web *h, bool open, ml_error *err);
bool ml_guard_is_loopback(const char *host);

/* ---- routes.c ---- */
/* Find the handler, and let it answer. */
ml_status ml_route_request(ml_web *h, ml_error *err);

#endif
