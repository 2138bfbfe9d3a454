#include "data/batch.h"

#include "base/alloc.h"

#include <assert.h>
#include <string.h>

static ml_status alloc_ints(int32_t **out, int64_t n, ml_error *err)
{
    *out = ml_calloc((size_t)n, sizeof **out);
    return *out ? ML_OK : ml_fail_memory(err, (size_t)n * sizeof **out, "a batch");
}

ml_status ml_batch_init(ml_batch *batch, int64_t token_capacity, int64_t seq_capacity, ml_error *err)
{
    memset(batch, 0, sizeof *batch);
    if (token_capacity < 1 || seq_capacity < 1 || token_capacity > INT32_MAX || seq_capacity > token_capacity) {
        return ml_fail(err, ML_EINVAL,
                       "a batch of %lld tokens in %lld sequences: expected 1 <= sequences <= tokens < 2^31",
                       (long long)token_capacity, (long long)seq_capacity);
    }
    ml_status status;
    ML_TRY_GOTO(alloc_ints(&batch->id, token_capacity, err));
    ML_TRY_GOTO(alloc_ints(&batch->target, token_capacity, err));
    ML_TRY_GOTO(alloc_ints(&batch->pos, token_capacity, err));
    ML_TRY_GOTO(alloc_ints(&batch->seq, seq_capacity + 1, err));
    batch->row = ml_calloc((size_t)seq_capacity, sizeof *batch->row);
    if (!batch->row) {
        status = ml_fail_memory(err, (size_t)seq_capacity * sizeof *batch->row, "a batch");
        goto done;
    }
    batch->token_capacity = token_capacity;
    batch->seq_capacity = seq_capacity;
done:
    if (status != ML_OK) ml_batch_free(batch);
    return status;
}

void ml_batch_free(ml_batch *batch)
{
    if (!batch) return;
    ml_free(batch->id);
    ml_free(batch->target);
    ml_free(batch->pos);
    ml_free(batch->seq);
    ml_free(batch->row);
    memset(batch, 0, sizeof *batch);
}

void ml_batch_clear(ml_batch *batch)
{
    batch->n_token = batch->n_seq = batch->n_target = 0;
    batch->seq[0] = 0;
}

ml_status ml_batch_add(ml_batch *batch, const int32_t *id, const int32_t *target, int64_t n, ml_error *err)
{
    assert(n >= 1);
    if (n > batch->token_capacity - batch->n_token || batch->n_seq == batch->seq_capacity) {
        return ml_fail(err, ML_EINVAL,
                       "a sequence of %lld tokens does not fit into a batch that holds %lld of %lld tokens and %lld of "
                       "%lld sequences",
                       (long long)n, (long long)batch->n_token, (long long)batch->token_capacity,
                       (long long)batch->n_seq, (long long)batch->seq_capacity);
    }
    int64_t at = batch->n_token;
    memcpy(batch->id + at, id, (size_t)n * sizeof *id);
    memcpy(batch->target + at, target, (size_t)n * sizeof *target);
    for (int64_t i = 0; i < n; i++) {
        batch->pos[at + i] = (int32_t)i;
        batch->n_target += target[i] >= 0;
    }
    batch->n_token += n;
    batch->row[batch->n_seq] = -1;
    batch->seq[++batch->n_seq] = (int32_t)batch->n_token;
    return ML_OK;
}
