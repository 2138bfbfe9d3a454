/* Choosing the next token from logits.
 *
 * Order: repetition penalty, then (temperature 0: the largest logit, ties to the lower id) or temperature, top-k,
 * top-p, min-p, and one draw.  The same seed, settings and logits give the same token. */
#ifndef ML_INFER_SAMPLER_H
#define ML_INFER_SAMPLER_H

#include "base/rng.h"
#include "base/status.h"

typedef struct {
    double temperature;        /* 0: greedy */
    int64_t top_k;             /* 0: off; else only the k likeliest */
    double top_p;              /* 1: off; else the smallest set of likeliest tokens whose probability reaches p */
    double min_p;              /* 0: off; else only tokens at least min_p times as likely as the likeliest */
    double repetition_penalty; /* 1: off; else logits of recent tokens are divided by it when positive, multiplied when
                                  negative: lowered in both cases */
    int64_t repetition_window; /* how many recent tokens count; 0: all */
    uint64_t seed;
} ml_sampling;

/* temperature 0, everything else off, seed 0 */
ml_sampling ml_sampling_default(void);
/* ML_EINVAL naming the setting that is out of range. */
ml_status ml_sampling_check(const ml_sampling *s, ml_error *err);

typedef struct ml_sampler ml_sampler;

/* `n_vocab` logits come in; ids from `n_valid` on (rows that pad the vocabulary) are never chosen. */
ml_status ml_sampler_make(const ml_sampling *sampling, int64_t n_vocab, int64_t n_valid, ml_sampler **out,
                          ml_error *err);
void ml_sampler_free(ml_sampler *s);
/* Back to the start of the random stream. */
void ml_sampler_reset(ml_sampler *s);
/* The next token.  `recent` [n_recent] are the ids so far, for the repetition penalty.  *logprob (may be NULL) gets
 * the log-probability of the choice under the unmodified logits. */
int32_t ml_sampler_choose(ml_sampler *s, const float *logits, const int32_t *recent, int64_t n_recent, double *logprob);

#endif
