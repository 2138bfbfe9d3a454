#include "format/gguf_names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *ours, *theirs;
} pair;

static const pair globals[] = {
    { "model.embed_tokens.weight", "token_embd.weight" },
    { "model.norm.weight", "output_norm.weight" },
    { "lm_head.weight", "output.weight" },
    { "rope_freqs.weight", "rope_freqs.weight" },
};

static const pair of_layer[] = {
    { "input_layernorm.weight", "attn_norm.weight" },
    { "post_attention_layernorm.weight", "ffn_norm.weight" },
    { "self_attn.q_proj.weight", "attn_q.weight" },
    { "self_attn.q_proj.bias", "attn_q.bias" },
    { "self_attn.k_proj.weight", "attn_k.weight" },
    { "self_attn.k_proj.bias", "attn_k.bias" },
    { "self_attn.v_proj.weight", "attn_v.weight" },
    { "self_attn.v_proj.bias", "attn_v.bias" },
    { "self_attn.o_proj.weight", "attn_output.weight" },
    { "self_attn.q_norm.weight", "attn_q_norm.weight" },
    { "self_attn.k_norm.weight", "attn_k_norm.weight" },
    { "self_attn.q_a_proj.weight", "attn_q_a.weight" },
    { "self_attn.q_a_layernorm.weight", "attn_q_a_norm.weight" },
    { "self_attn.q_b_proj.weight", "attn_q_b.weight" },
    { "self_attn.kv_a_proj_with_mqa.weight", "attn_kv_a_mqa.weight" },
    { "self_attn.kv_a_layernorm.weight", "attn_kv_a_norm.weight" },
    { "self_attn.kv_b_proj.weight", "attn_kv_b.weight" },
    { "self_attn.k_b_proj.weight", "attn_k_b.weight" },
    { "self_attn.v_b_proj.weight", "attn_v_b.weight" },
    { "mlp.gate_proj.weight", "ffn_gate.weight" },
    { "mlp.up_proj.weight", "ffn_up.weight" },
    { "mlp.down_proj.weight", "ffn_down.weight" },
    { "mlp.gate.weight", "ffn_gate_inp.weight" },
    { "mlp.gate.e_score_correction_bias", "exp_probs_b.bias" },
    { "mlp.shared_experts.gate_proj.weight", "ffn_gate_shexp.weight" },
    { "mlp.shared_experts.up_proj.weight", "ffn_up_shexp.weight" },
    { "mlp.shared_experts.down_proj.weight", "ffn_down_shexp.weight" },
};

/* Behind "mlp.experts.N." */
static const pair of_expert[] = {
    { "gate_proj.weight", "ffn_gate_exps.weight" },
    { "up_proj.weight", "ffn_up_exps.weight" },
    { "down_proj.weight", "ffn_down_exps.weight" },
};

#define FIND(table, name) find(table, sizeof table / sizeof *table, name)

static const char *find(const pair *table, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(table[i].ours, name)) return table[i].theirs;
    }
    return NULL;
}

/* The number behind a prefix and the "." after it: the rest of the name, or NULL. */
static const char *after_number(const char *name, const char *prefix, int64_t *number)
{
    size_t n = strlen(prefix);
    if (strncmp(name, prefix, n) != 0 || name[n] < '0' || name[n] > '9') return NULL;
    char *end;
    *number = strtoll(name + n, &end, 10);
    return *end == '.' ? end + 1 : NULL;
}

bool ml_gguf_fused_place(const ml_gguf_place *place, char name[ML_GGUF_TENSOR_NAME_MAX], bool *second)
{
    if (place->stack != ML_GGUF_EXPERTS) return false;
    const char *gate = strstr(place->name, ".ffn_gate_exps."), *up = strstr(place->name, ".ffn_up_exps.");
    const char *end = gate ? gate : up;
    if (!end) return false;
    snprintf(name, ML_GGUF_TENSOR_NAME_MAX, "%.*s.ffn_gate_up_exps.weight", (int)(end - place->name), place->name);
    *second = !gate;
    return true;
}

/* llama.cpp names the norm before the experts of this architecture after what it follows. */
static const char *norm_after_attention(const char *architecture, const char *theirs)
{
    bool glm = !strcmp(architecture, "glm4moe");
    return glm && !strcmp(theirs, "ffn_norm.weight") ? "post_attention_norm.weight" : theirs;
}

bool ml_gguf_place_of(const char *architecture, const char *name, ml_gguf_place *out)
{
    *out = (ml_gguf_place){ .stack = ML_GGUF_PLAIN };
    const char *theirs = FIND(globals, name);
    if (theirs) {
        snprintf(out->name, sizeof out->name, "%s", theirs);
        return true;
    }
    int64_t layer;
    const char *rest = after_number(name, "model.layers.", &layer), *inner = NULL;
    if (!rest) return false;
    theirs = FIND(of_layer, rest);
    if (!theirs) {
        inner = after_number(rest, "mlp.experts.", &out->expert);
        theirs = inner ? FIND(of_expert, inner) : NULL;
    }
    if (!theirs) return false;
    bool heads = !strcmp(theirs, "attn_k_b.weight") || !strcmp(theirs, "attn_v_b.weight");
    out->stack = inner ? ML_GGUF_EXPERTS : heads ? ML_GGUF_HEADS : ML_GGUF_PLAIN;
    snprintf(out->name, sizeof out->name, "blk.%lld.%s", (long long)layer, norm_after_attention(architecture, theirs));
    return true;
}
