/* Continuing a sequence, token by token: ml_generate, declared in moonlight.h. */
#ifndef ML_INFER_GENERATE_H
#define ML_INFER_GENERATE_H

#include "infer/sampler.h"
#include "infer/session.h"

/* "stop", "length", "cancel" */
const char *ml_finish_name(ml_finish finish);

#endif
