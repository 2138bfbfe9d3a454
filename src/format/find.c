#include "format/find.h"

#include "base/alloc.h"
#include "format/peft.h"
#include "format/run.h"

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

ml_status ml_adapter_open(const char *path, const ml_model *m, ml_adapter **out, ml_error *err)
{
    char config[ML_PATH_MAX], latest[ML_PATH_MAX], found[ML_PATH_MAX];
    *out = NULL;
    if (m->device) {
        return ml_fail(
            err, ML_EINVAL,
            "adapter %.300s: adapters are applied on the processor only: give --device cpu, or merge it into "
            "the model (moonlight merge)",
            path);
    }
    ML_TRY(ml_path_join(config, path, "adapter_config.json", err));
    ML_TRY(ml_path_join(latest, path, "latest", err));
    bool is_run = !ml_path_exists(config) && ml_path_exists(latest);
    if (!is_run) return ml_peft_load(path, m, out, err);
    ML_TRY(ml_run_find(path, ML_RUN_BEST, found, NULL, err));
    return ml_peft_load(found, m, out, err);
}

ml_status ml_adapter_split_name(const char *given, char **name, const char **path, ml_error *err)
{
    const char *equals = strchr(given, '='), *begin = given;
    size_t n = equals ? (size_t)(equals - given) : strlen(given);
    *path = equals ? equals + 1 : given;
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
