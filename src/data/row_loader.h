/* Batches from one split of a folder of rows.
 *
 * A row becomes a sequence of its tokens but the last, each with the one after it as target where that is learned, else
 * -1; what follows the last learned token is left out.  A pair becomes two sequences, prompt with chosen answer and
 * prompt with rejected answer.  `row` of the batch is the row's number, pairs have it twice.  Rows of a batch lie end
 * to end without padding and do not see each other.
 *
 * Order: epoch e visits all rows once, in a permutation of (seed, e); a batch may straddle two epochs.  The position is
 * two integers, for the checkpoint.  What a batch holds does not depend on the batch size: batches of n are the first n
 * rows of the order, then the next. */
#ifndef ML_DATA_ROW_LOADER_H
#define ML_DATA_ROW_LOADER_H

#include "data/batch.h"
#include "data/loader.h"
#include "data/rows.h"

typedef struct {
    ml_data_split split;
    int64_t batch; /* rows, or pairs, in a batch */
    int64_t seq;   /* tokens of a sequence at most */
    uint64_t seed;
} ml_row_loader_config;

typedef struct ml_row_loader ml_row_loader;

/* `rows` must outlive the loader.  ML_EINVAL when the split is empty or has a longer row. */
ml_status ml_row_loader_make(const ml_rows *rows, const ml_row_loader_config *config, ml_row_loader **out,
                             ml_error *err);
void ml_row_loader_free(ml_row_loader *loader);
/* Rows in the split: one pass. */
int64_t ml_row_loader_n_row(const ml_row_loader *loader);

/* The next batch in the seeded order, without end, into `out`, which has room for batch (of pairs twice as many)
 * sequences of seq tokens.  Allocates nothing. */
ml_status ml_row_loader_next(ml_row_loader *loader, ml_batch *out, ml_error *err);
/* Rows first .. first + n - 1 in the order of the folder.  Does not move the position. */
ml_status ml_row_loader_read(ml_row_loader *loader, int64_t first, int64_t n, ml_batch *out, ml_error *err);

/* Where the next call of ml_row_loader_next begins; index counts rows. */
ml_loader_position ml_row_loader_state(const ml_row_loader *loader);
/* Continue there.  ML_EINVAL when the position is not one of this split. */
ml_status ml_row_loader_restore(ml_row_loader *loader, ml_loader_position position, ml_error *err);

#endif
