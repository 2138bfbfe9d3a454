/* Choosing the next token from logits.
 *
 * Order: repetition penalty, then (temperature 0: the largest logit, ties to the lower id) or temperature, min-p,
 * top-k, top-p, and one draw, as sample_rule.h defines them.  The same seed, settings and logits give the same token,
 * here and on a device (infer/cuda/sample.h).
 *
 * ml_sampling, ml_sampler_make and ml_sampler_free are declared in moonlight.h. */
#ifndef ML_INFER_SAMPLER_H
#define ML_INFER_SAMPLER_H

#include "base/rng.h"
#include "base/status.h"
#include "infer/sample_rule.h"

/* ML_EINVAL naming the setting that is out of range. */
ml_status ml_sampling_check(const ml_sampling *s, ml_error *err);

/* Back to the start of the random stream. */
void ml_sampler_reset(ml_sampler *s);
/* The next token.  `recent` [n_recent] are the ids so far, for the repetition penalty.  *logprob (may be NULL) gets
 * the log-probability of the choice under the unmodified logits. */
int32_t ml_sampler_choose(ml_sampler *s, const float *logits, const int32_t *recent, int64_t n_recent, double *logprob);

/* What a device that draws needs to know. */
ml_sample_rule ml_sampler_get_rule(const ml_sampler *s);
float ml_sampler_get_penalty(const ml_sampler *s);
/* The 64 random bits of the next token; 0 when none are needed. */
uint64_t ml_sampler_next_random(ml_sampler *s);
/* The ids that the repetition penalty concerns, once each -> out; how many.  At most as many as the second says. */
int64_t ml_sampler_list_penalised(ml_sampler *s, const int32_t *recent, int64_t n_recent, int32_t *out);
int64_t ml_sampler_most_penalised(const ml_sampler *s, int64_t n_recent);

/* log softmax(logits)[id] over the ids below n_valid. */
double ml_logits_logprob(const float *logits, int64_t n_valid, int32_t id);

#endif
