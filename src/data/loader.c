#include "data/loader.h"

#include "base/alloc.h"
#include "data/permute.h"

#include <string.h>

struct ml_loader {
    const ml_dataset *data;
    ml_loader_config config;
    int64_t n_window;
    ml_loader_position at;
    ml_batch batch;
    int32_t *window; /* [seq + 1] ids of one window */
    int32_t *target; /* [seq] */
};

/* ---- life ---- */

static ml_status check_config(const ml_dataset *data, const ml_loader_config *c, ml_error *err)
{
    if (c->batch < 1 || c->seq < 1 || c->batch > INT32_MAX / c->seq) {
        return ml_fail(err, ML_EINVAL,
                       "batches of %lld windows of %lld tokens: expected both at least 1 and under 2^31 "
                       "tokens in all",
                       (long long)c->batch, (long long)c->seq);
    }
    if (c->n_rank < 1 || c->rank < 0 || c->rank >= c->n_rank || c->n_rank > INT32_MAX) {
        return ml_fail(err, ML_EINVAL, "data for rank %lld of %lld: expected 0 <= rank < n_rank", (long long)c->rank,
                       (long long)c->n_rank);
    }
    int64_t n_token = data->split[c->split].n_token;
    if (n_token > c->seq && (n_token - 1) / c->seq < (int64_t)1 << 60) return ML_OK;
    return ml_fail(err, ML_EINVAL,
                   "%s: the %s split has %lld tokens, one window of train.seq %lld needs %lld: lower train.seq, build "
                   "from more text%s",
                   data->path, ml_dataset_split_name(c->split), (long long)n_token, (long long)c->seq,
                   (long long)c->seq + 1, c->split == ML_SPLIT_VAL ? " or with a larger --val-fraction" : "");
}

ml_status ml_loader_make(const ml_dataset *data, const ml_loader_config *config, ml_loader **out, ml_error *err)
{
    *out = NULL;
    ML_TRY(check_config(data, config, err));
    ml_loader *l = ml_calloc(1, sizeof *l);
    if (!l) return ml_fail_memory(err, sizeof *l, "a loader");
    ml_status status;
    int64_t n = config->batch * config->seq;
    l->data = data;
    l->config = *config;
    l->n_window = (data->split[config->split].n_token - 1) / config->seq;
    ML_TRY_GOTO(ml_batch_init(&l->batch, n, config->cross_documents ? config->batch : n, err));
    l->window = ml_calloc((size_t)config->seq + 1, sizeof *l->window);
    l->target = ml_calloc((size_t)config->seq, sizeof *l->target);
    if (!l->window || !l->target) {
        status = ml_fail_memory(err, (size_t)config->seq * 8, "a window of tokens");
        goto done;
    }
    *out = l;
    l = NULL;
done:
    ml_loader_free(l);
    return status;
}

void ml_loader_free(ml_loader *loader)
{
    if (!loader) return;
    ml_batch_free(&loader->batch);
    ml_free(loader->window);
    ml_free(loader->target);
    ml_free(loader);
}

int64_t ml_loader_n_window(const ml_loader *loader)
{
    return loader->n_window;
}

/* ---- batches ---- */

static ml_status add_window(ml_loader *l, int64_t window, ml_error *err)
{
    const ml_loader_config *c = &l->config;
    int64_t first = window * c->seq;
    ML_TRY(ml_dataset_read(l->data, c->split, first, c->seq + 1, l->window, err));
    memcpy(l->target, l->window + 1, (size_t)c->seq * sizeof *l->target);
    if (c->cross_documents) return ml_batch_add(&l->batch, l->window, l->target, c->seq, err);
    int64_t document = ml_dataset_find_document(l->data, c->split, first);
    for (int64_t at = 0; at < c->seq; document++) {
        int64_t begin, n;
        ML_TRY(ml_dataset_document(l->data, c->split, document, &begin, &n, err));
        int64_t end = begin + n - first; /* of the document, within the window */
        if (end <= c->seq)
            l->target[end - 1] = -1;
        else
            end = c->seq;
        ML_TRY(ml_batch_add(&l->batch, l->window + at, l->target + at, end - at, err));
        at = end;
    }
    return ML_OK;
}

/* The position `n` windows further on, across epochs. */
static ml_loader_position advance(const ml_loader *l, ml_loader_position p, int64_t n)
{
    p.epoch += n / l->n_window;
    p.index += n % l->n_window;
    if (p.index >= l->n_window) {
        p.index -= l->n_window;
        p.epoch++;
    }
    return p;
}

ml_status ml_loader_next(ml_loader *loader, const ml_batch **out, ml_error *err)
{
    const ml_loader_config *c = &loader->config;
    ml_batch_clear(&loader->batch);
    ml_loader_position p = advance(loader, loader->at, c->rank * c->batch);
    for (int64_t i = 0; i < c->batch; i++, p = advance(loader, p, 1)) {
        uint64_t key = ml_permute_key(c->seed, p.epoch);
        ML_TRY(add_window(loader, ml_permute(p.index, loader->n_window, key), err));
    }
    loader->at = advance(loader, loader->at, c->n_rank * c->batch);
    *out = &loader->batch;
    return ML_OK;
}

ml_status ml_loader_read(ml_loader *loader, int64_t first, int64_t n, const ml_batch **out, ml_error *err)
{
    if (n < 1 || n > loader->config.batch || first < 0 || first > loader->n_window - n) {
        return ml_fail(err, ML_EINVAL, "windows %lld to %lld asked for: a batch holds %lld, and the %s split has %lld",
                       (long long)first, (long long)(first + n), (long long)loader->config.batch,
                       ml_dataset_split_name(loader->config.split), (long long)loader->n_window);
    }
    ml_batch_clear(&loader->batch);
    for (int64_t i = 0; i < n; i++) ML_TRY(add_window(loader, first + i, err));
    *out = &loader->batch;
    return ML_OK;
}

ml_loader_position ml_loader_state(const ml_loader *loader)
{
    return loader->at;
}

ml_status ml_loader_restore(ml_loader *loader, ml_loader_position position, ml_error *err)
{
    if (position.epoch < 0 || position.index < 0 || position.index >= loader->n_window) {
        return ml_fail(
            err, ML_EINVAL,
            "data position epoch %lld, window %lld: expected a window below %lld; the run was made with other "
            "data or another train.seq",
            (long long)position.epoch, (long long)position.index, (long long)loader->n_window);
    }
    loader->at = position;
    return ML_OK;
}
