/* config.json: one table per published class (model/config_classes.h) maps its keys to our fields.  Whether a class can
 * express a model is not a list of conditions that could be forgotten: the configuration is written in the class's
 * keys, read back, and compared. */
#include "base/alloc.h"
#include "base/file.h"
#include "model/config_classes.h"
#include "model/config_fields.h"

#include <math.h>
#include <string.h>

/* Our own class: the fields under their own names. */
static const char own_class[] = "MoonlightMoeForCausalLM";

static const ml_config_field *find_field(const char *name)
{
    for (size_t i = 0; i < ml_config_n_field; i++) {
        if (!strcmp(ml_config_fields[i].name, name)) return &ml_config_fields[i];
    }
    return NULL;
}

/* ---- one field ---- */

static json_t *field_to_json(const ml_config *c, const ml_config_field *f)
{
    switch (f->type) {
    case ML_FIELD_REAL: return json_real(*ml_config_field_real(c, f));
    case ML_FIELD_BOOL: return json_boolean(*ml_config_field_int(c, f) != 0);
    case ML_FIELD_CHOICE: return json_string(f->words[*ml_config_field_int(c, f)]);
    case ML_FIELD_INT: return json_integer(*ml_config_field_int(c, f));
    }
    return NULL;
}

static ml_status wrong_type(const ml_config_field *f, const char *key, const char *where, ml_error *err)
{
    static const char *const kinds[] = { "a whole number", "true or false", "a number", "one of its words" };
    return ml_fail(err, ML_EFORMAT, "%s: key \"%s\": expected %s", where, key, kinds[f->type]);
}

static ml_status field_from_json(const json_t *value, const ml_config_field *f, const char *key, const char *where,
                                 ml_config *c, ml_error *err)
{
    switch (f->type) {
    case ML_FIELD_REAL:
        if (!json_is_number(value)) return wrong_type(f, key, where, err);
        *ml_config_field_real(c, f) = json_number_value(value);
        return ML_OK;
    case ML_FIELD_BOOL:
        if (!json_is_boolean(value)) return wrong_type(f, key, where, err);
        *ml_config_field_int(c, f) = json_is_true(value);
        return ML_OK;
    case ML_FIELD_CHOICE:
        for (int i = 0; json_is_string(value) && f->words[i]; i++) {
            if (strcmp(json_string_value(value), f->words[i])) continue;
            *ml_config_field_int(c, f) = i;
            return ML_OK;
        }
        return wrong_type(f, key, where, err);
    case ML_FIELD_INT:
        if (!json_is_integer(value)) return wrong_type(f, key, where, err);
        *ml_config_field_int(c, f) = json_integer_value(value);
        return ML_OK;
    }
    return ML_OK;
}
/* ---- one class ---- */

static ml_status read_class(const ml_config_class *info, const json_t *j, const char *where, ml_config *c,
                            ml_error *err)
{
    info->implied(c);
    for (const ml_config_key *k = info->keys; k->key; k++) {
        const json_t *value = json_object_get(j, k->key);
        if (!value || json_is_null(value)) {
            if (k->optional) continue;
            /* Grouped heads default to as many as there are query heads, in every class. */
            if (!strcmp(k->field, "num_key_value_heads")) {
                c->num_key_value_heads = c->num_attention_heads;
                continue;
            }
            return ml_fail(err, ML_EFORMAT, "%s: key \"%s\" is missing; %s needs it", where, k->key, info->name);
        }
        ML_TRY(field_from_json(value, find_field(k->field), k->key, where, c, err));
    }
    return info->read_rest(j, where, c, err);
}

static void write_class(const ml_config_class *info, const ml_config *c, json_t *j)
{
    for (const ml_config_key *k = info->keys; k->key; k++) {
        json_object_set_new(j, k->key, field_to_json(c, find_field(k->field)));
    }
    info->write_rest(c, j);
}

/* Fields that a reader of the class can be given without a key: a router bias that is not trained is written as
 * zeros, which is the same function. Those, and widths the model does not use, do not stand in a class's way. */
static void forget_unused(ml_config *c)
{
    c->correction_bias = 0;
    bool dense_layer = c->n_routed_experts == 0 || c->first_k_dense_replace > 0;
    if (!dense_layer) c->intermediate_size = 0;
    if (c->attention == ML_ATTENTION_MLA)
        c->head_dim = 0;
    else
        c->latent_norm_eps = 0;
    if (c->n_routed_experts == 0 || c->first_k_dense_replace == c->num_hidden_layers) {
        c->n_routed_experts = c->num_experts_per_tok = c->moe_intermediate_size = c->n_shared_experts = 0;
        c->scoring = c->norm_topk_prob = 0;
        c->n_group = c->topk_group = 1;
        c->group_by_best = 0;
        c->routed_scaling_factor = c->shared_scale = 1;
        c->first_k_dense_replace = c->num_hidden_layers;
    }
    if (c->n_group == 1) c->group_by_best = 0;
    if (c->n_shared_experts <= 1 && c->shared_scale == 1) c->shared_scale = 1;
    if (c->yarn_factor == 1) {
        c->yarn_original_positions = 0;
        c->yarn_beta_fast = c->yarn_beta_slow = c->yarn_mscale = c->yarn_mscale_all_dim = 0;
    }
    if (c->llama3_factor == 1) {
        c->llama3_original_positions = 0;
        c->llama3_low_freq_factor = c->llama3_high_freq_factor = 0;
    }
}

static bool class_expresses(const ml_config_class *info, const ml_config *c)
{
    json_t *j = json_object();
    write_class(info, c, j);
    ml_config again;
    ml_error err;
    ml_config_blank(&again);
    bool same = read_class(info, j, "config", &again, &err) == ML_OK;
    json_decref(j);
    bool moe = c->n_routed_experts > 0 && c->first_k_dense_replace < c->num_hidden_layers;
    if (!same || (moe && c->correction_bias && !again.correction_bias)) return false;
    ml_config wanted = *c;
    forget_unused(&wanted);
    forget_unused(&again);
    return ml_config_same_model(&wanted, &again, NULL);
}

static const ml_config_class *choose_class(const ml_config *c)
{
    for (int i = 0; i < ml_config_n_class; i++) {
        if (class_expresses(&ml_config_classes[i], c)) return &ml_config_classes[i];
    }
    return NULL;
}

const char *ml_config_class_name(const ml_config *c)
{
    const ml_config_class *info = choose_class(c);
    return info ? info->name : own_class;
}

static void write_token_id(json_t *j, const char *key, int64_t id)
{
    json_object_set_new(j, key, id < 0 ? json_null() : json_integer(id));
}

json_t *ml_config_to_json(const ml_config *c, ml_dtype dtype)
{
    const ml_config_class *info = choose_class(c);
    json_t *j = json_object();
    json_object_set_new(j, "architectures", json_pack("[s]", info ? info->name : own_class));
    json_object_set_new(j, "model_type", json_string(info ? info->model_type : "moonlight_moe"));
    json_object_set_new(j, "torch_dtype",
                        json_string(dtype == ML_BF16  ? "bfloat16"
                                    : dtype == ML_F16 ? "float16"
                                                      : "float32"));
    ml_config again;
    ml_config_blank(&again);
    if (info) {
        ml_error unused; /* choose_class has read it already */
        write_class(info, c, j);
        (void)read_class(info, j, "config", &again, &unused);
    }
    /* What the class has no key for, and all that concerns training. */
    json_t *rest = json_object();
    for (size_t i = 0; i < ml_config_n_field; i++) {
        const ml_config_field *f = &ml_config_fields[i];
        bool token_id = strstr(f->name, "_token_id") != NULL;
        if (token_id)
            write_token_id(j, f->name, *ml_config_field_int(c, f));
        else if (f->architecture && !info)
            json_object_set_new(j, f->name, field_to_json(c, f));
        else if (!f->architecture || !ml_config_field_equal(c, &again, f)) {
            json_object_set_new(rest, f->name, field_to_json(c, f));
        }
    }
    json_object_set_new(j, "moonlight", rest);
    return j;
}

ml_status ml_config_save(const ml_config *c, ml_dtype dtype, const char *path, ml_error *err)
{
    json_t *j = ml_config_to_json(c, dtype);
    ml_status status = ml_json_save(j, path, err);
    json_decref(j);
    return status;
}

static ml_status read_own(const json_t *j, const char *where, ml_config *c, ml_error *err)
{
    for (size_t i = 0; i < ml_config_n_field; i++) {
        const ml_config_field *f = &ml_config_fields[i];
        if (!f->architecture) continue;
        const json_t *value = json_object_get(j, f->name);
        bool younger = !strncmp(f->name, "llama3_", 7) || !strcmp(f->name, "group_by_best");
        if (!value && younger) continue; /* than the class: absent is none */
        if (!value)
            return ml_fail(err, ML_EFORMAT, "%s: key \"%s\" is missing; %s needs it", where, f->name, own_class);
        ML_TRY(field_from_json(value, f, f->name, where, c, err));
    }
    return ML_OK;
}

static ml_status read_moonlight_block(const json_t *block, const char *where, ml_config *c, ml_error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)block, key, value)
    {
        const ml_config_field *f = find_field(key);
        if (!f) return ml_fail(err, ML_EFORMAT, "%s: key \"moonlight.%s\" is not known to this version", where, key);
        ML_TRY(field_from_json(value, f, key, where, c, err));
    }
    return ML_OK;
}

/* An id, a list of ids (the first one counts here; generation_config.json has them all), or null. */
static ml_status read_token_id(const json_t *j, const char *key, const char *where, int64_t *out, ml_error *err)
{
    const json_t *value = json_object_get(j, key);
    if (json_is_array(value)) value = json_array_get(value, 0);
    if (!value || json_is_null(value)) return ML_OK;
    if (!json_is_integer(value)) return ml_fail(err, ML_EFORMAT, "%s: key \"%s\": expected a token id", where, key);
    *out = json_integer_value(value);
    return ML_OK;
}

/* Weights that are stored in another encoding than their element type says.  One of them is known: DeepSeek's FP8,
 * whose scales lie beside the weights (format/hf_source.c). */
static ml_status check_encoding(const json_t *j, const char *path, ml_error *err)
{
    enum { FP8_BLOCK = 128 };
    static const char remedy[] = "use the model's unquantised folder, or a GGUF file of it";
    const json_t *q = json_object_get(j, "quantization_config");
    if (!q) q = json_object_get(j, "compression_config"); /* older files of compressed-tensors */
    if (!q || json_is_null(q)) return ML_OK;
    const char *method = json_string_value(json_object_get(q, "quant_method"));
    if (!method || strcmp(method, "fp8")) {
        return ml_fail(err, ML_EINVAL,
                       "%s: key \"quantization_config\": its weights are quantised by \"%.60s\", which this program "
                       "does not read: %s",
                       path, method ? method : "a method it does not name", remedy);
    }
    const json_t *fmt = json_object_get(q, "fmt"), *size = json_object_get(q, "weight_block_size");
    bool square = json_integer_value(json_array_get(size, 0)) == FP8_BLOCK &&
                  json_integer_value(json_array_get(size, 1)) == FP8_BLOCK && json_array_size(size) == 2;
    if (square && (!fmt || (json_is_string(fmt) && !strcmp(json_string_value(fmt), "e4m3")))) return ML_OK;
    return ml_fail(err, ML_EINVAL,
                   "%s: key \"quantization_config\": its weights are quantised by \"fp8\" in another form than e4m3 "
                   "with a \"weight_block_size\" of [128, 128]: %s",
                   path, remedy);
}

static ml_status read_config(const json_t *j, const char *path, ml_config *c, ml_error *err)
{
    json_t *list;
    ML_TRY(ml_json_array(j, "architectures", path, &list, err));
    const char *name = json_string_value(json_array_get(list, 0));
    if (!name) return ml_fail(err, ML_EFORMAT, "%s: key \"architectures\": expected a list of class names", path);
    ml_config_blank(c);
    const ml_config_class *info = NULL;
    for (int i = 0; i < ml_config_n_class; i++) {
        if (!strcmp(name, ml_config_classes[i].name)) info = &ml_config_classes[i];
    }
    if (info) {
        ML_TRY(read_class(info, j, path, c, err));
    } else if (!strcmp(name, own_class)) {
        ML_TRY(read_own(j, path, c, err));
    } else {
        char known[512] = "";
        for (int i = 0; i < ml_config_n_class; i++) {
            size_t used = strlen(known);
            snprintf(known + used, sizeof known - used, "%s, ", ml_config_classes[i].name);
        }
        return ml_fail(err, ML_EINVAL,
                       "%s: key \"architectures\": \"%s\" is not a class this program runs; it runs %s%s", path, name,
                       known, own_class);
    }
    ML_TRY(read_token_id(j, "bos_token_id", path, &c->bos_token_id, err));
    ML_TRY(read_token_id(j, "eos_token_id", path, &c->eos_token_id, err));
    ML_TRY(read_token_id(j, "pad_token_id", path, &c->pad_token_id, err));
    ML_TRY(check_encoding(j, path, err));
    const json_t *block = json_object_get(j, "moonlight");
    if (json_is_object(block)) ML_TRY(read_moonlight_block(block, path, c, err));
    return ml_config_check(c, path, err);
}

ml_status ml_config_parse(const char *text, size_t n_bytes, const char *where, ml_config *out, ml_error *err)
{
    json_t *j;
    ML_TRY(ml_json_parse(text, n_bytes, where, &j, err));
    ml_status status = json_is_object(j) ? read_config(j, where, out, err)
                                         : ml_fail(err, ML_EFORMAT, "%s: expected a JSON object", where);
    json_decref(j);
    return status;
}

ml_status ml_config_load(const char *path, ml_config *out, ml_error *err)
{
    char *text;
    size_t size;
    ML_TRY(ml_file_read(path, &text, &size, err));
    ml_status status = ml_config_parse(text, size, path, out, err);
    ml_free(text);
    return status;
}
