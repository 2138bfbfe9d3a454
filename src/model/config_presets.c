/* Architectures by name. */
#include "model/config.h"

#include "base/nearest.h"
#include "model/config_fields.h"
#include "ops/ops.h"

#include <stdio.h>
#include <string.h>

/* Grouped-query attention whose whole heads rotate. */
static void set_gqa(ml_config *c, int64_t n_head, int64_t n_kv_head, int64_t head_dim)
{
    c->attention = ML_ATTENTION_GQA;
    c->num_attention_heads = n_head;
    c->num_key_value_heads = n_kv_head;
    c->head_dim = c->rotary_dim = head_dim;
}

static void preset_nano_moe(ml_config *c)
{
    c->vocab_size = 10000;
    c->hidden_size = 192;
    c->num_hidden_layers = 6;
    c->max_position_embeddings = 512;
    set_gqa(c, 8, 2, 24);
    c->tie_word_embeddings = 1;
    c->rope_interleaved = 1;
    c->intermediate_size = 512;
    c->n_routed_experts = 4;
    c->num_experts_per_tok = 2;
    c->moe_intermediate_size = 512;
    c->n_shared_experts = 1;
    c->scoring = ML_SCORE_SOFTMAX;
    c->norm_topk_prob = 1;
    c->balance = ML_BALANCE_SWITCH;
    c->balance_coef = 1e-2;
    c->z_coef = 1e-3;
    c->aux_mean = 1;
    c->init = ML_INIT_HE;
    c->bos_token_id = 2;
    c->eos_token_id = 3;
    c->pad_token_id = 1;
}

static void preset_moonlight_moe_130m(ml_config *c)
{
    c->vocab_size = 50304;
    c->hidden_size = 512;
    c->num_hidden_layers = 8;
    c->max_position_embeddings = 1024;
    set_gqa(c, 8, 8, 64);
    c->tie_word_embeddings = 1;
    c->head_bias = 1;
    c->rms_norm_eps = 1e-8;
    c->rope_interleaved = 1;
    c->n_routed_experts = 6;
    c->num_experts_per_tok = 2;
    c->moe_intermediate_size = 2048;
    c->scoring = ML_SCORE_SOFTMAX;
    c->expert_relu = 1;
    c->balance = ML_BALANCE_SWITCH;
    c->balance_coef = 1e-2;
    c->capacity_factor = 1.25;
    c->init = ML_INIT_TRUNCATED;
    c->eos_token_id = 50256;
}

static void preset_qwen_toy(ml_config *c)
{
    c->vocab_size = 151936;
    c->hidden_size = 896;
    c->num_hidden_layers = 12;
    c->max_position_embeddings = 513;
    set_gqa(c, 16, 16, 56);
    c->attention_bias = 1;
    c->tie_word_embeddings = 1;
    c->rope_theta = 1e6;
    c->intermediate_size = 4864;
    c->first_k_dense_replace = 12;
    c->eos_token_id = 151643;
}

/* Moonlight's shape at any width: layers, experts, top-k, router and losses are the published model's. */
static void set_moonlight(ml_config *c)
{
    c->num_hidden_layers = 27;
    c->attention = ML_ATTENTION_MLA;
    c->rms_norm_eps = 1e-5;
    c->rope_theta = 50000;
    c->rope_interleaved = 1;
    c->first_k_dense_replace = 1;
    c->n_routed_experts = 64;
    c->num_experts_per_tok = 6;
    c->n_shared_experts = 2;
    c->scoring = ML_SCORE_SIGMOID;
    c->norm_topk_prob = 1;
    c->routed_scaling_factor = 2.446;
    c->correction_bias = 1;
    c->balance = ML_BALANCE_SEQUENCE;
    c->balance_coef = 1e-3;
    c->bias_update_rate = 1e-3;
}

static void set_mla(ml_config *c, int64_t n_head, int64_t kv_lora, int64_t nope, int64_t rope, int64_t v)
{
    c->num_attention_heads = c->num_key_value_heads = n_head;
    c->kv_lora_rank = kv_lora;
    c->qk_nope_head_dim = nope;
    c->qk_rope_head_dim = c->rotary_dim = rope;
    c->v_head_dim = v;
}

static void preset_moonlight_16b(ml_config *c)
{
    set_moonlight(c);
    set_mla(c, 16, 512, 128, 64, 128);
    c->vocab_size = 163840;
    c->hidden_size = 2048;
    c->max_position_embeddings = 8192;
    c->intermediate_size = 11264;
    c->moe_intermediate_size = 1408;
    c->bos_token_id = 163584;
    c->eos_token_id = 163586;
    c->pad_token_id = 163839;
}

static void preset_moonlight_tiny(ml_config *c)
{
    set_moonlight(c);
    set_mla(c, 2, 8, 8, 4, 8);
    c->vocab_size = 256;
    c->hidden_size = 16;
    c->max_position_embeddings = 256;
    c->intermediate_size = 32;
    c->moe_intermediate_size = 4;
}

static void preset_moonlight_tiny_256(ml_config *c)
{
    set_moonlight(c);
    set_mla(c, 4, 256, 64, 32, 64);
    c->vocab_size = 2048;
    c->hidden_size = 256;
    c->max_position_embeddings = 1024;
    c->intermediate_size = 512;
    c->moe_intermediate_size = 256;
}

static const struct {
    const char *name;
    void (*fill)(ml_config *c);
} presets[] = {
    { "nano-moe", preset_nano_moe },
    { "moonlight-moe-130m", preset_moonlight_moe_130m },
    { "qwen-toy", preset_qwen_toy },
    { "moonlight-16b", preset_moonlight_16b },
    { "moonlight-tiny", preset_moonlight_tiny },
    { "moonlight-tiny-256", preset_moonlight_tiny_256 },
};
enum { N_PRESET = sizeof presets / sizeof presets[0] };

const char *const *ml_config_preset_names(void)
{
    static const char *names[N_PRESET + 1];
    for (int i = 0; i < N_PRESET; i++) names[i] = presets[i].name;
    return names;
}

ml_status ml_config_preset(const char *name, ml_config *out, ml_error *err)
{
    char list[256] = "";
    ml_nearest nearest = ml_nearest_begin(name);
    for (int i = 0; i < N_PRESET; i++) {
        if (!strcmp(name, presets[i].name)) {
            ml_config_blank(out);
            presets[i].fill(out);
            return ml_config_check(out, name, err);
        }
        ml_nearest_offer(&nearest, presets[i].name);
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", presets[i].name);
    }
    if (nearest.best) {
        return ml_fail(err, ML_EINVAL, "there is no preset \"%s\"; did you mean %s? (there are %s)", name, nearest.best,
                       list);
    }
    return ml_fail(err, ML_EINVAL, "there is no preset \"%s\"; there are %s", name, list);
}
