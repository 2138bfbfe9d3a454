/* Saving and restoring a training run. */
#include "train/loop_internal.h"

#include "format/checkpoint.h"
#include "format/hf.h"
#include "format/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char OPTIMIZER_FILE[] = "state/optimizer.safetensors";
static const char MASTER_FILE[] = "state/master.safetensors";
static const char TRAINER_FILE[] = "state/trainer.json";

/* The optimizer's buffers, or (when weights are saved rounded) the fp32 masters, as state buffers. */
static ml_status list_buffers(ml_loop *t, bool masters, ml_state_buffer **out, size_t *n, ml_error *err)
{
    *n = masters ? t->model->n_param : (size_t)ml_optimizer_n_state(t->optimizer);
    ml_state_buffer *list = ml_calloc(*n, sizeof *list);
    if (!list) return ml_fail_memory(err, *n * sizeof *list, "a list of state buffers");
    for (size_t i = 0; i < *n; i++) {
        if (masters) {
            const ml_param *p = &t->model->param[i];
            list[i] =
                (ml_state_buffer){ p->name, ML_ST_F32, ml_param_count(p), ml_model_find_here(t->model, p->value) };
        } else {
            ml_optim_state s = ml_optimizer_get_state(t->optimizer, (int64_t)i);
            list[i] = (ml_state_buffer){ s.name, ML_ST_F32, s.count, s.data };
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
    json_object_set_new(j, "best_loss", isfinite(t->best_loss) ? json_real(t->best_loss) : json_null());
    json_object_set_new(j, "not_better", json_integer(t->n_not_better));
    json_object_set_new(j, "guard", ml_guard_to_json(&t->guard));
    json_object_set_new(j, "data", t->stage->position(t->stage->self));
    return j;
}

static uint64_t expected_bytes(const ml_loop *t)
{
    uint64_t n_bytes = ml_hf_save_bytes(t->model, t->config.save_dtype) + (4u << 20);
    for (int64_t i = 0; i < ml_optimizer_n_state(t->optimizer); i++) {
        n_bytes += 4u * (uint64_t)ml_optimizer_get_state(t->optimizer, i).count;
    }
    if (t->config.save_dtype != ML_F32) n_bytes += (uint64_t)t->model->values.capacity;
    return n_bytes;
}

static ml_status write_checkpoint(ml_loop *t, ml_checkpoint *c, ml_error *err)
{
    char summary[256];
    snprintf(summary, sizeof summary, "Stage `%s`, step %lld of %lld, %lld tokens seen.", t->stage->name,
             (long long)t->step, (long long)t->config.schedule.steps, (long long)t->tokens);
    ML_TRY(ml_hf_save(t->model, t->config.save_dtype, summary, ml_checkpoint_manifest(c), err));
    if (t->tokenizer) ML_TRY(ml_tokenizer_save(t->tokenizer, ml_checkpoint_path(c), err));
    ML_TRY(save_buffers(t, c, false, err));
    if (t->config.save_dtype != ML_F32) ML_TRY(save_buffers(t, c, true, err));
    json_t *j = loop_to_json(t);
    ml_status status = ml_checkpoint_put_json(c, TRAINER_FILE, j, err);
    json_decref(j);
    ML_TRY(status);
    return ml_checkpoint_commit(c, err);
}

ml_status ml_loop_save(ml_loop *t, ml_error *err)
{
    ml_checkpoint *c = NULL;
    ML_TRY(ml_model_pull(t->model, err));
    ML_TRY(ml_optimizer_pull(t->optimizer, err));
    ML_TRY(ml_checkpoint_begin(&c, t->run, t->step, expected_bytes(t), err));
    ml_status status = write_checkpoint(t, c, err);
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

ml_status ml_loop_restore(ml_loop *t, bool keep_position, ml_error *err)
{
    char folder[ML_PATH_MAX], path[ML_PATH_MAX];
    int64_t step;
    ML_TRY(ml_run_find(ml_run_folder(t->run), ML_RUN_LATEST, folder, &step, err));
    ML_TRY(ml_manifest_verify(folder, ML_VERIFY_HASHES, err));
    ML_TRY(read_weights(t, folder, err));
    ML_TRY(load_buffers(t, folder, false, err));
    if (t->config.save_dtype != ML_F32) ML_TRY(load_buffers(t, folder, true, err));
    ML_TRY(ml_model_push(t->model, err));
    ML_TRY(ml_optimizer_push(t->optimizer, err));
    ML_TRY(ml_path_join(path, folder, TRAINER_FILE, err));
    json_t *j;
    ML_TRY(ml_json_load(path, &j, err));
    ml_status status = restore_loop(t, j, path, keep_position, err);
    json_decref(j);
    t->saved_step = t->step;
    return status;
}
