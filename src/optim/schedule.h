/* Learning rate schedules: pure functions of the step, so that resuming needs no state.
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
 *                not steps: from step ramp_step on a step has ramp_factor times as many (4096 sequences after 2048).
 * After the last step the rate stays at its final value. */
#ifndef ML_OPTIM_SCHEDULE_H
#define ML_OPTIM_SCHEDULE_H

#include "base/status.h"

typedef enum {
    ML_SCHEDULE_CONSTANT,
    ML_SCHEDULE_LINEAR,
    ML_SCHEDULE_COSINE,
    ML_SCHEDULE_WSD,
    ML_SCHEDULE_MOONLIGHT
} ml_schedule_kind;

typedef struct {
    ml_schedule_kind kind;
    double lr, lr_min;
    int64_t warmup, steps;
    int64_t decay;      /* wsd, moonlight: length of the last stage */
    int64_t rewarm;     /* moonlight: steps of the last stage that rise ... */
    double rewarm_lr;   /* ... to this */
    int64_t ramp_step;  /* moonlight: where the batch grows ... */
    double ramp_factor; /* ... by this; 1 when it does not */
} ml_schedule;

/* ML_EINVAL when a rate is negative or not finite, or the stages do not fit into `steps`. */
ml_status ml_schedule_check(const ml_schedule *s, ml_error *err);
/* The rate of a checked schedule. */
double ml_schedule_get_lr(const ml_schedule *s, int64_t step);
/* "cosine" -> ML_SCHEDULE_COSINE; ML_EINVAL names the known ones. */
ml_status ml_schedule_parse_kind(const char *name, ml_schedule_kind *kind, ml_error *err);

#endif
