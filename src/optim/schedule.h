/* What changes with the step: the learning rate, the size of the batch, and whether the router's bias moves.  Pure
 * functions of the step, so that resuming needs no state.
 *
 * Step s = 0, 1, 2, ... is the step about to be made, and the same number is logged beside its rate.  All but
 * `constant` without warmup begin with a linear rise: lr * (s + 1) / warmup for s < warmup.  With p = (s - warmup) /
 * (steps - warmup), from 0 at the first step after it towards 1, which is reached after the last step:
 *     constant   lr
 *     linear     lr + (lr_min - lr) * p
 *     cosine     lr_min + (lr - lr_min) * (1 + cos(pi p)) / 2
 *     wsd        lr until the last `decay` steps, then linearly to lr_min
 *     moonlight  three stages (arXiv:2502.16982): cosine to lr_min over all but the last `decay` steps; then in
 *                `rewarm` steps linearly from lr_min to rewarm_lr; then linearly to 0.  The cosine's p counts tokens,
 *                not steps, which differ where the batch grows.
 * After the last step the rate stays at its final value.
 *
 * The batch: from step ramp[i].step on, a step has ramp[i].factor times the tokens of the first one (4096 sequences
 * after 2048).  The router's bias moves by the load but in the last `bias_rest` steps. */
#ifndef ML_OPTIM_SCHEDULE_H
#define ML_OPTIM_SCHEDULE_H

#include "base/status.h"

#include <stdbool.h>

typedef enum {
    ML_SCHEDULE_CONSTANT,
    ML_SCHEDULE_LINEAR,
    ML_SCHEDULE_COSINE,
    ML_SCHEDULE_WSD,
    ML_SCHEDULE_MOONLIGHT
} ml_schedule_kind;

enum { ML_MAX_RAMP = 16, ML_MAX_RAMP_FACTOR = 1000000 };
typedef struct {
    int64_t step, factor;
} ml_batch_ramp;

typedef struct {
    ml_schedule_kind kind;
    double lr, lr_min;
    int64_t warmup, steps;
    int64_t decay;    /* wsd, moonlight: length of the last stage */
    int64_t rewarm;   /* moonlight: steps of the last stage that rise ... */
    double rewarm_lr; /* ... to this */
    ml_batch_ramp ramp[ML_MAX_RAMP];
    int n_ramp; /* steps do not fall */
    int64_t bias_rest;
} ml_schedule;

/* ML_EINVAL when a rate is negative or not finite, the stages do not fit into `steps`, or the ramp is out of order. */
ml_status ml_schedule_check(const ml_schedule *s, ml_error *err);
/* The rate of a checked schedule. */
double ml_schedule_get_lr(const ml_schedule *s, int64_t step);
/* How many times the first batch a step has (after the last step: as many as it), and the sum of that over the steps
 * before `step`, which is at most `steps`. */
int64_t ml_schedule_get_factor(const ml_schedule *s, int64_t step);
int64_t ml_schedule_count_batches(const ml_schedule *s, int64_t step);
bool ml_schedule_moves_bias(const ml_schedule *s, int64_t step);
/* "12000:2", blanks allowed -> step 12000, factor 2. */
ml_status ml_schedule_parse_ramp(const char *text, ml_batch_ramp *ramp, ml_error *err);
/* "cosine" -> ML_SCHEDULE_COSINE; ML_EINVAL names the known ones. */
ml_status ml_schedule_parse_kind(const char *name, ml_schedule_kind *kind, ml_error *err);

#endif
