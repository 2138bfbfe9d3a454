/* The stage `pretrain`: a model from scratch on windows of the recipe's data. */
#include "recipe/data.h"
#include "recipe/setup.h"
#include "recipe/stage.h"
#include "train/pretrain.h"

typedef struct {
    ml_recipe_data data;
    bool is_found;
    ml_pretrain *stage;
} pretraining;

/* What is there, once: again when building it has failed or was stopped half way. */
static ml_status find_data(ml_recipe_run *r, pretraining *p, ml_error *err)
{
    if (p->is_found) return ML_OK;
    ml_recipe_data_free(&p->data);
    ML_TRY(ml_recipe_data_find(r->o, &p->data, err));
    p->is_found = true;
    return ML_OK;
}

static ml_status check(ml_recipe_run *r, ml_error *err)
{
    pretraining *p = r->self = ml_calloc(1, sizeof *p);
    if (!p) return ml_fail_memory(err, sizeof *p, "the pretraining stage");
    ML_TRY(find_data(r, p, err));
    return ml_recipe_model_config(r->o, p->data.tokenizer, &r->config, err);
}

static ml_status make_stage(ml_recipe_run *r, pretraining *p, ml_error *err)
{
    const ml_train_config *t = &r->train;
    ml_pretrain_config config = { .batch = t->batch,
                                  .seq = t->seq,
                                  .cross_documents = ml_options_flag(r->o, "data.cross_documents"),
                                  .seed = t->seed,
                                  .eval_windows = ml_options_int(r->o, "eval.windows") };
    ml_pretrain_free(p->stage); /* of an attempt that failed later on */
    p->stage = NULL;
    ML_TRY(ml_pretrain_make(p->data.set, &config, &p->stage, err));
    int64_t n_window = ml_pretrain_n_window(p->stage);
    ml_listener_say(r->listener, "%.2f passes over %lld windows", ml_recipe_count_sequences(t) / (double)n_window,
                    (long long)n_window);
    r->stage = ml_pretrain_stage(p->stage);
    return ML_OK;
}

static ml_status prepare(ml_recipe_run *r, ml_error *err)
{
    pretraining *p = r->self;
    ML_TRY(find_data(r, p, err));
    p->is_found = false;
    ML_TRY(ml_recipe_data_prepare(&p->data, r->listener, err));
    p->is_found = true;
    ML_TRY(ml_recipe_model_config(r->o, p->data.tokenizer, &r->config, err));
    r->tokenizer = p->data.tokenizer;
    return make_stage(r, p, err);
}

static ml_status init(ml_recipe_run *r, ml_error *err)
{
    (void)err;
    ml_model_init(r->model, r->train.seed);
    return ML_OK;
}

static void free_stage(ml_recipe_run *r)
{
    pretraining *p = r->self;
    if (!p) return;
    ml_pretrain_free(p->stage);
    ml_recipe_data_free(&p->data);
    ml_free(p);
}

const ml_recipe_stage ml_recipe_pretrain = {
    .name = "pretrain", .check = check, .prepare = prepare, .init = init, .free = free_stage
};
