/* What the stages that learn rows share: batches of both splits, and the position in them. */
#ifndef ML_TRAIN_ROW_FEED_H
#define ML_TRAIN_ROW_FEED_H

#include "base/json.h"
#include "data/row_loader.h"

typedef struct {
    int64_t batch, seq; /* rows (or pairs) of a batch, tokens of a sequence at most */
    uint64_t seed;      /* of the order */
    int64_t eval_rows;  /* of the validation split, from its start; fewer when it is shorter; 0: no evaluation */
} ml_row_feed_config;

typedef struct {
    const ml_rows *rows;
    ml_row_feed_config config;
    ml_row_loader *train, *val; /* val is NULL when there is nothing to evaluate on */
    int64_t n_eval_row, n_eval; /* rows of the validation split in use, batches of them */
} ml_row_feed;

/* `rows` must outlive the feed, which needs ml_row_feed_free also after a failure. */
ml_status ml_row_feed_init(ml_row_feed *f, const ml_rows *rows, const ml_row_feed_config *config, ml_error *err);
void ml_row_feed_free(ml_row_feed *f);

ml_status ml_row_feed_next(ml_row_feed *f, ml_batch *out, ml_error *err);
/* Batch i of [0, n_eval). */
ml_status ml_row_feed_eval(ml_row_feed *f, int64_t i, ml_batch *out, ml_error *err);
/* {"epoch", "index"}, and back. */
json_t *ml_row_feed_position(const ml_row_feed *f);
ml_status ml_row_feed_restore(ml_row_feed *f, const json_t *position, const char *where, ml_error *err);

#endif
