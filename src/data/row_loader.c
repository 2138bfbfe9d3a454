#include "data/row_loader.h"

#include "base/alloc.h"
#include "data/permute.h"

#include <string.h>

struct ml_row_loader {
    const ml_rows *rows;
    ml_row_loader_config config;
    ml_loader_position at;
    ml_row row;
    int32_t *id, *target; /* [seq] of one sequence */
};

static ml_status check_config(const ml_rows *rows, const ml_row_loader_config *c, ml_error *err)
{
    const ml_rows_split *s = &rows->split[c->split];
    const char *split = ml_dataset_split_name(c->split);
    if (c->batch < 1 || c->seq < 1) {
        return ml_fail(err, ML_EINVAL, "batches of %lld rows of %lld tokens: expected both at least 1",
                       (long long)c->batch, (long long)c->seq);
    }
    if (s->n_row == 0) return ml_fail(err, ML_EINVAL, "%s: there are no rows for %s", rows->path, split);
    if (s->longest_input <= c->seq) return ML_OK;
    return ml_fail(err, ML_EINVAL,
                   "%s: a row of the %s split makes a sequence of %lld tokens: raise train.seq from %lld to that, or "
                   "build the rows again with a smaller --max-tokens",
                   rows->path, split, (long long)s->longest_input, (long long)c->seq);
}

ml_status ml_row_loader_make(const ml_rows *rows, const ml_row_loader_config *config, ml_row_loader **out,
                             ml_error *err)
{
    *out = NULL;
    ML_TRY(check_config(rows, config, err));
    ml_row_loader *l = ml_calloc(1, sizeof *l);
    if (!l) return ml_fail_memory(err, sizeof *l, "a loader of rows");
    ml_status status;
    l->rows = rows;
    l->config = *config;
    ML_TRY_GOTO(ml_rows_reserve(rows, config->split, &l->row, err));
    l->id = ml_calloc((size_t)config->seq, sizeof *l->id);
    l->target = ml_calloc((size_t)config->seq, sizeof *l->target);
    if (!l->id || !l->target) {
        status = ml_fail_memory(err, (size_t)config->seq * 8, "a sequence of tokens");
        goto done;
    }
    *out = l;
    l = NULL;
done:
    ml_row_loader_free(l);
    return status;
}

void ml_row_loader_free(ml_row_loader *l)
{
    if (!l) return;
    ml_row_free(&l->row);
    ml_free(l->id);
    ml_free(l->target);
    ml_free(l);
}

int64_t ml_row_loader_n_row(const ml_row_loader *loader)
{
    return loader->rows->split[loader->config.split].n_row;
}

/* ---- batches ---- */

static ml_status add_single(ml_row_loader *l, ml_batch *out, ml_error *err)
{
    const ml_row *row = &l->row;
    int64_t n = row->span[row->n_span - 1].end - 1;
    memcpy(l->id, row->ids.id, (size_t)n * sizeof *l->id);
    memset(l->target, 0xff, (size_t)n * sizeof *l->target);
    for (size_t i = 0; i < row->n_span; i++) {
        for (int32_t k = row->span[i].begin; k < row->span[i].end; k++) l->target[k - 1] = row->ids.id[k];
    }
    return ml_batch_add(out, l->id, l->target, n, err);
}

/* The prompt and answer `which` of a pair. */
static ml_status add_answer(ml_row_loader *l, int which, ml_batch *out, ml_error *err)
{
    const ml_row *row = &l->row;
    ml_row_span answer = row->span[which];
    int64_t n_prompt = row->span[0].begin, n_answer = answer.end - answer.begin, n = n_prompt + n_answer - 1;
    memcpy(l->id, row->ids.id, (size_t)n_prompt * sizeof *l->id);
    memcpy(l->id + n_prompt, row->ids.id + answer.begin, (size_t)(n_answer - 1) * sizeof *l->id);
    memset(l->target, 0xff, (size_t)n * sizeof *l->target);
    memcpy(l->target + n_prompt - 1, row->ids.id + answer.begin, (size_t)n_answer * sizeof *l->target);
    return ml_batch_add(out, l->id, l->target, n, err);
}

static ml_status add_row(ml_row_loader *l, int64_t i, ml_batch *out, ml_error *err)
{
    ML_TRY(ml_rows_read(l->rows, l->config.split, i, &l->row, err));
    if (l->rows->kind == ML_ROWS_SINGLE) {
        ML_TRY(add_single(l, out, err));
    } else {
        ML_TRY(add_answer(l, 0, out, err));
        out->row[out->n_seq - 1] = i;
        ML_TRY(add_answer(l, 1, out, err));
    }
    out->row[out->n_seq - 1] = i;
    return ML_OK;
}

ml_status ml_row_loader_next(ml_row_loader *l, ml_batch *out, ml_error *err)
{
    int64_t n_row = ml_row_loader_n_row(l);
    ml_loader_position p = l->at;
    ml_batch_clear(out);
    for (int64_t i = 0; i < l->config.batch; i++) {
        ML_TRY(add_row(l, ml_permute(p.index, n_row, ml_permute_key(l->config.seed, p.epoch)), out, err));
        if (++p.index < n_row) continue;
        p.index = 0;
        p.epoch++;
    }
    l->at = p;
    return ML_OK;
}

ml_status ml_row_loader_read(ml_row_loader *l, int64_t first, int64_t n, ml_batch *out, ml_error *err)
{
    int64_t n_row = ml_row_loader_n_row(l);
    if (n < 1 || n > l->config.batch || first < 0 || first > n_row - n) {
        return ml_fail(err, ML_EINVAL, "rows %lld to %lld asked for: a batch holds %lld, and the %s split has %lld",
                       (long long)first, (long long)(first + n), (long long)l->config.batch,
                       ml_dataset_split_name(l->config.split), (long long)n_row);
    }
    ml_batch_clear(out);
    for (int64_t i = 0; i < n; i++) ML_TRY(add_row(l, first + i, out, err));
    return ML_OK;
}

ml_loader_position ml_row_loader_state(const ml_row_loader *loader)
{
    return loader->at;
}

ml_status ml_row_loader_restore(ml_row_loader *l, ml_loader_position p, ml_error *err)
{
    int64_t n_row = ml_row_loader_n_row(l);
    if (p.epoch < 0 || p.index < 0 || p.index >= n_row) {
        return ml_fail(
            err, ML_EINVAL,
            "data position epoch %lld, row %lld: expected a row below %lld; the run was made with other data",
            (long long)p.epoch, (long long)p.index, (long long)n_row);
    }
    l->at = p;
    return ML_OK;
}
