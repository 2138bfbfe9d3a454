#include "format/hf.h"

#include "format/hf_names.h"
#include "format/safetensors.h"

#include <stdio.h>
#include <string.h>

static const uint64_t MAX_SHARD_BYTES = (uint64_t)5 << 30;

/* Norms, biases and the router stay fp32 whatever the matrices are rounded to. */
static ml_dtype saved_dtype(const ml_weight *w, ml_dtype dtype)
{
    bool matrix = w->kind == ML_PARAM_MATRIX || w->kind == ML_PARAM_EXPERT || w->kind == ML_PARAM_EMBEDDING ||
                  w->kind == ML_PARAM_HEAD;
    return matrix ? dtype : ML_F32;
}

uint64_t ml_hf_save_bytes(const ml_model *m, ml_dtype dtype)
{
    uint64_t n_bytes = 1 << 20; /* headers, configuration, card */
    for (size_t i = 0; i < m->n_weight; i++) {
        n_bytes += (uint64_t)ml_weight_count(&m->weight[i]) * ml_dtype_size(saved_dtype(&m->weight[i], dtype));
    }
    return n_bytes;
}

static ml_status put_weight(ml_st_writer *writer, const ml_weight *w, ml_dtype dtype, ml_error *err)
{
    int64_t n = ml_weight_count(w);
    if (w->dtype == ML_F32) return ml_st_writer_put_f32(writer, w->data, n, err);
    if (w->dtype == dtype) return ml_st_writer_put_raw(writer, w->data, (size_t)n * ml_dtype_size(dtype), err);
    enum { CHUNK = 4096 };
    float buffer[CHUNK];
    for (int64_t i = 0; i < n; i += CHUNK) {
        int64_t count = n - i < CHUNK ? n - i : CHUNK;
        ml_convert_to_f32(w->dtype, (const char *)w->data + (size_t)i * ml_dtype_size(w->dtype), buffer, count);
        ML_TRY(ml_st_writer_put_f32(writer, buffer, count, err));
    }
    return ML_OK;
}

/* The zero biases of a class whose router has one that this model does not. */
static ml_status declare_zero_biases(ml_st_writer *writer, const ml_config *c, const char *class_name, bool declare,
                                     ml_error *err)
{
    if (c->correction_bias || !ml_hf_class_has_bias(class_name)) return ML_OK;
    for (int64_t i = 0; i < c->num_hidden_layers; i++) {
        if (!ml_config_layer_is_moe(c, i)) continue;
        ml_weight w = { .n_dim = 1, .dim = { c->n_routed_experts, 1 } };
        snprintf(w.name, sizeof w.name, "model.layers.%lld.mlp.gate.e_score_correction_bias", (long long)i);
        ml_hf_tensor s = ml_hf_stored_as(class_name, w.name, w.n_dim, w.dim);
        if (declare) {
            ML_TRY(ml_st_writer_declare(writer, s.name, ML_ST_F32, s.n_dim, s.dim, err));
            continue;
        }
        const float zero = 0;
        for (int64_t e = 0; e < c->n_routed_experts; e++) ML_TRY(ml_st_writer_put_f32(writer, &zero, 1, err));
    }
    return ML_OK;
}

static ml_status save_weights(const ml_model *m, ml_dtype dtype, ml_st_writer *writer, ml_error *err)
{
    const char *class_name = ml_config_class_name(&m->config);
    for (size_t i = 0; i < m->n_weight; i++) {
        ml_hf_tensor s = ml_hf_stored_as(class_name, m->weight[i].name, m->weight[i].n_dim, m->weight[i].dim);
        ml_dtype saved = saved_dtype(&m->weight[i], dtype);
        ML_TRY(ml_st_writer_declare(writer, s.name, ml_st_dtype_of(saved), s.n_dim, s.dim, err));
    }
    ML_TRY(declare_zero_biases(writer, &m->config, class_name, true, err));
    ML_TRY(ml_st_writer_start(writer, err));
    for (size_t i = 0; i < m->n_weight; i++) {
        ML_TRY(put_weight(writer, &m->weight[i], saved_dtype(&m->weight[i], dtype), err));
    }
    ML_TRY(declare_zero_biases(writer, &m->config, class_name, false, err));
    return ml_st_writer_end(writer, err);
}

static ml_status save_generation_config(const ml_config *c, ml_manifest *manifest, ml_error *err)
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

ml_status ml_hf_save(const ml_model *m, ml_dtype dtype, const char *summary, ml_manifest *manifest, ml_error *err)
{
    char path[ML_PATH_MAX];
    ML_TRY(ml_path_join(path, ml_manifest_folder(manifest), "config.json", err));
    ML_TRY(ml_config_save(&m->config, dtype, path, err));
    ML_TRY(save_generation_config(&m->config, manifest, err));
    ML_TRY(save_card(m, summary, manifest, err));
    ml_st_writer *writer = NULL;
    ML_TRY(ml_st_writer_begin(&writer, manifest, "model.safetensors", MAX_SHARD_BYTES, err));
    ml_status status = save_weights(m, dtype, writer, err);
    ml_st_writer_free(writer);
    return status;
}
