/* What of a training step is decided on the device: the loss, whether its gradient may be used, and how it is clipped.
 */
#ifndef ML_TRAIN_CUDA_JUDGE_H
#define ML_TRAIN_CUDA_JUDGE_H

#include "optim/optimizer.h"
#include "train/guard_rule.h"
#include "train/stage_sums.h"

/* In device memory, read back when the step is done. */
typedef struct {
    ml_stage_sums step; /* of all micro-steps */
    double norm;        /* of the gradient, before clipping; NaN when it or a loss is not finite */
    int32_t verdict;    /* ml_guard_verdict */
    ml_guard guard;     /* goes on from step to step */
    ml_stage_sums eval; /* of an evaluation */
} ml_step_report;

typedef struct {
    double clip, beta1, beta2;
} ml_judge_rule;

#ifdef MOONLIGHT_CUDA

/* Queue: *sum -= logp of every target; where seed is not NULL, seed = -weight at targets and 0 elsewhere.
 *   logp, seed [n], target [n] in device memory, like sum */
ml_status ml_cuda_cross_entropy(ml_ctx *ctx, const float *logp, const int32_t *target, int64_t n, double weight,
                                float *seed, double *sum);
/* Queue: the guard's verdict on a gradient whose sum of squares is *squares; `losses` [2]: the router's.  The control
 * tells the updates. */
void ml_cuda_judge(ml_device *device, const double *squares, const double *losses, const ml_judge_rule *rule,
                   ml_step_report *report, ml_update_control *control);

#else

static inline ml_status ml_cuda_cross_entropy(ml_ctx *ctx, const float *logp, const int32_t *target, int64_t n,
                                              double weight, float *seed, double *sum)
{
    (void)logp;
    (void)target;
    (void)n;
    (void)weight;
    (void)seed;
    (void)sum;
    return ctx->error.code;
}

static inline void ml_cuda_judge(ml_device *device, const double *squares, const double *losses,
                                 const ml_judge_rule *rule, ml_step_report *report, ml_update_control *control)
{
    (void)device;
    (void)squares;
    (void)losses;
    (void)rule;
    (void)report;
    (void)control;
}

#endif
#endif
