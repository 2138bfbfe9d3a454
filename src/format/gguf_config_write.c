/* ml_config to metadata. */
#include "format/gguf_config.h"

#include "format/gguf_arch.h"
#include "ops/ops.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    ml_gguf_writer *w;
    const ml_gguf_arch *arch;
    const ml_config *c;
    ml_error *err;
} writer;

static ml_status refuse(const char *what, ml_error *err)
{
    return ml_fail(err, ML_EINVAL,
                   "no architecture of GGUF files expresses this model: %s; write a Hugging Face folder instead", what);
}

/* The architecture of a model with grouped-query attention is that of its Hugging Face class; llama's rows may be
 * interleaved already. */
static const ml_gguf_arch *find_by_class(const ml_config *c, bool *pair_rows)
{
    static const char *const grouped[] = { "llama", "qwen2", "qwen3", "ernie4_5-moe", "glm4moe" };
    ml_config half = *c;
    half.rope_interleaved = 0;
    *pair_rows = false;
    for (size_t i = 0; i < sizeof grouped / sizeof *grouped; i++) {
        const ml_gguf_arch *arch = ml_gguf_arch_find(grouped[i]);
        bool llama = !strcmp(arch->name, "llama");
        if (strcmp(ml_config_class_name(llama ? &half : c), arch->class_name) != 0) continue;
        *pair_rows = llama && !c->rope_interleaved;
        return arch;
    }
    return NULL;
}

ml_status ml_gguf_arch_for(const ml_config *c, const ml_gguf_arch **arch, bool *pair_rows, ml_error *err)
{
    bool moe = c->n_routed_experts > 0 && c->first_k_dense_replace < c->num_hidden_layers;
    *pair_rows = false;
    if (c->head_bias) return refuse("its output has a bias", err);
    if (moe && c->expert_relu) return refuse("its experts have two matrices", err);
    if (moe && c->n_shared_experts > 0 && c->shared_scale != 1) return refuse("its shared experts are averaged", err);
    if (c->attention == ML_ATTENTION_MLA) {
        if (!c->rope_interleaved) return refuse("its latent attention rotates halves", err);
        if (moe && c->n_shared_experts < 1) return refuse("it has latent attention without shared experts", err);
        *arch = ml_gguf_arch_find("deepseek2");
        return ML_OK;
    }
    *arch = find_by_class(c, pair_rows);
    bool scaled = c->llama3_factor != 1;
    if (scaled && (!*arch || strcmp((*arch)->name, "llama") != 0)) return refuse("it scales RoPE as Llama 3 does", err);
    if (!*arch) return refuse("it is of class MoonlightMoeForCausalLM", err);
    if (strcmp((*arch)->name, "glm4moe") != 0 && c->rotary_dim != c->head_dim) {
        return refuse("its heads rotate in part", err);
    }
    return ML_OK;
}

typedef struct {
    char text[96];
} key_name;

static key_name key_of(const writer *w, const char *rest)
{
    key_name key;
    snprintf(key.text, sizeof key.text, "%s.%s", w->arch->name, rest);
    return key;
}

static ml_status put_int(const writer *w, const char *rest, int64_t value)
{
    return ml_gguf_writer_set_u32(w->w, key_of(w, rest).text, (uint32_t)value, w->err);
}

static ml_status put_real(const writer *w, const char *rest, double value)
{
    return ml_gguf_writer_set_f32(w->w, key_of(w, rest).text, (float)value, w->err);
}

static ml_status put_keys(const writer *w, const ml_gguf_key *keys)
{
    for (const ml_gguf_key *k = keys; k->key; k++) {
        const ml_config_field *f = ml_gguf_key_field(k);
        if (f->type == ML_FIELD_REAL)
            ML_TRY(put_real(w, k->key, *ml_config_field_real(w->c, f)));
        else if (f->type == ML_FIELD_BOOL)
            ML_TRY(ml_gguf_writer_set_bool(w->w, key_of(w, k->key).text, *ml_config_field_int(w->c, f) != 0, w->err));
        else
            ML_TRY(put_int(w, k->key, *ml_config_field_int(w->c, f)));
    }
    return ML_OK;
}

/* llama.cpp turns latent attention into one key head of [latent; rope], of which the values are a part. */
static ml_status put_latent_attention(const writer *w)
{
    const ml_config *c = w->c;
    ML_TRY(put_int(w, "attention.head_count_kv", 1));
    ML_TRY(put_int(w, "attention.key_length", c->kv_lora_rank + c->qk_rope_head_dim));
    ML_TRY(put_int(w, "attention.value_length", c->kv_lora_rank));
    ML_TRY(put_int(w, "attention.key_length_mla", ml_config_d_qk(c)));
    ML_TRY(put_int(w, "attention.value_length_mla", c->v_head_dim));
    ML_TRY(put_int(w, "attention.kv_lora_rank", c->kv_lora_rank));
    /* Also when it is 0: llama.cpp demands it of models with other than 26 or 27 layers. */
    ML_TRY(put_int(w, "attention.q_lora_rank", c->q_lora_rank));
    ML_TRY(put_int(w, "rope.dimension_count", c->qk_rope_head_dim));
    if (c->latent_norm_eps == c->rms_norm_eps) return ML_OK;
    return ml_gguf_writer_set_f32(w->w, ML_GGUF_LATENT_EPSILON_KEY, (float)c->latent_norm_eps, w->err);
}

static ml_status put_grouped_attention(const writer *w)
{
    const ml_config *c = w->c;
    ML_TRY(put_int(w, "attention.head_count_kv", c->num_key_value_heads));
    ML_TRY(put_int(w, "attention.key_length", c->head_dim));
    ML_TRY(put_int(w, "attention.value_length", c->head_dim));
    return put_int(w, "rope.dimension_count", c->rotary_dim);
}

static ml_status put_rope_scaling(const writer *w)
{
    const ml_config *c = w->c;
    if (c->llama3_factor != 1) {
        const float own[4] = { (float)c->llama3_factor, (float)c->llama3_low_freq_factor,
                               (float)c->llama3_high_freq_factor, (float)c->llama3_original_positions };
        return ml_gguf_writer_set_array(w->w, ML_GGUF_LLAMA3_KEY, ML_GGUF_F32, own, 4, w->err);
    }
    if (c->yarn_factor == 1) return ML_OK;
    bool mla = c->attention == ML_ATTENTION_MLA;
    if (c->yarn_mscale_all_dim != 0 && (!mla || c->yarn_mscale != c->yarn_mscale_all_dim)) {
        const float own[2] = { (float)c->yarn_mscale, (float)c->yarn_mscale_all_dim };
        ML_TRY(ml_gguf_writer_set_array(w->w, ML_GGUF_YARN_KEY, ML_GGUF_F32, own, 2, w->err));
    }
    ML_TRY(ml_gguf_writer_set_text(w->w, key_of(w, "rope.scaling.type").text, "yarn", w->err));
    ML_TRY(put_real(w, "rope.scaling.factor", c->yarn_factor));
    ML_TRY(put_int(w, "rope.scaling.original_context_length", c->yarn_original_positions));
    ML_TRY(put_real(w, "rope.scaling.yarn_beta_fast", c->yarn_beta_fast));
    ML_TRY(put_real(w, "rope.scaling.yarn_beta_slow", c->yarn_beta_slow));
    return mla ? put_real(w, "rope.scaling.yarn_log_multiplier", 0.1 * c->yarn_mscale_all_dim) : ML_OK;
}

static ml_status put_experts(const writer *w)
{
    static const ml_gguf_key group_keys[] = { { "expert_group_count", "n_group", true },
                                              { "expert_group_used_count", "topk_group", true },
                                              { NULL, NULL, false } };
    const ml_config *c = w->c;
    int64_t function = c->scoring == ML_SCORE_SIGMOID ? ML_GGUF_GATING_SIGMOID : ML_GGUF_GATING_SOFTMAX;
    ML_TRY(put_keys(w, ml_gguf_expert_keys));
    ML_TRY(put_int(w, "expert_gating_func", function));
    /* All groups chosen is no choice; llama.cpp wants fewer, or no groups. */
    if (c->topk_group < c->n_group) {
        ML_TRY(put_keys(w, group_keys));
        if (c->group_by_best) ML_TRY(ml_gguf_writer_set_bool(w->w, ML_GGUF_GROUP_KEY, true, w->err));
    }
    if (strcmp(w->arch->name, "ernie4_5-moe") != 0) return ML_OK;
    ML_TRY(put_int(w, "interleave_moe_layer_step", 1));
    return put_int(w, "expert_shared_feed_forward_length", c->n_shared_experts * c->moe_intermediate_size);
}

ml_status ml_gguf_put_config(ml_gguf_writer *gguf, const ml_config *c, const ml_gguf_arch *arch, ml_error *err)
{
    writer w = { gguf, arch, c, err };
    ML_TRY(ml_gguf_writer_set_text(gguf, "general.architecture", arch->name, err));
    ML_TRY(ml_gguf_writer_set_text(gguf, "general.type", "model", err));
    ML_TRY(put_int(&w, "vocab_size", c->vocab_size));
    ML_TRY(put_int(&w, "block_count", c->num_hidden_layers));
    ML_TRY(put_keys(&w, ml_gguf_common_keys));
    ML_TRY(arch->mla ? put_latent_attention(&w) : put_grouped_attention(&w));
    ML_TRY(put_rope_scaling(&w));
    if (!arch->experts) return ML_OK;
    if (c->n_routed_experts) return put_experts(&w);
    /* Keys that llama.cpp reads of dense models, too. */
    ML_TRY(put_int(&w, "leading_dense_block_count", c->num_hidden_layers));
    ML_TRY(put_int(&w, "expert_feed_forward_length", c->intermediate_size));
    return put_int(&w, "expert_shared_count", 0);
}
