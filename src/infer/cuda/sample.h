/* Drawing tokens on a device, from logits that stay there: as infer/sampler.h does, the same token for the same
 * random number (sample_rule.h).  A build without CUDA never comes here. */
#ifndef ML_INFER_CUDA_SAMPLE_H
#define ML_INFER_CUDA_SAMPLE_H

#include "infer/sample_rule.h"
#include "ops/ops.h"

/* One token to be drawn. */
typedef struct {
    int64_t row; /* of the logits; each row once */
    ml_sample_rule rule;
    uint64_t random;
    int64_t first_penalised, n_penalised; /* in the list of ids; each id once */
    float penalty;
    int32_t unused;
} ml_sample_row;

typedef struct {
    int32_t id;
    int32_t unused;
    double logprob; /* of it, under the logits as they came, in nats */
} ml_sample_choice;

#ifdef MOONLIGHT_CUDA

/* out [n_row] from logits [rows, n_vocab] in the device's memory, of which ids below n_valid count; waits.  The logits
 * are afterwards what they were. */
ml_status ml_device_sample(ml_ctx *ctx, float *logits, int64_t n_vocab, int64_t n_valid, const ml_sample_row *row,
                           int64_t n_row, const int32_t *penalised, int64_t n_penalised, ml_sample_choice *out,
                           ml_error *err);

#else

static inline ml_status ml_device_sample(ml_ctx *ctx, float *logits, int64_t n_vocab, int64_t n_valid,
                                         const ml_sample_row *row, int64_t n_row, const int32_t *penalised,
                                         int64_t n_penalised, ml_sample_choice *out, ml_error *err)
{
    (void)ctx, (void)logits, (void)n_vocab, (void)n_valid, (void)row, (void)n_row, (void)penalised, (void)n_penalised;
    (void)out, (void)err;
    return ML_OK;
}

#endif
#endif
