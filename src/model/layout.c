/* The walk over a model's weights.  Their memory is the model's own, or (where it has a source) mostly the source's:
 * then matrices stay where they are and as they are, and only what is small or in a form that operators cannot read
 * is copied: norms, biases and the router, as fp32. */
#include "model/layout.h"

#include <stdio.h>
#include <string.h>

/* Take n elements; the address when placing. */
static void *take(ml_model_layout *l, ml_dtype dtype, int64_t n)
{
    void *p = l->placing ? l->m->values.base + l->n_bytes : NULL;
    l->n_bytes += ((size_t)n * ml_dtype_size(dtype) + 63) & ~(size_t)63;
    return p;
}

static float *grad_of(const ml_model_layout *l, const void *data)
{
    if (!l->placing || !l->m->grads.base || !data) return NULL;
    return (float *)(l->m->grads.base + ((const char *)data - l->m->values.base));
}

static void describe(ml_model_layout *l, ml_tensor *t, ml_dtype dtype, int n_dim, const int64_t *dims, void *data)
{
    if (!l->placing) return;
    *t = ml_tensor_describe(dtype, n_dim, dims, data);
    t->grad = grad_of(l, data);
    t->needs_grad = t->grad != NULL;
}

/* One tensor of the checkpoint: cols = 0 for a vector of `rows` elements. */
static void add_weight(ml_model_layout *l, const char *name, ml_param_kind kind, ml_dtype dtype, int64_t rows,
                       int64_t cols, void *data, bool trained)
{
    if (l->placing) {
        ml_weight *w = &l->m->weight[l->n_weight];
        *w = (ml_weight){ .kind = kind,
                          .dtype = dtype,
                          .n_dim = cols ? 2 : 1,
                          .dim = { rows, cols ? cols : 1 },
                          .data = data,
                          .trained = trained };
        snprintf(w->name, sizeof w->name, "%s", name);
    }
    l->n_weight++;
}

static void add_param(ml_model_layout *l, const char *name, ml_param_kind kind, int64_t n_matrix, int64_t rows,
                      int64_t cols, void *data)
{
    size_t length = strlen(name) + 1;
    if (l->placing) {
        char *copy = l->names + l->name_bytes;
        memcpy(copy, name, length);
        l->m->param[l->n_param] = (ml_param){ .name = copy,
                                              .kind = kind,
                                              .value = l->m->grads.base ? data : NULL,
                                              .grad = grad_of(l, data),
                                              .n_matrix = n_matrix,
                                              .rows = rows,
                                              .cols = cols };
    }
    l->name_bytes += length;
    l->n_param++;
}

/* ---- weights of a source ---- */

/* Rows of a stored weight in the model's own memory, as `dtype`. */
static void copy_stored(ml_model_layout *l, const ml_stored_weight *s, ml_dtype dtype, void *data)
{
    enum { CHUNK = 1 << 16 };
    const ml_weight_source *source = l->m->source;
    int64_t cols = 1;
    for (int i = 1; i < s->n_dim; i++) cols *= s->dim[i];
    int64_t step = dtype == ML_F32 ? s->dim[0] : CHUNK / cols + 1;
    float *buffer = dtype == ML_F32 ? NULL : ml_alloc((size_t)(step * cols) * sizeof *buffer);
    if (dtype != ML_F32 && !buffer) l->status = ml_fail_memory(l->err, (size_t)(step * cols) * sizeof *buffer, "a row");
    for (int64_t row = 0; row < s->dim[0] && l->status == ML_OK; row += step) {
        int64_t n_row = s->dim[0] - row < step ? s->dim[0] - row : step;
        char *to = (char *)data + ml_dtype_row_bytes(dtype, row * cols);
        l->status = source->read_f32(source, s, row, n_row, buffer ? buffer : (float *)data, l->err);
        if (buffer && l->status == ML_OK) ml_convert_from_f32(dtype, buffer, to, n_row * cols);
    }
    ml_free(buffer);
}

/* The data of a weight of the source: where it is when `dtype` leaves that open and the operators can read it there
 * (*dtype then says as what), else a copy. */
static void *bind(ml_model_layout *l, const char *name, int n_dim, const int64_t *dim, bool in_place, ml_dtype *dtype)
{
    const ml_weight_source *source = l->m->source;
    ml_stored_weight s;
    *dtype = ML_F32;
    if (l->status == ML_OK) l->status = source->find(source, name, n_dim, dim, &s, l->err);
    if (l->status != ML_OK) return NULL;
    if (in_place) *dtype = s.dtype;
    int64_t n = 1;
    for (int i = 0; i < n_dim; i++) n *= dim[i];
    if (in_place && s.data) {
        l->stored_bytes += (size_t)(n / dim[n_dim - 1]) * ml_dtype_row_bytes(s.dtype, dim[n_dim - 1]);
        return (void *)(uintptr_t)s.data;
    }
    void *data = take(l, *dtype, n);
    if (l->placing) copy_stored(l, &s, *dtype, data);
    return data;
}

/* n tensors of the model's table. */
static ml_tensor *take_parts(ml_model_layout *l, int64_t n)
{
    ml_tensor *part = l->placing ? l->m->part + l->n_part : NULL;
    l->n_part += (size_t)n;
    return part;
}

/* The whole that n parts of [rows, cols] make. */
static void describe_parts(ml_model_layout *l, ml_tensor *t, int n_dim, const int64_t *dims, const ml_tensor *part,
                           int64_t n)
{
    if (!l->placing || l->status != ML_OK) return;
    *t = ml_tensor_describe(part->dtype, n_dim, dims, part->data);
    t->part = part;
    t->n_part = n;
}

/* ---- weights by kind ---- */

static void add_vector(ml_model_layout *l, ml_tensor *t, const char *name, ml_param_kind kind, int64_t n)
{
    ml_dtype dtype = ML_F32;
    void *data = l->m->source ? bind(l, name, 1, &n, false, &dtype) : take(l, ML_F32, n);
    describe(l, t, ML_F32, 1, &n, data);
    add_weight(l, name, kind, ML_F32, n, 0, data, true);
    add_param(l, name, kind, 1, 1, n, data);
}

/* Matrices that meet the same input, stored as one: names and rows end with a NULL name. */
typedef struct {
    const char *name;
    int64_t rows;
} part;

/* The same with each matrix where the source has it. */
static void bind_matrices(ml_model_layout *l, ml_tensor *t, const char *prefix, const part *parts, ml_param_kind kind,
                          int64_t cols)
{
    int64_t rows = 0, n = 0;
    for (; parts[n].name; n++) rows += parts[n].rows;
    ml_tensor *tensor = n > 1 ? take_parts(l, n) : t;
    for (int64_t i = 0; i < n; i++) {
        char name[ML_WEIGHT_NAME_MAX];
        snprintf(name, sizeof name, "%s%s", prefix, parts[i].name);
        int64_t dim[2] = { parts[i].rows, cols };
        ml_dtype dtype;
        void *data = bind(l, name, 2, dim, kind != ML_PARAM_ROUTER, &dtype);
        describe(l, tensor ? &tensor[i] : NULL, dtype, 2, dim, data);
        add_weight(l, name, kind, dtype, dim[0], dim[1], data, true);
        add_param(l, name, kind, 1, dim[0], dim[1], data);
    }
    if (n > 1) describe_parts(l, t, 2, (int64_t[]){ rows, cols }, tensor, n);
}

static void add_matrices(ml_model_layout *l, ml_tensor *t, const char *prefix, const part *parts, ml_param_kind kind,
                         ml_dtype dtype, int64_t cols)
{
    if (l->m->source) {
        bind_matrices(l, t, prefix, parts, kind, cols);
        return;
    }
    int64_t rows = 0;
    for (const part *p = parts; p->name; p++) rows += p->rows;
    void *data = take(l, dtype, rows * cols);
    describe(l, t, dtype, 2, (int64_t[]){ rows, cols }, data);
    size_t at = 0;
    for (const part *p = parts; p->name; p++) {
        char name[ML_WEIGHT_NAME_MAX];
        snprintf(name, sizeof name, "%s%s", prefix, p->name);
        void *here = l->placing ? (char *)data + at : NULL;
        add_weight(l, name, kind, dtype, p->rows, cols, here, true);
        add_param(l, name, kind, 1, p->rows, cols, here);
        at += (size_t)(p->rows * cols) * ml_dtype_size(dtype);
    }
}

static void add_matrix(ml_model_layout *l, ml_tensor *t, const char *prefix, const char *name, ml_param_kind kind,
                       ml_dtype dtype, int64_t rows, int64_t cols)
{
    add_matrices(l, t, prefix, (part[]){ { name, rows }, { NULL, 0 } }, kind, dtype, cols);
}

/* A vector of the source into memory that is taken already. */
static void copy_vector(ml_model_layout *l, const char *name, int64_t n, void *data)
{
    const ml_weight_source *source = l->m->source;
    ml_stored_weight s;
    if (l->status == ML_OK) l->status = source->find(source, name, 1, &n, &s, l->err);
    if (l->status == ML_OK && l->placing) copy_stored(l, &s, ML_F32, data);
}

static void add_bias_parts(ml_model_layout *l, ml_tensor *t, const char *prefix, const part *parts)
{
    int64_t n = 0;
    for (const part *p = parts; p->name; p++) n += p->rows;
    float *data = take(l, ML_F32, n);
    describe(l, t, ML_F32, 1, &n, data);
    for (const part *p = parts; p->name; p++) {
        char name[ML_WEIGHT_NAME_MAX];
        snprintf(name, sizeof name, "%s%s", prefix, p->name);
        if (l->m->source) copy_vector(l, name, p->rows, data);
        add_weight(l, name, ML_PARAM_BIAS, ML_F32, p->rows, 0, data, true);
        add_param(l, name, ML_PARAM_BIAS, 1, 1, p->rows, data);
        if (l->placing) data += p->rows;
    }
}

static void add_attention(ml_model_layout *l, ml_layer *y, const char *prefix)
{
    const ml_config *c = &l->m->config;
    ml_dtype dtype = l->m->dtype;
    int64_t d = c->hidden_size, n_head = c->num_attention_heads, d_qk = ml_config_d_qk(c), d_v = ml_config_d_v(c);
    char name[ML_WEIGHT_NAME_MAX];
    if (c->attention == ML_ATTENTION_MLA) {
        bool lora = c->q_lora_rank > 0;
        add_matrices(l, &y->attn_in, prefix,
                     (part[]){ { lora ? "q_a_proj.weight" : "q_proj.weight", lora ? c->q_lora_rank : n_head * d_qk },
                               { "kv_a_proj_with_mqa.weight", c->kv_lora_rank + c->qk_rope_head_dim },
                               { NULL, 0 } },
                     ML_PARAM_MATRIX, dtype, d);
        if (lora) {
            snprintf(name, sizeof name, "%sq_a_layernorm.weight", prefix);
            add_vector(l, &y->q_a_norm, name, ML_PARAM_NORM, c->q_lora_rank);
            add_matrix(l, &y->q_b, prefix, "q_b_proj.weight", ML_PARAM_MATRIX, dtype, n_head * d_qk, c->q_lora_rank);
        }
        snprintf(name, sizeof name, "%skv_a_layernorm.weight", prefix);
        add_vector(l, &y->kv_a_norm, name, ML_PARAM_NORM, c->kv_lora_rank);
        snprintf(name, sizeof name, "%skv_b_proj.weight", prefix);
        if (l->m->source && !l->m->source->has(l->m->source, name)) {
            add_matrix(l, &y->k_b, prefix, "k_b_proj.weight", ML_PARAM_MATRIX, dtype, n_head * c->kv_lora_rank,
                       c->qk_nope_head_dim);
            add_matrix(l, &y->v_b, prefix, "v_b_proj.weight", ML_PARAM_MATRIX, dtype, n_head * d_v, c->kv_lora_rank);
        } else {
            add_matrix(l, &y->kv_b, prefix, "kv_b_proj.weight", ML_PARAM_MATRIX, dtype,
                       n_head * (c->qk_nope_head_dim + d_v), c->kv_lora_rank);
        }
    } else {
        int64_t n_q = n_head * d_qk, n_kv = c->num_key_value_heads * c->head_dim;
        add_matrices(
            l, &y->attn_in, prefix,
            (part[]){ { "q_proj.weight", n_q }, { "k_proj.weight", n_kv }, { "v_proj.weight", n_kv }, { NULL, 0 } },
            ML_PARAM_MATRIX, dtype, d);
        if (c->attention_bias) {
            add_bias_parts(
                l, &y->attn_bias, prefix,
                (part[]){ { "q_proj.bias", n_q }, { "k_proj.bias", n_kv }, { "v_proj.bias", n_kv }, { NULL, 0 } });
        }
        if (c->qk_norm) {
            snprintf(name, sizeof name, "%sq_norm.weight", prefix);
            add_vector(l, &y->q_norm, name, ML_PARAM_NORM, c->head_dim);
            snprintf(name, sizeof name, "%sk_norm.weight", prefix);
            add_vector(l, &y->k_norm, name, ML_PARAM_NORM, c->head_dim);
        }
    }
    add_matrix(l, &y->attn_out, prefix, "o_proj.weight", ML_PARAM_MATRIX, dtype, d, n_head * d_v);
}

static void add_mlp(ml_model_layout *l, ml_layer *y, const char *prefix, int64_t f)
{
    int64_t d = l->m->config.hidden_size;
    add_matrices(l, &y->gate_up, prefix, (part[]){ { "gate_proj.weight", f }, { "up_proj.weight", f }, { NULL, 0 } },
                 ML_PARAM_MATRIX, l->m->dtype, d);
    add_matrix(l, &y->down, prefix, "down_proj.weight", ML_PARAM_MATRIX, l->m->dtype, d, f);
}

/* Experts: [E][gate; up] as 2 E matrices of [f, d] (or [E] up alone), then [E] down of [d, f]. */
static void bind_experts(ml_model_layout *l, ml_tensor *t, const char *prefix, const char *which, int64_t rows,
                         int64_t cols)
{
    int64_t n = l->m->config.n_routed_experts, dim[2] = { rows, cols };
    ml_tensor *expert = take_parts(l, n);
    for (int64_t e = 0; e < n && l->status == ML_OK; e++) {
        char name[ML_WEIGHT_NAME_MAX];
        snprintf(name, sizeof name, "%sexperts.%lld.%s.weight", prefix, (long long)e, which);
        ml_dtype dtype;
        void *data = bind(l, name, 2, dim, true, &dtype);
        describe(l, expert ? &expert[e] : NULL, dtype, 2, dim, data);
        add_weight(l, name, ML_PARAM_EXPERT, dtype, rows, cols, data, true);
        add_param(l, name, ML_PARAM_EXPERT, 1, rows, cols, data);
    }
    describe_parts(l, t, 3, (int64_t[]){ n, rows, cols }, expert, n);
}

static void add_experts(ml_model_layout *l, ml_layer *y, const char *prefix)
{
    const ml_config *c = &l->m->config;
    ml_dtype dtype = l->m->dtype;
    int64_t d = c->hidden_size, f = c->moe_intermediate_size, n = c->n_routed_experts;
    int64_t n_in = c->expert_relu ? 1 : 2;
    if (l->m->source) {
        if (!c->expert_relu) bind_experts(l, &y->expert_gate, prefix, "gate_proj", f, d);
        bind_experts(l, c->expert_relu ? &y->expert_gate : &y->expert_up, prefix, "up_proj", f, d);
        bind_experts(l, &y->expert_down, prefix, "down_proj", d, f);
        return;
    }
    size_t matrix_bytes = (size_t)(f * d) * ml_dtype_size(dtype);
    char name[ML_WEIGHT_NAME_MAX];
    char *in = take(l, dtype, n * n_in * f * d), *down = take(l, dtype, n * d * f);
    describe(l, &y->expert_gate, dtype, 3, (int64_t[]){ n, f, d }, in);
    describe(l, &y->expert_down, dtype, 3, (int64_t[]){ n, d, f }, down);
    if (l->placing) y->expert_gate.stride = n_in * f * d;
    if (!c->expert_relu) {
        describe(l, &y->expert_up, dtype, 3, (int64_t[]){ n, f, d }, l->placing ? in + matrix_bytes : NULL);
        if (l->placing) y->expert_up.stride = 2 * f * d;
    }
    for (int64_t e = 0; e < n; e++) {
        char *here = l->placing ? in + (size_t)(e * n_in) * matrix_bytes : NULL;
        if (!c->expert_relu) {
            snprintf(name, sizeof name, "%sexperts.%lld.gate_proj.weight", prefix, (long long)e);
            add_weight(l, name, ML_PARAM_EXPERT, dtype, f, d, here, true);
            if (here) here += matrix_bytes;
        }
        snprintf(name, sizeof name, "%sexperts.%lld.up_proj.weight", prefix, (long long)e);
        add_weight(l, name, ML_PARAM_EXPERT, dtype, f, d, here, true);
        snprintf(name, sizeof name, "%sexperts.%lld.down_proj.weight", prefix, (long long)e);
        add_weight(l, name, ML_PARAM_EXPERT, dtype, d, f, l->placing ? down + (size_t)e * matrix_bytes : NULL, true);
    }
    snprintf(name, sizeof name, "%sexperts.*.%s.weight", prefix, c->expert_relu ? "up_proj" : "{gate,up}_proj");
    add_param(l, name, ML_PARAM_EXPERT, n * n_in, f, d, in);
    snprintf(name, sizeof name, "%sexperts.*.down_proj.weight", prefix);
    add_param(l, name, ML_PARAM_EXPERT, n, d, f, down);
}

/* Bytes so far, wherever they are, each weight at a place of its own. */
static int64_t upload_bytes(const ml_model_layout *l)
{
    return (int64_t)(l->n_bytes + l->stored_bytes + l->n_weight * ML_UPLOAD_ALIGN);
}

static void add_moe(ml_model_layout *l, ml_layer *y, const char *prefix, int64_t layer_id)
{
    const ml_config *c = &l->m->config;
    char name[ML_WEIGHT_NAME_MAX];
    add_matrix(l, &y->router, prefix, "gate.weight", ML_PARAM_ROUTER, ML_F32, c->n_routed_experts, c->hidden_size);
    if (c->correction_bias) {
        int64_t n = c->n_routed_experts;
        void *data = take(l, ML_F32, n);
        describe(l, &y->router_bias, ML_F32, 1, &n, data);
        y->router_bias.grad = NULL;
        y->router_bias.needs_grad = false;
        snprintf(name, sizeof name, "%sgate.e_score_correction_bias", prefix);
        if (l->m->source) copy_vector(l, name, n, data);
        add_weight(l, name, ML_PARAM_BIAS, ML_F32, n, 0, data, false);
    }
    int64_t before = upload_bytes(l);
    add_experts(l, y, prefix);
    if (l->sizes) l->sizes->expert[layer_id] = upload_bytes(l) - before;
    if (c->n_shared_experts > 0) {
        snprintf(name, sizeof name, "%sshared_experts.", prefix);
        add_mlp(l, y, name, c->n_shared_experts * c->moe_intermediate_size);
    }
}

void ml_model_walk(ml_model_layout *l)
{
    ml_model *m = l->m;
    const ml_config *c = &m->config;
    int64_t d = c->hidden_size;
    add_matrix(l, &m->embed, "", "model.embed_tokens.weight", ML_PARAM_EMBEDDING, m->dtype, c->vocab_size, d);
    ml_layer unused = { 0 };
    for (int64_t i = 0; i < c->num_hidden_layers && l->status == ML_OK; i++) {
        ml_layer *y = l->placing ? &m->layer[i] : &unused;
        char prefix[64], name[ML_WEIGHT_NAME_MAX];
        snprintf(name, sizeof name, "model.layers.%lld.input_layernorm.weight", (long long)i);
        add_vector(l, &y->attn_norm, name, ML_PARAM_NORM, d);
        snprintf(prefix, sizeof prefix, "model.layers.%lld.self_attn.", (long long)i);
        add_attention(l, y, prefix);
        snprintf(name, sizeof name, "model.layers.%lld.post_attention_layernorm.weight", (long long)i);
        add_vector(l, &y->ffn_norm, name, ML_PARAM_NORM, d);
        snprintf(prefix, sizeof prefix, "model.layers.%lld.mlp.", (long long)i);
        if (ml_config_layer_is_moe(c, i))
            add_moe(l, y, prefix, i);
        else
            add_mlp(l, y, prefix, c->intermediate_size);
    }
    add_vector(l, &m->final_norm, "model.norm.weight", ML_PARAM_NORM, d);
    if (c->tie_word_embeddings) {
        if (l->placing) m->head = m->embed;
    } else {
        add_matrix(l, &m->head, "", "lm_head.weight", ML_PARAM_HEAD, m->dtype, c->vocab_size, d);
    }
    if (c->head_bias) add_vector(l, &m->head_bias, "lm_head.bias", ML_PARAM_BIAS, c->vocab_size);
    if (!l->sizes) return;
    l->sizes->rest = upload_bytes(l);
    for (int64_t i = 0; i < c->num_hidden_layers; i++) l->sizes->rest -= l->sizes->expert[i];
}
