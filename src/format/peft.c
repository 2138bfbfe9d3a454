#include "format/peft.h"

#include "format/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char CONFIG_FILE[] = "adapter_config.json";
static const char WEIGHTS_FILE[] = "adapter_model.safetensors";
static const char PREFIX[] = "base_model.model.";

enum { KEY_MAX = ML_MODULE_NAME_MAX + 80 };

typedef enum { PIECE_A, PIECE_B, PIECE_M, N_PIECE } piece;

/* The tensor of a module's matrix i: base_model.model.model.layers.3.mlp.experts.7.up_proj.lora_A.weight */
static void make_key(const ml_adapter_module *m, int64_t i, piece p, char key[KEY_MAX])
{
    static const char *const suffix[N_PIECE] = { "lora_A.weight", "lora_B.weight", "lora_magnitude_vector" };
    const char *star = strchr(m->name, '*');
    int head = star ? (int)(star - m->name) : (int)strlen(m->name);
    char number[24] = "";
    if (star) snprintf(number, sizeof number, "%lld", (long long)i);
    snprintf(key, KEY_MAX, "%s%.*s%s%s.%s", PREFIX, head, m->name, number, star ? star + 1 : "", suffix[p]);
}

/* Matrix i of a piece: its values and its shape. */
static float *piece_of(const ml_adapter_term *t, int64_t i, piece p, int *n_dim, int64_t dim[2])
{
    const ml_tensor *x = p == PIECE_A ? &t->a : p == PIECE_B ? &t->b : &t->m;
    *n_dim = p == PIECE_M ? 1 : 2;
    dim[0] = p == PIECE_A ? t->rank : t->module.rows;
    dim[1] = p == PIECE_A ? t->module.cols : p == PIECE_B ? t->rank : 1;
    return ml_f32(x) + i * dim[0] * dim[1];
}

/* ---- writing ---- */

static const char *last_name(const char *module)
{
    const char *dot = strrchr(module, '.');
    return dot ? dot + 1 : module;
}

/* Does the adapter have every module of that last name? */
static bool has_all(const ml_adapter *a, const ml_adapter_module *module, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(last_name(module[i].name), name) && !a->of[module[i].layer][module[i].slot]) return false;
    }
    return true;
}

static bool contains(const json_t *list, const char *text)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (!strcmp(json_string_value(json_array_get(list, i)), text)) return true;
    }
    return false;
}

/* PEFT takes a target for the end of a module's name: the short name where that means no other module. */
static void add_target(json_t *list, const ml_adapter *a, const ml_adapter_term *t, const ml_adapter_module *module,
                       size_t n)
{
    const char *name = last_name(t->module.name);
    if (has_all(a, module, n, name)) {
        if (!contains(list, name)) json_array_append_new(list, json_string(name));
        return;
    }
    for (int64_t i = 0; i < t->module.n_matrix; i++) {
        char key[KEY_MAX];
        make_key(&t->module, i, PIECE_A, key);
        size_t length = strlen(key) - strlen(".lora_A.weight");
        json_array_append_new(list, json_stringn(key + strlen(PREFIX), length - strlen(PREFIX)));
    }
}

/* Terms whose rank or alpha is not the first term's. */
static void add_pattern(json_t *ranks, json_t *alphas, const ml_adapter_term *t, const ml_adapter_term *first)
{
    for (int64_t i = 0; i < t->module.n_matrix; i++) {
        char key[KEY_MAX];
        make_key(&t->module, i, PIECE_A, key);
        key[strlen(key) - strlen(".lora_A.weight")] = 0;
        const char *name = key + strlen(PREFIX);
        if (t->rank != first->rank) json_object_set_new(ranks, name, json_integer(t->rank));
        if (t->alpha != first->alpha) json_object_set_new(alphas, name, json_real(t->alpha));
    }
}

static ml_status make_config(const ml_adapter *a, const char *base, json_t **out, ml_error *err)
{
    ml_adapter_module *module;
    size_t n;
    ML_TRY(ml_adapter_list_modules(&a->model->config, &module, &n, err));
    json_t *targets = json_array(), *ranks = json_object(), *alphas = json_object();
    for (size_t i = 0; i < a->n_term; i++) {
        add_target(targets, a, &a->term[i], module, n);
        add_pattern(ranks, alphas, &a->term[i], &a->term[0]);
    }
    ml_free(module);
    json_int_t rank = a->n_term ? (json_int_t)a->term[0].rank : 1;
    double alpha = a->n_term ? a->term[0].alpha : 1;
    json_t *alpha_value = alpha == floor(alpha) ? json_integer((json_int_t)alpha) : json_real(alpha);
    *out = json_pack("{s:s, s:s, s:s?, s:I, s:o, s:f, s:b, s:b, s:o, s:o, s:o, s:s, s:b, s:b, s:n, s:b}", "peft_type",
                     "LORA", "task_type", "CAUSAL_LM", "base_model_name_or_path", base, "r", rank, "lora_alpha",
                     alpha_value, "lora_dropout", a->dropout, "use_dora", a->dora, "use_rslora", 0, "target_modules",
                     targets, "rank_pattern", ranks, "alpha_pattern", alphas, "bias", "none", "fan_in_fan_out", 0,
                     "init_lora_weights", 1, "modules_to_save", "inference_mode", 1);
    return *out ? ML_OK : ml_fail_memory(err, 0, "an adapter's configuration");
}

/* Declares (values false) or writes every tensor. */
static ml_status put_tensors(const ml_adapter *a, ml_st_writer *w, ml_dtype dtype, bool values, ml_error *err)
{
    for (size_t i = 0; i < a->n_term; i++) {
        const ml_adapter_term *t = &a->term[i];
        for (int64_t e = 0; e < t->module.n_matrix; e++) {
            for (int p = 0; p < (a->dora ? N_PIECE : PIECE_M); p++) {
                char key[KEY_MAX];
                int n_dim;
                int64_t dim[2];
                const float *x = piece_of(t, e, (piece)p, &n_dim, dim);
                make_key(&t->module, e, (piece)p, key);
                if (values)
                    ML_TRY(ml_st_writer_put_f32(w, x, dim[0] * dim[1], err));
                else
                    ML_TRY(ml_st_writer_declare(w, key, ml_st_dtype_of(dtype), n_dim, dim, err));
            }
        }
    }
    return ML_OK;
}

ml_status ml_peft_save(const ml_adapter *a, ml_dtype dtype, const char *base, ml_manifest *manifest, ml_error *err)
{
    json_t *config;
    ml_st_writer *w;
    ML_TRY(make_config(a, base, &config, err));
    ml_status status = ml_manifest_put_json(manifest, CONFIG_FILE, config, err);
    json_decref(config);
    ML_TRY(status);
    ML_TRY(ml_st_writer_begin(&w, manifest, WEIGHTS_FILE, 0, err));
    status = put_tensors(a, w, dtype, false, err);
    if (status == ML_OK) status = ml_st_writer_start(w, err);
    if (status == ML_OK) status = put_tensors(a, w, dtype, true, err);
    if (status == ML_OK) status = ml_st_writer_end(w, err);
    ml_st_writer_free(w);
    return status;
}

uint64_t ml_peft_save_bytes(const ml_adapter *a)
{
    return 4 * (uint64_t)ml_adapter_count(a) + (1u << 20);
}

/* ---- reading ---- */

typedef struct {
    char path[ML_PATH_MAX];  /* of the configuration, for messages */
    json_t *config, *alphas; /* alphas: alpha_pattern or NULL */
    ml_safetensors *file;
    bool dora, by_root;
    double alpha, dropout;
} opened;

static ml_status check_off(const opened *o, const char *key, ml_error *err)
{
    const json_t *value = json_object_get(o->config, key);
    if (!value || json_is_null(value) || json_is_false(value)) return ML_OK;
    if ((json_is_object(value) && json_object_size(value) == 0) ||
        (json_is_array(value) && json_array_size(value) == 0))
        return ML_OK;
    return ml_fail(err, ML_EINVAL, "%s: key %s is set: expected an adapter of low-rank terms of linear layers alone",
                   o->path, key);
}

static ml_status read_config(opened *o, ml_error *err)
{
    static const char *const off[] = { "fan_in_fan_out", "modules_to_save",         "target_parameters",
                                       "lora_bias",      "trainable_token_indices", "layer_replication" };
    const char *kind, *bias;
    ML_TRY(ml_json_text(o->config, "peft_type", o->path, &kind, err));
    if (strcmp(kind, "LORA")) {
        return ml_fail(err, ML_EINVAL, "%s: key peft_type: expected LORA, found \"%.40s\"", o->path, kind);
    }
    ML_TRY(ml_json_text_or(o->config, "bias", o->path, "none", &bias, err));
    if (strcmp(bias, "none")) {
        return ml_fail(err, ML_EINVAL, "%s: key bias: expected none, found \"%.40s\": the adapter changes biases",
                       o->path, bias);
    }
    for (size_t i = 0; i < sizeof off / sizeof off[0]; i++) ML_TRY(check_off(o, off[i], err));
    ML_TRY(ml_json_bool_or(o->config, "use_dora", o->path, false, &o->dora, err));
    ML_TRY(ml_json_bool_or(o->config, "use_rslora", o->path, false, &o->by_root, err));
    ML_TRY(ml_json_real_or(o->config, "lora_alpha", o->path, 8, &o->alpha, err));
    ML_TRY(ml_json_real_or(o->config, "lora_dropout", o->path, 0, &o->dropout, err));
    o->alphas = json_object_get(o->config, "alpha_pattern");
    if (isfinite(o->alpha) && o->dropout >= 0 && o->dropout < 1) return ML_OK;
    return ml_fail(err, ML_EINVAL, "%s: lora_alpha %g, lora_dropout %g: expected a dropout from 0 to less than 1",
                   o->path, o->alpha, o->dropout);
}

static void close_adapter(opened *o)
{
    json_decref(o->config);
    ml_safetensors_close(o->file);
}

static ml_status open_adapter(const char *folder, opened *o, ml_error *err)
{
    char path[ML_PATH_MAX];
    *o = (opened){ .config = NULL };
    ML_TRY(ml_path_join(o->path, folder, CONFIG_FILE, err));
    if (!ml_path_exists(o->path)) {
        return ml_fail(err, ML_EINVAL, "%s: there is no adapter here: expected a folder with %s and %s", folder,
                       CONFIG_FILE, WEIGHTS_FILE);
    }
    ML_TRY(ml_json_load(o->path, &o->config, err));
    ml_status status = read_config(o, err);
    if (status == ML_OK) status = ml_path_join(path, folder, WEIGHTS_FILE, err);
    if (status == ML_OK) status = ml_safetensors_open(&o->file, path, err);
    if (status != ML_OK) close_adapter(o);
    return status;
}

/* alpha of a module, by the first pattern that is the name's end. */
static double alpha_of(const opened *o, const char *module)
{
    const char *key;
    json_t *value;
    json_object_foreach(o->alphas, key, value)
    {
        size_t n = strlen(key), length = strlen(module);
        bool is_end =
            n <= length && !strcmp(module + length - n, key) && (n == length || module[length - n - 1] == '.');
        if (is_end && json_is_number(value)) return json_number_value(value);
    }
    return o->alpha;
}

static bool choose(void *arg, const ml_adapter_module *m, int64_t *rank, double *alpha)
{
    const opened *o = arg;
    for (int64_t i = 0; i < m->n_matrix; i++) {
        char key[KEY_MAX];
        make_key(m, i, PIECE_A, key);
        const ml_st_tensor *t = ml_safetensors_find(o->file, key);
        if (!t || t->n_dim != 2 || t->shape[0] < 1) continue;
        key[strlen(key) - strlen(".lora_A.weight")] = 0;
        *rank = t->shape[0];
        *alpha = alpha_of(o, key + strlen(PREFIX)) * (o->by_root ? sqrt((double)*rank) : 1);
        return true;
    }
    return false;
}

/* Experts of a layer that the file lacks stay zero. */
static ml_status read_term(const opened *o, const ml_adapter *a, ml_adapter_term *t, size_t *n_read, ml_error *err)
{
    for (int64_t i = 0; i < t->module.n_matrix; i++) {
        for (int p = 0; p < (a->dora ? N_PIECE : PIECE_M); p++) {
            char key[KEY_MAX];
            int n_dim;
            int64_t dim[2];
            ml_dtype dtype;
            float *to = piece_of(t, i, (piece)p, &n_dim, dim);
            make_key(&t->module, i, (piece)p, key);
            const ml_st_tensor *x = ml_safetensors_find(o->file, key);
            if (!x && p == PIECE_M) { /* newer versions of the library */
                strcat(key, ".weight");
                x = ml_safetensors_find(o->file, key);
            }
            if (!x && p == PIECE_A && t->module.n_matrix > 1) break;
            if (!x) {
                return ml_fail(err, ML_EINVAL, "%s: the adapter lacks %s", o->path, key);
            }
            bool fits = x->n_dim == n_dim && x->shape[0] == dim[0] && (n_dim == 1 || x->shape[1] == dim[1]);
            if (!fits) {
                return ml_fail(err, ML_EINVAL,
                               "%s: %s is [%lld, %lld], this model and rank need [%lld, %lld]: the adapter is another "
                               "model's",
                               o->path, key, (long long)(x->n_dim > 0 ? x->shape[0] : 1),
                               (long long)(x->n_dim > 1 ? x->shape[1] : 1), (long long)dim[0], (long long)dim[1]);
            }
            if (!ml_st_dtype_to_float(x->dtype, &dtype)) {
                return ml_fail(err, ML_EINVAL, "%s: %s: expected type F32, BF16 or F16, found %s", o->path, key,
                               ml_st_dtype_name(x->dtype));
            }
            ML_TRY(ml_st_read_all_f32(x, to, err));
            ++*n_read;
        }
    }
    return ML_OK;
}

/* The first tensor that no term took. */
static ml_status fail_unread(const opened *o, const ml_adapter *a, ml_error *err)
{
    for (size_t i = 0; i < ml_safetensors_count(o->file); i++) {
        const char *name = ml_safetensors_at(o->file, i)->name;
        bool taken = false;
        for (size_t j = 0; j < a->n_term && !taken; j++) {
            for (int64_t e = 0; e < a->term[j].module.n_matrix && !taken; e++) {
                for (int p = 0; p < (a->dora ? N_PIECE : PIECE_M) && !taken; p++) {
                    char key[KEY_MAX];
                    make_key(&a->term[j].module, e, (piece)p, key);
                    taken = !strncmp(name, key, strlen(key));
                }
            }
        }
        if (taken) continue;
        return ml_fail(err, ML_EINVAL,
                       "%s: tensor %s has no place in this model (%s, %lld layers): the adapter is another model's",
                       o->path, name, ml_config_class_name(&a->model->config),
                       (long long)a->model->config.num_hidden_layers);
    }
    return ml_fail(err, ML_EFORMAT, "%s: %s holds tensors twice", o->path, WEIGHTS_FILE);
}

/* Which experts the file lacks. */
static ml_status mark_lacking(const opened *o, ml_adapter_term *t, ml_error *err)
{
    size_t n = (size_t)t->module.n_matrix;
    if (t->lacks || t->module.n_matrix == 1) return ML_OK;
    t->lacks = ml_calloc(n, sizeof *t->lacks);
    if (!t->lacks) return ml_fail_memory(err, n, "an adapter's terms");
    for (size_t i = 0; i < n; i++) {
        char key[KEY_MAX];
        make_key(&t->module, (int64_t)i, PIECE_A, key);
        t->lacks[i] = !ml_safetensors_find(o->file, key);
    }
    return ML_OK;
}

static ml_status read_values(const opened *o, ml_adapter *a, ml_error *err)
{
    size_t n_read = 0;
    for (size_t i = 0; i < a->n_term; i++) ML_TRY(read_term(o, a, &a->term[i], &n_read, err));
    if (n_read != ml_safetensors_count(o->file)) return fail_unread(o, a, err);
    if (!a->dora) return ML_OK;
    for (size_t i = 0; i < a->n_term; i++) ML_TRY(mark_lacking(o, &a->term[i], err));
    bool made_there = a->model->device && !a->grads.base; /* with its place */
    ml_status status = made_there ? ML_OK : ml_adapter_update_norms(a, err);
    for (size_t i = 0; i < a->n_term && a->grads.base; i++) { /* trained from here on */
        ml_free(a->term[i].lacks);
        a->term[i].lacks = NULL;
    }
    return status;
}

/* The experts of a layer share one factor: b takes up what differs. */
static void level_experts(ml_adapter *a)
{
    for (int64_t i = 0; i < a->model->config.num_hidden_layers; i++) {
        const ml_adapter_term *first = NULL;
        for (int slot = ML_SLOT_EXPERT_GATE; slot <= ML_SLOT_EXPERT_DOWN; slot++) {
            ml_adapter_term *t = a->of[i][slot];
            if (!t) continue;
            if (!first) first = t;
            if (t->scale == first->scale || first->scale == 0) continue;
            float ratio = t->scale / first->scale, *b = ml_f32(&t->b);
            for (int64_t j = 0; j < ml_tensor_count(&t->b); j++) b[j] *= ratio;
            t->scale = first->scale;
            t->alpha = first->alpha / (double)first->rank * (double)t->rank;
        }
    }
}

ml_status ml_peft_load(const char *folder, const ml_model *m, ml_adapter **out, ml_error *err)
{
    opened o;
    *out = NULL;
    ML_TRY(open_adapter(folder, &o, err));
    ml_status status = ml_adapter_make_chosen(m, o.dora, false, choose, &o, out, err);
    ml_adapter *a = *out;
    if (status == ML_OK) {
        a->dropout = o.dropout;
        status = a->n_term ? read_values(&o, a, err) : fail_unread(&o, a, err);
    }
    close_adapter(&o);
    if (status != ML_OK) {
        ml_adapter_free(a);
        *out = NULL;
        return status;
    }
    level_experts(a);
    return ML_OK;
}

ml_status ml_peft_measure(const char *folder, const ml_config *model, int64_t *n_bytes, ml_error *err)
{
    opened o;
    ML_TRY(open_adapter(folder, &o, err));
    ml_status status = ml_adapter_measure(model, o.dora, choose, &o, n_bytes, err);
    close_adapter(&o);
    return status;
}

ml_status ml_peft_fill(ml_adapter *a, const char *folder, ml_error *err)
{
    opened o;
    ML_TRY(open_adapter(folder, &o, err));
    ml_status status = ML_OK;
    if (o.dora != a->dora) {
        status = ml_fail(err, ML_EINVAL, "%s: use_dora is %s, this run's adapter is %s", o.path,
                         o.dora ? "true" : "false", a->dora ? "dora" : "lora");
    }
    if (status == ML_OK) status = read_values(&o, a, err);
    close_adapter(&o);
    return status;
}
