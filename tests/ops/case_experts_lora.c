#include "ops/case.h"

#include "ops/cpu/dropout.h"

#include <math.h>
#include <stdlib.h>

/* Places among the inputs of the terms; their magnitudes and norms lie 6 behind. */
enum { GATE = 6, UP = 8, DOWN = 10, MAGNITUDE = 6, NORM = 7 };

typedef struct {
    int64_t n_token, d, f, n_expert, top_k, r;
    bool gate, up, down; /* which have a term; no `up` matrix where it has none and one_matrix */
    bool one_matrix, fast;
    float dropout;
    ml_dtype w_dtype; /* of the experts' own weights, which are then not trained */
    bool scales;      /* the terms there are have magnitudes */
} variant;

static const variant variants[] = {
    { 24, 10, 7, 4, 2, 3, true, true, true, .w_dtype = ML_F32 },
    { 150, 6, 9, 3, 2, 2, true, false, true, .w_dtype = ML_F32 }, /* several tiles of rows in an expert */
    { 20, 9, 13, 6, 2, 1, true, false, true, .one_matrix = true, .w_dtype = ML_F32 },
    { 10, 300, 20, 5, 2, 4, true, true, true, .w_dtype = ML_BF16 },
    { 40, 10, 70, 3, 1, 2, false, false, true, .w_dtype = ML_BF16 },
    { 24, 10, 7, 4, 2, 3, true, true, true, .dropout = 0.3f, .w_dtype = ML_F32 },
    { 90, 20, 33, 3, 2, 2, true, true, true, .dropout = 0.5f, .w_dtype = ML_BF16 },
    { 24, 40, 130, 4, 2, 8, true, true, true, .fast = true, .w_dtype = ML_BF16 },
    { 0, 8, 4, 3, 2, 2, true, true, true, .w_dtype = ML_F32 },
    { 24, 10, 7, 4, 2, 3, true, true, true, .w_dtype = ML_F32, .scales = true },
    { 150, 6, 9, 3, 2, 2, true, false, true, .w_dtype = ML_F32, .scales = true },
    { 10, 5, 270, 3, 2, 2, false, true, false, .w_dtype = ML_F32, .scales = true }, /* rows of several pieces */
    { 20, 9, 13, 6, 2, 1, true, false, true, .one_matrix = true, .w_dtype = ML_F32, .scales = true },
    { 40, 30, 33, 3, 2, 2, true, true, true, .dropout = 0.5f, .w_dtype = ML_BF16, .scales = true },
    { 24, 40, 130, 4, 2, 8, true, true, true, .fast = true, .w_dtype = ML_BF16, .scales = true },
    { 0, 8, 4, 3, 2, 2, true, true, true, .w_dtype = ML_F32, .scales = true },
};

static const variant *variant_of(const test_case *c)
{
    return &variants[c->variant];
}

static void make_matrix(test_case *c, int i, int64_t rows, int64_t cols, ml_rng *rng)
{
    const variant *v = variant_of(c);
    test_real(c, i, 3, (int64_t[]){ v->n_expert, rows, cols }, 1 / sqrt((double)cols), rng);
    if (v->w_dtype == ML_F32) return;
    c->in[i].constant = true;
    for (int64_t j = 0; j < v->n_expert * rows * cols; j++) {
        c->in[i].real[j] = ((double)ml_rng_below(rng, 17) / 8 - 1) / 8; /* exact in every type */
    }
}

static void make_term(test_case *c, int slot, bool has, int64_t n_out, int64_t n_in, ml_rng *rng)
{
    const variant *v = variant_of(c);
    if (!has) return;
    test_real(c, slot, 3, (int64_t[]){ v->n_expert, v->r, n_in }, 1 / sqrt((double)n_in), rng);
    test_real(c, slot + 1, 3, (int64_t[]){ v->n_expert, n_out, v->r }, 0.5, rng);
    if (!v->scales) return;
    test_real(c, slot + MAGNITUDE, 2, (int64_t[]){ v->n_expert, n_out }, 1, rng);
    test_real(c, slot + NORM, 2, (int64_t[]){ v->n_expert, n_out }, 1, rng);
    test_input *norm = &c->in[slot + NORM];
    norm->constant = true;
    for (int64_t j = 0; j < v->n_expert * n_out; j++) norm->real[j] = fabs(norm->real[j]) + 0.5;
    norm->real[0] = 0; /* a row that is left as it is */
}

static void make(test_case *c, ml_rng *rng)
{
    const variant *v = variant_of(c);
    int64_t d = v->d, f = v->f;
    c->param.experts_lora = (ml_experts_lora_param){ { ML_ACT_SILU }, 0.5f, v->dropout, 99 };
    int32_t *id = calloc((size_t)(v->n_token * v->top_k) + 1, sizeof *id);
    for (int64_t t = 0; t < v->n_token; t++) {
        uint64_t n = (uint64_t)v->n_expert - 1, first = ml_rng_below(rng, n); /* none takes the last */
        for (int64_t k = 0; k < v->top_k; k++) {
            id[t * v->top_k + k] = t % 7 == 3 ? -1 : (int32_t)((first + (uint64_t)k) % n);
        }
    }
    test_real(c, 0, 2, (int64_t[]){ v->n_token, d }, 1, rng);
    test_whole(c, 1, 2, (int64_t[]){ v->n_token, v->top_k }, id);
    free(id);
    test_real(c, 2, 2, (int64_t[]){ v->n_token, v->top_k }, 0.5, rng);
    make_matrix(c, 3, f, d, rng);
    if (!v->one_matrix) make_matrix(c, 4, f, d, rng);
    make_matrix(c, 5, d, f, rng);
    make_term(c, GATE, v->gate, f, d, rng);
    make_term(c, UP, v->up, f, d, rng);
    make_term(c, DOWN, v->down, d, f, rng);
    for (int i = 0; i < ML_OP_MAX_IN && v->fast; i++) c->in[i].constant = true;
    if (v->fast && v->w_dtype == ML_BF16) c->forward_tolerance = TEST_ROUNDED;
    c->out_count[0] = v->n_token * d;
}

static ml_tensor *as_dtype(ml_ctx *ctx, ml_tensor *w, ml_dtype dtype)
{
    return !w || dtype == ML_F32 ? w : test_convert(ctx, w, dtype);
}

static void build(ml_ctx *ctx, test_case *c, ml_tensor *const *in, ml_tensor **out)
{
    const variant *v = variant_of(c);
    if (v->fast) ctx->mode = ML_MODE_FAST;
    ml_tensor *w[3];
    for (int i = 0; i < 3; i++) w[i] = as_dtype(ctx, in[3 + i], v->w_dtype);
    ml_experts_terms terms = { in[6],  in[7],  in[8],  in[9],  in[10], in[11],
                               in[12], in[13], in[14], in[15], in[16], in[17] };
    out[0] = ml_experts_lora(ctx, in[0], in[1], in[2], w[0], w[1], w[2], &terms, &c->param.experts_lora);
}

/* out = m / norm * (w + scale * b a) x, of which the term sees x with elements dropped. */
static void multiply(const test_case *c, int w, int slot, int64_t e, int64_t flat, int64_t n_out, int64_t n_in,
                     const double *x, double *out)
{
    const variant *v = variant_of(c);
    double h[16] = { 0 }, keep = 1 / (1 - (double)v->dropout);
    float ones[512], mask[512];
    bool has = c->in[slot].n_dim > 0;
    for (int64_t j = 0; j < n_in; j++) ones[j] = 1;
    ml_dropout_row(v->dropout, ml_rng_mix(c->param.experts_lora.seed + (uint64_t)slot), flat, 0, n_in, ones, false,
                   mask);
    for (int64_t i = 0; i < v->r && has; i++) {
        for (int64_t j = 0; j < n_in; j++) {
            h[i] += c->in[slot].real[(e * v->r + i) * n_in + j] * (mask[j] != 0 ? x[j] * keep : 0);
        }
    }
    for (int64_t i = 0; i < n_out; i++) {
        out[i] = 0;
        for (int64_t j = 0; j < n_in; j++) out[i] += c->in[w].real[(e * n_out + i) * n_in + j] * x[j];
        for (int64_t j = 0; j < v->r && has; j++) {
            out[i] += (double)c->param.experts_lora.scale * c->in[slot + 1].real[(e * n_out + i) * v->r + j] * h[j];
        }
        double norm = has && v->scales ? c->in[slot + NORM].real[e * n_out + i] : 0;
        if (norm > 0) out[i] *= c->in[slot + MAGNITUDE].real[e * n_out + i] / norm;
    }
}

static void reference(const test_case *c, double *const *out)
{
    const variant *v = variant_of(c);
    int64_t d = v->d, f = v->f;
    double gate[512], up[512], y[512];
    for (int64_t i = 0; i < c->out_count[0]; i++) out[0][i] = 0;
    for (int64_t flat = 0; flat < v->n_token * v->top_k; flat++) {
        int32_t e = c->in[1].whole[flat];
        const double *x = c->in[0].real + flat / v->top_k * d;
        if (e < 0) continue;
        multiply(c, 3, GATE, e, flat, f, d, x, gate);
        for (int64_t i = 0; i < f; i++) gate[i] = c->in[2].real[flat] * gate[i] / (1 + exp(-gate[i]));
        if (!v->one_matrix) multiply(c, 4, UP, e, flat, f, d, x, up);
        for (int64_t i = 0; i < f && !v->one_matrix; i++) gate[i] *= up[i];
        multiply(c, 5, DOWN, e, flat, d, f, gate, y);
        for (int64_t i = 0; i < d; i++) out[0][flat / v->top_k * d + i] += y[i];
    }
}

const test_op test_op_experts_lora = {
    .n_variant = sizeof variants / sizeof *variants, .make = make, .build = build, .reference = reference
};
