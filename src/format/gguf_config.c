/* Metadata to ml_config. */
#include "format/gguf_config.h"

#include "format/gguf_arch.h"
#include "format/gguf_vocab.h"
#include "model/config_fields.h"
#include "ops/ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const ml_gguf *g;
    const ml_gguf_arch *arch;
    ml_config *c;
} reader;

typedef struct {
    char text[96];
} key_name;

static key_name key_of(const reader *r, const char *rest)
{
    key_name key;
    snprintf(key.text, sizeof key.text, "%s.%s", r->arch->name, rest);
    return key;
}

/* Keys hold single precision; the number that was meant is the shortest that gives those bits. */
static double shortest(double x)
{
    float f = (float)x;
    if ((double)f != x) return x;
    for (int digits = 1; digits < 9; digits++) {
        char text[32];
        snprintf(text, sizeof text, "%.*g", digits, x);
        double y = strtod(text, NULL);
        if ((float)y == f) return y;
    }
    return x;
}

/* A whole number, or an array that says the same for every layer. */
static ml_status get_int(const reader *r, const char *rest, int64_t *out, ml_error *err)
{
    key_name key = key_of(r, rest);
    const ml_gguf_value *v = ml_gguf_find_key(r->g, key.text);
    bool is_array = v && v->type == ML_GGUF_ARRAY && v->n > 0 && v->element != ML_GGUF_TEXT &&
                    v->element != ML_GGUF_F32 && v->element != ML_GGUF_F64;
    if (!is_array) return ml_gguf_get_integer(r->g, key.text, 0, INT32_MAX, out, err);
    *out = ml_gguf_integer(v, 0);
    for (size_t i = 1; i < v->n; i++) {
        if (ml_gguf_integer(v, i) == *out) continue;
        return ml_fail(err, ML_EINVAL,
                       "%.300s: key %s: expected the same value for every layer, the only form supported, found %lld "
                       "and %lld",
                       ml_gguf_path(r->g), key.text, (long long)*out, (long long)ml_gguf_integer(v, i));
    }
    if (*out >= 0 && *out <= INT32_MAX) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "%.300s: key %s: expected 0 to 2^31-1, found %lld", ml_gguf_path(r->g), key.text,
                   (long long)*out);
}

static bool has_key(const reader *r, const char *rest)
{
    return ml_gguf_find_key(r->g, key_of(r, rest).text) != NULL;
}

static ml_status get_int_or(const reader *r, const char *rest, int64_t otherwise, int64_t *out, ml_error *err)
{
    *out = otherwise;
    return has_key(r, rest) ? get_int(r, rest, out, err) : ML_OK;
}

static ml_status get_real_or(const reader *r, const char *rest, double otherwise, double *out, ml_error *err)
{
    *out = otherwise;
    if (!has_key(r, rest)) return ML_OK;
    ML_TRY(ml_gguf_get_number(r->g, key_of(r, rest).text, out, err));
    *out = shortest(*out);
    return ML_OK;
}

static bool has_tensor(const reader *r, int64_t layer, const char *rest)
{
    char name[64];
    snprintf(name, sizeof name, "blk.%lld.%s", (long long)layer, rest);
    return ml_gguf_find(r->g, name) != NULL;
}

static ml_status read_keys(const reader *r, const ml_gguf_key *keys, ml_error *err)
{
    for (const ml_gguf_key *k = keys; k->key; k++) {
        const ml_config_field *f = ml_gguf_key_field(k);
        if (k->optional && !has_key(r, k->key)) continue;
        if (f->type == ML_FIELD_REAL) {
            double *value = ml_config_field_real(r->c, f);
            ML_TRY(ml_gguf_get_number(r->g, key_of(r, k->key).text, value, err));
            *value = shortest(*value);
        } else if (f->type == ML_FIELD_BOOL) {
            bool value;
            ML_TRY(ml_gguf_get_bool(r->g, key_of(r, k->key).text, &value, err));
            *ml_config_field_int(r->c, f) = value;
        } else {
            ML_TRY(get_int(r, k->key, ml_config_field_int(r->c, f), err));
        }
    }
    return ML_OK;
}

static ml_status read_layers(const reader *r, ml_error *err)
{
    int64_t n, n_next;
    ML_TRY(get_int(r, "block_count", &n, err));
    ML_TRY(get_int_or(r, "nextn_predict_layers", 0, &n_next, err)); // they predict tokens beyond the next
    r->c->num_hidden_layers = n - n_next;
    return ML_OK;
}

/* Both of YaRN's numbers, where they differ (see the header). */
static ml_status read_yarn_mscales(const reader *r, ml_error *err)
{
    const ml_gguf_value *own;
    if (!ml_gguf_find_key(r->g, ML_GGUF_YARN_KEY)) return ML_OK;
    ML_TRY(ml_gguf_get_array(r->g, ML_GGUF_YARN_KEY, ML_GGUF_F32, &own, err));
    if (own->n != 2) {
        return ml_fail(err, ML_EFORMAT, "%.300s: key " ML_GGUF_YARN_KEY ": expected 2 numbers, found %zu",
                       ml_gguf_path(r->g), own->n);
    }
    r->c->yarn_mscale = shortest(ml_gguf_number(own, 0));
    r->c->yarn_mscale_all_dim = shortest(ml_gguf_number(own, 1));
    return ML_OK;
}

static ml_status read_rope_scaling(const reader *r, ml_error *err)
{
    ml_config *c = r->c;
    char *type = NULL;
    double factor, multiplier;
    ML_TRY(get_real_or(r, "rope.scaling.factor", 1, &factor, err));
    key_name key = key_of(r, "rope.scaling.type");
    if (ml_gguf_find_key(r->g, key.text)) ML_TRY(ml_gguf_copy_text(r->g, key.text, &type, err));
    bool none = !type || !strcmp(type, "none") || (!strcmp(type, "linear") && (factor == 1 || factor == 0));
    bool yarn = type && !strcmp(type, "yarn");
    ml_status status = ML_OK;
    if (!none && !yarn) {
        status = ml_fail(err, ML_EINVAL, "%.300s: key %s: expected none or yarn, found %.60s by %g", ml_gguf_path(r->g),
                         key.text, type, factor);
    }
    ml_free(type);
    if (status != ML_OK || none) return status;
    c->yarn_factor = factor;
    ML_TRY(get_int_or(r, "rope.scaling.original_context_length", c->max_position_embeddings,
                      &c->yarn_original_positions, err));
    ML_TRY(get_real_or(r, "rope.scaling.yarn_beta_fast", 32, &c->yarn_beta_fast, err));
    ML_TRY(get_real_or(r, "rope.scaling.yarn_beta_slow", 1, &c->yarn_beta_slow, err));
    /* For deepseek2 the key is 0.1 mscale_all_dim, and mscale is taken to be the same. */
    ML_TRY(get_real_or(r, "rope.scaling.yarn_log_multiplier", 0, &multiplier, err));
    c->yarn_mscale_all_dim = shortest((double)(float)(multiplier * 10));
    c->yarn_mscale = multiplier != 0 ? c->yarn_mscale_all_dim : 1;
    return read_yarn_mscales(r, err);
}

static bool divides_as(const ml_config *c, const float *divisor)
{
    for (int64_t i = 0; i < c->rotary_dim / 2; i++) {
        double wanted = ml_config_llama3_divisor(c, i);
        if (!(fabs((double)divisor[i] - wanted) <= 1e-4 * wanted)) return false; /* made in single precision */
    }
    return true;
}

static ml_status read_llama3(const reader *r, ml_error *err)
{
    enum { MOST = 512 };
    ml_config *c = r->c;
    const ml_gguf_tensor *t;
    const ml_gguf_value *own = ml_gguf_find_key(r->g, ML_GGUF_LLAMA3_KEY);
    if (!ml_gguf_find(r->g, "rope_freqs.weight")) return ML_OK;
    int64_t shape = c->rotary_dim / 2;
    float divisor[MOST];
    ML_TRY(ml_gguf_get(r->g, "rope_freqs.weight", 1, &shape, &t, err));
    if (shape < 1 || shape > MOST || t->dtype != ML_F32) {
        return ml_fail(err, ML_EFORMAT,
                       "%.300s: tensor rope_freqs.weight: expected 1 to %d numbers of f32, found %lld "
                       "of %s",
                       t->file, MOST, (long long)shape, ml_dtype_name(t->dtype));
    }
    memcpy(divisor, t->data, (size_t)shape * sizeof *divisor);
    c->llama3_original_positions = 8192;
    for (int64_t i = 0; i < shape; i++) c->llama3_factor = fmax(c->llama3_factor, (double)divisor[i]);
    if (own) {
        ML_TRY(ml_gguf_get_array(r->g, ML_GGUF_LLAMA3_KEY, ML_GGUF_F32, &own, err));
        if (own->n != 4) {
            return ml_fail(err, ML_EFORMAT, "%.300s: key " ML_GGUF_LLAMA3_KEY ": expected 4 numbers, found %zu",
                           ml_gguf_path(r->g), own->n);
        }
        double positions = ml_gguf_number(own, 3);
        c->llama3_factor = shortest(ml_gguf_number(own, 0));
        c->llama3_low_freq_factor = shortest(ml_gguf_number(own, 1));
        c->llama3_high_freq_factor = shortest(ml_gguf_number(own, 2));
        c->llama3_original_positions = positions >= 1 && positions <= 1 << 24 ? (int64_t)positions : 0;
    }
    if (c->llama3_factor == 1 || divides_as(c, divisor)) return ML_OK;
    return ml_fail(
        err, ML_EINVAL,
        "%.300s: tensor rope_freqs.weight: expected Llama 3's scaling by %g with factors %g and %g over %lld "
        "positions, found other numbers",
        t->file, c->llama3_factor, c->llama3_low_freq_factor, c->llama3_high_freq_factor,
        (long long)c->llama3_original_positions);
}

static ml_status read_mla(const reader *r, ml_error *err)
{
    ml_config *c = r->c;
    int64_t d_qk, d_v;
    c->attention = ML_ATTENTION_MLA;
    c->num_key_value_heads = c->num_attention_heads;
    ML_TRY(get_int(r, "attention.kv_lora_rank", &c->kv_lora_rank, err));
    ML_TRY(get_int_or(r, "attention.q_lora_rank", 0, &c->q_lora_rank, err));
    ML_TRY(get_int(r, "rope.dimension_count", &c->qk_rope_head_dim, err));
    /* Before kv_b was split, key_length and value_length were a head's own. */
    bool split = has_key(r, "attention.key_length_mla");
    ML_TRY(get_int(r, split ? "attention.key_length_mla" : "attention.key_length", &d_qk, err));
    ML_TRY(get_int(r, split ? "attention.value_length_mla" : "attention.value_length", &d_v, err));
    c->qk_nope_head_dim = d_qk - c->qk_rope_head_dim;
    c->v_head_dim = d_v;
    c->rotary_dim = c->qk_rope_head_dim;
    c->latent_norm_eps = c->rms_norm_eps;
    if (!ml_gguf_find_key(r->g, ML_GGUF_LATENT_EPSILON_KEY)) return ML_OK;
    ML_TRY(ml_gguf_get_number(r->g, ML_GGUF_LATENT_EPSILON_KEY, &c->latent_norm_eps, err));
    c->latent_norm_eps = shortest(c->latent_norm_eps);
    return ML_OK;
}

static ml_status read_gqa(const reader *r, ml_error *err)
{
    ml_config *c = r->c;
    int64_t d_v, share = c->num_attention_heads > 0 ? c->hidden_size / c->num_attention_heads : 0;
    c->attention = ML_ATTENTION_GQA;
    ML_TRY(get_int_or(r, "attention.head_count_kv", c->num_attention_heads, &c->num_key_value_heads, err));
    ML_TRY(get_int_or(r, "attention.key_length", share, &c->head_dim, err));
    ML_TRY(get_int_or(r, "attention.value_length", share, &d_v, err));
    ML_TRY(get_int_or(r, "rope.dimension_count", c->head_dim, &c->rotary_dim, err));
    if (d_v != c->head_dim) {
        return ml_fail(err, ML_EINVAL,
                       "%.300s: key %s.attention.value_length: expected the %lld of key_length, the "
                       "only value supported, found %lld",
                       ml_gguf_path(r->g), r->arch->name, (long long)c->head_dim, (long long)d_v);
    }
    c->attention_bias = has_tensor(r, 0, "attn_q.bias");
    c->qk_norm = has_tensor(r, 0, "attn_q_norm.weight");
    return ML_OK;
}

static ml_status read_scoring(const reader *r, ml_error *err)
{
    ml_config *c = r->c;
    int64_t function;
    ML_TRY(get_int_or(r, "expert_gating_func", 0, &function, err));
    if (function == 0) {
        c->scoring = r->arch->scoring;
    } else if (function == ML_GGUF_GATING_SOFTMAX || function == ML_GGUF_GATING_SIGMOID) {
        c->scoring = function == ML_GGUF_GATING_SOFTMAX ? ML_SCORE_SOFTMAX : ML_SCORE_SIGMOID;
    } else {
        return ml_fail(err, ML_EINVAL,
                       "%.300s: key %s.expert_gating_func: expected 1 (softmax) or 2 (sigmoid), found "
                       "%lld",
                       ml_gguf_path(r->g), r->arch->name, (long long)function);
    }
    return ML_OK;
}

static ml_status read_experts(const reader *r, ml_error *err)
{
    ml_config *c = r->c;
    int64_t every;
    c->norm_topk_prob = r->arch->norm_topk_prob;
    c->first_k_dense_replace = 0;
    ML_TRY(read_keys(r, ml_gguf_expert_keys, err));
    ML_TRY(read_scoring(r, err));
    ML_TRY(get_int_or(r, "expert_group_count", 1, &c->n_group, err));
    ML_TRY(get_int_or(r, "expert_group_used_count", 1, &c->topk_group, err));
    if (c->n_group == 0) c->n_group = c->topk_group = 1;
    if (ml_gguf_find_key(r->g, ML_GGUF_GROUP_KEY)) {
        bool by_best;
        ML_TRY(ml_gguf_get_bool(r->g, ML_GGUF_GROUP_KEY, &by_best, err));
        c->group_by_best = by_best;
    }
    if (c->routed_scaling_factor == 0) c->routed_scaling_factor = 1; // both mean none there
    ML_TRY(get_int_or(r, "interleave_moe_layer_step", 1, &every, err));
    if (every != 1) {
        return ml_fail(err, ML_EINVAL,
                       "%.300s: key %s.interleave_moe_layer_step: expected 1, the only value "
                       "supported, found %lld",
                       ml_gguf_path(r->g), r->arch->name, (long long)every);
    }
    c->correction_bias = has_tensor(r, c->first_k_dense_replace, "exp_probs_b.bias");
    return ML_OK;
}

static ml_status read_vocab(const reader *r, ml_error *err)
{
    ml_config *c = r->c;
    const ml_gguf_tensor *t;
    ML_TRY(ml_gguf_get(r->g, "token_embd.weight", -1, NULL, &t, err));
    if (t->n_dim != 2) {
        return ml_fail(err, ML_EFORMAT, "%.300s: tensor token_embd.weight: expected 2 dimensions, found %d", t->file,
                       t->n_dim);
    }
    c->vocab_size = t->shape[0];
    c->tie_word_embeddings = !ml_gguf_find(r->g, "output.weight");
    const struct {
        const char *key;
        int64_t *id;
    } ids[] = { { KEY("bos_token_id"), &c->bos_token_id },
                { KEY("eos_token_id"), &c->eos_token_id },
                { KEY("padding_token_id"), &c->pad_token_id } };
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        int64_t id;
        if (!ml_gguf_find_key(r->g, ids[i].key)) continue;
        ML_TRY(ml_gguf_get_integer(r->g, ids[i].key, INT64_MIN, INT64_MAX, &id, err));
        if (id >= 0 && id < c->vocab_size) *ids[i].id = id; // 2^32-1 is written for none
    }
    return ML_OK;
}

static ml_status read_config(reader *r, ml_error *err)
{
    ml_config *c = r->c;
    ML_TRY(read_layers(r, err));
    ML_TRY(read_keys(r, ml_gguf_common_keys, err));
    c->rope_interleaved = r->arch->rope_interleaved;
    ML_TRY(r->arch->mla ? read_mla(r, err) : read_gqa(r, err));
    ML_TRY(read_rope_scaling(r, err));
    ML_TRY(read_llama3(r, err));
    c->first_k_dense_replace = c->num_hidden_layers;
    int64_t n_expert;
    ML_TRY(get_int_or(r, "expert_count", 0, &n_expert, err));
    if (n_expert && !r->arch->experts) {
        return ml_fail(err, ML_EINVAL,
                       "%.300s: key %s.expert_count: %lld experts; this program runs dense models of "
                       "this architecture",
                       ml_gguf_path(r->g), r->arch->name, (long long)n_expert);
    }
    if (n_expert) ML_TRY(read_experts(r, err));
    return read_vocab(r, err);
}

ml_status ml_gguf_config(const ml_gguf *g, ml_config *out, ml_error *err)
{
    char *name;
    ml_config_blank(out);
    ML_TRY(ml_gguf_copy_text(g, "general.architecture", &name, err));
    reader r = { g, ml_gguf_arch_find(name), out };
    ml_status status = ML_OK;
    if (!r.arch) {
        char known[256];
        ml_gguf_arch_list(known, sizeof known);
        status = ml_fail(err, ML_EINVAL,
                         "%.300s: key general.architecture: \"%.60s\" is not an architecture this program runs; it "
                         "runs %s",
                         ml_gguf_path(g), name, known);
    }
    ml_free(name);
    if (status == ML_OK) status = read_config(&r, err);
    return status == ML_OK ? ml_config_check(out, ml_gguf_path(g), err) : status;
}
