#include "format/hf.h"

#include "format/hf_names.h"
#include "base/log.h"
#include "format/safetensors.h"

#include <stdio.h>
#include <string.h>

static const uint64_t MAX_SHARD_BYTES = (uint64_t)5 << 30;

/* What is written, and from where. */
typedef struct {
    const ml_model *m;     /* names and shapes; the weights, when there is no source */
    const ml_hf_export *x; /* NULL: nobody waits, nothing stops it */
    ml_dtype dtype;        /* of matrices, unless kept */
    const char *class_name;
    ml_st_writer *writer;
    uint64_t done;
} saving;

static bool is_matrix(const ml_weight *w)
{
    return w->kind == ML_PARAM_MATRIX || w->kind == ML_PARAM_EXPERT || w->kind == ML_PARAM_EMBEDDING ||
           w->kind == ML_PARAM_HEAD;
}

/* Norms, biases and the router stay fp32 whatever the matrices are rounded to. */
static ml_dtype saved_dtype(const ml_weight *w, ml_dtype dtype)
{
    return is_matrix(w) ? dtype : ML_F32;
}

uint64_t ml_hf_save_bytes(const ml_model *m, ml_dtype dtype)
{
    uint64_t n_bytes = 1 << 20; /* headers, configuration, card */
    for (size_t i = 0; i < m->n_weight; i++) {
        n_bytes += (uint64_t)ml_weight_count(&m->weight[i]) * ml_dtype_size(saved_dtype(&m->weight[i], dtype));
    }
    return n_bytes;
}

static ml_status find_stored(const saving *s, const ml_weight *w, ml_stored_weight *stored, ml_error *err)
{
    return s->x->source->find(s->x->source, w->name, w->n_dim, w->dim, stored, err);
}

/* What the file gets: of a source that keeps its types, each as it is there, and bf16 for blocks. */
static ml_status choose_dtype(const saving *s, const ml_weight *w, ml_dtype *out, ml_error *err)
{
    *out = saved_dtype(w, s->dtype);
    if (!s->x || !s->x->keep) return ML_OK;
    ml_stored_weight stored;
    ML_TRY(find_stored(s, w, &stored, err));
    *out = ml_dtype_is_block(stored.dtype) ? ML_BF16 : stored.dtype;
    return ML_OK;
}

enum { PIECE = 1 << 20 }; /* elements written at a time, about */

static ml_status put_own(ml_st_writer *writer, const ml_weight *w, ml_dtype dtype, float *buffer, ml_error *err)
{
    int64_t n = ml_weight_count(w);
    if (w->dtype == ML_F32) return ml_st_writer_put_f32(writer, w->data, n, err);
    if (w->dtype == dtype) return ml_st_writer_put_raw(writer, w->data, (size_t)n * ml_dtype_size(dtype), err);
    for (int64_t i = 0; i < n; i += PIECE) {
        int64_t count = n - i < PIECE ? n - i : PIECE;
        ml_convert_to_f32(w->dtype, (const char *)w->data + (size_t)i * ml_dtype_size(w->dtype), buffer, count);
        ML_TRY(ml_st_writer_put_f32(writer, buffer, count, err));
    }
    return ML_OK;
}

static ml_status put_from_source(const saving *s, const ml_weight *w, ml_dtype dtype, float *buffer, ml_error *err)
{
    const ml_weight_source *source = s->x->source;
    ml_stored_weight stored;
    ML_TRY(find_stored(s, w, &stored, err));
    if (stored.data && stored.dtype == dtype) {
        size_t n_bytes = (size_t)ml_weight_count(w) * ml_dtype_size(dtype);
        ML_TRY(ml_st_writer_put_raw(s->writer, stored.data, n_bytes, err));
        if (source->drop) source->drop(source, stored.data, n_bytes);
        return ML_OK;
    }
    int64_t cols = w->n_dim > 1 ? w->dim[1] : 1, step = cols < PIECE ? PIECE / cols : 1;
    if (w->n_dim == 1) step = w->dim[0];
    for (int64_t row = 0; row < w->dim[0]; row += step) {
        int64_t n_row = w->dim[0] - row < step ? w->dim[0] - row : step;
        ML_TRY(source->read_f32(source, &stored, row, n_row, buffer, err));
        ML_TRY(ml_st_writer_put_f32(s->writer, buffer, n_row * cols, err));
    }
    if (stored.data && source->drop) {
        size_t row_bytes = w->n_dim > 1 ? ml_dtype_row_bytes(stored.dtype, cols) : ml_dtype_size(stored.dtype);
        source->drop(source, stored.data, (size_t)w->dim[0] * row_bytes);
    }
    return ML_OK;
}

/* The zero biases of a class whose router has one that this model does not. */
static ml_status declare_zero_biases(const saving *s, bool declare, ml_error *err)
{
    const ml_config *c = &s->m->config;
    if (c->correction_bias || !ml_hf_class_has_bias(s->class_name)) return ML_OK;
    for (int64_t i = 0; i < c->num_hidden_layers; i++) {
        if (!ml_config_layer_is_moe(c, i)) continue;
        ml_weight w = { .n_dim = 1, .dim = { c->n_routed_experts, 1 } };
        snprintf(w.name, sizeof w.name, "model.layers.%lld.mlp.gate.e_score_correction_bias", (long long)i);
        ml_hf_tensor t = ml_hf_stored_as(s->class_name, w.name, w.n_dim, w.dim);
        if (declare) {
            ML_TRY(ml_st_writer_declare(s->writer, t.name, ML_ST_F32, t.n_dim, t.dim, err));
            continue;
        }
        const float zero = 0;
        for (int64_t e = 0; e < c->n_routed_experts; e++) ML_TRY(ml_st_writer_put_f32(s->writer, &zero, 1, err));
    }
    return ML_OK;
}

static ml_status declare_weights(const saving *s, ml_error *err)
{
    for (size_t i = 0; i < s->m->n_weight; i++) {
        const ml_weight *w = &s->m->weight[i];
        ml_hf_tensor t = ml_hf_stored_as(s->class_name, w->name, w->n_dim, w->dim);
        ml_dtype dtype;
        ML_TRY(choose_dtype(s, w, &dtype, err));
        ML_TRY(ml_st_writer_declare(s->writer, t.name, ml_st_dtype_of(dtype), t.n_dim, t.dim, err));
    }
    return declare_zero_biases(s, true, err);
}

/* Elements that one piece of any weight has at most. */
static size_t piece_size(const ml_model *m)
{
    size_t n = PIECE;
    for (size_t i = 0; i < m->n_weight; i++) {
        size_t least = (size_t)(m->weight[i].n_dim == 1 ? m->weight[i].dim[0] : m->weight[i].dim[1]);
        if (least > n) n = least;
    }
    return n;
}

static ml_status put_weights(saving *s, float *buffer, ml_error *err)
{
    uint64_t total = ml_st_writer_bytes(s->writer);
    for (size_t i = 0; i < s->m->n_weight; i++) {
        const ml_weight *w = &s->m->weight[i];
        ml_dtype dtype;
        if (s->x && ml_stop_requested()) return ml_fail(err, ML_ECANCEL, "stopped: nothing was written");
        ML_TRY(choose_dtype(s, w, &dtype, err));
        bool own = !s->x || s->x->model;
        ML_TRY(own ? put_own(s->writer, w, dtype, buffer, err) : put_from_source(s, w, dtype, buffer, err));
        s->done += (uint64_t)ml_weight_count(w) * ml_dtype_size(dtype);
        if (s->x && s->x->progress) s->x->progress(s->x->arg, s->done, total);
    }
    ML_TRY(declare_zero_biases(s, false, err));
    if (s->x && s->x->progress) s->x->progress(s->x->arg, total, total); /* with the header */
    return ML_OK;
}

static ml_status save_weights(saving *s, ml_manifest *manifest, ml_error *err)
{
    ML_TRY(declare_weights(s, err));
    uint64_t n_free, need = ml_st_writer_bytes(s->writer);
    ML_TRY(ml_disk_free(ml_manifest_folder(manifest), &n_free, err));
    if (n_free < need) {
        return ml_fail(err, ML_EIO, "%s: %.2f GB are needed, but its disk has %.2f GB free",
                       ml_manifest_folder(manifest), (double)need / 1e9, (double)n_free / 1e9);
    }
    ML_TRY(ml_st_writer_start(s->writer, err));
    size_t size = piece_size(s->m) * sizeof(float);
    float *buffer = ml_alloc(size);
    if (!buffer) return ml_fail_memory(err, size, "a piece of a tensor");
    ml_status status = put_weights(s, buffer, err);
    ml_free(buffer);
    return status == ML_OK ? ml_st_writer_end(s->writer, err) : status;
}

/* Several ends are a list, the configuration's first. */
static void put_ends(json_t *j, const ml_config *c, const int32_t *end, size_t n_end)
{
    json_t *list = json_array();
    if (c->eos_token_id >= 0) json_array_append_new(list, json_integer(c->eos_token_id));
    for (size_t i = 0; i < n_end; i++) {
        if (end[i] != c->eos_token_id) json_array_append_new(list, json_integer(end[i]));
    }
    if (json_array_size(list) > 1) json_object_set(j, "eos_token_id", list);
    json_decref(list);
}

static ml_status save_generation_config(const ml_config *c, const int32_t *end, size_t n_end, ml_manifest *manifest,
                                        ml_error *err)
{
    json_t *j = json_object();
    const struct {
        const char *key;
        int64_t id;
    } ids[] = { { "bos_token_id", c->bos_token_id },
                { "eos_token_id", c->eos_token_id },
                { "pad_token_id", c->pad_token_id } };
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        if (ids[i].id >= 0) json_object_set_new(j, ids[i].key, json_integer(ids[i].id));
    }
    put_ends(j, c, end, n_end);
    ml_status status = ml_manifest_put_json(manifest, "generation_config.json", j, err);
    json_decref(j);
    return status;
}

static ml_status save_card(const ml_model *m, const char *summary, ml_manifest *manifest, ml_error *err)
{
    const ml_config *c = &m->config;
    ml_param_counts n = ml_model_count(c);
    char text[4096];
    int size =
        snprintf(text, sizeof text,
                 "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- moonlight\n%s---\n\n"
                 "# %s\n\n%s%s"
                 "| | |\n|---|---|\n| class | `%s` |\n| parameters | %lld, of which %lld meet a token |\n"
                 "| layers, width | %lld x %lld |\n| experts | %lld routed, top %lld, %lld shared |\n"
                 "| vocabulary, positions | %lld, %lld |\n\nWritten by Moonlight %s.\n",
                 c->n_routed_experts ? "- mixture-of-experts\n" : "",
                 c->n_routed_experts ? "Mixture-of-Experts language model" : "Language model", summary ? summary : "",
                 summary ? "\n\n" : "", ml_config_class_name(c), (long long)n.total, (long long)n.active,
                 (long long)c->num_hidden_layers, (long long)c->hidden_size, (long long)c->n_routed_experts,
                 (long long)c->num_experts_per_tok, (long long)c->n_shared_experts, (long long)c->vocab_size,
                 (long long)c->max_position_embeddings, ml_version());
    if (size < 0 || (size_t)size >= sizeof text) size = (int)strlen(text);
    return ml_manifest_put(manifest, "README.md", text, (size_t)size, err);
}

static ml_status save(saving *s, const char *summary, ml_dtype dtype, ml_manifest *manifest, ml_error *err)
{
    char path[ML_PATH_MAX];
    s->class_name = ml_config_class_name(&s->m->config);
    ML_TRY(ml_path_join(path, ml_manifest_folder(manifest), "config.json", err));
    ML_TRY(ml_config_save(&s->m->config, dtype, path, err));
    ML_TRY(save_generation_config(&s->m->config, s->x ? s->x->end : NULL, s->x ? s->x->n_end : 0, manifest, err));
    ML_TRY(save_card(s->m, summary, manifest, err));
    ML_TRY(ml_st_writer_begin(&s->writer, manifest, "model.safetensors", MAX_SHARD_BYTES, err));
    ml_status status = save_weights(s, manifest, err);
    ml_st_writer_free(s->writer);
    return status;
}

ml_status ml_hf_save(const ml_model *m, ml_dtype dtype, const char *summary, ml_manifest *manifest, ml_error *err)
{
    saving s = { .m = m, .dtype = dtype };
    return save(&s, summary, dtype, manifest, err);
}

ml_status ml_hf_export_write(const ml_hf_export *x, ml_manifest *manifest, ml_error *err)
{
    ml_model *m;
    ml_dtype dtype = x->dtype;
    if (x->model) return save(&(saving){ .m = x->model, .x = x, .dtype = dtype }, x->summary, dtype, manifest, err);
    /* For its list of weights: address space, of which nothing is touched. */
    ML_TRY(ml_model_make(x->config, ML_F32, false, &m, err));
    saving s = { .m = m, .x = x, .dtype = dtype };
    ml_status status = ML_OK;
    if (x->keep) status = choose_dtype(&s, &m->weight[0], &dtype, err); // config.json names one: the embedding's
    if (status == ML_OK) status = save(&s, x->summary, dtype, manifest, err);
    ml_model_free(m);
    return status;
}
