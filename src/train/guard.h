/* The divergence guard: decides whether a step's gradient may be used.
 *
 * It keeps a running mean and variance of log(gradient norm).  A norm that is not finite, or further above the
 * mean than `deviations` standard deviations (and at least twice the typical norm), is an outlier: the step is
 * skipped and logged.  After `patience` skips in a row the loop rolls back to its last checkpoint.  The state
 * is four numbers, saved with the checkpoint so that a resumed run decides the same. */
#ifndef ML_TRAIN_GUARD_H
#define ML_TRAIN_GUARD_H

#include "base/json.h"
#include "train/guard_rule.h"

ml_guard_verdict ml_guard_judge(ml_guard *guard, double grad_norm);
json_t *ml_guard_to_json(const ml_guard *guard);
ml_status ml_guard_from_json(ml_guard *guard, const json_t *j, const char *where, ml_error *err);

#endif
