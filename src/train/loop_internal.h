/* The loop's parts share its state: step.c computes, state.c saves and restores, loop.c decides when. */
#ifndef ML_TRAIN_LOOP_INTERNAL_H
#define ML_TRAIN_LOOP_INTERNAL_H

#include "format/run.h"
#include "train/guard.h"
#include "train/metrics.h"
#include "train/loop.h"

typedef struct ml_device_steps ml_device_steps;

struct ml_loop {
    ml_train_config config;
    ml_model *model;
    const ml_param *param; /* [n_param] what is trained: the model's, or the adapter's */
    int64_t n_param;
    ml_adapter_group group; /* the adapter, for every token */
    const ml_stage *stage;
    const ml_tokenizer *tokenizer;
    ml_train_hooks hooks;
    ml_progress *progress; /* in steps */
    ml_run *run;
    ml_metrics *metrics;
    ml_optimizer *optimizer;
    ml_device_steps *there; /* NULL: the processor computes */
    double last_seconds;    /* when the step before was known, for the time of one on a device */
    ml_ctx ctx;
    ml_batch *batch; /* [n_batch] the micro-batches of one step; as many as the largest has */
    int64_t n_batch;
    ml_batch eval_batch;
    ml_router_stats stats;
    ml_guard guard;
    int64_t step, tokens; /* done so far */
    int64_t n_roll_back;  /* since the last checkpoint */
    double best_loss;
    int64_t n_not_better;                              /* evaluations since the best one */
    ml_stage_figure eval_figure[ML_STAGE_MAX_FIGURES]; /* [n_eval_figure] of the last evaluation */
    size_t n_eval_figure;
    int64_t saved_step; /* of the newest checkpoint; -1: none */
    double peak_flops;  /* of this machine's fp32 matrix product, measured at the start */
};

ml_status ml_loop_save(ml_loop *t, ml_error *err);
/* Load the latest checkpoint of the run into model, optimizer, guard and counters.  With `keep_position` the data
 * position stays where it is (rolling back goes on with other data). */
ml_status ml_loop_restore(ml_loop *t, bool keep_position, ml_error *err);
ml_status ml_loop_write_samples(ml_loop *t, ml_error *err);
/* Fill in the losses that routing has, and their sum, beside result->ce. */
void ml_loop_add_losses(const ml_loop *t, ml_train_step *result);
/* On a device: queue a step; what is known of it comes by ml_loop_take_step, oldest first. */
ml_status ml_loop_queue_step(ml_loop *t, ml_error *err);
/* *rolled_back: training went back to the last checkpoint, and steps that were queued are forgotten. */
ml_status ml_loop_take_step(ml_loop *t, ml_train_step *result, bool *rolled_back, ml_error *err);
void ml_loop_say(const ml_loop *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
