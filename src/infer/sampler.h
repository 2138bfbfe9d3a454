/* Choosing the next token from logits.
 *
 * Order: repetition penalty, then (temperature 0: the largest logit, ties to the lower id) or temperature, top-k,
 * top-p, min-p, and one draw.  The same seed, settings and logits give the same token.
 *
 * ml_sampling, ml_sampler_make and ml_sampler_free are declared in moonlight.h. */
#ifndef ML_INFER_SAMPLER_H
#define ML_INFER_SAMPLER_H

#include "base/rng.h"
#include "base/status.h"

/* ML_EINVAL naming the setting that is out of range. */
ml_status ml_sampling_check(const ml_sampling *s, ml_error *err);

/* Back to the start of the random stream. */
void ml_sampler_reset(ml_sampler *s);
/* The next token.  `recent` [n_recent] are the ids so far, for the repetition penalty.  *logprob (may be NULL) gets
 * the log-probability of the choice under the unmodified logits. */
int32_t ml_sampler_choose(ml_sampler *s, const float *logits, const int32_t *recent, int64_t n_recent, double *logprob);

/* log softmax(logits)[id] over the ids below n_valid. */
double ml_logits_logprob(const float *logits, int64_t n_valid, int32_t id);

#endif
