/* A ragged batch: what every training stage feeds to the model.
 *
 * The tokens of all sequences lie end to end.  Sequences do not see each other and positions restart at
 * each; there are no padding tokens.  The arrays have the capacity given at creation and are refilled in
 * place, so nothing is allocated inside a training step. */
#ifndef ML_DATA_BATCH_H
#define ML_DATA_BATCH_H

#include "base/status.h"

typedef struct ml_batch {
    int64_t n_token;
    int64_t n_seq;
    int64_t n_target; /* entries of `target` that are not -1 */
    int32_t *id;      /* [n_token] */
    int32_t *target;  /* [n_token] the token that should follow; -1: not trained */
    int32_t *pos;     /* [n_token] position within the sequence, from 0 */
    int32_t *seq;     /* [n_seq + 1] sequence s is tokens seq[s] .. seq[s+1]-1; seq[0] = 0, seq[n_seq] = n_token */
    int64_t *row;     /* [n_seq] what a sequence was made from, as its source counts; -1: it does not say */
    int64_t token_capacity;
    int64_t seq_capacity;
} ml_batch;

/* An empty batch with room for so many tokens and sequences (each at least 1).  Free with ml_batch_free. */
ml_status ml_batch_init(ml_batch *batch, int64_t token_capacity, int64_t seq_capacity, ml_error *err);
/* Safe on a zeroed batch. */
void ml_batch_free(ml_batch *batch);
/* Back to no tokens and no sequences; keeps the memory. */
void ml_batch_clear(ml_batch *batch);
/* Append a sequence of n >= 1 tokens: id [n], target [n].  ML_EINVAL when it does not fit (the batch is then
 * unchanged). */
ml_status ml_batch_add(ml_batch *batch, const int32_t *id, const int32_t *target, int64_t n, ml_error *err);

#endif
