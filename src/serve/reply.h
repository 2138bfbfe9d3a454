/* What the ways to ask for text have in common: a request's parameters, its model and its answers; and how the JSON and
 * the events of OpenAI's two begin and end.
 *
 *   ml_reply_begin; the handler reads parameters, acquires the model and starts answers; ml_reply_finish or
 *   ml_reply_next until the end; ml_reply_free */
#ifndef ML_SERVE_REPLY_H
#define ML_SERVE_REPLY_H

#include "serve/answer.h"
#include "serve/traces.h"

typedef struct {
    ml_web *h;
    ml_params params;
    ml_served *named; /* the model that was asked for, or an adapter of it */
    ml_answers answers;
    char id[48], trace_id[ML_TRACE_ID_BYTES];
    json_int_t created; /* seconds since 1970 */
} ml_reply;

/* `id_prefix` of the answer's id.  Into zeroed memory. */
void ml_reply_begin(ml_reply *r, ml_web *h, const char *id_prefix);
/* Also when a step between failed. */
void ml_reply_free(ml_reply *r);
/* Begin the answers to params.messages, the model being acquired. */
ml_status ml_reply_start_messages(ml_reply *r, ml_error *err);

/* {id, object, created, model, choices}, and where figures come behind the last event a "usage" of null; takes over
 * the choices. */
json_t *ml_reply_object(const ml_reply *r, const char *object, json_t *choices);
/* When all answers are done: count them, and keep the trace that was asked for. */
ml_status ml_reply_finish(ml_reply *r, ml_error *err);
/* "usage" and "moonlight", when they are finished. */
void ml_reply_add_figures(const ml_reply *r, json_t *object);

/* Append what is new of choice i to the events. */
typedef ml_status (*ml_reply_news_fn)(void *arg, size_t i, ml_chars *out, ml_error *err);
/* A piece of a stream: what is new of every choice; when all are done (*end) the figures in an empty `object`, if they
 * are wanted, and [DONE].  An answer that cannot go on says so before the stream ends. */
ml_status ml_reply_next(ml_reply *r, ml_reply_news_fn put_news, void *arg, const char *object, ml_chars *out, bool *end,
                        ml_error *err);

#endif
