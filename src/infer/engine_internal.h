/* What the engine's files share: engine.c (requests in and out), engine_slots.c (who gets a slot, and which pages),
 * engine_pass.c (what a pass computes). */
#ifndef ML_INFER_ENGINE_INTERNAL_H
#define ML_INFER_ENGINE_INTERNAL_H

#include "infer/engine.h"
#include "infer/prefix.h"
#include "infer/sampler.h"

/* A request from submission to its end.  In a slot it owns pages. */
typedef struct ml_job {
    struct ml_job *next; /* in the queue */
    int64_t id;
    ml_request request;
    int32_t *token; /* [n_prompt + max_tokens] prompt, then answer */
    int32_t *stop_id;
    int64_t n_token;     /* in `token` */
    int64_t n_cached;    /* of them, that went through the model */
    int64_t limit;       /* of n_token */
    ml_sampler *sampler; /* in a slot */
    bool cancelled, waits;
    bool shares;                     /* its prompt's pages come from and go to the store */
    const void *computed_by;         /* the adapter that its tokens go through; NULL: none */
    int32_t node;                    /* the store's node of its last shared page */
    int64_t n_shared;                /* pages */
    int64_t n_reused;                /* tokens it need not compute */
    int64_t turn, share;             /* when its prompt was last read from; its tokens of this pass */
    double submitted, started, read; /* moments */
} ml_job;

struct ml_engine {
    ml_model *model;
    ml_engine_config config;
    ml_runner *runner;
    ml_prefix prefix; /* with config.reuse */
    ml_routing_observer observer;
    ml_job *first, *last; /* the queue */
    ml_job **slot;        /* [n_slot] NULL when free */
    int64_t *order;       /* [n_order] slots in use, the oldest request first */
    int64_t n_order;
    int64_t next_id;
    int64_t turn;
    double prompt_rate;    /* tokens per second of late; 0: not known */
    double decode_seconds; /* of the last pass without prompts */
    ml_engine_stats stats;
    /* the pass being made: [n_slot + chunk], wanted rows and their slots [n_slot] */
    int32_t *id, *pos, *seq, *want, *row; /* row: [n_slot] */
    int64_t *want_slot;
    int64_t n, n_want;
    float *logits;   /* [n_slot, vocab] */
    float *adjusted; /* [vocab] */
    /* of those wanted rows, the ones whose tokens the model's device draws [n_slot] */
    ml_sample_row *draw;
    ml_sample_choice *drawn;
    int32_t *late; /* ids that penalties concern, row by row */
    size_t late_capacity;
};

/* ---- engine.c ---- */
void ml_job_end(ml_job *j, ml_finish finish);

/* ---- engine_slots.c ---- */
void ml_engine_leave_slot(ml_engine *e, int64_t slot, ml_finish finish);
void ml_engine_end_cancelled(ml_engine *e);
/* From the queue into free slots. */
ml_status ml_engine_fill_slots(ml_engine *e, ml_error *err);
/* Take pages that others have computed in place of those that come next. */
void ml_engine_take_shared(ml_engine *e, int64_t slot);
/* Whether an older prompt is about to compute the page that comes next. */
bool ml_engine_must_wait(const ml_engine *e, int64_t place);
/* Put the full pages of its prompt into the store. */
void ml_engine_give_shared(ml_engine *e, int64_t slot);

#endif
