/* The stage `sft`: a model goes on with rows of which answers are learned. */
#include "base/alloc.h"
#include "recipe/tuning.h"
#include "train/sft.h"

#include <string.h>

typedef struct {
    ml_recipe_tuning tuning;
    ml_sft *stage;
} tuning_run;

static ml_row_form find_form(const ml_options *o)
{
    const char *kind = ml_options_text(o, "data.kind");
    return !strcmp(kind, "chat") ? ML_ROW_CHAT : !strcmp(kind, "instruction") ? ML_ROW_INSTRUCTION : ML_ROW_PROMPT;
}

static ml_status check(ml_recipe_run *r, ml_error *err)
{
    tuning_run *p = r->self = ml_calloc(1, sizeof *p);
    if (!p) return ml_fail_memory(err, sizeof *p, "the stage sft");
    ML_TRY(ml_recipe_tuning_find(r->o, find_form(r->o), &p->tuning, err));
    r->config = p->tuning.config;
    r->train.base = p->tuning.model;
    return r->has_adapter ? ml_recipe_tuning_bind(&p->tuning, &r->model, err) : ML_OK;
}

static ml_status prepare(ml_recipe_run *r, ml_error *err)
{
    tuning_run *p = r->self;
    ml_train_config *t = &r->train;
    ML_TRY(ml_recipe_tuning_prepare(&p->tuning, r->listener, err));
    ML_TRY(ml_recipe_tuning_schedule(&p->tuning, r->listener, t->batch * t->accumulate, t, err));
    ml_row_feed_config config = {
        .batch = t->batch, .seq = t->seq, .seed = t->seed, .eval_rows = ml_options_int(r->o, "eval.rows")
    };
    ml_sft_free(p->stage); /* of an attempt that failed later on */
    p->stage = NULL;
    ML_TRY(ml_sft_make(p->tuning.rows, &config, &p->stage, err));
    r->tokenizer = p->tuning.tokenizer;
    r->stage = ml_sft_stage(p->stage);
    return ML_OK;
}

static ml_status init(ml_recipe_run *r, ml_error *err)
{
    const ml_recipe_tuning *t = &((tuning_run *)r->self)->tuning;
    ml_listener_say(r->listener, "beginning with %s", t->model);
    return ml_recipe_tuning_fill(t, r->model, err);
}

static void free_stage(ml_recipe_run *r)
{
    tuning_run *p = r->self;
    if (!p) return;
    ml_sft_free(p->stage);
    ml_recipe_tuning_free(&p->tuning);
    ml_free(p);
}

const ml_recipe_stage ml_recipe_sft = {
    .name = "sft", .check = check, .prepare = prepare, .init = init, .free = free_stage
};
