#include "format/ends.h"

#include "base/file.h"
#include "base/json.h"

ml_status ml_ends_add(ml_ids *out, int32_t id, ml_error *err)
{
    for (size_t i = 0; i < out->n; i++) {
        if (out->id[i] == id) return ML_OK;
    }
    return ml_ids_append(out, &id, 1, err);
}

static ml_status add_id(const json_t *value, int64_t n_vocab, const char *path, ml_ids *out, ml_error *err)
{
    json_int_t id = json_integer_value(value);
    if (!json_is_integer(value) || id < 0 || id >= n_vocab) {
        return ml_fail(err, ML_EFORMAT, "%s: key eos_token_id: expected an id below %lld, or a list of them", path,
                       (long long)n_vocab);
    }
    return ml_ends_add(out, (int32_t)id, err);
}

static ml_status add_from(const char *folder, const char *name, int64_t n_vocab, ml_ids *out, ml_error *err)
{
    char path[ML_PATH_MAX];
    json_t *root;
    ML_TRY(ml_path_join(path, folder, name, err));
    if (!ml_path_exists(path)) return ML_OK;
    ML_TRY(ml_json_load(path, &root, err));
    const json_t *value = json_object_get(root, "eos_token_id");
    ml_status status = ML_OK;
    if (json_is_array(value)) {
        for (size_t i = 0; i < json_array_size(value) && status == ML_OK; i++) {
            status = add_id(json_array_get(value, i), n_vocab, path, out, err);
        }
    } else if (value && !json_is_null(value)) {
        status = add_id(value, n_vocab, path, out, err);
    }
    json_decref(root);
    return status;
}

ml_status ml_model_ends(const char *folder, const ml_config *config, const ml_tokenizer *t, ml_ids *out, ml_error *err)
{
    ML_TRY(add_from(folder, "config.json", config->vocab_size, out, err));
    ML_TRY(add_from(folder, "generation_config.json", config->vocab_size, out, err));
    if (ml_tokenizer_eos(t) >= 0) ML_TRY(ml_ends_add(out, ml_tokenizer_eos(t), err));
    size_t n;
    const int32_t *ends = ml_tokenizer_ends(t, &n);
    for (size_t i = 0; i < n; i++) ML_TRY(ml_ends_add(out, ends[i], err));
    return ML_OK;
}
