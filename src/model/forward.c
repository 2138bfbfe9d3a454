/* The forward pass: the one description of the computation that training, tuning and inference share. */
#include "model/attention.h"

#include "base/thread.h"

#include <math.h>
#include <string.h>

/* An absent weight becomes an absent operand. */
static ml_tensor *maybe(const ml_tensor *t)
{
    return t->data ? (ml_tensor *)(uintptr_t)t : NULL;
}

static ml_tensor *mlp(ml_ctx *ctx, const ml_layer *y, ml_tensor *x)
{
    ml_tensor *gate_up = ml_linear(ctx, x, maybe(&y->gate_up), NULL);      // [tokens, 2 f]
    return ml_linear(ctx, ml_swiglu(ctx, gate_up), maybe(&y->down), NULL); // [tokens, d]
}

/* ---- statistics ---- */

typedef struct {
    const float *logit; /* [tokens, n_expert] */
    double *entropy;    /* [tokens] */
    int64_t n_expert;
} entropy_work;

static void entropy_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const entropy_work *w = arg;
    for (int64_t t = begin; t < end; t++) {
        const float *z = w->logit + t * w->n_expert;
        double largest = -INFINITY, sum = 0, weighted = 0;
        for (int64_t e = 0; e < w->n_expert; e++) largest = fmax(largest, (double)z[e]);
        for (int64_t e = 0; e < w->n_expert; e++) {
            double p = exp((double)z[e] - largest);
            sum += p;
            weighted += p * ((double)z[e] - largest);
        }
        w->entropy[t] = log(sum) - weighted / sum;
    }
}

static void count_routing(ml_ctx *ctx, ml_router_stats *stats, int64_t layer, const ml_routing *routing,
                          const ml_tensor *loss)
{
    ml_ctx_mark mark = ml_ctx_get_mark(ctx);
    const int32_t *count = ml_tensor_read(ctx, routing->count);
    const float *losses = ml_tensor_read(ctx, loss), *logit = ml_tensor_read(ctx, routing->logit);
    if (!count || !logit) return;
    for (int64_t e = 0; e < stats->n_expert; e++) stats->count[layer * stats->n_expert + e] += count[e];
    if (losses) {
        stats->balance += (double)losses[0];
        stats->z += (double)losses[1];
    }
    int64_t n = routing->logit->dim[0];
    double *entropy = ml_ctx_scratch(ctx, (size_t)n * sizeof *entropy);
    if (entropy) {
        entropy_work work = { logit, entropy, stats->n_expert };
        ml_parallel_for(n, 256, entropy_rows, &work);
        for (int64_t t = 0; t < n; t++) stats->entropy[layer] += entropy[t];
    }
    ml_ctx_release(ctx, mark);
}

/* ---- one layer ---- */

static ml_tensor *router_loss(ml_ctx *ctx, const ml_model *m, const ml_routing *routing, const ml_model_input *in)
{
    const ml_config *c = &m->config;
    if (!in->training || (c->balance == ML_BALANCE_NONE && c->z_coef == 0)) return NULL;
    int64_t n_moe = c->num_hidden_layers - c->first_k_dense_replace;
    double scale = (double)in->aux_scale / (c->aux_mean ? (double)n_moe : 1.0);
    ml_router_loss_param param = { .balance = (ml_balance)c->balance,
                                   .score = (ml_score)c->scoring,
                                   .top_k = c->num_experts_per_tok,
                                   .balance_coef = (float)(c->balance_coef * scale),
                                   .z_coef = (float)(c->z_coef * scale) };
    return ml_router_loss(ctx, routing->logit, routing->id, in->seq, &param);
}

static ml_tensor *moe(ml_ctx *ctx, const ml_model *m, int64_t layer_id, ml_tensor *x, const ml_model_input *in)
{
    const ml_config *c = &m->config;
    const ml_layer *y = &m->layer[layer_id];
    ml_router_param router = { .n_expert = c->n_routed_experts,
                               .top_k = c->num_experts_per_tok,
                               .score = (ml_score)c->scoring,
                               .renormalise = c->norm_topk_prob != 0,
                               .scale = (float)c->routed_scaling_factor,
                               .n_group = c->n_group,
                               .topk_group = c->topk_group,
                               .capacity_factor = in->training ? (float)c->capacity_factor : 0.0f };
    ml_routing routing;
    if (!ml_router(ctx, x, maybe(&y->router), maybe(&y->router_bias), &router, &routing)) return NULL;
    ml_tensor *loss = router_loss(ctx, m, &routing, in);
    if (in->stats && !ctx->recomputing) count_routing(ctx, in->stats, layer_id, &routing, loss);
    if (in->observer && !ctx->recomputing) in->observer->routing(in->observer->arg, layer_id, &routing);

    ml_experts_param experts = { c->expert_relu ? ML_ACT_RELU : ML_ACT_SILU };
    ml_tensor *routed = ml_experts(ctx, x, routing.id, routing.prob, maybe(&y->expert_gate), maybe(&y->expert_up),
                                   maybe(&y->expert_down), &experts); // [tokens, d]
    if (c->n_shared_experts == 0) return routed;
    return ml_add(ctx, routed, mlp(ctx, y, x), (float)c->shared_scale);
}

typedef struct {
    const ml_model *m;
    const ml_model_input *in;
    int64_t layer_id;
} layer_arg;

static ml_tensor *layer(ml_ctx *ctx, ml_tensor *x, const void *arg)
{
    const layer_arg *a = arg;
    const ml_model *m = a->m;
    const ml_layer *y = &m->layer[a->layer_id];
    float eps = (float)m->config.rms_norm_eps;
    ml_tensor *normed = ml_rmsnorm(ctx, x, maybe(&y->attn_norm), eps); // [tokens, d]
    x = ml_add(ctx, x, ml_model_attention(ctx, m, a->layer_id, normed, a->in), 1);
    normed = ml_rmsnorm(ctx, x, maybe(&y->ffn_norm), eps);
    bool is_moe = ml_config_layer_is_moe(&m->config, a->layer_id);
    return ml_add(ctx, x, is_moe ? moe(ctx, m, a->layer_id, normed, a->in) : mlp(ctx, y, normed), 1);
}

ml_tensor *ml_model_forward(ml_ctx *ctx, ml_model *m, const ml_model_input *in)
{
    ml_tensor *x = ml_embedding(ctx, &m->embed, in->id); // [tokens, d]
    for (int64_t i = 0; i < m->config.num_hidden_layers; i++) {
        layer_arg arg = { m, in, i };
        x = ml_tape_segment(ctx, layer, x, &arg, sizeof arg, in->recompute);
    }
    if (in->stats && x) {
        in->stats->n_token += x->dim[0];
        in->stats->n_pass++;
    }
    x = ml_rmsnorm(ctx, x, &m->final_norm, (float)m->config.rms_norm_eps);
    /* An operator given a weight that is not there gives nothing and says nothing. */
    if (!x) ml_ctx_fail(ctx, ML_EINVAL, "the model lacks a weight that its forward pass needs");
    return x;
}

ml_tensor *ml_model_logits(ml_ctx *ctx, ml_model *m, ml_tensor *x)
{
    return ml_linear(ctx, x, &m->head, maybe(&m->head_bias));
}

ml_tensor *ml_model_logprob(ml_ctx *ctx, ml_model *m, ml_tensor *x, ml_tensor *target)
{
    return ml_logprob(ctx, x, &m->head, maybe(&m->head_bias), target);
}

/* ---- routing statistics ---- */

ml_status ml_router_stats_make(const ml_config *config, ml_router_stats *stats, ml_error *err)
{
    *stats = (ml_router_stats){ .n_layer = config->num_hidden_layers, .n_expert = config->n_routed_experts };
    stats->count = ml_calloc((size_t)(stats->n_layer * stats->n_expert), sizeof *stats->count);
    stats->entropy = ml_calloc((size_t)stats->n_layer, sizeof *stats->entropy);
    if (stats->count && stats->entropy) return ML_OK;
    ml_router_stats_free(stats);
    return ml_fail_memory(err, (size_t)(stats->n_layer * stats->n_expert) * sizeof *stats->count, "routing statistics");
}

void ml_router_stats_clear(ml_router_stats *stats)
{
    memset(stats->count, 0, (size_t)(stats->n_layer * stats->n_expert) * sizeof *stats->count);
    memset(stats->entropy, 0, (size_t)stats->n_layer * sizeof *stats->entropy);
    stats->balance = stats->z = 0;
    stats->n_token = stats->n_pass = 0;
}

void ml_router_stats_free(ml_router_stats *stats)
{
    ml_free(stats->count);
    ml_free(stats->entropy);
    stats->count = NULL;
    stats->entropy = NULL;
}

ml_status ml_model_update_router_bias(ml_model *m, const ml_router_stats *stats, double rate, ml_error *err)
{
    int64_t n = stats->n_expert;
    for (int64_t i = 0; i < stats->n_layer; i++) {
        float *there = ml_f32(&m->layer[i].router_bias), *bias = ml_model_find_here(m, there);
        if (!bias || !ml_config_layer_is_moe(&m->config, i)) continue;
        const int64_t *count = stats->count + i * n;
        int64_t total = 0, sign_sum = 0;
        for (int64_t e = 0; e < n; e++) total += count[e];
        /* error_e = total / n - count_e, its sign taken without dividing */
        for (int64_t e = 0; e < n; e++) sign_sum += (total > n * count[e]) - (total < n * count[e]);
        double mean_sign = (double)sign_sum / (double)n;
        for (int64_t e = 0; e < n; e++) {
            int sign = (total > n * count[e]) - (total < n * count[e]);
            bias[e] = (float)((double)bias[e] + rate * (sign - mean_sign));
        }
        if (m->device) ML_TRY(ml_device_upload(m->device, there, bias, (size_t)n * sizeof *bias, err));
    }
    return ML_OK;
}
