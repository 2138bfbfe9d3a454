/* The layout of the weights in memory, and their first values. */
#include "model/model.h"

#include "base/thread.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

int64_t ml_weight_count(const ml_weight *w)
{
    return w->n_dim == 1 ? w->dim[0] : w->dim[0] * w->dim[1];
}

/* The layout is described by one walk over the model, done twice: first only counting bytes, weights and
 * parameters, then placing them. */
typedef struct {
    ml_model *m;
    bool placing;
    size_t n_bytes;
    size_t n_weight, n_param, name_bytes;
    char *names; /* of the parameters */
} layout;

/* Take n elements; the address when placing. */
static void *take(layout *l, ml_dtype dtype, int64_t n)
{
    void *p = l->placing ? l->m->values.base + l->n_bytes : NULL;
    l->n_bytes += ((size_t)n * ml_dtype_size(dtype) + 63) & ~(size_t)63;
    return p;
}

static float *grad_of(const layout *l, const void *data)
{
    if (!l->placing || !l->m->grads.base || !data) return NULL;
    return (float *)(l->m->grads.base + ((const char *)data - l->m->values.base));
}

static void describe(layout *l, ml_tensor *t, ml_dtype dtype, int n_dim, const int64_t *dims, void *data)
{
    if (!l->placing) return;
    *t = ml_tensor_describe(dtype, n_dim, dims, data);
    t->grad = grad_of(l, data);
    t->needs_grad = t->grad != NULL;
}

/* One tensor of the checkpoint: cols = 0 for a vector of `rows` elements. */
static void add_weight(layout *l, const char *name, ml_param_kind kind, ml_dtype dtype, int64_t rows, int64_t cols,
                       void *data, bool trained)
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

static void add_param(layout *l, const char *name, ml_param_kind kind, int64_t n_matrix, int64_t rows, int64_t cols,
                      void *data)
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

static void add_vector(layout *l, ml_tensor *t, const char *name, ml_param_kind kind, int64_t n)
{
    void *data = take(l, ML_F32, n);
    describe(l, t, ML_F32, 1, &n, data);
    add_weight(l, name, kind, ML_F32, n, 0, data, true);
    add_param(l, name, kind, 1, 1, n, data);
}

/* Matrices that meet the same input, stored as one: names and rows end with a NULL name. */
typedef struct {
    const char *name;
    int64_t rows;
} part;

static void add_matrices(layout *l, ml_tensor *t, const char *prefix, const part *parts, ml_param_kind kind,
                         ml_dtype dtype, int64_t cols)
{
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

static void add_matrix(layout *l, ml_tensor *t, const char *prefix, const char *name, ml_param_kind kind,
                       ml_dtype dtype, int64_t rows, int64_t cols)
{
    add_matrices(l, t, prefix, (part[]){ { name, rows }, { NULL, 0 } }, kind, dtype, cols);
}

static void add_bias_parts(layout *l, ml_tensor *t, const char *prefix, const part *parts)
{
    int64_t n = 0;
    for (const part *p = parts; p->name; p++) n += p->rows;
    float *data = take(l, ML_F32, n);
    describe(l, t, ML_F32, 1, &n, data);
    for (const part *p = parts; p->name; p++) {
        char name[ML_WEIGHT_NAME_MAX];
        snprintf(name, sizeof name, "%s%s", prefix, p->name);
        add_weight(l, name, ML_PARAM_BIAS, ML_F32, p->rows, 0, data, true);
        add_param(l, name, ML_PARAM_BIAS, 1, 1, p->rows, data);
        if (l->placing) data += p->rows;
    }
}

static void add_attention(layout *l, ml_layer *y, const char *prefix)
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
        add_matrix(l, &y->kv_b, prefix, "kv_b_proj.weight", ML_PARAM_MATRIX, dtype,
                   n_head * (c->qk_nope_head_dim + d_v), c->kv_lora_rank);
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

static void add_mlp(layout *l, ml_layer *y, const char *prefix, int64_t f)
{
    int64_t d = l->m->config.hidden_size;
    add_matrices(l, &y->gate_up, prefix, (part[]){ { "gate_proj.weight", f }, { "up_proj.weight", f }, { NULL, 0 } },
                 ML_PARAM_MATRIX, l->m->dtype, d);
    add_matrix(l, &y->down, prefix, "down_proj.weight", ML_PARAM_MATRIX, l->m->dtype, d, f);
}

/* Experts: [E][gate; up] as 2 E matrices of [f, d] (or [E] up alone), then [E] down of [d, f]. */
static void add_experts(layout *l, ml_layer *y, const char *prefix)
{
    const ml_config *c = &l->m->config;
    ml_dtype dtype = l->m->dtype;
    int64_t d = c->hidden_size, f = c->moe_intermediate_size, n = c->n_routed_experts;
    int64_t n_in = c->expert_relu ? 1 : 2;
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

static void add_moe(layout *l, ml_layer *y, const char *prefix)
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
        add_weight(l, name, ML_PARAM_BIAS, ML_F32, n, 0, data, false);
    }
    add_experts(l, y, prefix);
    if (c->n_shared_experts > 0) {
        snprintf(name, sizeof name, "%sshared_experts.", prefix);
        add_mlp(l, y, name, c->n_shared_experts * c->moe_intermediate_size);
    }
}

static void walk(layout *l)
{
    ml_model *m = l->m;
    const ml_config *c = &m->config;
    int64_t d = c->hidden_size;
    add_matrix(l, &m->embed, "", "model.embed_tokens.weight", ML_PARAM_EMBEDDING, m->dtype, c->vocab_size, d);
    ml_layer unused = { 0 };
    for (int64_t i = 0; i < c->num_hidden_layers; i++) {
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
            add_moe(l, y, prefix);
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
}

/* YaRN (arXiv:2309.00071, section 3.2): frequencies that turn more than beta_fast times over the trained context
 * stay, those under beta_slow are stretched by `factor`, and a ramp lies between. */
static double yarn_magnitude(double factor, double mscale)
{
    return factor <= 1 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

static double yarn_turning_dim(double n_turns, double dim, double theta, double positions)
{
    return dim * log(positions / (n_turns * 2 * M_PI)) / (2 * log(theta));
}

static void make_rope(ml_model *m)
{
    const ml_config *c = &m->config;
    double dim = (double)c->rotary_dim;
    double low = 0, high = 0;
    if (c->yarn_factor != 1) {
        double positions = (double)c->yarn_original_positions;
        low = fmax(floor(yarn_turning_dim(c->yarn_beta_fast, dim, c->rope_theta, positions)), 0);
        high = fmin(ceil(yarn_turning_dim(c->yarn_beta_slow, dim, c->rope_theta, positions)), dim - 1);
        if (low == high) high += 0.001;
    }
    for (int64_t i = 0; i < c->rotary_dim / 2; i++) {
        double freq = pow(c->rope_theta, -2.0 * (double)i / dim);
        if (c->yarn_factor != 1) {
            double ramp = fmin(fmax(((double)i - low) / (high - low), 0), 1);
            freq = freq * (1 - ramp) + freq / c->yarn_factor * ramp;
        }
        m->inv_freq[i] = (float)freq;
    }
    double scale = 1 / sqrt((double)ml_config_d_qk(c));
    m->rope_magnitude = 1;
    if (c->yarn_factor != 1) {
        double all = c->yarn_mscale_all_dim;
        m->rope_magnitude = (float)(all != 0 && c->yarn_mscale != 0 ? yarn_magnitude(c->yarn_factor, c->yarn_mscale) /
                                                                          yarn_magnitude(c->yarn_factor, all)
                                                                    : yarn_magnitude(c->yarn_factor, 1));
        if (c->attention == ML_ATTENTION_MLA && all != 0) scale *= pow(yarn_magnitude(c->yarn_factor, all), 2);
    }
    m->softmax_scale = (float)scale;
}

ml_status ml_model_make(const ml_config *config, ml_dtype dtype, bool trainable, ml_model **out, ml_error *err)
{
    assert(!trainable || dtype == ML_F32);
    *out = NULL;
    ml_model *m = ml_calloc(1, sizeof *m);
    if (!m) return ml_fail_memory(err, sizeof *m, "a model");
    m->config = *config;
    m->dtype = dtype;
    layout counted = { .m = m };
    walk(&counted);
    ml_status status = ml_arena_init(&m->values, counted.n_bytes, err);
    if (status == ML_OK && trainable) status = ml_arena_init(&m->grads, counted.n_bytes, err);
    if (status != ML_OK) {
        ml_model_free(m);
        return status;
    }
    size_t name_bytes = counted.name_bytes;
    m->layer = ml_calloc((size_t)config->num_hidden_layers, sizeof *m->layer);
    m->weight = ml_calloc(counted.n_weight, sizeof *m->weight);
    /* The parameters' names lie behind their records. */
    m->param = ml_calloc(1, counted.n_param * sizeof *m->param + name_bytes);
    m->inv_freq = ml_calloc((size_t)config->rotary_dim / 2, sizeof *m->inv_freq);
    if (!m->layer || !m->weight || !m->param || !m->inv_freq) {
        ml_model_free(m);
        return ml_fail_memory(err, counted.n_weight * sizeof *m->weight, "a model's tables");
    }
    m->n_weight = counted.n_weight;
    m->n_param = counted.n_param;
    layout placed = { .m = m, .placing = true, .names = (char *)(m->param + counted.n_param) };
    walk(&placed);
    assert(placed.n_bytes == counted.n_bytes && placed.n_weight == counted.n_weight);
    make_rope(m);
    *out = m;
    return ML_OK;
}

void ml_model_free(ml_model *m)
{
    if (!m) return;
    ml_arena_free(&m->values);
    ml_arena_free(&m->grads);
    ml_free(m->layer);
    ml_free(m->weight);
    ml_free(m->param);
    ml_free(m->inv_freq);
    ml_free(m);
}

void ml_model_zero_grads(ml_model *m)
{
    if (m->grads.base) memset(m->grads.base, 0, m->grads.capacity);
}

ml_weight *ml_model_find_weight(const ml_model *m, const char *name)
{
    for (size_t i = 0; i < m->n_weight; i++) {
        if (!strcmp(m->weight[i].name, name)) return &m->weight[i];
    }
    return NULL;
}

/* ---- initialisation ---- */

typedef struct {
    ml_model *m;
    uint64_t seed;
} init_work;

static double init_std(const ml_config *c, const ml_weight *w)
{
    double fan_in = (double)w->dim[1];
    switch ((ml_init_kind)c->init) {
    case ML_INIT_TRUNCATED: return sqrt(0.1 / fan_in);
    case ML_INIT_HE:
        if (w->kind != ML_PARAM_EMBEDDING && w->kind != ML_PARAM_ROUTER) return sqrt(2.0 / fan_in);
        break;
    case ML_INIT_NORMAL: break;
    }
    return c->initializer_range;
}

static void init_weight(const ml_config *c, ml_weight *w, ml_rng rng)
{
    int64_t n = ml_weight_count(w);
    float *x = w->data;
    if (w->n_dim == 1) {
        float value = w->kind == ML_PARAM_NORM ? 1.0f : 0.0f;
        for (int64_t i = 0; i < n; i++) x[i] = value;
        return;
    }
    double std = init_std(c, w);
    for (int64_t i = 0; i < n; i++) {
        double z = ml_rng_normal(&rng);
        while (c->init == ML_INIT_TRUNCATED && fabs(z) > 2) z = ml_rng_normal(&rng);
        x[i] = (float)(std * z);
    }
}

static void init_weights(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const init_work *work = arg;
    /* One random stream per tensor: the values depend on the seed and the tensor's place in the list alone. */
    for (int64_t i = begin; i < end; i++) {
        init_weight(&work->m->config, &work->m->weight[i], ml_rng_make(work->seed, (uint64_t)i + 1));
    }
}

void ml_model_init(ml_model *m, uint64_t seed)
{
    assert(m->dtype == ML_F32);
    init_work work = { m, seed };
    ml_parallel_for((int64_t)m->n_weight, 1, init_weights, &work);
}
