/* Continuing a sequence, token by token: ml_generate, declared in moonlight.h. */
#ifndef ML_INFER_GENERATE_H
#define ML_INFER_GENERATE_H

#include "infer/sampler.h"
#include "infer/session.h"

/* ML_EFORMAT: a log-probability is no number, so nothing was chosen. */
ml_status ml_fail_nan(ml_error *err);
/* "stop", "length", "cancel" */
const char *ml_finish_name(ml_finish finish);

#endif
