/* Saving and restoring a training run. */
#include "train/device_step.h"

#include "format/checkpoint.h"
#include "format/hf.h"
#include "format/peft.h"
#include "format/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char OPTIMIZER_FILE[] = "state/optimizer.safetensors";
static const char MASTER_FILE[] = "state/master.safetensors";
static const char TRAINER_FILE[] = "state/trainer.json";

/* One of the optimizer's buffers on a device. */
typedef struct {
    ml_optimizer *optimizer;
    int64_t i;
} distant;

static ml_status read_distant(void *arg, int64_t first, int64_t n, float *values, ml_error *err)
{
    const distant *d = arg;
    return ml_optimizer_read_state(d->optimizer, d->i, first, n, values, err);
}

static ml_status write_distant(void *arg, int64_t first, int64_t n, const float *values, ml_error *err)
{
    const distant *d = arg;
    return ml_optimizer_write_state(d->optimizer, d->i, first, n, values, err);
}

/* The optimizer's buffers, or (when weights are saved rounded) the fp32 masters, as state buffers. */
static ml_status list_buffers(ml_loop *t, bool masters, ml_state_buffer **out, size_t *n, ml_error *err)
{
    *n = (size_t)(masters ? t->n_param : ml_optimizer_n_state(t->optimizer));
    /* What distant buffers are read by lies behind the list. */
    ml_state_buffer *list = ml_calloc(*n, sizeof *list + sizeof(distant));
    distant *d = (distant *)(void *)(list + *n);
    if (!list) return ml_fail_memory(err, *n * sizeof *list, "a list of state buffers");
    for (size_t i = 0; i < *n; i++) {
        if (masters) {
            const ml_param *p = &t->param[i];
            list[i] =
                (ml_state_buffer){ .name = p->name, .dtype = ML_ST_F32, .n = ml_param_count(p), .data = p->value };
        } else {
            ml_optim_state s = ml_optimizer_get_state(t->optimizer, (int64_t)i);
            list[i] = (ml_state_buffer){ .name = s.name, .dtype = ML_ST_F32, .n = s.count, .data = s.data };
            if (!t->there) continue;
            d[i] = (distant){ t->optimizer, (int64_t)i };
            list[i].arg = &d[i];
            list[i].read = read_distant;
            list[i].write = write_distant;
        }
    }
    *out = list;
    return ML_OK;
}

static ml_status save_buffers(ml_loop *t, ml_checkpoint *c, bool masters, ml_error *err)
{
    ml_state_buffer *list;
    size_t n;
    ML_TRY(list_buffers(t, masters, &list, &n, err));
    ml_status status = ml_checkpoint_put_state(c, masters ? MASTER_FILE : OPTIMIZER_FILE, list, n, err);
    ml_free(list);
    return status;
}

static ml_status load_buffers(ml_loop *t, const char *folder, bool masters, ml_error *err)
{
    ml_state_buffer *list;
    size_t n;
    ML_TRY(list_buffers(t, masters, &list, &n, err));
    ml_status status = ml_checkpoint_get_state(folder, masters ? MASTER_FILE : OPTIMIZER_FILE, list, n, err);
    ml_free(list);
    return status;
}

static json_t *loop_to_json(const ml_loop *t)
{
    json_t *j = json_object();
    json_object_set_new(j, "stage", json_string(t->stage->name));
    json_object_set_new(j, "step", json_integer(t->step));
    json_object_set_new(j, "tokens", json_integer(t->tokens));
    json_object_set_new(j, "optimizer_step", json_integer(ml_optimizer_get_step(t->optimizer)));
    json_object_set_new(j, "best_loss", ml_json_number(t->best_loss));
    json_object_set_new(j, "not_better", json_integer(t->n_not_better));
    json_object_set_new(j, "guard", ml_guard_to_json(&t->guard));
    json_object_set_new(j, "data", t->stage->position(t->stage->self));
    return j;
}

static uint64_t expected_bytes(const ml_loop *t)
{
    const ml_adapter *a = t->config.adapter;
    uint64_t n_bytes = (a ? ml_peft_save_bytes(a) : ml_hf_save_bytes(t->model, t->config.save_dtype)) + (4u << 20);
    for (int64_t i = 0; i < ml_optimizer_n_state(t->optimizer); i++) {
        n_bytes += 4u * (uint64_t)ml_optimizer_get_state(t->optimizer, i).count;
    }
    if (t->config.save_dtype != ML_F32) {
        for (int64_t i = 0; i < t->n_param; i++) n_bytes += 4u * (uint64_t)ml_param_count(&t->param[i]);
    }
    return n_bytes;
}

static ml_status write_checkpoint(ml_loop *t, ml_checkpoint *c, ml_error *err)
{
    char summary[256];
    snprintf(summary, sizeof summary, "Stage `%s`, step %lld of %lld, %lld tokens seen.", t->stage->name,
             (long long)t->step, (long long)t->config.schedule.steps, (long long)t->tokens);
    ml_manifest *manifest = ml_checkpoint_manifest(c);
    if (t->config.adapter)
        ML_TRY(ml_peft_save(t->config.adapter, t->config.save_dtype, t->config.base, manifest, err));
    else
        ML_TRY(ml_hf_save(t->model, t->config.save_dtype, summary, manifest, err));
    if (t->tokenizer) ML_TRY(ml_tokenizer_save(t->tokenizer, ml_checkpoint_path(c), err));
    ML_TRY(save_buffers(t, c, false, err));
    if (t->config.save_dtype != ML_F32) ML_TRY(save_buffers(t, c, true, err));
    json_t *j = loop_to_json(t);
    ml_status status = ml_checkpoint_put_json(c, TRAINER_FILE, j, err);
    json_decref(j);
    ML_TRY(status);
    return ml_checkpoint_commit(c, err);
}

/* Files are written from memory of this machine, and read into it: what is trained comes here, or goes back. */
static ml_status pull(ml_loop *t, ml_error *err)
{
    return t->config.adapter ? ml_adapter_pull(t->config.adapter, err) : ml_model_pull(t->model, err);
}

static ml_status push(ml_loop *t, ml_error *err)
{
    if (!t->config.adapter) return ml_model_push(t->model, err);
    ML_TRY(ml_adapter_push(t->config.adapter, err));
    if (!t->there) return ML_OK;
    /* The norms that the run had: sums in that order. */
    ml_ctx_reset(&t->ctx);
    (void)ml_adapter_queue_norms(&t->ctx, t->config.adapter); /* a failure is the context's */
    return ml_ctx_status(&t->ctx, err);
}

static void use_place(ml_loop *t, bool there)
{
    if (t->config.adapter)
        ml_adapter_use_place(t->config.adapter, there);
    else
        ml_model_use_place(t->model, there);
}

ml_status ml_loop_save(ml_loop *t, ml_error *err)
{
    ml_checkpoint *c = NULL;
    ML_TRY(ml_checkpoint_begin(&c, t->run, t->step, expected_bytes(t), err));
    ml_status status = pull(t, err);
    use_place(t, false);
    if (status == ML_OK) status = write_checkpoint(t, c, err);
    use_place(t, true);
    ml_checkpoint_free(c);
    ML_TRY(status);
    t->saved_step = t->step;
    t->n_roll_back = 0;
    return ml_run_prune(t->run, t->config.keep, t->config.milestone, err);
}

static ml_status read_weights(ml_loop *t, const char *folder, ml_error *err)
{
    ml_config saved;
    ml_weight_source *source;
    if (t->config.adapter) return ml_peft_fill(t->config.adapter, folder, err);
    ML_TRY(ml_hf_source_open(folder, &saved, &source, err));
    const char *field = NULL;
    ml_status status = ML_OK;
    if (!ml_config_same_model(&saved, &t->model->config, &field)) {
        status =
            ml_fail(err, ML_EINVAL, "%s: the checkpoint has another %s than the model being trained", folder, field);
    }
    if (status == ML_OK) status = ml_model_fill(t->model, source, err);
    source->free(source);
    return status;
}

static ml_status restore_loop(ml_loop *t, const json_t *j, const char *path, bool keep_position, ml_error *err)
{
    int64_t optimizer_step;
    const char *stage;
    json_t *guard, *data;
    ML_TRY(ml_json_text(j, "stage", path, &stage, err));
    if (strcmp(stage, t->stage->name)) {
        return ml_fail(err, ML_EINVAL, "%s: this run is stage \"%s\", not \"%s\": resume it with that verb", path,
                       stage, t->stage->name);
    }
    ML_TRY(ml_json_int(j, "step", path, &t->step, err));
    ML_TRY(ml_json_int(j, "tokens", path, &t->tokens, err));
    ML_TRY(ml_json_int(j, "optimizer_step", path, &optimizer_step, err));
    ML_TRY(ml_json_real_or(j, "best_loss", path, INFINITY, &t->best_loss, err));
    ML_TRY(ml_json_int_or(j, "not_better", path, 0, &t->n_not_better, err));
    ML_TRY(ml_json_object(j, "guard", path, &guard, err));
    ML_TRY(ml_json_object(j, "data", path, &data, err));
    ML_TRY(ml_guard_from_json(&t->guard, guard, path, err));
    ml_optimizer_set_step(t->optimizer, optimizer_step);
    return keep_position ? ML_OK : t->stage->restore(t->stage->self, data, path, err);
}

/* Weights, and the fp32 masters where those are rounded, into memory of this machine. */
static ml_status read_model(ml_loop *t, const char *folder, ml_error *err)
{
    ML_TRY(read_weights(t, folder, err));
    if (t->config.save_dtype == ML_F32) return ML_OK;
    ML_TRY(load_buffers(t, folder, true, err));
    return t->config.adapter ? ml_adapter_update_norms(t->config.adapter, err) : ML_OK;
}

ml_status ml_loop_restore(ml_loop *t, bool keep_position, ml_error *err)
{
    char folder[ML_PATH_MAX], path[ML_PATH_MAX];
    int64_t step;
    ML_TRY(ml_run_find(ml_run_folder(t->run), ML_RUN_LATEST, folder, &step, err));
    ML_TRY(ml_manifest_verify(folder, ML_VERIFY_HASHES, err));
    use_place(t, false);
    ml_status status = read_model(t, folder, err);
    use_place(t, true);
    ML_TRY(status);
    ML_TRY(push(t, err));
    ML_TRY(load_buffers(t, folder, false, err));
    ML_TRY(ml_path_join(path, folder, TRAINER_FILE, err));
    json_t *j;
    ML_TRY(ml_json_load(path, &j, err));
    status = restore_loop(t, j, path, keep_position, err);
    json_decref(j);
    if (status == ML_OK && t->there) status = ml_device_step_push_guard(t, err);
    t->saved_step = t->step;
    return status;
}
