#include "format/find.h"

#include "base/alloc.h"
#include "format/peft.h"
#include "format/run.h"

#include <stdio.h>
#include <string.h>

/* A folder that is no model may hold one as a file: the first by name. */
static ml_status hint_at_file(const char *folder, ml_error *err)
{
    char **names;
    size_t n_name;
    ml_error ignored;
    const char *found = NULL;
    if (ml_dir_list(folder, &names, &n_name, &ignored) != ML_OK) return err->code;
    for (size_t i = 0; i < n_name && !found; i++) {
        const char *end = strrchr(names[i], '.');
        if (end && (!strcmp(end, ".gguf") || !strcmp(end, ".pt"))) found = names[i];
    }
    if (found) {
        ml_fail(err, ML_EINVAL, "%s: holds neither config.json nor a checkpoint, but a model's file: give %.300s/%s",
                folder, folder, found);
    }
    ml_dir_list_free(names, n_name);
    return ML_EINVAL;
}

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
    if (!ml_path_exists(adapter) && ml_run_find(path, ML_RUN_BEST, model, NULL, err) != ML_OK) {
        return err->code == ML_EINVAL ? hint_at_file(path, err) : err->code;
    }
    ML_TRY(ml_path_join(adapter, model, "adapter_config.json", err));
    if (!ml_path_exists(adapter)) return ML_OK;
    return ml_fail(err, ML_EINVAL,
                   "%s holds an adapter, not a model: give the model that it was trained for, and this with --adapter",
                   path);
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
