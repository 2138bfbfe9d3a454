#include "quant/choose.h"

#include "tensor/blocks.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

struct ml_quant_mix {
    const char *name;
    ml_dtype base;
    bool medium; /* more bits for values and down projections of some layers */
    uint32_t file_type;
};

static const struct ml_quant_mix mixes[] = {
    { "f32", ML_F32, false, 0 },     { "f16", ML_F16, false, 1 },    { "bf16", ML_BF16, false, 32 },
    { "q8_0", ML_Q8_0, false, 7 },   { "q6_k", ML_Q6_K, false, 18 }, { "q5_k", ML_Q5_K, false, 16 },
    { "q5_k_m", ML_Q5_K, true, 17 }, { "q4_k", ML_Q4_K, false, 14 }, { "q4_k_m", ML_Q4_K, true, 15 },
    { "q5_1", ML_Q5_1, false, 9 },   { "q5_0", ML_Q5_0, false, 8 },  { "q4_0", ML_Q4_0, false, 2 },
};
enum { N_MIX = sizeof mixes / sizeof *mixes };

static const struct {
    const char *suffix; /* of the name, between dots */
    ml_weight_class class;
    const char *name;
} classes[] = {
    { "embed_tokens.weight", ML_CLASS_EMBEDDING, "embedding" },
    { "lm_head.weight", ML_CLASS_OUTPUT, "output" },
    { "self_attn.q_proj.weight", ML_CLASS_ATTN_Q, "attn_q" },
    { "self_attn.k_proj.weight", ML_CLASS_ATTN_K, "attn_k" },
    { "self_attn.v_proj.weight", ML_CLASS_ATTN_V, "attn_v" },
    { "self_attn.o_proj.weight", ML_CLASS_ATTN_OUTPUT, "attn_output" },
    { "self_attn.q_a_proj.weight", ML_CLASS_ATTN_Q_A, "attn_q_a" },
    { "self_attn.q_b_proj.weight", ML_CLASS_ATTN_Q_B, "attn_q_b" },
    { "self_attn.kv_a_proj_with_mqa.weight", ML_CLASS_ATTN_KV_A, "attn_kv_a" },
    { "self_attn.kv_b_proj.weight", ML_CLASS_ATTN_KV_B, "attn_kv_b" },
    { "self_attn.k_b_proj.weight", ML_CLASS_ATTN_K_B, "attn_k_b" },
    { "self_attn.v_b_proj.weight", ML_CLASS_ATTN_V_B, "attn_v_b" },
    { "mlp.gate.weight", ML_CLASS_ROUTER, "router" },
    { "mlp.gate_proj.weight", ML_CLASS_FFN_GATE, "ffn_gate" },
    { "mlp.up_proj.weight", ML_CLASS_FFN_UP, "ffn_up" },
    { "mlp.down_proj.weight", ML_CLASS_FFN_DOWN, "ffn_down" },
    { "shared_experts.gate_proj.weight", ML_CLASS_SHARED_GATE, "shared_gate" },
    { "shared_experts.up_proj.weight", ML_CLASS_SHARED_UP, "shared_up" },
    { "shared_experts.down_proj.weight", ML_CLASS_SHARED_DOWN, "shared_down" },
    { "gate_proj.weight", ML_CLASS_EXPERT_GATE, "expert_gate" },
    { "up_proj.weight", ML_CLASS_EXPERT_UP, "expert_up" },
    { "down_proj.weight", ML_CLASS_EXPERT_DOWN, "expert_down" },
    { "norm.weight", ML_CLASS_NORM, "norm" },
    { "rope_freqs.weight", ML_CLASS_ROPE, "rope" },
    { ".bias", ML_CLASS_BIAS, "bias" },
    { "e_score_correction_bias", ML_CLASS_BIAS, "bias" },
};
enum { N_CLASS_ROW = sizeof classes / sizeof *classes };

ml_weight_class ml_weight_class_of(const char *name)
{
    size_t n = strlen(name);
    for (int i = 0; i < N_CLASS_ROW; i++) {
        size_t length = strlen(classes[i].suffix);
        if (length <= n && !strcmp(name + n - length, classes[i].suffix)) return classes[i].class;
    }
    return ML_CLASS_OTHER;
}

const char *ml_weight_class_name(ml_weight_class c)
{
    for (int i = 0; i < N_CLASS_ROW; i++) {
        if (classes[i].class == c) return classes[i].name;
    }
    return "other";
}

ml_status ml_quant_mix_find(const char *name, const struct ml_quant_mix **out, ml_error *err)
{
    char list[256] = "";
    for (int i = 0; i < N_MIX; i++) {
        if (!strcmp(mixes[i].name, name)) {
            *out = &mixes[i];
            return ML_OK;
        }
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", mixes[i].name);
    }
    return ml_fail(err, ML_EINVAL, "there is no mix \"%.60s\"; there are %s", name, list);
}

const char *ml_quant_mix_name(const struct ml_quant_mix *mix)
{
    return mix->name;
}

uint32_t ml_quant_mix_file_type(const struct ml_quant_mix *mix)
{
    return mix->file_type;
}

uint32_t ml_quant_file_type(ml_dtype dtype)
{
    for (int i = 0; i < N_MIX; i++) {
        if (mixes[i].base == dtype && !mixes[i].medium) return mixes[i].file_type;
    }
    return 0;
}

static bool can_write(ml_dtype dtype)
{
    return dtype == ML_F32 || dtype == ML_BF16 || dtype == ML_F16 || (dtype != ML_I32 && ml_can_quantize(dtype));
}

ml_status ml_quant_rule_parse(const char *text, ml_quant_rule *out, ml_error *err)
{
    const char *equals = strrchr(text, '=');
    if (!equals || equals == text || (size_t)(equals - text) >= sizeof out->glob) {
        return ml_fail(err, ML_EINVAL, "rule \"%.120s\": expected GLOB=TYPE, such as *.ffn_down_exps.*=q6_k", text);
    }
    memcpy(out->glob, text, (size_t)(equals - text));
    out->glob[equals - text] = 0;
    if (ml_dtype_parse(equals + 1, &out->dtype) && can_write(out->dtype)) return ML_OK;
    return ml_fail(err, ML_EINVAL,
                   "rule \"%.120s\": type \"%.40s\": expected f32, bf16, f16, q8_0, q6_k, q5_k, q4_k, q5_1, q5_0 or "
                   "q4_0",
                   text, equals + 1);
}

/* Early and late layers, and every third between. */
static bool has_more_bits(int64_t layer, int64_t n_layer)
{
    return layer < n_layer / 8 || layer >= 7 * n_layer / 8 || (layer - n_layer / 8) % 3 == 2;
}

static ml_dtype fall_back(ml_dtype dtype, int64_t n_col)
{
    if (n_col % ml_dtype_block_length(dtype) == 0) return dtype;
    dtype = dtype == ML_Q4_K ? ML_Q5_0 : dtype == ML_Q5_K ? ML_Q5_1 : dtype == ML_Q6_K ? ML_Q8_0 : dtype;
    return n_col % ml_dtype_block_length(dtype) ? ML_F16 : dtype;
}

static ml_dtype choose_in_mix(const struct ml_quant_mix *mix, ml_weight_class class, const ml_quant_tensor *t)
{
    if (!ml_dtype_is_block(mix->base)) return mix->base;
    if (class == ML_CLASS_OUTPUT || t->is_head) return mix->base == ML_Q8_0 ? ML_Q8_0 : ML_Q6_K;
    bool decides = class == ML_CLASS_ATTN_V || class == ML_CLASS_ATTN_KV_B || class == ML_CLASS_FFN_DOWN ||
                   class == ML_CLASS_EXPERT_DOWN || class == ML_CLASS_SHARED_DOWN;
    return mix->medium && decides && has_more_bits(t->layer, t->n_layer) ? ML_Q6_K : mix->base;
}

/* A glob such as * means what can be chosen; naming a norm does not make it choosable. */
static bool is_fixed(ml_weight_class class)
{
    return class == ML_CLASS_NORM || class == ML_CLASS_BIAS || class == ML_CLASS_ROUTER || class == ML_CLASS_ROPE;
}

bool ml_quant_rule_matches(const ml_quant_rule *rule, const ml_quant_tensor *t)
{
    ml_weight_class class = ml_weight_class_of(t->ours);
    return !is_fixed(class) && (!fnmatch(rule->glob, t->ours, 0) || !fnmatch(rule->glob, t->theirs, 0) ||
                                !fnmatch(rule->glob, ml_weight_class_name(class), 0));
}

ml_status ml_quant_choose(const ml_quant_plan *plan, const ml_quant_tensor *t, ml_dtype *out, ml_error *err)
{
    ml_weight_class class = ml_weight_class_of(t->ours);
    const ml_quant_rule *rule = NULL;
    for (size_t i = 0; i < plan->n_rule; i++) {
        if (ml_quant_rule_matches(&plan->rule[i], t)) rule = &plan->rule[i];
    }
    *out = ML_F32;
    if (is_fixed(class)) return ML_OK;
    if (!rule) {
        *out = fall_back(plan->mix ? choose_in_mix(plan->mix, class, t) : t->stored, t->n_col);
        return ML_OK;
    }
    *out = rule->dtype;
    if (t->n_col % ml_dtype_block_length(rule->dtype) == 0) return ML_OK;
    return ml_fail(err, ML_EINVAL,
                   "rule \"%s=%s\": tensor %s has rows of %lld, which are no whole number of blocks of %lld: choose "
                   "a type with smaller blocks",
                   rule->glob, ml_dtype_name(rule->dtype), t->theirs, (long long)t->n_col,
                   (long long)ml_dtype_block_length(rule->dtype));
}
