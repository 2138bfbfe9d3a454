#include "model/count.h"

static int64_t count_attention(const ml_config *c)
{
    int64_t d = c->hidden_size, n_head = c->num_attention_heads, d_qk = ml_config_d_qk(c), d_v = ml_config_d_v(c);
    int64_t n = n_head * d_v * d; /* o_proj */
    if (c->attention == ML_ATTENTION_MLA) {
        n += (c->kv_lora_rank + c->qk_rope_head_dim) * d + c->kv_lora_rank;
        n += n_head * (c->qk_nope_head_dim + d_v) * c->kv_lora_rank;
        return n + (c->q_lora_rank ? c->q_lora_rank * (d + 1 + n_head * d_qk) : n_head * d_qk * d);
    }
    int64_t rows = n_head * d_qk + 2 * c->num_key_value_heads * c->head_dim;
    return n + rows * (d + (c->attention_bias ? 1 : 0)) + (c->qk_norm ? 2 * c->head_dim : 0);
}

/* Elements of attention that are no matrix: they are kept in fp32. */
static int64_t count_attention_vectors(const ml_config *c)
{
    if (c->attention == ML_ATTENTION_MLA) return c->kv_lora_rank + c->q_lora_rank;
    int64_t rows = (c->num_attention_heads + 2 * c->num_key_value_heads) * c->head_dim;
    return (c->attention_bias ? rows : 0) + (c->qk_norm ? 2 * c->head_dim : 0);
}

int64_t ml_model_count_expert(const ml_config *c)
{
    return (c->expert_relu ? 2 : 3) * c->moe_intermediate_size * c->hidden_size;
}

ml_param_groups ml_model_count_layer(const ml_config *c, int64_t layer_id)
{
    ml_param_groups g = { .attention = count_attention(c), .norms = 2 * c->hidden_size };
    if (ml_config_layer_is_moe(c, layer_id)) {
        g.router = c->n_routed_experts * (c->hidden_size + (c->correction_bias ? 1 : 0));
        g.experts = c->n_routed_experts * ml_model_count_expert(c);
        g.shared = c->n_shared_experts * ml_model_count_expert(c);
    } else {
        g.dense = 3 * c->intermediate_size * c->hidden_size;
    }
    return g;
}

ml_param_groups ml_model_count_groups(const ml_config *c)
{
    int64_t table = c->vocab_size * c->hidden_size;
    ml_param_groups g = { .embedding = table,
                          .norms = c->hidden_size,
                          .head = (c->tie_word_embeddings ? 0 : table) + (c->head_bias ? c->vocab_size : 0) };
    for (int64_t i = 0; i < c->num_hidden_layers; i++) {
        ml_param_groups layer = ml_model_count_layer(c, i);
        g.attention += layer.attention;
        g.dense += layer.dense;
        g.router += layer.router;
        g.experts += layer.experts;
        g.shared += layer.shared;
        g.norms += layer.norms;
    }
    return g;
}

const char *ml_param_groups_get(const ml_param_groups *g, int i, int64_t *count)
{
    static const char *const names[ML_N_PARAM_GROUP] = { "embedding",      "attention",      "dense MLPs", "routers",
                                                         "routed experts", "shared experts", "norms",      "head" };
    const int64_t counts[ML_N_PARAM_GROUP] = { g->embedding, g->attention, g->dense, g->router,
                                               g->experts,   g->shared,    g->norms, g->head };
    *count = counts[i];
    return names[i];
}

int64_t ml_param_groups_total(const ml_param_groups *g)
{
    int64_t total = 0, count;
    for (int i = 0; i < ML_N_PARAM_GROUP; i++) {
        ml_param_groups_get(g, i, &count);
        total += count;
    }
    return total;
}

ml_param_counts ml_model_count(const ml_config *c)
{
    ml_param_groups g = ml_model_count_groups(c);
    int64_t tables = (c->tie_word_embeddings ? 1 : 2) * c->vocab_size * c->hidden_size;
    int64_t n_layer = c->n_routed_experts > 0 ? c->num_hidden_layers - c->first_k_dense_replace : 0;
    int64_t idle = n_layer * (c->n_routed_experts - c->num_experts_per_tok) * ml_model_count_expert(c);
    int64_t total = ml_param_groups_total(&g);
    return (ml_param_counts){ .total = total,
                              .without_embedding = total - tables,
                              .active = total - idle,
                              .active_without_embedding = total - idle - tables };
}

int64_t ml_model_weight_bytes(const ml_config *c, ml_dtype dtype)
{
    ml_param_groups g = ml_model_count_groups(c);
    int64_t total = ml_param_groups_total(&g);
    int64_t vectors = g.norms + g.router + (c->head_bias ? c->vocab_size : 0);
    vectors += c->num_hidden_layers * count_attention_vectors(c);
    return 4 * vectors + (int64_t)ml_dtype_size(dtype) * (total - vectors);
}
