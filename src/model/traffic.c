#include "model/traffic.h"

#include <math.h>

static double weight_bytes(const ml_tensor *t)
{
    if (!t->data) return 0;
    double n = 0;
    if (!t->part) return (double)t->dim[0] * (double)ml_dtype_row_bytes(t->dtype, ml_tensor_row_count(t));
    for (int64_t i = 0; i < t->n_part; i++) n += weight_bytes(&t->part[i]);
    return n;
}

static void add(ml_token_traffic *n, const ml_tensor *t, double share)
{
    if (!t->data) return;
    n->weight_bytes += share * weight_bytes(t);
    n->weight_macs += share * (double)ml_tensor_count(t);
}

static void add_layer(ml_token_traffic *n, const ml_config *c, const ml_layer *y)
{
    const ml_tensor *all[] = { &y->attn_in,  &y->q_b,     &y->kv_b, &y->k_b,   &y->v_b,
                               &y->attn_out, &y->gate_up, &y->down, &y->router };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) add(n, all[i], 1);
    double share = c->n_routed_experts ? (double)c->num_experts_per_tok / (double)c->n_routed_experts : 0;
    add(n, &y->expert_gate, share);
    add(n, &y->expert_up, share);
    add(n, &y->expert_down, share);
}

ml_token_traffic ml_model_traffic(const ml_model *m, int64_t depth, int64_t cache_token_bytes)
{
    const ml_config *c = &m->config;
    ml_token_traffic n = { .cache_bytes = (double)(depth * cache_token_bytes) };
    for (int64_t i = 0; i < c->num_hidden_layers; i++) add_layer(&n, c, &m->layer[i]);
    add(&n, &m->head, 1);
    n.weight_bytes += (double)ml_dtype_row_bytes(m->embed.dtype, c->hidden_size);
    /* Scores and values of every cached token; absorbed MLA meets the compressed row twice. */
    double width = c->attention == ML_ATTENTION_MLA ? (double)(2 * c->kv_lora_rank + c->qk_rope_head_dim)
                                                    : (double)(2 * c->head_dim);
    n.attention_macs = (double)(c->num_hidden_layers * c->num_attention_heads) * width * (double)depth;
    return n;
}

ml_token_traffic ml_model_pass_traffic(const ml_model *m, int64_t n_token, int64_t depth, int64_t cache_token_bytes)
{
    const ml_config *c = &m->config;
    ml_token_traffic n = ml_model_traffic(m, depth, cache_token_bytes);
    double count = (double)n_token, experts = 0;
    for (int64_t i = 0; i < c->num_hidden_layers; i++) {
        const ml_layer *y = &m->layer[i];
        experts += weight_bytes(&y->expert_gate) + weight_bytes(&y->expert_up) + weight_bytes(&y->expert_down);
    }
    double share = c->n_routed_experts ? (double)c->num_experts_per_tok / (double)c->n_routed_experts : 0;
    n.weight_bytes += experts * (1 - pow(1 - share, count) - share);
    n.weight_bytes += (count - 1) * (double)ml_dtype_row_bytes(m->embed.dtype, c->hidden_size);
    n.cache_bytes *= count;
    n.weight_macs *= count;
    n.attention_macs *= count;
    return n;
}
