/* The loss of dpo on a device; a build without CUDA never comes here. */
#ifndef ML_TRAIN_CUDA_DPO_H
#define ML_TRAIN_CUDA_DPO_H

#include "tensor/tensor.h"
#include "train/dpo_rule.h"
#include "train/stage_sums.h"

typedef struct {
    ml_dpo_loss loss;
    double beta, chosen; /* chosen: weight of the chosen answer's cross-entropy */
    double weight;       /* of a pair in the step */
} ml_dpo_terms;

/* What of ml_stage_sums is what. */
enum { ML_DPO_N_PAIR, ML_DPO_N_RIGHT, ML_DPO_CHOSEN, ML_DPO_REJECTED, ML_DPO_N_SUM };

#ifdef MOONLIGHT_CUDA

/* Queue: sum [n_seq] = the log-probability of each sequence's targets.
 *   logp [n], target [n], seq [n_seq + 1], all in device memory */
ml_status ml_cuda_sum_sequences(ml_ctx *ctx, const float *logp, const int32_t *target, const int32_t *seq,
                                int64_t n_seq, double *sum);
/* Queue: the losses of pairs of sequences 2 p (chosen) and 2 p + 1 are added to *sums, in the order of pairs; seed [n]
 * (NULL: not wanted) = weight * their slope at targets and 0 elsewhere.
 *   reference [n_seq]  what the reference makes of each sequence */
ml_status ml_cuda_dpo(ml_ctx *ctx, const ml_dpo_terms *terms, const float *logp, const int32_t *target,
                      const int32_t *seq, int64_t n_seq, const double *reference, float *seed, ml_stage_sums *sums);

#else

static inline ml_status ml_cuda_sum_sequences(ml_ctx *ctx, const float *logp, const int32_t *target, const int32_t *seq,
                                              int64_t n_seq, double *sum)
{
    (void)logp;
    (void)target;
    (void)seq;
    (void)n_seq;
    (void)sum;
    return ctx->error.code;
}

static inline ml_status ml_cuda_dpo(ml_ctx *ctx, const ml_dpo_terms *terms, const float *logp, const int32_t *target,
                                    const int32_t *seq, int64_t n_seq, const double *reference, float *seed,
                                    ml_stage_sums *sums)
{
    (void)terms;
    (void)logp;
    (void)target;
    (void)seq;
    (void)n_seq;
    (void)reference;
    (void)seed;
    (void)sums;
    return ctx->error.code;
}

#endif
#endif
