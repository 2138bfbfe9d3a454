/* The forward pass: the one description of the computation that training, tuning and inference share. */
#include "model/adapter.h"
#include "model/attention.h"

#include "base/thread.h"
#include "model/cuda/routing.h"

#include <math.h>
#include <string.h>

/* An absent weight becomes an absent operand. */
static ml_tensor *maybe(const ml_tensor *t)
{
    return t->data ? (ml_tensor *)(uintptr_t)t : NULL;
}

static ml_tensor *mlp(ml_ctx *ctx, const ml_model *m, int64_t layer_id, ml_tensor *x, const ml_model_input *in)
{
    static const ml_adapter_slot first[] = { ML_SLOT_GATE, ML_SLOT_UP }, second[] = { ML_SLOT_DOWN };
    const ml_layer *y = &m->layer[layer_id];
    const ml_adapter_use *use = in->adapters;
    ml_tensor *gate_up =
        ml_adapter_linear(ctx, m, layer_id, first, 2, x, maybe(&y->gate_up), NULL, use);       // [tokens, 2 f]
    ml_tensor *hidden = gate_up ? ml_swiglu(ctx, gate_up) : NULL;                              // [tokens, f]
    return ml_adapter_linear(ctx, m, layer_id, second, 1, hidden, maybe(&y->down), NULL, use); // [tokens, d]
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
    if (ctx->device) {
        ml_cuda_count_routing(ctx, stats, layer, routing, loss);
        return;
    }
    const int32_t *count = ml_i32(routing->count);
    for (int64_t e = 0; e < stats->n_expert; e++) stats->count[layer * stats->n_expert + e] += count[e];
    if (loss) {
        stats->balance += (double)ml_f32(loss)[0];
        stats->z += (double)ml_f32(loss)[1];
    }
    int64_t n = routing->logit->dim[0];
    size_t mark = ml_arena_mark(&ctx->act);
    double *entropy = ml_ctx_scratch(ctx, (size_t)n * sizeof *entropy);
    if (entropy) {
        entropy_work work = { ml_f32(routing->logit), entropy, stats->n_expert };
        ml_parallel_for(n, 256, entropy_rows, &work);
        for (int64_t t = 0; t < n; t++) stats->entropy[layer] += entropy[t];
    }
    ml_arena_release(&ctx->act, mark);
}

/* What the router chose, for somebody who reads it here. */
static void tell_routing(ml_ctx *ctx, const ml_routing_observer *observer, int64_t layer_id, const ml_routing *routing)
{
    if (!ctx->device) {
        observer->routing(observer->arg, layer_id, routing);
        return;
    }
    ml_ctx_mark mark = ml_ctx_get_mark(ctx);
    ml_tensor *const there[4] = { routing->prob, routing->logit, routing->id, routing->count };
    ml_tensor here[4];
    for (int i = 0; i < 4; i++) {
        void *data = (void *)(uintptr_t)ml_tensor_read(ctx, there[i]);
        if (data) here[i] = ml_tensor_describe(there[i]->dtype, there[i]->n_dim, there[i]->dim, data);
    }
    ml_routing copy = { &here[0], &here[1], &here[2], &here[3] };
    if (ctx->error.code == ML_OK) observer->routing(observer->arg, layer_id, &copy);
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
                               .group_by_best = c->group_by_best != 0,
                               .capacity_factor = in->training ? (float)c->capacity_factor : 0.0f };
    ml_routing routing;
    if (!ml_router(ctx, x, maybe(&y->router), maybe(&y->router_bias), &router, &routing)) return NULL;
    ml_tensor *loss = router_loss(ctx, m, &routing, in);
    if (in->stats && !ctx->recomputing) count_routing(ctx, in->stats, layer_id, &routing, loss);
    if (in->observer && !ctx->recomputing) tell_routing(ctx, in->observer, layer_id, &routing);

    ml_experts_param experts = { c->expert_relu ? ML_ACT_RELU : ML_ACT_SILU };
    ml_tensor *routed = ml_adapter_experts(ctx, m, layer_id, x, routing.id, routing.prob, &experts,
                                           in->adapters); // [tokens, d]
    if (c->n_shared_experts == 0) return routed;
    return ml_add(ctx, routed, mlp(ctx, m, layer_id, x, in), (float)c->shared_scale);
}

typedef struct {
    const ml_model *m;
    const ml_model_input *in;
    int64_t layer_id;
} layer_arg;

static float eps_of(const layer_arg *a)
{
    return (float)a->m->config.rms_norm_eps;
}

/* attention(norm(x)) */
static ml_tensor *attention(ml_ctx *ctx, ml_tensor *x, const layer_arg *a)
{
    ml_tensor *normed = ml_rmsnorm(ctx, x, maybe(&a->m->layer[a->layer_id].attn_norm), eps_of(a)); // [tokens, d]
    return ml_model_attention(ctx, a->m, a->layer_id, normed, a->in);
}

/* x + MLP(normed), or experts */
static ml_tensor *add_mlp(ml_ctx *ctx, ml_tensor *x, ml_tensor *normed, const layer_arg *a)
{
    bool is_moe = ml_config_layer_is_moe(&a->m->config, a->layer_id);
    return ml_add(ctx, x,
                  is_moe ? moe(ctx, a->m, a->layer_id, normed, a->in) : mlp(ctx, a->m, a->layer_id, normed, a->in), 1);
}

/* The two halves of a layer, each a segment of its own where one of them is computed again. */
static ml_tensor *attention_half(ml_ctx *ctx, ml_tensor *x, const void *arg)
{
    return ml_add(ctx, x, attention(ctx, x, arg), 1);
}

static ml_tensor *mlp_half(ml_ctx *ctx, ml_tensor *x, const void *arg)
{
    const layer_arg *a = arg;
    return add_mlp(ctx, x, ml_rmsnorm(ctx, x, maybe(&a->m->layer[a->layer_id].ffn_norm), eps_of(a)), a);
}

static ml_tensor *run_half(ml_ctx *ctx, ml_segment_fn half, ml_tensor *x, const layer_arg *a, ml_recompute again)
{
    if (!x || a->in->recompute != again) return half(ctx, x, a);
    return ml_tape_segment(ctx, half, x, a, sizeof *a, true);
}

/* s = x + attention(norm(x));  s + MLP(norm(s)) */
static ml_tensor *layer(ml_ctx *ctx, ml_tensor *x, const void *arg)
{
    const layer_arg *a = arg;
    ml_recompute again = a->in->recompute;
    if (ctx->recording && (again == ML_RECOMPUTE_ATTENTION || again == ML_RECOMPUTE_MLP)) {
        x = run_half(ctx, attention_half, x, a, ML_RECOMPUTE_ATTENTION);
        return run_half(ctx, mlp_half, x, a, ML_RECOMPUTE_MLP);
    }
    ml_normed_sum s; // [tokens, d] both
    if (!ml_add_rmsnorm(ctx, x, attention(ctx, x, a), maybe(&a->m->layer[a->layer_id].ffn_norm), eps_of(a), &s)) {
        return NULL;
    }
    return add_mlp(ctx, s.sum, s.y, a);
}

ml_tensor *ml_model_forward(ml_ctx *ctx, ml_model *m, const ml_model_input *in)
{
    ml_tensor *x = ml_embedding(ctx, &m->embed, in->id); // [tokens, d]
    for (int64_t i = 0; i < m->config.num_hidden_layers; i++) {
        layer_arg arg = { m, in, i };
        x = ml_tape_segment(ctx, layer, x, &arg, sizeof arg, in->recompute == ML_RECOMPUTE_LAYERS);
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

ml_status ml_router_stats_make(ml_device *device, const ml_config *config, ml_router_stats *stats, ml_error *err)
{
    *stats = (ml_router_stats){ .n_layer = config->num_hidden_layers, .n_expert = config->n_routed_experts };
    stats->count = ml_calloc((size_t)(stats->n_layer * stats->n_expert), sizeof *stats->count);
    stats->entropy = ml_calloc((size_t)stats->n_layer, sizeof *stats->entropy);
    stats->device = device;
    ml_status status = ML_OK;
    if (!stats->count || !stats->entropy)
        status = ml_fail_memory(err, ml_router_stats_bytes(stats), "routing statistics");
    else if (device)
        status = ml_device_alloc(device, ml_router_stats_bytes(stats), "routing statistics", &stats->there, err);
    if (status != ML_OK) {
        ml_router_stats_free(stats);
        return status;
    }
    ml_router_stats_clear(stats);
    return ML_OK;
}

size_t ml_router_stats_bytes(const ml_router_stats *stats)
{
    return (size_t)(2 + stats->n_layer) * sizeof(double) +
           (size_t)(stats->n_layer * stats->n_expert) * sizeof *stats->count;
}

void ml_router_stats_take(ml_router_stats *stats, const void *copy)
{
    const double *from = copy;
    stats->balance = from[0];
    stats->z = from[1];
    memcpy(stats->entropy, from + 2, (size_t)stats->n_layer * sizeof *stats->entropy);
    memcpy(stats->count, from + 2 + stats->n_layer, (size_t)(stats->n_layer * stats->n_expert) * sizeof *stats->count);
}

ml_status ml_router_stats_pull(ml_router_stats *stats, ml_error *err)
{
    if (!stats->device) return ML_OK;
    size_t n_bytes = ml_router_stats_bytes(stats);
    void *copy = ml_alloc(n_bytes);
    if (!copy) return ml_fail_memory(err, n_bytes, "routing statistics");
    ml_status status = ml_device_download(stats->device, copy, stats->there, n_bytes, err);
    if (status == ML_OK) ml_router_stats_take(stats, copy);
    ml_free(copy);
    return status;
}

void ml_router_stats_clear(ml_router_stats *stats)
{
    memset(stats->count, 0, (size_t)(stats->n_layer * stats->n_expert) * sizeof *stats->count);
    memset(stats->entropy, 0, (size_t)stats->n_layer * sizeof *stats->entropy);
    stats->balance = stats->z = 0;
    stats->n_token = stats->n_pass = 0;
    if (stats->there) ml_device_zero(stats->device, stats->there, ml_router_stats_bytes(stats));
}

void ml_router_stats_free(ml_router_stats *stats)
{
    ml_free(stats->count);
    ml_free(stats->entropy);
    if (stats->there) ml_device_release(stats->device, stats->there);
    stats->there = NULL;
    stats->count = NULL;
    stats->entropy = NULL;
}

void ml_model_update_router_bias(ml_model *m, const ml_router_stats *stats, double rate)
{
    int64_t n = stats->n_expert;
    for (int64_t i = 0; i < stats->n_layer; i++) {
        float *bias = ml_f32(&m->layer[i].router_bias);
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
    }
}
