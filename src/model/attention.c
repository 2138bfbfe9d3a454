#include "model/attention.h"

#include "model/adapter.h"
#include "model/kv_b.h"
#include "model/kv_cache.h"

static ml_tensor *maybe(const ml_tensor *t)
{
    return t->data ? (ml_tensor *)(uintptr_t)t : NULL;
}

/* Rotate `n_head` heads of `d_head` columns from column `offset` of each on. */
static ml_tensor *rotate(ml_ctx *ctx, const ml_model *m, ml_tensor *x, ml_tensor *pos, int64_t n_head, int64_t d_head,
                         int64_t offset)
{
    ml_rope_param param = { .n_head = n_head,
                            .d_head = d_head,
                            .offset = offset,
                            .n_rot = m->config.rotary_dim,
                            .interleaved = m->config.rope_interleaved != 0,
                            .magnitude = m->rope_magnitude,
                            .inv_freq = m->inv_freq };
    return ml_rope(ctx, x, pos, &param);
}

static ml_tensor *gqa(ml_ctx *ctx, const ml_model *m, int64_t layer_id, ml_tensor *x, const ml_model_input *in)
{
    const ml_config *c = &m->config;
    const ml_layer *y = &m->layer[layer_id];
    int64_t d_head = c->head_dim, n_head = c->num_attention_heads, n_kv = c->num_key_value_heads;
    float eps = (float)c->rms_norm_eps;
    static const ml_adapter_slot slot[] = { ML_SLOT_Q, ML_SLOT_K, ML_SLOT_V };
    ml_tensor *qkv = ml_adapter_linear(ctx, m, layer_id, slot, 3, x, maybe(&y->attn_in), maybe(&y->attn_bias),
                                       in->adapters); // [tokens, (n_head + 2 n_kv) d_head]
    ml_tensor *q = ml_tensor_cols(ctx, qkv, 0, n_head * d_head);
    ml_tensor *k = ml_tensor_cols(ctx, qkv, n_head * d_head, n_kv * d_head);
    ml_tensor *v = ml_tensor_cols(ctx, qkv, (n_head + n_kv) * d_head, n_kv * d_head);
    if (c->qk_norm) {
        q = ml_rmsnorm(ctx, q, maybe(&y->q_norm), eps);
        k = ml_rmsnorm(ctx, k, maybe(&y->k_norm), eps);
    }
    q = rotate(ctx, m, q, in->pos, n_head, d_head, 0);
    k = rotate(ctx, m, k, in->pos, n_kv, d_head, 0);
    ml_attention_param param = { .n_head = n_head,
                                 .n_kv_head = n_kv,
                                 .d_qk = d_head,
                                 .d_v = d_head,
                                 .k_step = d_head,
                                 .v_step = d_head,
                                 .scale = m->softmax_scale };
    if (in->cache) {
        ml_kv_view view = ml_kv_cache_view(in->cache, layer_id);
        if (ml_kv_store(ctx, &view, k, NULL, v, in->seq, in->pos) != ML_OK) return NULL;
        return ml_attention_cached(ctx, q, &view, in->seq, in->pos, in->n_decode, &param);
    }
    return ml_attention(ctx, q, k, v, NULL, in->seq, &param); // [tokens, n_head d_head]
}

static ml_tensor *mla(ml_ctx *ctx, const ml_model *m, int64_t layer_id, ml_tensor *x, const ml_model_input *in)
{
    const ml_config *c = &m->config;
    const ml_layer *y = &m->layer[layer_id];
    int64_t n_head = c->num_attention_heads, nope = c->qk_nope_head_dim, rope = c->qk_rope_head_dim;
    int64_t d_qk = nope + rope, d_v = c->v_head_dim, lora = c->kv_lora_rank;
    int64_t n_q = c->q_lora_rank ? c->q_lora_rank : n_head * d_qk;
    float eps = (float)c->latent_norm_eps;
    static const ml_adapter_slot slot[] = { ML_SLOT_Q, ML_SLOT_KV_A }, q_b[] = { ML_SLOT_Q_B },
                                 kv_b[] = { ML_SLOT_KV_B };
    ml_tensor *all = ml_adapter_linear(ctx, m, layer_id, slot, 2, x, maybe(&y->attn_in), NULL,
                                       in->adapters); // [tokens, n_q + lora + rope]
    ml_tensor *q = ml_tensor_cols(ctx, all, 0, n_q);
    if (c->q_lora_rank) {
        q = ml_rmsnorm(ctx, q, maybe(&y->q_a_norm), eps);
        q = ml_adapter_linear(ctx, m, layer_id, q_b, 1, q, maybe(&y->q_b), NULL, in->adapters);
    }
    q = rotate(ctx, m, q, in->pos, n_head, d_qk, nope); // [tokens, n_head d_qk]
    ml_tensor *k_rope = rotate(ctx, m, ml_tensor_cols(ctx, all, n_q + lora, rope), in->pos, 1, rope, 0);
    ml_tensor *latent = ml_rmsnorm(ctx, ml_tensor_cols(ctx, all, n_q, lora), maybe(&y->kv_a_norm), eps);
    if (in->cache) {
        ml_kv_view view = ml_kv_cache_view(in->cache, layer_id);
        if (ml_kv_store(ctx, &view, latent, k_rope, NULL, in->seq, in->pos) != ML_OK) return NULL;
        ml_mla_param heads = {
            .n_head = n_head, .d_nope = nope, .n_rot = rope, .d_v = d_v, .kv_lora_rank = lora, .scale = m->softmax_scale
        };
        ml_mla_weights weights = { .kv_b = maybe(&y->kv_b), .k_b = maybe(&y->k_b), .v_b = maybe(&y->v_b) };
        ml_token_terms of_tokens;
        weights.term = ml_adapter_mla_terms(ctx, layer_id, in->adapters);
        if (ml_adapter_mla_token_terms(in->adapters, layer_id, &of_tokens)) weights.token_term = &of_tokens;
        if (ctx->error.code != ML_OK) return NULL;
        return ml_attention_cached_mla(ctx, q, &weights, &view, in->seq, in->pos, in->n_decode, &heads);
    }
    ml_attention_param param = { .n_head = n_head,
                                 .n_kv_head = n_head,
                                 .d_qk = d_qk,
                                 .d_shared = rope,
                                 .d_v = d_v,
                                 .k_step = nope + d_v,
                                 .v_step = nope + d_v,
                                 .scale = m->softmax_scale };
    ml_tensor *kv = ml_adapter_linear(ctx, m, layer_id, kv_b, 1, latent, ml_model_join_kv_b(ctx, m, layer_id), NULL,
                                      in->adapters); // [tokens, n_head (nope + d_v)]
    ml_tensor *v = kv ? ml_tensor_cols(ctx, kv, nope, kv->dim[1] - nope) : NULL;
    return ml_attention(ctx, q, kv, v, k_rope, in->seq, &param); // [tokens, n_head d_v]
}

ml_tensor *ml_model_attention(ml_ctx *ctx, const ml_model *m, int64_t layer_id, ml_tensor *x, const ml_model_input *in)
{
    bool latent = m->config.attention == ML_ATTENTION_MLA;
    ml_tensor *y = latent ? mla(ctx, m, layer_id, x, in) : gqa(ctx, m, layer_id, x, in);
    static const ml_adapter_slot slot[] = { ML_SLOT_O };
    return ml_adapter_linear(ctx, m, layer_id, slot, 1, y, maybe(&m->layer[layer_id].attn_out), NULL,
                             in->adapters); // [tokens, d]
}
