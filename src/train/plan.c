#include "train/plan.h"

#include <stdio.h>

/* Floats that one layer keeps per token for its backward, in the order of model/forward.c. */
static int64_t layer_floats(const ml_config *c, bool is_moe)
{
    int64_t d = c->hidden_size, n_head = c->num_attention_heads, d_qk = ml_config_d_qk(c), d_v = ml_config_d_v(c);
    int64_t kept = 2 * (d + 1) + n_head * (d_v + 1) + d /* norms, attention and its log-sums, its projection */
                   + 2 * d;                             /* two residual sums */
    if (c->attention == ML_ATTENTION_MLA) {
        int64_t n_q = c->q_lora_rank ? 2 * c->q_lora_rank + n_head * d_qk : n_head * d_qk;
        kept += n_q + 2 * c->kv_lora_rank + c->qk_rope_head_dim + n_head * (c->qk_nope_head_dim + d_v);
    } else {
        int64_t n_qk = (n_head + c->num_key_value_heads) * c->head_dim;
        kept += n_qk + c->num_key_value_heads * c->head_dim + (c->qk_norm ? n_qk : 0);
    }
    if (!is_moe) return kept + 3 * c->intermediate_size + d;
    int64_t k = c->num_experts_per_tok, f = c->moe_intermediate_size;
    kept += c->n_routed_experts + 3 * k + k * f * (c->expert_relu ? 1 : 2) + d;
    if (c->n_shared_experts) kept += 3 * c->n_shared_experts * f + 2 * d;
    return kept;
}

/* Gradients of one layer's activations mirror them, but the experts' pre-activations have theirs in scratch, of
 * which the backward holds about two more copies. */
static int64_t layer_gradient_floats(const ml_config *c, bool is_moe)
{
    int64_t floats = layer_floats(c, is_moe) + 3 * c->hidden_size;
    if (is_moe) floats += 2 * c->num_experts_per_tok * c->moe_intermediate_size;
    return floats;
}

ml_train_plan ml_train_make_plan(const ml_config *c, int64_t tokens, bool muon, bool recompute)
{
    ml_param_counts n = ml_model_count(c);
    int64_t tables = n.total - n.without_embedding;
    int64_t largest = 0, all = 0, largest_gradient = 0;
    for (int64_t i = 0; i < c->num_hidden_layers; i++) {
        bool is_moe = ml_config_layer_is_moe(c, i);
        int64_t floats = layer_floats(c, is_moe), gradient = layer_gradient_floats(c, is_moe);
        all += floats;
        if (floats > largest) largest = floats;
        if (gradient > largest_gradient) largest_gradient = gradient;
    }
    int64_t kept = recompute ? c->num_hidden_layers * c->hidden_size + largest : all;
    const int64_t logits_chunk = (int64_t)64 << 20; /* the head works in chunks of a few MB; a generous bound */
    ml_train_plan plan = {
        .weights = 4 * n.total,
        .gradients = 4 * n.total,
        .optimizer = muon ? 4 * n.without_embedding + 8 * tables : 8 * n.total,
        .activations = 4 * tokens * (kept + 4 * c->hidden_size) + logits_chunk,
        .activation_gradients = 4 * tokens * (largest_gradient + 4 * c->hidden_size),
    };
    plan.total = plan.weights + plan.gradients + plan.optimizer + plan.activations + plan.activation_gradients;
    return plan;
}

ml_status ml_train_check_plan(const ml_train_plan *plan, int64_t available, int64_t batch, bool recompute,
                              ml_error *err)
{
    if (plan->total <= available) return ML_OK;
    int64_t fixed = plan->weights + plan->gradients + plan->optimizer;
    const char *remedy = fixed > available ? "this model needs a machine with more memory"
                         : batch > 1       ? "use a smaller train.batch with a larger train.accumulate"
                         : recompute       ? "use a smaller train.seq"
                                           : "set train.recompute on, or use a smaller train.seq";
    return ml_fail(err, ML_ENOMEM,
                   "training needs %.1f GB (%.1f GB of it weights, gradients and optimizer state) but "
                   "%.1f GB are available: %s",
                   (double)plan->total / 1e9, (double)fixed / 1e9, (double)available / 1e9, remedy);
}

int ml_train_format_plan(const ml_train_plan *plan, char *text, size_t size)
{
    return snprintf(text, size,
                    "memory: weights %.1f MB, gradients %.1f MB, optimizer %.1f MB, activations up to %.1f MB, their "
                    "gradients up to %.1f MB; in all up to %.1f MB",
                    (double)plan->weights / 1e6, (double)plan->gradients / 1e6, (double)plan->optimizer / 1e6,
                    (double)plan->activations / 1e6, (double)plan->activation_gradients / 1e6,
                    (double)plan->total / 1e6);
}
