#include "format/gguf_layout.h"

#include "base/alloc.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    const ml_config *c;
    const ml_gguf_arch *arch;
    bool pair_rows, split_kv_b;
    ml_gguf_layout *out;
    size_t capacity;
    int64_t layer;
    ml_status status;
    ml_error *err;
} builder;

static ml_gguf_entry *add(builder *b, const char *ours, int n_dim, int64_t n_part, int64_t rows, int64_t cols)
{
    static ml_gguf_entry unused;
    if (b->status == ML_OK) {
        b->status = ml_grow((void **)&b->out->entry, &b->capacity, b->out->n + 1, sizeof *b->out->entry, b->err);
    }
    if (b->status != ML_OK) return &unused;
    ml_gguf_entry *e = &b->out->entry[b->out->n++];
    *e = (ml_gguf_entry){ .layer = b->layer, .n_part = n_part, .rows = rows, .cols = cols, .n_dim = n_dim };
    if (b->layer < 0)
        snprintf(e->ours, sizeof e->ours, "%s", ours);
    else
        snprintf(e->ours, sizeof e->ours, "model.layers.%lld.%s", (long long)b->layer, ours);
    char named[ML_GGUF_OUR_NAME_MAX];
    ml_gguf_place place;
    e->is_experts = strchr(e->ours, '*') != NULL;
    ml_gguf_entry_part_name(e, 0, named);
    bool known = ml_gguf_place_of(b->arch->name, named, &place);
    assert(known);
    (void)known;
    memcpy(e->name, place.name, sizeof e->name);
    return e;
}

static void add_vector(builder *b, const char *ours, int64_t n)
{
    add(b, ours, 1, 1, 1, n);
}

static ml_gguf_entry *add_matrix(builder *b, const char *ours, int64_t rows, int64_t cols)
{
    return add(b, ours, 2, 1, rows, cols);
}

static void add_latent_attention(builder *b)
{
    const ml_config *c = b->c;
    int64_t d = c->hidden_size, n_head = c->num_attention_heads, d_qk = ml_config_d_qk(c), lora = c->kv_lora_rank;
    if (c->q_lora_rank) {
        add_matrix(b, "self_attn.q_a_proj.weight", c->q_lora_rank, d);
        add_vector(b, "self_attn.q_a_layernorm.weight", c->q_lora_rank);
        add_matrix(b, "self_attn.q_b_proj.weight", n_head * d_qk, c->q_lora_rank);
    } else {
        add_matrix(b, "self_attn.q_proj.weight", n_head * d_qk, d);
    }
    add_matrix(b, "self_attn.kv_a_proj_with_mqa.weight", lora + c->qk_rope_head_dim, d);
    add_vector(b, "self_attn.kv_a_layernorm.weight", lora);
    ml_gguf_entry *k = add(b, "self_attn.k_b_proj.weight", 3, n_head, lora, c->qk_nope_head_dim);
    if (b->split_kv_b) k->form = ML_GGUF_KEYS_OF_KV_B;
    ml_gguf_entry *v = add(b, "self_attn.v_b_proj.weight", 3, n_head, c->v_head_dim, lora);
    if (b->split_kv_b) v->form = ML_GGUF_VALUES_OF_KV_B;
}

static void add_grouped_attention(builder *b)
{
    static const char *const projections[] = { "q_proj", "k_proj", "v_proj" };
    const ml_config *c = b->c;
    char name[64];
    for (int i = 0; i < 3; i++) {
        int64_t n_head = i == 0 ? c->num_attention_heads : c->num_key_value_heads;
        ml_gguf_form form = b->pair_rows && i < 2 ? ML_GGUF_PAIRED_ROWS : ML_GGUF_AS_IS;
        snprintf(name, sizeof name, "self_attn.%s.weight", projections[i]);
        add_matrix(b, name, n_head * c->head_dim, c->hidden_size)->form = form;
        if (!c->attention_bias) continue;
        snprintf(name, sizeof name, "self_attn.%s.bias", projections[i]);
        add_vector(b, name, n_head * c->head_dim);
    }
    if (!c->qk_norm) return;
    add_vector(b, "self_attn.q_norm.weight", c->head_dim);
    add_vector(b, "self_attn.k_norm.weight", c->head_dim);
}

/* `stack`: 0 for one MLP, or how many there are under one name with a "*". */
static void add_mlp(builder *b, const char *prefix, int64_t f, int64_t stack)
{
    static const char *const matrices[] = { "gate_proj", "up_proj", "down_proj" };
    for (int i = 0; i < 3; i++) {
        char name[64];
        int64_t d = b->c->hidden_size, rows = i < 2 ? f : d, cols = i < 2 ? d : f;
        snprintf(name, sizeof name, "%s%s.weight", prefix, matrices[i]);
        if (stack)
            add(b, name, 3, stack, rows, cols);
        else
            add_matrix(b, name, rows, cols);
    }
}

static void add_experts(builder *b)
{
    const ml_config *c = b->c;
    add_matrix(b, "mlp.gate.weight", c->n_routed_experts, c->hidden_size);
    if (c->correction_bias || b->arch->needs_correction_bias) {
        ml_gguf_entry *bias = add(b, "mlp.gate.e_score_correction_bias", 1, 1, 1, c->n_routed_experts);
        if (!c->correction_bias) bias->form = ML_GGUF_ZEROS;
    }
    add_mlp(b, "mlp.experts.*.", c->moe_intermediate_size, c->n_routed_experts);
    if (c->n_shared_experts) add_mlp(b, "mlp.shared_experts.", c->n_shared_experts * c->moe_intermediate_size, 0);
}

ml_status ml_gguf_layout_make(const ml_config *c, const ml_gguf_arch *arch, bool pair_rows, bool split_kv_b,
                              ml_gguf_layout *out, ml_error *err)
{
    builder b = { c, arch, pair_rows, split_kv_b, out, 0, -1, ML_OK, err };
    *out = (ml_gguf_layout){ 0 };
    add_matrix(&b, "model.embed_tokens.weight", c->vocab_size, c->hidden_size);
    for (b.layer = 0; b.layer < c->num_hidden_layers; b.layer++) {
        add_vector(&b, "input_layernorm.weight", c->hidden_size);
        if (arch->mla)
            add_latent_attention(&b);
        else
            add_grouped_attention(&b);
        add_matrix(&b, "self_attn.o_proj.weight", c->hidden_size, c->num_attention_heads * ml_config_d_v(c));
        add_vector(&b, "post_attention_layernorm.weight", c->hidden_size);
        if (ml_config_layer_is_moe(c, b.layer))
            add_experts(&b);
        else
            add_mlp(&b, "mlp.", c->intermediate_size, 0);
    }
    b.layer = -1;
    add_vector(&b, "model.norm.weight", c->hidden_size);
    if (c->llama3_factor != 1) add(&b, "rope_freqs.weight", 1, 1, 1, c->rotary_dim / 2)->form = ML_GGUF_ROPE_DIVISORS;
    if (!c->tie_word_embeddings) add_matrix(&b, "lm_head.weight", c->vocab_size, c->hidden_size);
    if (b.status != ML_OK) ml_gguf_layout_free(out);
    return b.status;
}

void ml_gguf_layout_free(ml_gguf_layout *layout)
{
    ml_free(layout->entry);
    *layout = (ml_gguf_layout){ 0 };
}

void ml_gguf_entry_part_name(const ml_gguf_entry *e, int64_t part, char out[ML_GGUF_OUR_NAME_MAX])
{
    const char *star = strchr(e->ours, '*');
    if (!star) {
        memcpy(out, e->ours, sizeof e->ours);
        return;
    }
    int n =
        snprintf(out, ML_GGUF_OUR_NAME_MAX, "%.*s%lld%s", (int)(star - e->ours), e->ours, (long long)part, star + 1);
    assert(n > 0 && n < ML_GGUF_OUR_NAME_MAX);
    (void)n;
}
