#include "infer/open.h"

#include "base/alloc.h"
#include "format/peft.h"
#include "format/run.h"
#include "format/source.h"
#include "infer/fit.h"
#include "infer/session.h"

#include <stdio.h>
#include <string.h>

ml_status ml_model_find(const char *path, char model[ML_PATH_MAX], ml_error *err)
{
    char config[ML_PATH_MAX];
    ML_TRY(ml_path_join(config, path, "config.json", err));
    if (!ml_path_exists(path)) {
        return ml_fail(err, ML_EINVAL,
                       "%s: there is no such file or folder: expected a model folder (with config.json), a run folder, "
                       "or a GGUF or safetensors file",
                       path);
    }
    strcpy(model, path);
    if (!ml_path_is_dir(path) || ml_path_exists(config)) return ML_OK;
    char adapter[ML_PATH_MAX];
    ML_TRY(ml_path_join(adapter, path, "adapter_config.json", err));
    if (!ml_path_exists(adapter)) ML_TRY(ml_run_find(path, ML_RUN_BEST, model, NULL, err));
    ML_TRY(ml_path_join(adapter, model, "adapter_config.json", err));
    if (!ml_path_exists(adapter)) return ML_OK;
    return ml_fail(err, ML_EINVAL,
                   "%s holds an adapter, not a model: give the model that it was trained for, and this with --adapter",
                   path);
}

ml_status ml_model_open_within(const char *path, const ml_memory_budget *budget, ml_model **out, ml_error *err)
{
    char found[ML_PATH_MAX];
    ml_config config;
    ml_weight_source *source;
    *out = NULL;
    ML_TRY(ml_model_find(path, found, err));
    ML_TRY(ml_weight_source_open(found, &config, &source, err));
    ml_status status = ml_fit_check(found, &config, source, budget, err);
    if (status == ML_OK) status = ml_model_bind(&config, source, out, err);
    if (status != ML_OK) source->free(source);
    return status;
}

ml_status ml_model_open(const char *path, ml_model **out, ml_error *err)
{
    const ml_memory_budget usual = { .kv_dtype = ML_SESSION_KV };
    return ml_model_open_within(path, &usual, out, err);
}

/* The folder that holds the adapter's files: of a run, its best checkpoint. */
static ml_status find_adapter(const char *path, char found[ML_PATH_MAX], ml_error *err)
{
    char config[ML_PATH_MAX], latest[ML_PATH_MAX];
    ML_TRY(ml_path_join(config, path, "adapter_config.json", err));
    ML_TRY(ml_path_join(latest, path, "latest", err));
    if (!ml_path_exists(config) && ml_path_exists(latest)) return ml_run_find(path, ML_RUN_BEST, found, NULL, err);
    snprintf(found, ML_PATH_MAX, "%s", path); /* as long as `config` is longer */
    return ML_OK;
}

ml_status ml_adapter_read(const char *path, const ml_model *m, ml_adapter **out, ml_error *err)
{
    char found[ML_PATH_MAX];
    *out = NULL;
    ML_TRY(find_adapter(path, found, err));
    return ml_peft_load(found, m, out, err);
}

ml_status ml_adapter_open(const char *path, const ml_model *m, ml_adapter **out, ml_error *err)
{
    ML_TRY(ml_adapter_read(path, m, out, err));
    if (!m->device) return ML_OK;
    ml_status status = ml_adapter_place(*out, m->device, err);
    if (status == ML_OK) return ML_OK;
    ml_adapter_free(*out);
    *out = NULL;
    return ml_fail_prefix(err, "adapter %.300s", path);
}

ml_status ml_adapter_measure_files(const char *path, const ml_config *config, int64_t *n_bytes, ml_error *err)
{
    char found[ML_PATH_MAX];
    ML_TRY(find_adapter(path, found, err));
    return ml_peft_measure(found, config, n_bytes, err);
}

const char *ml_adapter_path_of(const char *given)
{
    const char *equals = strchr(given, '=');
    return equals ? equals + 1 : given;
}

ml_status ml_adapter_split_name(const char *given, char **name, const char **path, ml_error *err)
{
    const char *equals = strchr(given, '='), *begin = given;
    size_t n = equals ? (size_t)(equals - given) : strlen(given);
    *path = ml_adapter_path_of(given);
    if (!equals) {
        while (n > 1 && given[n - 1] == '/') n--;
        for (size_t i = 0; i + 1 < n; i++) {
            if (given[i] == '/') begin = given + i + 1;
        }
        n -= (size_t)(begin - given);
    }
    if (n == 0 || (n == 4 && !memcmp(begin, "none", 4)) || !**path) {
        return ml_fail(err, ML_EINVAL, "--adapter %s: expected PATH or NAME=PATH, with another name than none", given);
    }
    *name = ml_calloc(n + 1, 1);
    if (!*name) return ml_fail_memory(err, n, "a name");
    memcpy(*name, begin, n);
    return ML_OK;
}

const char *ml_model_get_device(const ml_model *m)
{
    return m->device_choice[0] ? m->device_choice : "cpu";
}

ml_model_info ml_model_get_info(const ml_model *m)
{
    const ml_config *c = &m->config;
    ml_param_counts n = ml_model_count(c);
    bool moe = c->n_routed_experts > 0 && c->first_k_dense_replace < c->num_hidden_layers;
    return (ml_model_info){ .class_name = ml_config_class_name(c),
                            .n_params = n.total,
                            .n_params_active = n.active,
                            .n_layer = c->num_hidden_layers,
                            .d_model = c->hidden_size,
                            .n_vocab = c->vocab_size,
                            .n_position = c->max_position_embeddings,
                            .bos_id = (int32_t)c->bos_token_id,
                            .eos_id = (int32_t)c->eos_token_id,
                            .n_expert = moe ? (int32_t)c->n_routed_experts : 0,
                            .top_k = moe ? (int32_t)c->num_experts_per_tok : 0 };
}
