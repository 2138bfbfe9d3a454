#include "train/pretrain.h"

#include <string.h>

struct ml_pretrain {
    ml_pretrain_config config;
    ml_loader *train, *val; /* val is NULL when there is nothing to evaluate on */
    int64_t n_eval_window;
    ml_stage stage;
};

static void copy_batch(const ml_batch *from, ml_batch *to)
{
    to->n_token = from->n_token;
    to->n_seq = from->n_seq;
    to->n_target = from->n_target;
    memcpy(to->id, from->id, (size_t)from->n_token * sizeof *to->id);
    memcpy(to->target, from->target, (size_t)from->n_token * sizeof *to->target);
    memcpy(to->pos, from->pos, (size_t)from->n_token * sizeof *to->pos);
    memcpy(to->seq, from->seq, (size_t)(from->n_seq + 1) * sizeof *to->seq);
    memcpy(to->row, from->row, (size_t)from->n_seq * sizeof *to->row);
}

static ml_status next_batch(void *self, ml_batch *out, ml_error *err)
{
    ml_pretrain *p = self;
    const ml_batch *batch;
    ML_TRY(ml_loader_next(p->train, &batch, err));
    copy_batch(batch, out);
    return ML_OK;
}

static ml_status eval_batch(void *self, int64_t i, ml_batch *out, ml_error *err)
{
    ml_pretrain *p = self;
    int64_t first = i * p->config.batch, left = p->n_eval_window - first;
    const ml_batch *batch;
    ML_TRY(ml_loader_read(p->val, first, left < p->config.batch ? left : p->config.batch, &batch, err));
    copy_batch(batch, out);
    return ML_OK;
}

static json_t *position(void *self)
{
    ml_loader_position at = ml_loader_state(((ml_pretrain *)self)->train);
    return json_pack("{s:I, s:I}", "epoch", (json_int_t)at.epoch, "index", (json_int_t)at.index);
}

static ml_status restore(void *self, const json_t *j, const char *where, ml_error *err)
{
    ml_loader_position at;
    ML_TRY(ml_json_int(j, "epoch", where, &at.epoch, err));
    ML_TRY(ml_json_int(j, "index", where, &at.index, err));
    return ml_loader_restore(((ml_pretrain *)self)->train, at, err);
}

static ml_status make_loaders(ml_pretrain *p, const ml_dataset *data, ml_error *err)
{
    const ml_pretrain_config *c = &p->config;
    ml_loader_config loader = { .split = ML_SPLIT_TRAIN,
                                .batch = c->batch,
                                .seq = c->seq,
                                .cross_documents = c->cross_documents,
                                .seed = c->seed,
                                .rank = 0,
                                .n_rank = 1 };
    ML_TRY(ml_loader_make(data, &loader, &p->train, err));
    if (c->eval_windows == 0 || data->split[ML_SPLIT_VAL].n_token <= c->seq) return ML_OK;
    loader.split = ML_SPLIT_VAL;
    ML_TRY(ml_loader_make(data, &loader, &p->val, err));
    int64_t n = ml_loader_n_window(p->val);
    p->n_eval_window = n < c->eval_windows ? n : c->eval_windows;
    return ML_OK;
}

ml_status ml_pretrain_make(const ml_dataset *data, const ml_pretrain_config *config, ml_pretrain **out, ml_error *err)
{
    *out = NULL;
    ml_pretrain *p = ml_calloc(1, sizeof *p);
    if (!p) return ml_fail_memory(err, sizeof *p, "the pretraining stage");
    p->config = *config;
    ml_status status = make_loaders(p, data, err);
    if (status != ML_OK) {
        ml_pretrain_free(p);
        return status;
    }
    p->stage = (ml_stage){ .name = "pretrain",
                           .self = p,
                           .next = next_batch,
                           .loss = ml_loss_cross_entropy,
                           .eval = eval_batch,
                           .n_eval = (p->n_eval_window + config->batch - 1) / config->batch,
                           .position = position,
                           .restore = restore };
    *out = p;
    return ML_OK;
}

void ml_pretrain_free(ml_pretrain *p)
{
    if (!p) return;
    ml_loader_free(p->train);
    ml_loader_free(p->val);
    ml_free(p);
}

const ml_stage *ml_pretrain_stage(ml_pretrain *p)
{
    return &p->stage;
}

int64_t ml_pretrain_n_window(const ml_pretrain *p)
{
    return ml_loader_n_window(p->train);
}
