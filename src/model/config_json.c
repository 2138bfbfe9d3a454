/* config.json: one table per published class maps its keys to our fields; what a class implies without a key is
 * set by its function.  Whether a class can express a model is not a list of conditions that could be forgotten:
 * the configuration is written in the class's keys, read back, and compared. */
#include "base/alloc.h"
#include "base/file.h"
#include "model/config_fields.h"
#include "ops/ops.h"

#include <math.h>
#include <string.h>

typedef struct {
    const char *key;   /* in config.json */
    const char *field; /* in ml_config_fields */
    bool optional;     /* absent or null means what `implied` set */
} key_map;

typedef struct {
    const char *name, *model_type;
    const key_map *keys; /* ends with a NULL key */
    void (*implied)(ml_config *c);
    /* What a table of keys cannot say; both may be NULL. */
    ml_status (*read_rest)(const json_t *j, const char *where, ml_config *c, ml_error *err);
    void (*write_rest)(const ml_config *c, json_t *j);
} class_info;

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

/* ---- what several classes share ---- */

/* A key that this program supports with one value only (absent counts as that value). */
static ml_status expect_bool(const json_t *j, const char *key, bool wanted, const char *where, ml_error *err)
{
    bool value;
    ML_TRY(ml_json_bool_or(j, key, where, wanted, &value, err));
    if (value == wanted) return ML_OK;
    return ml_fail(err, ML_EINVAL, "%s: key \"%s\": expected %s, the only value supported, found %s", where, key,
                   wanted ? "true" : "false", value ? "true" : "false");
}

static ml_status expect_int(const json_t *j, const char *key, int64_t wanted, const char *where, ml_error *err)
{
    int64_t value;
    ML_TRY(ml_json_int_or(j, key, where, wanted, &value, err));
    if (value == wanted) return ML_OK;
    return ml_fail(err, ML_EINVAL, "%s: key \"%s\": expected %lld, the only value supported, found %lld", where, key,
                   (long long)wanted, (long long)value);
}

static ml_status expect_silu(const json_t *j, const char *where, ml_error *err)
{
    const char *act;
    ML_TRY(ml_json_text_or(j, "hidden_act", where, "silu", &act, err));
    if (!strcmp(act, "silu")) return ML_OK;
    return ml_fail(err, ML_EINVAL, "%s: key \"hidden_act\": expected \"silu\", found \"%s\"", where, act);
}

/* The scaling of Llama 3.1 and later. */
static ml_status read_llama3(const json_t *scaling, const char *where, ml_config *c, ml_error *err)
{
    ML_TRY(ml_json_real_or(scaling, "factor", where, 0, &c->llama3_factor, err));
    ML_TRY(ml_json_real_or(scaling, "low_freq_factor", where, 0, &c->llama3_low_freq_factor, err));
    ML_TRY(ml_json_real_or(scaling, "high_freq_factor", where, 0, &c->llama3_high_freq_factor, err));
    return ml_json_int_or(scaling, "original_max_position_embeddings", where, c->max_position_embeddings,
                          &c->llama3_original_positions, err);
}

/* RoPE's theta and scaling, in the older layout (rope_theta, rope_scaling) and the newer (rope_parameters). */
static ml_status read_rope(const json_t *j, const char *where, ml_config *c, ml_error *err)
{
    const json_t *scaling = json_object_get(j, "rope_parameters");
    if (!json_is_object(scaling)) scaling = json_object_get(j, "rope_scaling");
    ML_TRY(ml_json_real_or(j, "rope_theta", where, c->rope_theta, &c->rope_theta, err));
    if (!json_is_object(scaling)) return ML_OK;
    ML_TRY(ml_json_real_or(scaling, "rope_theta", where, c->rope_theta, &c->rope_theta, err));
    const char *type;
    ML_TRY(ml_json_text_or(scaling, "type", where, "default", &type, err));
    ML_TRY(ml_json_text_or(scaling, "rope_type", where, type, &type, err));
    if (!strcmp(type, "default")) return ML_OK;
    if (!strcmp(type, "llama3")) return read_llama3(scaling, where, c, err);
    if (strcmp(type, "yarn")) {
        return ml_fail(err, ML_EINVAL, "%s: rope scaling: expected \"default\", \"yarn\" or \"llama3\", found \"%s\"",
                       where, type);
    }
    const json_t *magnitude = json_object_get(scaling, "attention_factor");
    if (magnitude && !json_is_null(magnitude)) {
        return ml_fail(err, ML_EINVAL, "%s: key \"attention_factor\": not supported; it follows from mscale", where);
    }
    ML_TRY(expect_bool(scaling, "truncate", true, where, err));
    ML_TRY(ml_json_real_or(scaling, "factor", where, 1, &c->yarn_factor, err));
    ML_TRY(ml_json_real_or(scaling, "beta_fast", where, 32, &c->yarn_beta_fast, err));
    ML_TRY(ml_json_real_or(scaling, "beta_slow", where, 1, &c->yarn_beta_slow, err));
    ML_TRY(ml_json_real_or(scaling, "mscale", where, 1, &c->yarn_mscale, err));
    ML_TRY(ml_json_real_or(scaling, "mscale_all_dim", where, 0, &c->yarn_mscale_all_dim, err));
    return ml_json_int_or(scaling, "original_max_position_embeddings", where, c->max_position_embeddings,
                          &c->yarn_original_positions, err);
}

static void write_rope(const ml_config *c, json_t *j)
{
    json_object_set_new(j, "rope_theta", json_real(c->rope_theta));
    if (c->llama3_factor != 1) {
        json_object_set_new(j, "rope_scaling",
                            json_pack("{s:s, s:f, s:f, s:f, s:I}", "rope_type", "llama3", "factor", c->llama3_factor,
                                      "low_freq_factor", c->llama3_low_freq_factor, "high_freq_factor",
                                      c->llama3_high_freq_factor, "original_max_position_embeddings",
                                      (json_int_t)c->llama3_original_positions));
        return;
    }
    if (c->yarn_factor == 1) {
        json_object_set_new(j, "rope_scaling", json_null());
        return;
    }
    json_object_set_new(j, "rope_scaling",
                        json_pack("{s:s, s:f, s:f, s:f, s:f, s:f, s:I}", "type", "yarn", "factor", c->yarn_factor,
                                  "beta_fast", c->yarn_beta_fast, "beta_slow", c->yarn_beta_slow, "mscale",
                                  c->yarn_mscale, "mscale_all_dim", c->yarn_mscale_all_dim,
                                  "original_max_position_embeddings", (json_int_t)c->yarn_original_positions));
}

/* head_dim absent: hidden_size / num_attention_heads.  partial_rotary_factor: the share of it that rotates. */
static ml_status read_heads(const json_t *j, const char *where, double partial, ml_config *c, ml_error *err)
{
    int64_t even_share = c->num_attention_heads > 0 ? c->hidden_size / c->num_attention_heads : 0;
    ML_TRY(ml_json_int_or(j, "head_dim", where, even_share, &c->head_dim, err));
    ML_TRY(ml_json_real_or(j, "partial_rotary_factor", where, partial, &partial, err));
    const json_t *rope = json_object_get(j, "rope_parameters");
    if (json_is_object(rope)) ML_TRY(ml_json_real_or(rope, "partial_rotary_factor", where, partial, &partial, err));
    if (!(partial > 0 && partial <= 1)) {
        return ml_fail(err, ML_EINVAL, "%s: key \"partial_rotary_factor\": expected a share in (0, 1], found %g", where,
                       partial);
    }
    if (c->head_dim > INT32_MAX) {
        return ml_fail(err, ML_EINVAL, "%s: head_dim: expected 1 to 16384, found %lld", where, (long long)c->head_dim);
    }
    c->rotary_dim = (int64_t)((double)c->head_dim * partial);
    return read_rope(j, where, c, err);
}

static void write_common(const ml_config *c, json_t *j)
{
    json_object_set_new(j, "hidden_act", json_string("silu"));
    write_rope(c, j);
}

static void write_heads(const ml_config *c, json_t *j)
{
    json_object_set_new(j, "head_dim", json_integer(c->head_dim));
    write_common(c, j);
}

#define COMMON_KEYS                                                                                                    \
    { "vocab_size", "vocab_size", false }, { "hidden_size", "hidden_size", false },                                    \
        { "num_hidden_layers", "num_hidden_layers", false }, { "num_attention_heads", "num_attention_heads", false },  \
        { "num_key_value_heads", "num_key_value_heads", false },                                                       \
        { "max_position_embeddings", "max_position_embeddings", true }, { "rms_norm_eps", "rms_norm_eps", true },      \
        { "tie_word_embeddings", "tie_word_embeddings", true }, { "initializer_range", "initializer_range", true },    \
    {                                                                                                                  \
        "intermediate_size", "intermediate_size", false                                                                \
    }

/* ---- DeepseekV3ForCausalLM ---- */

static const key_map deepseek_v3_keys[] = {
    COMMON_KEYS,
    { "kv_lora_rank", "kv_lora_rank", false },
    { "q_lora_rank", "q_lora_rank", true },
    { "qk_nope_head_dim", "qk_nope_head_dim", false },
    { "qk_rope_head_dim", "qk_rope_head_dim", false },
    { "v_head_dim", "v_head_dim", false },
    { "first_k_dense_replace", "first_k_dense_replace", false },
    { "n_routed_experts", "n_routed_experts", false },
    { "num_experts_per_tok", "num_experts_per_tok", false },
    { "moe_intermediate_size", "moe_intermediate_size", false },
    { "n_shared_experts", "n_shared_experts", true },
    { "norm_topk_prob", "norm_topk_prob", true },
    { "routed_scaling_factor", "routed_scaling_factor", true },
    { "n_group", "n_group", true },
    { "topk_group", "topk_group", true },
    { NULL, NULL, false },
};

static void deepseek_v3_implied(ml_config *c)
{
    c->attention = ML_ATTENTION_MLA;
    c->scoring = ML_SCORE_SIGMOID;
    c->correction_bias = 1;
    c->rope_interleaved = 1;
    c->norm_topk_prob = 1;
}

static ml_status expect_text(const json_t *j, const char *key, const char *wanted, const char *where, ml_error *err)
{
    const char *value;
    ML_TRY(ml_json_text_or(j, key, where, wanted, &value, err));
    if (!strcmp(value, wanted)) return ML_OK;
    return ml_fail(err, ML_EINVAL, "%s: key \"%s\": expected \"%s\", found \"%s\"", where, key, wanted, value);
}

static ml_status deepseek_v3_read(const json_t *j, const char *where, ml_config *c, ml_error *err)
{
    ML_TRY(expect_silu(j, where, err));
    ML_TRY(expect_bool(j, "attention_bias", false, where, err));
    ML_TRY(expect_int(j, "moe_layer_freq", 1, where, err));
    ML_TRY(expect_text(j, "scoring_func", "sigmoid", where, err));
    ML_TRY(expect_text(j, "topk_method", "noaux_tc", where, err));
    bool interleave;
    ML_TRY(ml_json_bool_or(j, "rope_interleave", where, true, &interleave, err));
    c->rope_interleaved = interleave;
    c->rotary_dim = c->qk_rope_head_dim;
    return read_rope(j, where, c, err);
}

static void deepseek_v3_write(const ml_config *c, json_t *j)
{
    write_common(c, j);
    if (c->q_lora_rank == 0) json_object_set_new(j, "q_lora_rank", json_null());
    json_object_set_new(j, "head_dim", json_integer(c->qk_rope_head_dim));
    json_object_set_new(j, "qk_head_dim", json_integer(c->qk_nope_head_dim + c->qk_rope_head_dim));
    json_object_set_new(j, "rope_interleave", json_boolean(c->rope_interleaved != 0));
    json_object_set_new(j, "attention_bias", json_false());
    json_object_set_new(j, "moe_layer_freq", json_integer(1));
    json_object_set_new(j, "scoring_func", json_string("sigmoid"));
    json_object_set_new(j, "topk_method", json_string("noaux_tc"));
    json_object_set_new(j, "num_nextn_predict_layers", json_integer(0));
}

/* ---- DeepseekV2ForCausalLM: the same attention, softmax router without a bias ---- */

static const key_map deepseek_v2_keys[] = {
    COMMON_KEYS,
    { "kv_lora_rank", "kv_lora_rank", false },
    { "q_lora_rank", "q_lora_rank", true },
    { "qk_nope_head_dim", "qk_nope_head_dim", false },
    { "qk_rope_head_dim", "qk_rope_head_dim", false },
    { "v_head_dim", "v_head_dim", false },
    { "first_k_dense_replace", "first_k_dense_replace", false },
    { "n_routed_experts", "n_routed_experts", false },
    { "num_experts_per_tok", "num_experts_per_tok", false },
    { "moe_intermediate_size", "moe_intermediate_size", false },
    { "n_shared_experts", "n_shared_experts", true },
    { "routed_scaling_factor", "routed_scaling_factor", true },
    { NULL, NULL, false },
};

static void deepseek_v2_implied(ml_config *c)
{
    c->attention = ML_ATTENTION_MLA;
    c->scoring = ML_SCORE_SOFTMAX;
    c->rope_interleaved = 1;
}

/* The larger models choose groups first, by their best expert ("group_limited_greedy"); with "greedy" the keys of
 * groups are there, too, and mean nothing. */
static ml_status deepseek_v2_read_groups(const json_t *j, const char *where, ml_config *c, ml_error *err)
{
    const char *method;
    ML_TRY(ml_json_text_or(j, "topk_method", where, "greedy", &method, err));
    if (!strcmp(method, "greedy")) return ML_OK;
    c->group_by_best = 1;
    ML_TRY(ml_json_int(j, "n_group", where, &c->n_group, err));
    ML_TRY(ml_json_int(j, "topk_group", where, &c->topk_group, err));
    if (!strcmp(method, "group_limited_greedy")) return ML_OK;
    return ml_fail(err, ML_EINVAL,
                   "%s: key \"topk_method\": expected \"greedy\" or \"group_limited_greedy\", found \"%s\"", where,
                   method);
}

static ml_status deepseek_v2_read(const json_t *j, const char *where, ml_config *c, ml_error *err)
{
    ML_TRY(expect_silu(j, where, err));
    ML_TRY(expect_bool(j, "attention_bias", false, where, err));
    ML_TRY(expect_bool(j, "mlp_bias", false, where, err));
    ML_TRY(expect_bool(j, "norm_topk_prob", false, where, err));
    ML_TRY(expect_int(j, "moe_layer_freq", 1, where, err));
    ML_TRY(expect_text(j, "scoring_func", "softmax", where, err));
    ML_TRY(deepseek_v2_read_groups(j, where, c, err));
    c->rotary_dim = c->qk_rope_head_dim;
    return read_rope(j, where, c, err);
}

static void deepseek_v2_write(const ml_config *c, json_t *j)
{
    write_common(c, j);
    if (c->q_lora_rank == 0) json_object_set_new(j, "q_lora_rank", json_null());
    json_object_set_new(j, "head_dim", json_integer(c->qk_rope_head_dim));
    json_object_set_new(j, "attention_bias", json_false());
    json_object_set_new(j, "mlp_bias", json_false());
    json_object_set_new(j, "norm_topk_prob", json_false());
    json_object_set_new(j, "moe_layer_freq", json_integer(1));
    json_object_set_new(j, "scoring_func", json_string("softmax"));
    bool groups = c->n_group > 1;
    json_object_set_new(j, "topk_method", json_string(groups ? "group_limited_greedy" : "greedy"));
    json_object_set_new(j, "n_group", json_integer(c->n_group));
    json_object_set_new(j, "topk_group", json_integer(c->topk_group));
}

/* ---- Ernie4_5_MoeForCausalLM: softmax router, shared experts, interleaved RoPE ---- */

static const key_map ernie_keys[] = {
    COMMON_KEYS,
    { "moe_layer_start_index", "first_k_dense_replace", false },
    { "moe_num_experts", "n_routed_experts", false },
    { "moe_k", "num_experts_per_tok", false },
    { "moe_intermediate_size", "moe_intermediate_size", false },
    { "moe_num_shared_experts", "n_shared_experts", true },
    { NULL, NULL, false },
};

static void ernie_implied(ml_config *c)
{
    c->scoring = ML_SCORE_SOFTMAX;
    c->norm_topk_prob = 1;
    c->correction_bias = 1;
    c->rope_interleaved = 1;
}

static ml_status ernie_read(const json_t *j, const char *where, ml_config *c, ml_error *err)
{
    ML_TRY(expect_silu(j, where, err));
    ML_TRY(expect_bool(j, "use_bias", false, where, err));
    ML_TRY(expect_int(j, "moe_layer_interval", 1, where, err));
    int64_t last;
    ML_TRY(ml_json_int_or(j, "moe_layer_end_index", where, -1, &last, err));
    if (last != -1 && last != c->num_hidden_layers - 1) {
        return ml_fail(err, ML_EINVAL, "%s: key \"moe_layer_end_index\": expected the last layer, found %lld", where,
                       (long long)last);
    }
    return read_heads(j, where, 1, c, err);
}

static void ernie_write(const ml_config *c, json_t *j)
{
    write_heads(c, j);
    json_object_set_new(j, "use_bias", json_false());
    json_object_set_new(j, "moe_layer_interval", json_integer(1));
    json_object_set_new(j, "moe_layer_end_index", json_integer(c->num_hidden_layers - 1));
    json_object_set_new(j, "moe_norm_min", json_real(1e-12));
}

/* ---- Glm4MoeForCausalLM: sigmoid router over grouped-query attention ---- */

static const key_map glm4_moe_keys[] = {
    COMMON_KEYS,
    { "attention_bias", "attention_bias", true },
    { "use_qk_norm", "qk_norm", true },
    { "first_k_dense_replace", "first_k_dense_replace", false },
    { "n_routed_experts", "n_routed_experts", false },
    { "num_experts_per_tok", "num_experts_per_tok", false },
    { "moe_intermediate_size", "moe_intermediate_size", false },
    { "n_shared_experts", "n_shared_experts", true },
    { "norm_topk_prob", "norm_topk_prob", true },
    { "routed_scaling_factor", "routed_scaling_factor", true },
    { "n_group", "n_group", true },
    { "topk_group", "topk_group", true },
    { NULL, NULL, false },
};

static void glm4_moe_implied(ml_config *c)
{
    c->scoring = ML_SCORE_SIGMOID;
    c->norm_topk_prob = 1;
    c->correction_bias = 1;
}

static ml_status glm4_moe_read(const json_t *j, const char *where, ml_config *c, ml_error *err)
{
    ML_TRY(expect_silu(j, where, err));
    return read_heads(j, where, 0.5, c, err);
}

static void glm4_moe_write(const ml_config *c, json_t *j)
{
    write_heads(c, j);
    json_object_set_new(j, "partial_rotary_factor", json_real((double)c->rotary_dim / (double)c->head_dim));
}

/* ---- dense: Qwen2, Qwen3, Llama ---- */

static const key_map qwen2_keys[] = { COMMON_KEYS, { NULL, NULL, false } };
static const key_map qwen3_keys[] = { COMMON_KEYS, { NULL, NULL, false } };
static const key_map llama_keys[] = { COMMON_KEYS, { NULL, NULL, false } };

static void qwen2_implied(ml_config *c)
{
    c->attention_bias = 1;
}

static void qwen3_implied(ml_config *c)
{
    c->qk_norm = 1;
}

static void llama_implied(ml_config *c)
{
    (void)c;
}

static ml_status dense_read(const json_t *j, const char *where, ml_config *c, ml_error *err)
{
    ML_TRY(expect_silu(j, where, err));
    ML_TRY(expect_bool(j, "use_sliding_window", false, where, err));
    ML_TRY(read_heads(j, where, 1, c, err));
    c->first_k_dense_replace = c->num_hidden_layers;
    return ML_OK;
}

/* With attention_bias Qwen3 has a bias on the output projection too, which is none of our architectures. */
static ml_status qwen3_read(const json_t *j, const char *where, ml_config *c, ml_error *err)
{
    ML_TRY(expect_bool(j, "attention_bias", false, where, err));
    return dense_read(j, where, c, err);
}

static ml_status llama_read(const json_t *j, const char *where, ml_config *c, ml_error *err)
{
    ML_TRY(expect_bool(j, "attention_bias", false, where, err));
    ML_TRY(expect_bool(j, "mlp_bias", false, where, err));
    return dense_read(j, where, c, err);
}

/* ---- our own class: the fields under their own names ---- */

static const char own_class[] = "MoonlightMoeForCausalLM";

static const class_info classes[] = {
    /* In order of preference: dense classes before those that could also say "no experts". */
    { "LlamaForCausalLM", "llama", llama_keys, llama_implied, llama_read, write_heads },
    { "Qwen2ForCausalLM", "qwen2", qwen2_keys, qwen2_implied, dense_read, write_heads },
    { "Qwen3ForCausalLM", "qwen3", qwen3_keys, qwen3_implied, qwen3_read, write_heads },
    { "DeepseekV3ForCausalLM", "deepseek_v3", deepseek_v3_keys, deepseek_v3_implied, deepseek_v3_read,
      deepseek_v3_write },
    { "DeepseekV2ForCausalLM", "deepseek_v2", deepseek_v2_keys, deepseek_v2_implied, deepseek_v2_read,
      deepseek_v2_write },
    { "Ernie4_5_MoeForCausalLM", "ernie4_5_moe", ernie_keys, ernie_implied, ernie_read, ernie_write },
    { "Glm4MoeForCausalLM", "glm4_moe", glm4_moe_keys, glm4_moe_implied, glm4_moe_read, glm4_moe_write },
};
enum { N_CLASS = sizeof classes / sizeof classes[0] };

static ml_status read_class(const class_info *info, const json_t *j, const char *where, ml_config *c, ml_error *err)
{
    info->implied(c);
    for (const key_map *k = info->keys; k->key; k++) {
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

static void write_class(const class_info *info, const ml_config *c, json_t *j)
{
    for (const key_map *k = info->keys; k->key; k++) {
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

static bool class_expresses(const class_info *info, const ml_config *c)
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

static const class_info *choose_class(const ml_config *c)
{
    for (int i = 0; i < N_CLASS; i++) {
        if (class_expresses(&classes[i], c)) return &classes[i];
    }
    return NULL;
}

const char *ml_config_class_name(const ml_config *c)
{
    const class_info *info = choose_class(c);
    return info ? info->name : own_class;
}

static void write_token_id(json_t *j, const char *key, int64_t id)
{
    json_object_set_new(j, key, id < 0 ? json_null() : json_integer(id));
}

json_t *ml_config_to_json(const ml_config *c, ml_dtype dtype)
{
    const class_info *info = choose_class(c);
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

static ml_status read_config(const json_t *j, const char *path, ml_config *c, ml_error *err)
{
    json_t *list;
    ML_TRY(ml_json_array(j, "architectures", path, &list, err));
    const char *name = json_string_value(json_array_get(list, 0));
    if (!name) return ml_fail(err, ML_EFORMAT, "%s: key \"architectures\": expected a list of class names", path);
    ml_config_blank(c);
    const class_info *info = NULL;
    for (int i = 0; i < N_CLASS; i++) {
        if (!strcmp(name, classes[i].name)) info = &classes[i];
    }
    if (info) {
        ML_TRY(read_class(info, j, path, c, err));
    } else if (!strcmp(name, own_class)) {
        ML_TRY(read_own(j, path, c, err));
    } else {
        char known[512] = "";
        for (int i = 0; i < N_CLASS; i++) {
            size_t used = strlen(known);
            snprintf(known + used, sizeof known - used, "%s, ", classes[i].name);
        }
        return ml_fail(err, ML_EINVAL,
                       "%s: key \"architectures\": \"%s\" is not a class this program runs; it runs %s%s", path, name,
                       known, own_class);
    }
    ML_TRY(read_token_id(j, "bos_token_id", path, &c->bos_token_id, err));
    ML_TRY(read_token_id(j, "eos_token_id", path, &c->eos_token_id, err));
    ML_TRY(read_token_id(j, "pad_token_id", path, &c->pad_token_id, err));
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
