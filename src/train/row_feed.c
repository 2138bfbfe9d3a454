#include "train/row_feed.h"

ml_status ml_row_feed_init(ml_row_feed *f, const ml_rows *rows, const ml_row_feed_config *config, ml_error *err)
{
    *f = (ml_row_feed){ .rows = rows, .config = *config };
    ml_row_loader_config c = {
        .split = ML_SPLIT_TRAIN, .batch = config->batch, .seq = config->seq, .seed = config->seed
    };
    ML_TRY(ml_row_loader_make(rows, &c, &f->train, err));
    if (config->eval_rows == 0 || rows->split[ML_SPLIT_VAL].n_row == 0) return ML_OK;
    c.split = ML_SPLIT_VAL;
    ML_TRY(ml_row_loader_make(rows, &c, &f->val, err));
    int64_t n = ml_row_loader_n_row(f->val);
    f->n_eval_row = n < config->eval_rows ? n : config->eval_rows;
    f->n_eval = (f->n_eval_row + config->batch - 1) / config->batch;
    return ML_OK;
}

void ml_row_feed_free(ml_row_feed *f)
{
    ml_row_loader_free(f->train);
    ml_row_loader_free(f->val);
    f->train = f->val = NULL;
}

ml_status ml_row_feed_next(ml_row_feed *f, ml_batch *out, ml_error *err)
{
    return ml_row_loader_next(f->train, out, err);
}

ml_status ml_row_feed_eval(ml_row_feed *f, int64_t i, ml_batch *out, ml_error *err)
{
    int64_t first = i * f->config.batch, left = f->n_eval_row - first;
    return ml_row_loader_read(f->val, first, left < f->config.batch ? left : f->config.batch, out, err);
}

json_t *ml_row_feed_position(const ml_row_feed *f)
{
    ml_loader_position at = ml_row_loader_state(f->train);
    return json_pack("{s:I, s:I}", "epoch", (json_int_t)at.epoch, "index", (json_int_t)at.index);
}

ml_status ml_row_feed_restore(ml_row_feed *f, const json_t *j, const char *where, ml_error *err)
{
    ml_loader_position at;
    ML_TRY(ml_json_int(j, "epoch", where, &at.epoch, err));
    ML_TRY(ml_json_int(j, "index", where, &at.index, err));
    return ml_row_loader_restore(f->train, at, err);
}
