/* Batches from one split of a data folder.
 *
 * Window w of a split covers tokens [w * seq, w * seq + seq] of its stream: seq inputs, each with the token after
 * it as target (neighbouring windows share one token: the last target of one is the first input of the next).
 * There are n_window = (n_token - 1) / seq; the tokens after the last whole window are not used.
 *
 * cross_documents off: every piece of a document inside the window is a sequence of its own, positions restart at
 * 0 at each piece, and the last token of a document (its EOS) has target -1; the EOS itself is the target of the
 * token before it.  On: one sequence per window, every token has a target.
 *
 * Order: epoch e visits all windows once, in a permutation of (seed, e).  The global order is epoch 0, then 1, ...,
 * and a batch may straddle two epochs.  One call of ml_loader_next advances by batch * n_rank windows, of which this
 * rank gets the rank-th run of `batch`; so a step of A calls covers A * batch * n_rank consecutive windows, the same
 * set for every n_rank that keeps that product.  The position is two integers, for the checkpoint. */
#ifndef ML_DATA_LOADER_H
#define ML_DATA_LOADER_H

#include "data/batch.h"
#include "data/dataset.h"

typedef struct {
    ml_data_split split;
    int64_t batch; /* windows in one batch of this rank (train.batch) */
    int64_t seq;   /* inputs in one window (train.seq) */
    bool cross_documents;
    uint64_t seed;
    int64_t rank, n_rank; /* 0, 1 for one process */
} ml_loader_config;

typedef struct {
    int64_t epoch; /* whole passes over the split so far */
    int64_t index; /* windows of this pass already given out, over all ranks: 0 <= index < n_window */
} ml_loader_position;

typedef struct ml_loader ml_loader;

/* `data` must outlive the loader.  ML_EINVAL when the split is smaller than one window (the message says what to
 * change) or a number of the configuration makes no sense. */
ml_status ml_loader_make(const ml_dataset *data, const ml_loader_config *config, ml_loader **out, ml_error *err);
void ml_loader_free(ml_loader *loader);

/* Windows in the split: one pass. */
int64_t ml_loader_n_window(const ml_loader *loader);

/* The next batch in the seeded order, without end: batch * seq tokens.  *out belongs to the loader and holds until
 * the next call on it.  Allocates nothing. */
ml_status ml_loader_next(ml_loader *loader, const ml_batch **out, ml_error *err);
/* For evaluation: windows first .. first + n - 1 in the order of the stream (1 <= n <= batch; all below n_window).
 * Does not move the position. */
ml_status ml_loader_read(ml_loader *loader, int64_t first, int64_t n, const ml_batch **out, ml_error *err);

/* Where the next call of ml_loader_next begins. */
ml_loader_position ml_loader_state(const ml_loader *loader);
/* Continue there.  ML_EINVAL when the position is not one of this split. */
ml_status ml_loader_restore(ml_loader *loader, ml_loader_position position, ml_error *err);

#endif
