#include "quant/hf_view.h"

#include "base/alloc.h"
#include "format/gguf_config.h"
#include "model/model.h"

#include <stdio.h>
#include <string.h>

/* A weight that is made of others. */
typedef struct {
    enum { JOINED, HALVES } kind;
    ml_stored_weight part[2]; /* JOINED: k_b [n_head * lora, nope], v_b [n_head * v, lora]; HALVES: the paired one */
} made;

typedef struct {
    ml_weight_source base;
    ml_weight_source *inner;
    ml_config config;
    bool joins, halves;
    made *made; /* [num_hidden_layers][2]: kv_b; q, k */
} view;

/* The layer and which of its two made weights a name means; NULL for a weight that is as in the inner source. */
static const made *find_made(const view *v, const char *name)
{
    int layer, end = 0;
    if (!v->made || sscanf(name, "model.layers.%6d.self_attn.%n", &layer, &end) != 1 || !end) return NULL;
    if (layer < 0 || layer >= v->config.num_hidden_layers) return NULL;
    const char *rest = name + end;
    const made *m = v->made + 2 * (size_t)layer;
    if (v->joins) return strcmp(rest, "kv_b_proj.weight") ? NULL : m;
    if (!strcmp(rest, "q_proj.weight")) return m;
    return strcmp(rest, "k_proj.weight") ? NULL : m + 1;
}

static bool has(const ml_weight_source *source, const char *name)
{
    const view *v = (const view *)source;
    return find_made(v, name) || v->inner->has(v->inner, name);
}

static ml_status find(const ml_weight_source *source, const char *name, int n_dim, const int64_t *dim,
                      ml_stored_weight *out, ml_error *err)
{
    const view *v = (const view *)source;
    const made *m = find_made(v, name);
    if (!m) {
        ML_TRY(v->inner->find(v->inner, name, n_dim, dim, out, err));
        return ML_OK;
    }
    ml_dtype dtype = m->part[0].dtype;
    *out = (ml_stored_weight){ .dtype = ml_dtype_is_block(dtype) ? ML_BF16 : dtype, .n_dim = n_dim, .entry = m };
    memcpy(out->dim, dim, (size_t)n_dim * sizeof *dim);
    return ML_OK;
}

/* Rows first .. first + n of head `head`, all of them keys: columns of k_b's [lora, nope]. */
static ml_status read_keys(const view *v, const made *m, int64_t head, int64_t first, int64_t n, float *out,
                           ml_error *err)
{
    int64_t lora = v->config.kv_lora_rank, nope = v->config.qk_nope_head_dim;
    float *k = ml_alloc((size_t)(lora * nope) * sizeof *k);
    if (!k) return ml_fail_memory(err, (size_t)(lora * nope) * sizeof *k, "keys of a head");
    ml_status status = v->inner->read_f32(v->inner, &m->part[0], head * lora, lora, k, err);
    for (int64_t i = 0; i < n && status == ML_OK; i++) {
        for (int64_t j = 0; j < lora; j++) out[i * lora + j] = k[j * nope + first + i];
    }
    ml_free(k);
    return status;
}

static ml_status read_joined(const view *v, const made *m, int64_t row, int64_t n_row, float *out, ml_error *err)
{
    int64_t nope = v->config.qk_nope_head_dim, d_v = v->config.v_head_dim, lora = v->config.kv_lora_rank;
    while (n_row > 0) {
        int64_t head = row / (nope + d_v), i = row % (nope + d_v), n = i < nope ? nope - i : nope + d_v - i;
        if (n > n_row) n = n_row;
        if (i < nope)
            ML_TRY(read_keys(v, m, head, i, n, out, err));
        else
            ML_TRY(v->inner->read_f32(v->inner, &m->part[1], head * d_v + i - nope, n, out, err));
        row += n;
        n_row -= n;
        out += n * lora;
    }
    return ML_OK;
}

/* Row i of the first half is pair i's first, of the second half its second. */
static ml_status read_halves(const view *v, const made *m, int64_t row, int64_t n_row, float *out, ml_error *err)
{
    int64_t d = v->config.head_dim, n_rot = v->config.rotary_dim, half = n_rot / 2;
    for (int64_t r = row; r < row + n_row; r++, out += m->part[0].dim[1]) {
        int64_t head = r / d * d, i = r % d;
        int64_t from = i >= n_rot ? r : head + (i < half ? 2 * i : 2 * (i - half) + 1);
        ML_TRY(v->inner->read_f32(v->inner, &m->part[0], from, 1, out, err));
    }
    return ML_OK;
}

static ml_status read_f32(const ml_weight_source *source, const ml_stored_weight *w, int64_t row, int64_t n_row,
                          float *out, ml_error *err)
{
    const view *v = (const view *)source;
    const made *m = w->entry;
    size_t n = 2 * (size_t)v->config.num_hidden_layers;
    if (!v->made || m < v->made || m >= v->made + n) return v->inner->read_f32(v->inner, w, row, n_row, out, err);
    if (m->kind == JOINED) return read_joined(v, m, row, n_row, out, err);
    return read_halves(v, m, row, n_row, out, err);
}

static void drop(const ml_weight_source *source, const void *data, size_t n_bytes)
{
    const view *v = (const view *)source;
    v->inner->drop(v->inner, data, n_bytes);
}

static void free_view(ml_weight_source *source)
{
    view *v = (view *)source;
    if (!v) return;
    if (v->inner) v->inner->free(v->inner);
    ml_free(v->made);
    ml_free(v);
}

static ml_status find_inner(view *v, int64_t layer, const char *rest, int64_t rows, int64_t cols, ml_stored_weight *out,
                            ml_error *err)
{
    char name[ML_WEIGHT_NAME_MAX];
    snprintf(name, sizeof name, "model.layers.%lld.self_attn.%s.weight", (long long)layer, rest);
    return v->inner->find(v->inner, name, 2, (int64_t[]){ rows, cols }, out, err);
}

static ml_status make_weights(view *v, ml_error *err)
{
    const ml_config *c = &v->config;
    v->made = ml_calloc(2 * (size_t)c->num_hidden_layers, sizeof *v->made);
    if (!v->made) return ml_fail_memory(err, 2 * (size_t)c->num_hidden_layers * sizeof *v->made, "a model's tables");
    int64_t n_head = c->num_attention_heads, lora = c->kv_lora_rank, d = c->hidden_size;
    for (int64_t i = 0; i < c->num_hidden_layers; i++) {
        made *m = v->made + 2 * i;
        m[0].kind = m[1].kind = v->joins ? JOINED : HALVES;
        if (v->joins) {
            ML_TRY(find_inner(v, i, "k_b_proj", n_head * lora, c->qk_nope_head_dim, &m->part[0], err));
            ML_TRY(find_inner(v, i, "v_b_proj", n_head * c->v_head_dim, lora, &m->part[1], err));
        } else {
            ML_TRY(find_inner(v, i, "q_proj", n_head * c->head_dim, d, &m[0].part[0], err));
            ML_TRY(find_inner(v, i, "k_proj", c->num_key_value_heads * c->head_dim, d, &m[1].part[0], err));
        }
    }
    return ML_OK;
}

/* A dense model without biases and norms on q and k that rotates pairs is a Llama as GGUF files have it. */
static bool has_paired_rows(const ml_config *c)
{
    ml_config half = *c;
    half.rope_interleaved = 0;
    return c->attention == ML_ATTENTION_GQA && c->rope_interleaved &&
           !strcmp(ml_config_class_name(&half), "LlamaForCausalLM");
}

bool ml_hf_view_config(const ml_gguf *g, ml_config *c)
{
    if (has_paired_rows(c)) c->rope_interleaved = 0;
    if (!g || c->attention != ML_ATTENTION_MLA || ml_gguf_find_key(g, ML_GGUF_LATENT_EPSILON_KEY)) return false;
    if (c->latent_norm_eps == 1e-6) return false;
    c->latent_norm_eps = 1e-6;
    return true;
}

ml_status ml_hf_view_make(ml_weight_source *inner, ml_config *config, ml_weight_source **out, ml_error *err)
{
    *out = NULL;
    view *v = ml_calloc(1, sizeof *v);
    if (!v) return ml_fail_memory(err, sizeof *v, "a model's file");
    v->base =
        (ml_weight_source){ .where = inner->where, .has = has, .find = find, .read_f32 = read_f32, .free = free_view };
    v->inner = inner;
    if (inner->drop) v->base.drop = drop;
    bool mla = config->attention == ML_ATTENTION_MLA;
    v->joins = mla && !inner->has(inner, "model.layers.0.self_attn.kv_b_proj.weight");
    v->halves = has_paired_rows(config);
    if (v->halves) config->rope_interleaved = 0;
    v->config = *config;
    ml_status status = v->joins || v->halves ? make_weights(v, err) : ML_OK;
    if (status != ML_OK) {
        v->inner = NULL;
        free_view(&v->base);
        return status;
    }
    *out = &v->base;
    return ML_OK;
}
