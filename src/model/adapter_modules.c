/* Which matrices an adapter can be beside, by name. */
#include "model/adapter.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

/* One walk over the modules, done twice: counting, then listing. */
typedef struct {
    const ml_config *c;
    ml_adapter_module *module; /* NULL: counting */
    size_t n;
    int64_t layer;
} walk;

static void add(walk *w, ml_adapter_slot slot, const char *name, int64_t n_matrix, int64_t rows, int64_t cols)
{
    if (w->module) {
        ml_adapter_module *m = &w->module[w->n];
        *m = (ml_adapter_module){ .layer = w->layer, .slot = slot, .n_matrix = n_matrix, .rows = rows, .cols = cols };
        snprintf(m->name, sizeof m->name, "model.layers.%lld.%s", (long long)w->layer, name);
    }
    w->n++;
}

static void add_attention(walk *w)
{
    const ml_config *c = w->c;
    int64_t d = c->hidden_size, n_head = c->num_attention_heads, n_q = n_head * ml_config_d_qk(c);
    if (c->attention == ML_ATTENTION_MLA) {
        if (c->q_lora_rank) {
            add(w, ML_SLOT_Q, "self_attn.q_a_proj", 1, c->q_lora_rank, d);
            add(w, ML_SLOT_Q_B, "self_attn.q_b_proj", 1, n_q, c->q_lora_rank);
        } else {
            add(w, ML_SLOT_Q, "self_attn.q_proj", 1, n_q, d);
        }
        add(w, ML_SLOT_KV_A, "self_attn.kv_a_proj_with_mqa", 1, c->kv_lora_rank + c->qk_rope_head_dim, d);
        add(w, ML_SLOT_KV_B, "self_attn.kv_b_proj", 1, n_head * (c->qk_nope_head_dim + c->v_head_dim), c->kv_lora_rank);
    } else {
        int64_t n_kv = c->num_key_value_heads * c->head_dim;
        add(w, ML_SLOT_Q, "self_attn.q_proj", 1, n_q, d);
        add(w, ML_SLOT_K, "self_attn.k_proj", 1, n_kv, d);
        add(w, ML_SLOT_V, "self_attn.v_proj", 1, n_kv, d);
    }
    add(w, ML_SLOT_O, "self_attn.o_proj", 1, d, n_head * ml_config_d_v(c));
}

static void add_mlp(walk *w, const char *prefix, int64_t f)
{
    char name[64];
    int64_t d = w->c->hidden_size;
    snprintf(name, sizeof name, "%sgate_proj", prefix);
    add(w, ML_SLOT_GATE, name, 1, f, d);
    snprintf(name, sizeof name, "%sup_proj", prefix);
    add(w, ML_SLOT_UP, name, 1, f, d);
    snprintf(name, sizeof name, "%sdown_proj", prefix);
    add(w, ML_SLOT_DOWN, name, 1, d, f);
}

static void add_moe(walk *w)
{
    const ml_config *c = w->c;
    int64_t d = c->hidden_size, f = c->moe_intermediate_size, n = c->n_routed_experts;
    if (!c->expert_relu) add(w, ML_SLOT_EXPERT_GATE, "mlp.experts.*.gate_proj", n, f, d);
    add(w, c->expert_relu ? ML_SLOT_EXPERT_GATE : ML_SLOT_EXPERT_UP, "mlp.experts.*.up_proj", n, f, d);
    add(w, ML_SLOT_EXPERT_DOWN, "mlp.experts.*.down_proj", n, d, f);
    if (c->n_shared_experts > 0) add_mlp(w, "mlp.shared_experts.", c->n_shared_experts * f);
}

static void walk_layers(walk *w)
{
    for (w->layer = 0; w->layer < w->c->num_hidden_layers; w->layer++) {
        add_attention(w);
        if (ml_config_layer_is_moe(w->c, w->layer))
            add_moe(w);
        else
            add_mlp(w, "mlp.", w->c->intermediate_size);
    }
}

ml_status ml_adapter_list_modules(const ml_config *c, ml_adapter_module **out, size_t *n, ml_error *err)
{
    walk w = { .c = c };
    walk_layers(&w);
    *n = w.n;
    *out = w.module = ml_calloc(w.n + 1, sizeof *w.module);
    if (!w.module) return ml_fail_memory(err, w.n * sizeof *w.module, "a model's modules");
    w.n = 0;
    walk_layers(&w);
    return ML_OK;
}

bool ml_adapter_matches(const char *pattern, const char *name)
{
    char end[ML_WEIGHT_NAME_MAX + 8];
    if (!fnmatch(pattern, name, 0)) return true;
    int n = snprintf(end, sizeof end, "*.%s", pattern);
    return n > 0 && (size_t)n < sizeof end && !fnmatch(end, name, 0);
}
