/* Steps on a device, queued without waiting for it.  What a step found out (losses, the norm, the guard's verdict,
 * routing, sums of the update) is copied to pinned memory behind it and taken from there later: the loop stays one step
 * ahead of the device, and waits only before it saves, evaluates or stops. */
#ifndef ML_TRAIN_DEVICE_STEP_H
#define ML_TRAIN_DEVICE_STEP_H

#include "train/cuda/judge.h"
#include "train/loop_internal.h"

/* The report, and what waits to be taken, for a loop whose model has its place on t->config.device. */
ml_status ml_device_step_make(ml_loop *t, ml_error *err);
void ml_device_step_free(ml_device_steps *steps);

/* Where kernels add the losses of the step being queued, and of an evaluation. */
ml_step_report *ml_device_step_report(ml_loop *t);
/* Queue the beginning of a step: sums become zero. */
void ml_device_step_begin(ml_loop *t);
/* Queue the verdict, the update and the copies of what they found.  `result` has what is known here already; host_sum
 * is the part of the loss that was summed here (a stage without a loss on the device), weight what sums are divided by.
 */
ml_status ml_device_step_end(ml_loop *t, const ml_train_step *result, double host_sum, double weight, ml_error *err);
/* Steps that were queued and not taken. */
int ml_device_step_count(const ml_loop *t);
/* Wait for the oldest of them and fill in its result; t's guard, statistics of routing and optimizer count are then as
 * after that step. */
ml_status ml_device_step_take(ml_loop *t, ml_train_step *result, ml_guard_verdict *verdict, ml_error *err);
/* Wait, and forget those that were queued. */
ml_status ml_device_step_drop(ml_loop *t, ml_error *err);
/* The guard's state goes to the device: after it was loaded. */
ml_status ml_device_step_push_guard(ml_loop *t, ml_error *err);
/* What an evaluation has added up; waits. */
ml_status ml_device_step_read_evaluation(ml_loop *t, ml_stage_sums *sums, ml_error *err);

#endif
