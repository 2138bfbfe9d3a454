/* What adapters add to the forward pass (model/adapter.h). */
#include "model/adapter.h"

#include "model/cuda/adapter.h"

#include <string.h>

static ml_tensor *maybe(const ml_tensor *t)
{
    return t->data ? (ml_tensor *)(uintptr_t)t : NULL;
}

static const ml_adapter_term *term_of(const ml_adapter *a, int64_t layer_id, ml_adapter_slot slot)
{
    return a && a->of ? a->of[layer_id][slot] : NULL;
}

/* Each layer and each of its matrices drops elements of its own choice. */
static uint64_t seed_of(const ml_adapter *a, int64_t layer_id, ml_adapter_slot slot)
{
    return ml_rng_mix(a->dropout_seed + (uint64_t)(layer_id * ML_N_SLOT + slot + 1));
}

static int64_t slot_rows(const ml_config *c, ml_adapter_slot slot, const ml_tensor *w, int n_slot)
{
    if (n_slot == 1) return w->dim[0];
    bool mla = c->attention == ML_ATTENTION_MLA;
    switch (slot) {
    case ML_SLOT_Q: return mla && c->q_lora_rank ? c->q_lora_rank : c->num_attention_heads * ml_config_d_qk(c);
    case ML_SLOT_KV_A: return c->kv_lora_rank + c->qk_rope_head_dim;
    case ML_SLOT_K:
    case ML_SLOT_V: return c->num_key_value_heads * c->head_dim;
    default: return w->dim[0] / 2; /* gate and up */
    }
}

/* Is a bias added behind the terms?  Magnitudes multiply what comes before it.  In inference it is so wherever there
 * are terms: whether a neighbour in the pass has magnitudes must change no token's bits. */
static bool comes_late(const ml_adapter_use *use, int64_t layer_id, const ml_adapter_slot *slot, int n_slot)
{
    for (int i = 0; i < n_slot; i++) {
        if (use->shape && use->shape->rank[layer_id][slot[i]] > 0) return true;
        for (int g = 0; g < use->n_group; g++) {
            const ml_adapter *a = use->group[g].adapter;
            if (term_of(a, layer_id, slot[i]) && (a->dora || !use->training)) return true;
        }
    }
    return false;
}

/* The term of one group in the columns y of one matrix. */
static ml_tensor *add_term(ml_ctx *ctx, const ml_adapter_group *g, const ml_adapter_term *t, int64_t layer_id,
                           ml_tensor *x, ml_tensor *y, bool training)
{
    ml_lora_param param = { .scale = t->scale,
                            .dropout = training ? (float)g->adapter->dropout : 0,
                            .seed = seed_of(g->adapter, layer_id, t->module.slot) };
    return ml_lora(ctx, y, x, maybe(&t->a), maybe(&t->b), g->row, &param);
}

/* A part of a bias, as a tensor of its own, which gets no gradient. */
static ml_tensor *bias_part(ml_ctx *ctx, const ml_tensor *bias, int64_t first, int64_t n)
{
    ml_tensor *part = bias ? ml_ctx_scratch(ctx, sizeof *part) : NULL;
    if (!part) return NULL;
    *part = ml_tensor_describe(ML_F32, 1, &n, ml_f32(bias) + first);
    part->device = ctx->device;
    return part;
}

/* ---- tokens that each have their own ---- */

static ml_token_terms token_terms(const ml_adapter_use *use, int64_t layer_id, ml_adapter_slot slot)
{
    return (ml_token_terms){ .of_token = use->of_token,
                             .at = layer_id * ML_N_SLOT + slot,
                             .most_rank = use->shape->rank[layer_id][slot],
                             .scales = use->shape->scales[layer_id][slot] };
}

/* Of a pass on a device, how many of n tokens are being generated. */
static int64_t count_generated(const ml_ctx *ctx, const ml_adapter_use *use, int64_t n)
{
    return !use->of_token ? 0 : ctx->n_decode < n ? ctx->n_decode : n;
}

/* Terms, and a late bias, of those tokens. */
static bool add_token_terms(ml_ctx *ctx, const ml_model *m, int64_t layer_id, const ml_adapter_slot *slot, int n_slot,
                            const ml_tensor *x, const ml_tensor *w, const ml_tensor *bias, const ml_adapter_use *use,
                            ml_tensor *y)
{
    ml_token_part part[ML_TOKEN_PARTS];
    int64_t n = count_generated(ctx, use, y->dim[0]), column = 0;
    if (n == 0) return true;
    for (int i = 0; i < n_slot; i++) {
        part[i] = (ml_token_part){ .terms = token_terms(use, layer_id, slot[i]),
                                   .column = column,
                                   .n = slot_rows(&m->config, slot[i], w, n_slot) };
        column += part[i].n;
    }
    return ml_cuda_token_terms_linear(ctx, y, x, part, n_slot, bias, n) == ML_OK;
}

/* On a device a pass may have no token of a group's. */
static bool is_empty(const ml_adapter_group *g)
{
    return g->row && g->row->dim[0] == 0;
}

/* ---- a linear layer ---- */

ml_tensor *ml_adapter_linear(ml_ctx *ctx, const ml_model *m, int64_t layer_id, const ml_adapter_slot *slot, int n_slot,
                             ml_tensor *x, ml_tensor *w, ml_tensor *bias, const ml_adapter_use *use)
{
    if (!use || !x || !w) return ml_linear(ctx, x, w, bias);
    bool late_bias = bias && comes_late(use, layer_id, slot, n_slot);
    ml_tensor *y = ml_linear(ctx, x, w, late_bias ? NULL : bias); // [tokens, n]
    if (y && !add_token_terms(ctx, m, layer_id, slot, n_slot, x, w, late_bias ? bias : NULL, use, y)) return NULL;
    int64_t first = 0;
    for (int i = 0; i < n_slot && y; i++) {
        int64_t n = slot_rows(&m->config, slot[i], w, n_slot);
        for (int j = 0; j < use->n_group; j++) {
            const ml_adapter_group *g = &use->group[j];
            if (is_empty(g)) continue;
            const ml_adapter_term *t = term_of(g->adapter, layer_id, slot[i]);
            ml_tensor *part = t || late_bias ? ml_tensor_cols(ctx, y, first, n) : NULL;
            if (t && !add_term(ctx, g, t, layer_id, x, part, use->training)) return NULL;
            bool scales = t && g->adapter->dora;
            if (!scales && !late_bias) continue;
            ml_tensor *b = late_bias ? bias_part(ctx, bias, first, n) : NULL;
            if (!ml_dora(ctx, part, scales ? maybe(&t->m) : NULL, scales ? maybe(&t->norm) : NULL, b, g->row))
                return NULL;
        }
        first += n;
    }
    return y;
}

/* ---- latent attention over a cache ---- */

static ml_mla_term *make_mla_term(ml_ctx *ctx, const ml_adapter_term *t)
{
    ml_mla_term *made = ml_ctx_scratch(ctx, sizeof *made);
    if (!made) return NULL;
    *made = (ml_mla_term){ .a = ml_f32(&t->a), .b = ml_f32(&t->b), .rank = t->rank, .scale = t->scale };
    if (!t->m.data) return made;
    if (ctx->device) return ml_cuda_adapter_factors(ctx, t, &made->factor) == ML_OK ? made : NULL;
    float *factor = ml_ctx_scratch(ctx, (size_t)t->module.rows * sizeof *factor);
    if (!factor) return NULL;
    for (int64_t j = 0; j < t->module.rows; j++) {
        float norm = ml_f32(&t->norm)[j];
        factor[j] = norm > 0 ? ml_f32(&t->m)[j] / norm : 1;
    }
    made->factor = factor;
    return made;
}

const ml_mla_term *const *ml_adapter_mla_terms(ml_ctx *ctx, int64_t layer_id, const ml_adapter_use *use)
{
    bool any = false;
    for (int g = 0; use && g < use->n_group; g++) {
        any = any || (term_of(use->group[g].adapter, layer_id, ML_SLOT_KV_B) && !is_empty(&use->group[g]));
    }
    if (!any) return NULL;
    const ml_mla_term **list = ml_ctx_scratch(ctx, (size_t)use->n_seq * sizeof *list);
    for (int64_t s = 0; list && s < use->n_seq; s++) {
        const ml_adapter_term *t = term_of(use->of_seq[s], layer_id, ML_SLOT_KV_B);
        list[s] = NULL;
        for (int64_t before = 0; before < s && t && !list[s]; before++) {
            if (use->of_seq[before] == use->of_seq[s]) list[s] = list[before];
        }
        if (t && !list[s] && !(list[s] = make_mla_term(ctx, t))) return NULL;
    }
    return list;
}

bool ml_adapter_mla_token_terms(const ml_adapter_use *use, int64_t layer_id, ml_token_terms *out)
{
    if (!use || !use->of_token || use->shape->rank[layer_id][ML_SLOT_KV_B] == 0) return false;
    *out = token_terms(use, layer_id, ML_SLOT_KV_B);
    return true;
}

/* ---- experts ---- */

static bool has_expert_terms(const ml_adapter *a, int64_t layer_id)
{
    return term_of(a, layer_id, ML_SLOT_EXPERT_GATE) || term_of(a, layer_id, ML_SLOT_EXPERT_UP) ||
           term_of(a, layer_id, ML_SLOT_EXPERT_DOWN);
}

static ml_tensor *experts(ml_ctx *ctx, const ml_model *m, int64_t layer_id, ml_tensor *x, ml_tensor *id,
                          ml_tensor *prob, const ml_experts_param *param, const ml_adapter *a, bool training)
{
    const ml_layer *y = &m->layer[layer_id];
    ml_tensor *gate = maybe(&y->expert_gate), *up = maybe(&y->expert_up), *down = maybe(&y->expert_down);
    if (!has_expert_terms(a, layer_id)) return ml_experts(ctx, x, id, prob, gate, up, down, param);
    const ml_adapter_term *term[3] = { term_of(a, layer_id, ML_SLOT_EXPERT_GATE),
                                       term_of(a, layer_id, ML_SLOT_EXPERT_UP),
                                       term_of(a, layer_id, ML_SLOT_EXPERT_DOWN) };
    ml_tensor *pair[6] = { 0 }, *magnitude[6] = { 0 };
    ml_experts_lora_param p = { .experts = *param,
                                .dropout = training ? (float)a->dropout : 0,
                                .seed = seed_of(a, layer_id, ML_SLOT_EXPERT_GATE) };
    for (int i = 0; i < 3; i++) {
        if (!term[i]) continue;
        pair[2 * i] = maybe(&term[i]->a);
        pair[2 * i + 1] = maybe(&term[i]->b);
        magnitude[2 * i] = maybe(&term[i]->m);
        magnitude[2 * i + 1] = maybe(&term[i]->norm);
        p.scale = term[i]->scale; /* one for all of a layer's experts */
    }
    ml_experts_terms terms = { pair[0],      pair[1],      pair[2],      pair[3],      pair[4],      pair[5],
                               magnitude[0], magnitude[1], magnitude[2], magnitude[3], magnitude[4], magnitude[5] };
    return ml_experts_lora(ctx, x, id, prob, gate, up, down, &terms, &p);
}

/* Rows of a tensor of 4-byte elements, end to end. */
static ml_tensor *gather(ml_ctx *ctx, const ml_tensor *x, const ml_tensor *row)
{
    ml_tensor *y = ml_tensor_new_2d(ctx, x->dtype, row->dim[0], x->dim[1]);
    if (y && ctx->device) return ml_cuda_gather_rows(ctx, x, row, y) == ML_OK ? y : NULL;
    for (int64_t i = 0; y && i < row->dim[0]; i++) {
        memcpy(ml_i32(y) + i * y->stride, ml_i32(x) + ml_i32(row)[i] * x->stride, (size_t)x->dim[1] * 4);
    }
    return y;
}

/* The other way. */
static bool scatter(ml_ctx *ctx, const ml_tensor *x, const ml_tensor *row, ml_tensor *y)
{
    if (ctx->device) return ml_cuda_scatter_rows(ctx, x, row, y) == ML_OK;
    for (int64_t i = 0; i < row->dim[0]; i++) {
        memcpy(ml_f32(y) + ml_i32(row)[i] * y->stride, ml_f32(x) + i * x->stride, (size_t)y->dim[1] * sizeof(float));
    }
    return true;
}

/* Inference only: the groups one after the other, each with the experts' whole layer, into their rows of y. */
static bool experts_by_group(ml_ctx *ctx, const ml_model *m, int64_t layer_id, ml_tensor *x, ml_tensor *id,
                             ml_tensor *prob, const ml_experts_param *param, const ml_adapter_use *use, ml_tensor *y)
{
    for (int g = 0; g < use->n_group; g++) {
        const ml_tensor *row = use->group[g].row;
        if (is_empty(&use->group[g])) continue;
        ml_ctx_mark mark = ml_ctx_get_mark(ctx);
        ml_tensor *part = experts(ctx, m, layer_id, gather(ctx, x, row), gather(ctx, id, row), gather(ctx, prob, row),
                                  param, use->group[g].adapter, false); // [n, d]
        if (!part || !scatter(ctx, part, row, y)) return false;
        ml_ctx_release(ctx, mark);
    }
    return true;
}

/* Has a group with tokens terms of experts in this layer? */
static bool groups_have_terms(const ml_adapter_use *use, int64_t layer_id)
{
    for (int g = 0; g < use->n_group; g++) {
        if (!is_empty(&use->group[g]) && has_expert_terms(use->group[g].adapter, layer_id)) return true;
    }
    return false;
}

/* Rows of x from `first` on. */
static ml_tensor rows_from(const ml_tensor *x, int64_t first)
{
    ml_tensor part = *x;
    part.data = ml_i32(x) + first * x->stride; /* numbers and ids have 4 bytes */
    part.dim[0] = x->dim[0] - first;
    return part;
}

/* On a device, a pass whose first n_generated tokens are being generated: these by their own terms, prompts behind them
 * by groups, or all together where none of them has terms. */
static ml_tensor *experts_by_phase(ml_ctx *ctx, const ml_model *m, int64_t layer_id, ml_tensor *x, ml_tensor *id,
                                   ml_tensor *prob, const ml_experts_param *param, const ml_adapter_use *use,
                                   int64_t n_generated)
{
    const ml_layer *l = &m->layer[layer_id];
    ml_token_terms terms[3];
    for (int i = 0; i < 3; i++) terms[i] = token_terms(use, layer_id, (ml_adapter_slot)(ML_SLOT_EXPERT_GATE + i));
    ml_tensor *y = ml_tensor_new_2d(ctx, ML_F32, x->dim[0], x->dim[1]);
    if (!y) return NULL;
    if (ml_cuda_token_terms_experts(ctx, y, x, id, prob, maybe(&l->expert_gate), maybe(&l->expert_up),
                                    maybe(&l->expert_down), param, terms, n_generated) != ML_OK) {
        return NULL;
    }
    if (n_generated == x->dim[0]) return y;
    int64_t n_decode = ctx->n_decode;
    bool done = true;
    ctx->n_decode = 0; /* what follows is prompt */
    if (groups_have_terms(use, layer_id)) {
        done = experts_by_group(ctx, m, layer_id, x, id, prob, param, use, y);
    } else {
        ml_tensor x_rest = rows_from(x, n_generated), id_rest = rows_from(id, n_generated),
                  prob_rest = rows_from(prob, n_generated);
        const ml_tensor *part = experts(ctx, m, layer_id, &x_rest, &id_rest, &prob_rest, param, NULL, false);
        done = part != NULL;
        if (part) {
            ml_device_queue_copy(ctx->device, ml_f32(y) + n_generated * y->stride, part->data,
                                 (size_t)ml_tensor_count(part) * sizeof(float));
        }
    }
    ctx->n_decode = n_decode;
    return done ? y : NULL;
}

static bool tokens_have_terms(const ml_adapter_use *use, int64_t layer_id)
{
    const int64_t *rank = use->shape->rank[layer_id];
    return rank[ML_SLOT_EXPERT_GATE] > 0 || rank[ML_SLOT_EXPERT_UP] > 0 || rank[ML_SLOT_EXPERT_DOWN] > 0;
}

ml_tensor *ml_adapter_experts(ml_ctx *ctx, const ml_model *m, int64_t layer_id, ml_tensor *x, ml_tensor *id,
                              ml_tensor *prob, const ml_experts_param *param, const ml_adapter_use *use)
{
    if (!x || !id || !prob) return NULL;
    if (!use) return experts(ctx, m, layer_id, x, id, prob, param, NULL, false);
    int64_t n_generated = count_generated(ctx, use, x->dim[0]);
    if (n_generated > 0 && tokens_have_terms(use, layer_id)) {
        return experts_by_phase(ctx, m, layer_id, x, id, prob, param, use, n_generated);
    }
    if (use->n_group == 1 && !use->group[0].row) {
        return experts(ctx, m, layer_id, x, id, prob, param, use->group[0].adapter, use->training);
    }
    if (!groups_have_terms(use, layer_id)) return experts(ctx, m, layer_id, x, id, prob, param, NULL, false);
    ml_tensor *y = ml_tensor_new_2d(ctx, ML_F32, x->dim[0], x->dim[1]);
    return y && experts_by_group(ctx, m, layer_id, x, id, prob, param, use, y) ? y : NULL;
}
