#include "format/gguf_arch.h"

#include "ops/ops.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static const ml_gguf_arch archs[] = {
    { "deepseek2", "DeepseekV3ForCausalLM", true, true, 1, ML_SCORE_SOFTMAX, 0, false },
    { "ernie4_5-moe", "Ernie4_5_MoeForCausalLM", false, true, 1, ML_SCORE_SOFTMAX, 1, false },
    { "glm4moe", "Glm4MoeForCausalLM", false, true, 0, ML_SCORE_SIGMOID, 0, true },
    { "llama", "LlamaForCausalLM", false, false, 1, 0, 0, false },
    { "qwen2", "Qwen2ForCausalLM", false, false, 0, 0, 0, false },
    { "qwen3", "Qwen3ForCausalLM", false, false, 0, 0, 0, false },
};
enum { N_ARCH = sizeof archs / sizeof *archs };

const ml_gguf_arch *ml_gguf_arch_find(const char *name)
{
    for (int i = 0; i < N_ARCH; i++) {
        if (!strcmp(archs[i].name, name)) return &archs[i];
    }
    return NULL;
}

void ml_gguf_arch_list(char *out, size_t size)
{
    size_t used = 0;
    *out = 0;
    for (int i = 0; i < N_ARCH && used < size; i++) {
        used += (size_t)snprintf(out + used, size - used, i ? ", %s" : "%s", archs[i].name);
    }
}

const ml_gguf_key ml_gguf_common_keys[] = {
    { "context_length", "max_position_embeddings", false },
    { "embedding_length", "hidden_size", false },
    { "feed_forward_length", "intermediate_size", true },
    { "attention.head_count", "num_attention_heads", false },
    { "attention.layer_norm_rms_epsilon", "rms_norm_eps", false },
    { "rope.freq_base", "rope_theta", true },
    { NULL, NULL, false },
};

const ml_gguf_key ml_gguf_expert_keys[] = {
    { "leading_dense_block_count", "first_k_dense_replace", true },
    { "expert_count", "n_routed_experts", false },
    { "expert_used_count", "num_experts_per_tok", false },
    { "expert_shared_count", "n_shared_experts", true },
    { "expert_feed_forward_length", "moe_intermediate_size", false },
    { "expert_weights_scale", "routed_scaling_factor", true },
    { "expert_weights_norm", "norm_topk_prob", true },
    { NULL, NULL, false },
};

const ml_config_field *ml_gguf_key_field(const ml_gguf_key *k)
{
    for (size_t i = 0; i < ml_config_n_field; i++) {
        if (!strcmp(ml_config_fields[i].name, k->field)) return &ml_config_fields[i];
    }
    assert(0 && "a key of the tables above without a field");
    return NULL;
}
