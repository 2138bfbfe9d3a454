#include "train/sft.h"

#include "base/alloc.h"

struct ml_sft {
    ml_row_feed feed;
    ml_stage stage;
};

static ml_status next(void *self, ml_batch *out, ml_error *err)
{
    return ml_row_feed_next(&((ml_sft *)self)->feed, out, err);
}

static ml_status eval(void *self, int64_t i, ml_batch *out, ml_error *err)
{
    return ml_row_feed_eval(&((ml_sft *)self)->feed, i, out, err);
}

static json_t *position(void *self)
{
    return ml_row_feed_position(&((ml_sft *)self)->feed);
}

static ml_status restore(void *self, const json_t *j, const char *where, ml_error *err)
{
    return ml_row_feed_restore(&((ml_sft *)self)->feed, j, where, err);
}

ml_status ml_sft_make(const ml_rows *rows, const ml_row_feed_config *config, ml_sft **out, ml_error *err)
{
    *out = NULL;
    ML_TRY(ml_rows_check_kind(rows, ML_ROWS_SINGLE, err));
    ml_sft *s = ml_calloc(1, sizeof *s);
    if (!s) return ml_fail_memory(err, sizeof *s, "the stage sft");
    ml_status status = ml_row_feed_init(&s->feed, rows, config, err);
    if (status != ML_OK) {
        ml_sft_free(s);
        return status;
    }
    s->stage = (ml_stage){ .name = "sft",
                           .self = s,
                           .next = next,
                           .loss = ml_loss_cross_entropy,
                           .eval = eval,
                           .n_eval = s->feed.n_eval,
                           .is_tuning = true,
                           .position = position,
                           .restore = restore };
    *out = s;
    return ML_OK;
}

void ml_sft_free(ml_sft *s)
{
    if (!s) return;
    ml_row_feed_free(&s->feed);
    ml_free(s);
}

const ml_stage *ml_sft_stage(ml_sft *s)
{
    return &s->stage;
}
