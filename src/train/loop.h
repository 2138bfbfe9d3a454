/* The training loop that every stage shares.  A stage says where batches come from and what the loss makes of their
 * log-probabilities; the loop does the rest: micro-steps, clipping, the guard against divergence, the optimizer, the
 * router bias, logs, checkpoints, evaluation, samples, resuming.
 *
 * The loss of a step is the stage's sum over its micro-batches, divided by the number of target tokens (or what else
 * the stage counts) in the whole step whatever the micro-batches; auxiliary losses are per micro-batch and averaged.
 * On a device a step's work is queued while the one before is still computed, so what is told of steps comes one step
 * late, and going back to a checkpoint happens one step late; but when something is saved or evaluated all is known.
 *
 * Same seed, build and data: the same bits, also across an interruption (--resume continues as if nothing had
 * happened). */
#ifndef ML_TRAIN_LOOP_H
#define ML_TRAIN_LOOP_H

#include "base/log.h"
#include "data/batch.h"
#include "model/adapter.h"
#include "model/place.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "token/tokenizer.h"
#include "train/plan.h"
#include "train/stage_sums.h"

typedef struct {
    int64_t batch, accumulate, seq; /* sequences per micro-step, micro-steps per step, tokens per sequence */
    ml_schedule schedule;           /* `steps`: the length of the run; `ramp` multiplies accumulate */
    ml_optim_config optim;
    double clip;
    ml_recompute recompute;
    uint64_t seed;
    double guard_deviations;
    int64_t guard_patience;
    int64_t eval_every;      /* 0: never */
    int64_t eval_patience;   /* evaluations without a better one that end the run; 0: off */
    int64_t save_every;      /* 0: only at the end */
    int64_t keep, milestone; /* see ml_run_prune */
    ml_dtype save_dtype;
    int64_t sample_every, sample_tokens; /* 0: never */
    const char *const *prompt;           /* [n_prompt] */
    size_t n_prompt;
    ml_adapter *adapter; /* trainable, of the loop's model: trained (and saved) instead of the model; NULL: none */
    const char *base;    /* with an adapter: what the model is called; may be NULL */
    ml_device *device; /* NULL: this machine's processor; else the caller's, open for as long as the loop; then also: */
    ml_precision precision;
    ml_placing placing; /* of a whole model; one beside an adapter is uploaded as it is, where it was not yet */
    ml_optim_storage moments;
} ml_train_config;

/* What a stage's loss makes of one micro-batch: logp [n_token] are the log-probabilities of its targets (no value where
 * the target is -1).  Adds the loss, summed and not yet divided, to *sum; where `seed` is not NULL (training), puts
 * weight * d loss / d logp into seed [n_token], which is zero before.  `weight` is 1 / what the whole step counts: its
 * targets, or what `count` says. */
typedef void ml_stage_loss(void *self, const ml_batch *batch, const float *logp, double weight, float *seed,
                           double *sum);
/* -log p of every target. */
ml_stage_loss ml_loss_cross_entropy;

/* A further number for the log, e.g. {"reward_accuracy", 0.71}. */
typedef struct {
    const char *name;
    double value;
} ml_stage_figure;

/* The same loss on a device, queued without waiting for it.  Tensors of `input` and `target`, logp, seed and sums lie
 * there; the batch's own arrays are here, and may be another batch's as soon as a call returns. */
typedef struct {
    /* Before the model's pass, with nothing recorded: brings or makes there what the loss compares with.  What the
     * loss reads is allocated in ctx. */
    ml_status (*prepare)(void *self, ml_ctx *ctx, const ml_batch *batch, const ml_model_input *input, ml_tensor *target,
                         bool training, ml_error *err);
    /* As ml_stage_loss, but that every element of seed is written. */
    ml_status (*loss)(void *self, ml_ctx *ctx, const ml_batch *batch, const ml_model_input *input,
                      const ml_tensor *target, const float *logp, double weight, float *seed, ml_stage_sums *sums,
                      ml_error *err);
} ml_stage_there;

/* What differs between pretraining, tuning, ...: a file of train/ each. */
typedef struct {
    const char *name; /* "pretrain" */
    void *self;
    /* The next micro-batch into *out. */
    ml_status (*next)(void *self, ml_batch *out, ml_error *err);
    ml_stage_loss *loss;
    /* What the sum of the loss over a batch is divided by; NULL: its targets. */
    int64_t (*count)(void *self, const ml_batch *batch);
    /* NULL: on a device each micro-step waits for its log-probabilities, and the loss is made here; but cross-entropy
     * is known to the loop. */
    const ml_stage_there *there;
    /* Numbers beside the loss, of all batches that `loss` has seen since the last call or, where sums is not NULL, of
     * what was summed on a device; how many.  NULL: none. */
    size_t (*figures)(void *self, const ml_stage_sums *sums, ml_stage_figure figure[ML_STAGE_MAX_FIGURES]);
    /* Batch i of the fixed evaluation set, i in [0, n_eval). */
    ml_status (*eval)(void *self, int64_t i, ml_batch *out, ml_error *err);
    int64_t n_eval;
    bool is_tuning; /* the model has learned before: how good it is before the first step is logged too */
    /* The exact position in the data, for the checkpoint, and back. */
    json_t *(*position)(void *self);
    ml_status (*restore)(void *self, const json_t *position, const char *where, ml_error *err);
} ml_stage;

typedef struct {
    int64_t step, tokens, n_micro; /* n_micro: micro-steps it was made of */
    int64_t n_token;               /* of this step */
    double loss, ce, aux, z;       /* aux and z without their coefficients, averaged as the loss has them */
    double grad_norm, lr, update_rms, seconds;
    bool skipped; /* by the guard */
    size_t n_figure;
    ml_stage_figure figure[ML_STAGE_MAX_FIGURES]; /* [n_figure] the stage's own */
} ml_train_step;

/* How the loop speaks to whoever started it; each may be NULL. */
typedef struct {
    void *arg;
    void (*line)(void *arg, const char *text);                           /* something a person should read */
    void (*step)(void *arg, const ml_train_step *step, double tokens_s); /* a step is done and in the log */
    void (*eval)(void *arg, int64_t step, double loss);                  /* so is an evaluation */
} ml_train_hooks;

typedef struct ml_loop ml_loop;

/* What ml_loop_make refuses, told before data are prepared and a model is made: numbers that do not fit together,
 * and a run folder that holds a run (without `resume`) or none (with it).  Changes nothing. */
ml_status ml_loop_check_config(const ml_train_config *config, const ml_config *model, ml_error *err);
ml_status ml_loop_check_folder(const char *run_folder, bool resume, ml_error *err);

/* Tokens of the longest sample, its prompt included, at most. */
int64_t ml_train_count_sample_tokens(const ml_train_config *config, const ml_config *model);
/* Bytes of a device's memory that samples take while they are made; 0: none are wanted. */
int64_t ml_train_plan_samples(const ml_train_config *config, const ml_config *model);

/* Open the run folder (locked until ml_loop_free).  When `resume`, continue from its latest checkpoint; otherwise
 * the folder must not hold one.  `model` is trainable and, unless resuming, initialised; with an adapter it is any
 * whole model, and stays as it is.  It, the adapter, the stage, the tokenizer (may be NULL: samples are then off) and
 * the texts of config must outlive the loop. */
ml_status ml_loop_make(const ml_train_config *config, const char *run_folder, bool resume, ml_model *model,
                       const ml_stage *stage, const ml_tokenizer *tokenizer, const ml_train_hooks *hooks, ml_loop **out,
                       ml_error *err);
void ml_loop_free(ml_loop *t);
/* Show steps on this bar from now on (NULL: none), and stop when it says so. */
void ml_loop_set_progress(ml_loop *t, ml_progress *progress);

/* Train to the end, or until evaluations do not get better (eval_patience), or until ml_progress_stopped(): then the
 * step is finished, a checkpoint saved, and ML_ECANCEL returned; called once more, it goes on.  ML_ENUMERIC when
 * training diverges again after rolling back. */
ml_status ml_loop_run(ml_loop *t, ml_error *err);

/* One optimizer step without logging or checkpoints: what ml_loop_run repeats, for tests and benchmarks. */
ml_status ml_loop_step(ml_loop *t, ml_train_step *result, ml_error *err);
/* The stage's loss per target (or what it counts) over its evaluation set. */
ml_status ml_loop_evaluate(ml_loop *t, double *loss, ml_error *err);
int64_t ml_loop_steps_done(const ml_loop *t);
/* Trained on since the run began. */
int64_t ml_loop_tokens_done(const ml_loop *t);
double ml_loop_best_loss(const ml_loop *t);
const ml_optimizer *ml_loop_optimizer(const ml_loop *t);

#endif
