#include "quant/calibrate.h"

#include "base/log.h"
#include "base/thread.h"

#include <string.h>

/* Weights that meet the same input have one slot. */
typedef enum { ATTN_IN, ATTN_OUT, Q_B, KV_B, GATE_UP, DOWN, EXPERT_IN, EXPERT_DOWN, HEAD, N_KIND } slot_kind;

typedef struct {
    const ml_tensor *w; /* the one that the operators get */
    int64_t n_matrix, k;
    double *sum;    /* [n_matrix, k]; NULL until something is seen */
    int64_t *count; /* [n_matrix] */
} slot;

typedef struct {
    ml_model *m;
    slot *slot; /* [num_hidden_layers, N_KIND] */
    size_t n_slot;
    ml_ctx ctx;
    ml_observer observer;
    ml_status status;
    ml_error *err;
    size_t last; /* slot seen last: the next is near */
} work;

typedef struct {
    slot *s;
    int64_t matrix;
    const float *x;
    const int32_t *row;
    int64_t n_row, stride;
} sum_work;

/* Columns [begin, end), over all rows in order. */
static void add_squares(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const sum_work *p = arg;
    double *sum = p->s->sum + p->matrix * p->s->k;
    for (int64_t i = 0; i < p->n_row; i++) {
        const float *x = p->x + (p->row ? p->row[i] : i) * p->stride;
        for (int64_t j = begin; j < end; j++) sum[j] += (double)x[j] * (double)x[j];
    }
}

static slot *find_slot(work *c, const ml_tensor *w)
{
    for (size_t i = 0; i < c->n_slot; i++) {
        slot *s = &c->slot[(c->last + i) % c->n_slot];
        if (s->w != w) continue;
        c->last = (size_t)(s - c->slot);
        return s;
    }
    return NULL;
}

static void see(void *arg, const ml_tensor *w, int64_t matrix, const float *x, const int32_t *row, int64_t n_row,
                int64_t k, int64_t stride)
{
    work *c = arg;
    slot *s = find_slot(c, w);
    if (!s || c->status != ML_OK) return;
    if (!s->sum) {
        s->k = k;
        s->sum = ml_calloc((size_t)(s->n_matrix * k), sizeof *s->sum);
        s->count = ml_calloc((size_t)s->n_matrix, sizeof *s->count);
    }
    if (!s->sum || !s->count) {
        c->status = ml_fail_memory(c->err, (size_t)(s->n_matrix * k) * sizeof *s->sum, "sums of squares");
        return;
    }
    sum_work p = { s, matrix, x, row, n_row, stride };
    s->count[matrix] += n_row;
    ml_parallel_for(k, 64, add_squares, &p);
}

static void name_slots(work *c)
{
    const ml_config *config = &c->m->config;
    for (int64_t i = 0; i < config->num_hidden_layers; i++) {
        const ml_layer *y = &c->m->layer[i];
        const ml_tensor *w[N_KIND] = {
            [ATTN_IN] = &y->attn_in,
            [ATTN_OUT] = &y->attn_out,
            [Q_B] = &y->q_b,
            [KV_B] = &y->kv_b,
            [GATE_UP] = &y->gate_up,
            [DOWN] = &y->down,
            [EXPERT_IN] = &y->expert_gate,
            [EXPERT_DOWN] = &y->expert_down,
            [HEAD] = i == 0 ? &c->m->head : NULL,
        };
        for (int k = 0; k < N_KIND; k++) {
            bool experts = k == EXPERT_IN || k == EXPERT_DOWN;
            c->slot[i * N_KIND + k] = (slot){ .w = w[k], .n_matrix = experts ? config->n_routed_experts : 1 };
        }
    }
}

/* ---- reading ---- */

static ml_status read_window(work *c, const ml_calibration *x, int64_t first, int64_t n_text)
{
    ml_ctx *ctx = &c->ctx;
    ml_ctx_reset(ctx);
    ctx->mode = ML_MODE_FAST;
    int64_t n = n_text + (x->bos >= 0), two = 2;
    ml_model_input in = { .id = ml_tensor_new_1d(ctx, ML_I32, n),
                          .pos = ml_tensor_new_1d(ctx, ML_I32, n),
                          .seq = ml_tensor_new_1d(ctx, ML_I32, two) };
    if (in.id && in.pos && in.seq) {
        int32_t *id = ml_i32(in.id);
        if (x->bos >= 0) *id++ = x->bos;
        memcpy(id, x->id + first, (size_t)n_text * sizeof *id);
        for (int64_t t = 0; t < n; t++) ml_i32(in.pos)[t] = (int32_t)t;
        ml_i32(in.seq)[0] = 0;
        ml_i32(in.seq)[1] = (int32_t)n;
        ml_tensor *hidden = ml_model_forward(ctx, c->m, &in); // [n, d]
        /* The head itself need not be multiplied. */
        if (hidden) see(c, &c->m->head, 0, ml_f32(hidden), NULL, n, hidden->dim[1], hidden->stride);
    }
    ML_TRY(ml_ctx_status(ctx, c->err));
    return c->status;
}

/* Activations of one layer and one window, with room to spare: address space. */
static size_t activation_bytes(const ml_config *c, int64_t window)
{
    int64_t width = 8 * c->hidden_size + 4 * c->intermediate_size +
                    4 * c->num_attention_heads * (ml_config_d_qk(c) + ml_config_d_v(c) + c->kv_lora_rank) +
                    16 * (c->num_experts_per_tok + c->n_shared_experts) * c->moe_intermediate_size +
                    8 * c->n_routed_experts;
    return (size_t)(c->num_hidden_layers * width * window + window * window) * sizeof(float) + ((size_t)256 << 20);
}

static ml_status read_text(work *c, const ml_calibration *x, ml_error *err)
{
    int64_t window = x->window - (x->bos >= 0);
    if (window < 1 || x->window > c->m->config.max_position_embeddings) {
        return ml_fail(err, ML_EINVAL, "windows of %lld tokens: expected at most %lld, the model's positions",
                       (long long)x->window, (long long)c->m->config.max_position_embeddings);
    }
    if (x->n_id < 1) return ml_fail(err, ML_EINVAL, "the text to calibrate with has no tokens");
    ML_TRY(ml_ctx_init(&c->ctx, activation_bytes(&c->m->config, x->window), 0, err));
    c->ctx.observer = &c->observer;
    ml_status status = ML_OK;
    for (int64_t first = 0; first < x->n_id && status == ML_OK; first += window) {
        int64_t n = x->n_id - first < window ? x->n_id - first : window;
        if (ml_stop_requested()) return ml_fail(err, ML_ECANCEL, "stopped");
        status = read_window(c, x, first, n);
        if (x->progress) x->progress(x->arg, first + n, x->n_id);
    }
    return status;
}

/* ---- the result ---- */

/* The kind whose input a weight of ours has; N_KIND for none. */
static slot_kind kind_of(const ml_gguf_entry *e, bool tied)
{
    static const struct {
        const char *end;
        slot_kind kind;
    } kinds[] = {
        { "experts.*.gate_proj.weight", EXPERT_IN },
        { "experts.*.up_proj.weight", EXPERT_IN },
        { "experts.*.down_proj.weight", EXPERT_DOWN },
        { ".gate_proj.weight", GATE_UP },
        { ".up_proj.weight", GATE_UP },
        { ".down_proj.weight", DOWN },
        { "self_attn.q_proj.weight", ATTN_IN },
        { "self_attn.k_proj.weight", ATTN_IN },
        { "self_attn.v_proj.weight", ATTN_IN },
        { "self_attn.q_a_proj.weight", ATTN_IN },
        { "self_attn.kv_a_proj_with_mqa.weight", ATTN_IN },
        { "self_attn.q_b_proj.weight", Q_B },
        { "self_attn.v_b_proj.weight", KV_B },
        { "self_attn.o_proj.weight", ATTN_OUT },
        { "lm_head.weight", HEAD },
    };
    size_t n = strlen(e->ours);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        size_t length = strlen(kinds[i].end);
        if (length <= n && !strcmp(e->ours + n - length, kinds[i].end)) return kinds[i].kind;
    }
    return tied && !strcmp(e->ours, "model.embed_tokens.weight") ? HEAD : N_KIND;
}

static ml_status put_entry(const slot *s, const ml_gguf_entry *e, ml_importance *out, ml_error *err)
{
    ml_importance_entry *x;
    if (!s->sum || s->k != e->cols) return ML_OK;
    ML_TRY(ml_importance_add(out, e->name, s->n_matrix, s->k, &x, err));
    for (int64_t i = 0; i < s->n_matrix; i++) {
        x->count[i] = (float)s->count[i];
        for (int64_t j = i * s->k; j < (i + 1) * s->k; j++) x->sum[j] = (float)s->sum[j];
    }
    ml_importance_finish(x);
    return ML_OK;
}

static ml_status put_all(const work *c, const ml_gguf_layout *layout, ml_importance *out, ml_error *err)
{
    for (size_t i = 0; i < layout->n; i++) {
        const ml_gguf_entry *e = &layout->entry[i];
        slot_kind kind = kind_of(e, c->m->config.tie_word_embeddings);
        if (kind == N_KIND) continue;
        ML_TRY(put_entry(&c->slot[(e->layer < 0 ? 0 : e->layer) * N_KIND + kind], e, out, err));
    }
    return ML_OK;
}

ml_status ml_calibrate(ml_model *m, const ml_gguf_layout *layout, const ml_calibration *x, ml_importance *out,
                       ml_error *err)
{
    work c = { .m = m, .n_slot = (size_t)m->config.num_hidden_layers * N_KIND, .err = err };
    c.observer = (ml_observer){ see, &c };
    *out = (ml_importance){ .n_token = x->n_id };
    c.slot = ml_calloc(c.n_slot, sizeof *c.slot);
    if (!c.slot) return ml_fail_memory(err, c.n_slot * sizeof *c.slot, "calibration");
    name_slots(&c);
    ml_status status = read_text(&c, x, err);
    if (status == ML_OK) status = put_all(&c, layout, out, err);
    if (status != ML_OK) ml_importance_free(out);
    for (size_t i = 0; i < c.n_slot; i++) {
        ml_free(c.slot[i].sum);
        ml_free(c.slot[i].count);
    }
    ml_free(c.slot);
    ml_ctx_free(&c.ctx);
    return status;
}
