/* The stage `dpo`: a model goes on with pairs of answers, held near the frozen one it began as. */
#include "base/alloc.h"
#include "recipe/tuning.h"
#include "train/dpo.h"

#include <string.h>

typedef struct {
    ml_recipe_tuning tuning;
    ml_dpo *stage;
    ml_model *reference; /* live; NULL when what it says is cached */
    int64_t n_pair;      /* of a micro-step */
} tuning_run;

static bool is_live(const ml_options *o)
{
    return !strcmp(ml_options_text(o, "dpo.reference"), "live");
}

static ml_status check(ml_recipe_run *r, ml_error *err)
{
    tuning_run *p = r->self = ml_calloc(1, sizeof *p);
    if (!p) return ml_fail_memory(err, sizeof *p, "the stage dpo");
    ML_TRY(ml_recipe_tuning_find(r->o, ML_ROW_PREFERENCE, &p->tuning, err));
    r->config = p->tuning.config;
    p->n_pair = r->train.batch;
    r->train.batch *= 2; /* sequences */
    r->train.base = p->tuning.model;
    if (r->has_adapter) return ml_recipe_tuning_bind(&p->tuning, &r->model, err);
    if (is_live(r->o)) r->n_frozen = ml_model_count(&r->config).total;
    return ML_OK;
}

/* The reference goes where the model is trained: whole when it is asked along each batch or an adapter is trained
 * beside it; else as much of it as the GPU has room for, before the model comes there. */
static ml_status go_there(const ml_recipe_run *r, const tuning_run *p, ml_model *reference, bool whole, ml_error *err)
{
    ml_device *device = r->train.device;
    const int64_t least_left = (int64_t)256 << 20;
    if (!device || reference->device) return ML_OK;
    if (whole) return ml_model_upload(reference, device, 0, err);
    int64_t tokens = 2 * p->n_pair * r->train.seq, most = ml_device_get_info(device).free_bytes - least_left;
    most -= ml_train_plan_device_pass(&r->config, tokens, r->train.precision);
    return ml_model_upload(reference, device, most > 0 ? (size_t)most : 1, err);
}

/* Products in bf16 have a cache of their own, so that the first loss is that of equal models. */
static ml_status use_cache(ml_recipe_run *r, tuning_run *p, ml_model *reference, ml_error *err)
{
    char name[64], path[ML_PATH_MAX];
    bool found;
    ml_progress *progress;
    bool bf16 = r->train.device && r->train.precision == ML_PRECISION_BF16;
    snprintf(name, sizeof name, "reference_%.16s%s.json", ml_dpo_reference_name(p->stage), bf16 ? "_bf16" : "");
    ML_TRY(ml_path_join(path, p->tuning.dir, name, err));
    ML_TRY(ml_dpo_load_reference(p->stage, path, &found, err));
    if (found) return ML_OK;
    ML_TRY(go_there(r, p, reference, r->has_adapter, err));
    const ml_rows *rows = p->tuning.rows;
    double n = (double)(rows->split[ML_SPLIT_TRAIN].n_row + rows->split[ML_SPLIT_VAL].n_row);
    ml_listener_say(r->listener, "asking the reference, %s, about every pair; kept in %s", p->tuning.model, path);
    ML_TRY(ml_progress_begin_for(r->listener, "reference", "pairs", n, &progress, err));
    ml_status status = ml_dpo_compute_reference(p->stage, reference, progress, err);
    ml_progress_end(progress);
    ML_TRY(status);
    return ml_dpo_save_reference(p->stage, path, err);
}

static ml_status make_reference(ml_recipe_run *r, tuning_run *p, ml_error *err)
{
    if (r->has_adapter) { /* the reference is the model without it */
        ML_TRY(ml_dpo_identify(p->stage, r->model, err));
        if (!is_live(r->o)) return use_cache(r, p, r->model, err);
        ML_TRY(go_there(r, p, r->model, true, err));
        return ml_dpo_use_live_reference(p->stage, r->model, err);
    }
    ml_model *reference;
    ML_TRY(ml_model_make(&r->config, ML_F32, false, &reference, err));
    ml_status status = ml_recipe_tuning_fill(&p->tuning, reference, err);
    if (status == ML_OK) status = ml_dpo_identify(p->stage, reference, err);
    if (status == ML_OK && is_live(r->o)) {
        p->reference = reference;
        ML_TRY(go_there(r, p, reference, true, err));
        return ml_dpo_use_live_reference(p->stage, reference, err);
    }
    if (status == ML_OK) status = use_cache(r, p, reference, err);
    ml_model_free(reference);
    return status;
}

static void drop_stage(tuning_run *p)
{
    ml_dpo_free(p->stage);
    ml_model_free(p->reference);
    p->stage = NULL;
    p->reference = NULL;
}

static ml_status prepare(ml_recipe_run *r, ml_error *err)
{
    tuning_run *p = r->self;
    ml_train_config *t = &r->train;
    ML_TRY(ml_recipe_tuning_prepare(&p->tuning, r->listener, err));
    ML_TRY(ml_recipe_tuning_schedule(&p->tuning, r->listener, p->n_pair * t->accumulate, t, err));
    ml_dpo_config config = {
        .feed = { .batch = p->n_pair, .seq = t->seq, .seed = t->seed, .eval_rows = ml_options_int(r->o, "eval.rows") },
        .beta = ml_options_real(r->o, "dpo.beta"),
        .loss = strcmp(ml_options_text(r->o, "dpo.loss"), "ipo") ? ML_DPO_SIGMOID : ML_DPO_IPO,
        .chosen = ml_options_real(r->o, "dpo.chosen"),
        .precision = t->precision
    };
    drop_stage(p); /* of an attempt that failed later on */
    ML_TRY(ml_dpo_make(p->tuning.rows, &config, &p->stage, err));
    ML_TRY(make_reference(r, p, err));
    r->tokenizer = p->tuning.tokenizer;
    r->stage = ml_dpo_stage(p->stage);
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
    drop_stage(p);
    ml_recipe_tuning_free(&p->tuning);
    ml_free(p);
}

const ml_recipe_stage ml_recipe_dpo = {
    .name = "dpo", .check = check, .prepare = prepare, .init = init, .free = free_stage
};
