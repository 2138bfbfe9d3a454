#include "infer/routing_trace.h"

#include "base/alloc.h"

#include <math.h>
#include <string.h>

ml_status ml_routing_trace_make(ml_routing_trace *t, const ml_model *model, int64_t capacity, ml_error *err)
{
    const ml_config *c = &model->config;
    bool moe = c->n_routed_experts > 0;
    *t = (ml_routing_trace){ .model = model,
                             .capacity = capacity,
                             .first_layer = c->first_k_dense_replace,
                             .n_layer = moe ? c->num_hidden_layers - c->first_k_dense_replace : 0,
                             .n_expert = c->n_routed_experts,
                             .top_k = c->num_experts_per_tok };
    size_t n = (size_t)(capacity * t->n_layer), n_choice = n * (size_t)t->top_k;
    t->expert = ml_calloc(n_choice, sizeof *t->expert);
    t->weight = ml_calloc(n_choice, sizeof *t->weight);
    t->margin = ml_calloc(n, sizeof *t->margin);
    t->entropy = ml_calloc(n, sizeof *t->entropy);
    if (t->expert && t->weight && t->margin && t->entropy) return ML_OK;
    ml_routing_trace_free(t);
    return ml_fail_memory(err, n_choice * sizeof *t->weight, "a routing trace");
}

void ml_routing_trace_free(ml_routing_trace *t)
{
    ml_free(t->expert);
    ml_free(t->weight);
    ml_free(t->margin);
    ml_free(t->entropy);
    *t = (ml_routing_trace){ 0 };
}

static double entropy_of(const float *z, int64_t n)
{
    double largest = -INFINITY, sum = 0, weighted = 0;
    for (int64_t e = 0; e < n; e++) largest = fmax(largest, (double)z[e]);
    for (int64_t e = 0; e < n; e++) {
        double p = exp((double)z[e] - largest);
        sum += p;
        weighted += p * ((double)z[e] - largest);
    }
    return log(sum) - weighted / sum;
}

static bool is_chosen(const int32_t *id, int64_t top_k, int64_t e)
{
    for (int64_t k = 0; k < top_k; k++) {
        if (id[k] == e) return true;
    }
    return false;
}

/* Whether the expert's group was open to this token.  A group is known to be when one of its experts was chosen. */
static bool is_eligible(const ml_config *c, const int32_t *id, int64_t e)
{
    if (c->n_group <= 1) return true;
    int64_t size = c->n_routed_experts / c->n_group;
    for (int64_t k = 0; k < c->num_experts_per_tok; k++) {
        if (id[k] / size == e / size) return true;
    }
    return false;
}

static double margin_of(const ml_config *c, const float *z, const float *bias, const int32_t *id)
{
    double largest = -INFINITY, sum = 0, last = INFINITY, next = -INFINITY;
    int64_t n = c->n_routed_experts;
    for (int64_t e = 0; e < n; e++) largest = fmax(largest, (double)z[e]);
    for (int64_t e = 0; e < n; e++) sum += exp((double)z[e] - largest);
    for (int64_t e = 0; e < n; e++) {
        double score =
            c->scoring == ML_SCORE_SIGMOID ? 1 / (1 + exp(-(double)z[e])) : exp((double)z[e] - largest) / sum;
        if (bias) score += (double)bias[e];
        if (is_chosen(id, c->num_experts_per_tok, e)) {
            last = fmin(last, score);
        } else if (is_eligible(c, id, e)) {
            next = fmax(next, score);
        }
    }
    return isfinite(next) ? last - next : 0;
}

void ml_routing_trace_put(ml_routing_trace *t, int64_t pos, int64_t layer, const ml_routing *routing, int64_t row)
{
    int64_t place = pos * t->n_layer + layer - t->first_layer;
    size_t n = (size_t)t->top_k;
    const int32_t *id = ml_i32(routing->id) + row * routing->id->stride;
    const float *z = ml_f32(routing->logit) + row * routing->logit->stride;
    memcpy(t->expert + place * t->top_k, id, n * sizeof *id);
    memcpy(t->weight + place * t->top_k, ml_f32(routing->prob) + row * routing->prob->stride, n * sizeof *t->weight);
    t->entropy[place] = (float)entropy_of(z, t->n_expert);
    t->margin[place] =
        (float)margin_of(&t->model->config, z, ml_f32(&ml_model_layer_here(t->model, layer)->router_bias), id);
}
