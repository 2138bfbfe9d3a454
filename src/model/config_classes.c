#include "model/config_classes.h"

#include "ops/ops.h"

#include <string.h>

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

/* clang-format off */
#define DEEPSEEK_KEYS \
    COMMON_KEYS, \
    { "kv_lora_rank", "kv_lora_rank", false }, \
    { "q_lora_rank", "q_lora_rank", true }, \
    { "qk_nope_head_dim", "qk_nope_head_dim", false }, \
    { "qk_rope_head_dim", "qk_rope_head_dim", false }, \
    { "v_head_dim", "v_head_dim", false }, \
    { "first_k_dense_replace", "first_k_dense_replace", false }, \
    { "n_routed_experts", "n_routed_experts", false }, \
    { "num_experts_per_tok", "num_experts_per_tok", false }, \
    { "moe_intermediate_size", "moe_intermediate_size", false }, \
    { "n_shared_experts", "n_shared_experts", true }
/* clang-format on */

static const ml_config_key deepseek_v3_keys[] = {
    DEEPSEEK_KEYS,
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

static const ml_config_key deepseek_v2_keys[] = {
    DEEPSEEK_KEYS,
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

static const ml_config_key ernie_keys[] = {
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

static const ml_config_key glm4_moe_keys[] = {
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

static const ml_config_key qwen2_keys[] = { COMMON_KEYS, { NULL, NULL, false } };
static const ml_config_key qwen3_keys[] = { COMMON_KEYS, { NULL, NULL, false } };
static const ml_config_key llama_keys[] = { COMMON_KEYS, { NULL, NULL, false } };

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
/* ---- all of them ---- */

const ml_config_class ml_config_classes[] = {
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
const int ml_config_n_class = (int)(sizeof ml_config_classes / sizeof ml_config_classes[0]);
