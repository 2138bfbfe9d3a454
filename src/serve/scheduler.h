/* The thread that computes: passes of the engines of all loaded models, in turn.
 *
 * Handlers hand in tasks and are told of tokens by the request's callbacks, which the scheduler's thread calls: those
 * store and signal, no more.  A task belongs to the handler again when `ended` has been called. */
#ifndef ML_SERVE_SCHEDULER_H
#define ML_SERVE_SCHEDULER_H

#include "serve/models.h"

#include <stdatomic.h>

typedef struct ml_task {
    ml_request request; /* with `arg` this task; on_end is the scheduler's */
    ml_served *served;  /* a model */
    ml_served *named;   /* the same, or its adapter that the request is for */
    /* `failure` is NULL, or says why the engine could not go on. */
    void (*ended)(struct ml_task *task, ml_finish finish, const ml_error *failure);
    struct ml_task *next, *previous; /* of served->tasks */
    ml_models *models;
    bool in_engine;
    int64_t id; /* in the engine */
    atomic_bool cancel;
} ml_task;

/* The lock and the thread; the models are another's. */
typedef struct ml_scheduler ml_scheduler;

ml_status ml_scheduler_start(ml_models *models, int64_t queue, ml_scheduler **out, ml_error *err);
/* Ends all tasks, then the thread; from then on tasks are refused. */
void ml_scheduler_stop(ml_scheduler *s);
void ml_scheduler_free(ml_scheduler *s);
/* ML_EINVAL for what the engine would refuse; 429 when too many wait; 503 when the model is going. */
ml_status ml_scheduler_submit(ml_web *h, ml_task *task, ml_error *err);
/* The task ends soon, unless it has ended. */
void ml_scheduler_cancel(ml_scheduler *s, ml_task *task);

#endif
