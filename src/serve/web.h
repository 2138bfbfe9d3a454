/* A request and its answer.
 *
 * A handler reads the request and makes exactly one reply, or fails; the failure becomes an OpenAI error object.  Each
 * connection has a thread, so a handler may wait; whoever waits long asks ml_web_is_gone. */
#ifndef ML_SERVE_WEB_H
#define ML_SERVE_WEB_H

#include "base/json.h"
#include "token/tokenizer.h"

#include <stdatomic.h>
#include <stdint.h>

struct MHD_Connection;
typedef struct ml_server ml_server;

enum { ML_OWNER_BYTES = 65, ML_PARAM_BYTES = 512 };

typedef struct {
    ml_server *server;
    struct MHD_Connection *connection;
    const char *method, *path;
    char id[ML_PARAM_BYTES];    /* what stands for {id} in the route's pattern */
    char owner[ML_OWNER_BYTES]; /* whose key it came with: its hash, "" without keys */
    uint64_t client;            /* whose turn it takes: by key, or by address */
    ml_chars body;
    json_t *json;                         /* the parsed body */
    bool too_long, far_too_long, no_room; /* far: it is not even read */
    bool spare;                           /* on a connection beyond those that are served */
    /* of the failure: HTTP status (0: by ml_status), the key it is about ("": none), OpenAI's word for it (NULL: none)
     */
    int status;
    char field[64];
    const char *code;
    /* of the reply */
    bool replied;
    int queued; /* what the library said */
    atomic_int n_holder;
} ml_web;

typedef ml_status (*ml_web_handler)(ml_web *h, ml_error *err);

/* Fail with an HTTP status; `field` may be NULL. */
ml_status ml_web_refuse(ml_web *h, ml_error *err, int status, const char *field, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
/* The body as a JSON object within the limits, parsed once; lives as long as h. */
ml_status ml_web_json(ml_web *h, json_t **out, ml_error *err);
/* A query argument, NULL when absent. */
const char *ml_web_argument(const ml_web *h, const char *name);
/* A whole number of [low, high] in the query. */
ml_status ml_web_int_argument(ml_web *h, const char *name, int64_t low, int64_t high, int64_t or_value, int64_t *out,
                              ml_error *err);
/* Whether the client has closed its end. */
bool ml_web_is_gone(const ml_web *h);

ml_status ml_web_reply(ml_web *h, int status, const char *type, const void *data, size_t n, ml_error *err);
/* Takes over the reference, also when it fails; NULL is ML_ENOMEM. */
ml_status ml_web_reply_json(ml_web *h, int status, json_t *value, ml_error *err);

/* One user more, one less: a reply that comes bit by bit may outlive the request. */
void ml_web_hold(ml_web *h);
void ml_web_drop(ml_web *h);

/* A reply that comes bit by bit.  It owns `arg` from ml_web_stream on, also when that fails. */
typedef struct {
    void *arg;
    /* Append what there is, waiting a twentieth of a second for it at most; *end: that was all.  A failure cuts the
     * connection. */
    ml_status (*next)(void *arg, ml_chars *out, bool *end, ml_error *err);
    void (*free)(void *arg);
    bool events; /* an event stream, which gets heartbeats */
} ml_web_source;

ml_status ml_web_stream(ml_web *h, const char *type, const ml_web_source *source, ml_error *err);
/* Append "data: VALUE\n\n".  Takes over the reference; NULL is ML_ENOMEM. */
ml_status ml_web_put_event(ml_chars *out, json_t *value, ml_error *err);

/* {"error": {...}} for a failure of this request. */
json_t *ml_web_error_object(const ml_web *h, const ml_error *err, int *status);

#endif
