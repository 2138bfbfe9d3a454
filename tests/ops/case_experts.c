#include "ops/case.h"
#include "support/support.h"

#include <math.h>
#include <stdlib.h>

typedef enum {
    ONE_MATRIX, /* no up */
    SEPARATE,   /* gate and up are tensors of their own */
    FUSED,      /* gate and up are views of in[3] [n_expert, 2 f, d] */
    STRIDED,    /* gate is the first half of in[3] [n_expert, 2 f, d]; up is separate */
} layout;

typedef enum { SPREAD, ONE_TAKES_ALL, DROPS } choice_kind;

typedef struct {
    int64_t n_token, d, f, n_expert, top_k;
    ml_activation activation;
    layout layout;
    choice_kind choice;
    bool fast;        /* the products for inference */
    ml_dtype w_dtype; /* other than f32: not trained, and in fast mode forward only */
} variant;

static const variant variants[] = {
    { 24, 10, 7, 4, 2, ML_ACT_SILU, FUSED, SPREAD, false, ML_F32 },
    { 24, 10, 7, 4, 2, ML_ACT_SILU, SEPARATE, SPREAD, false, ML_F32 },
    { 30, 9, 13, 6, 2, ML_ACT_RELU, ONE_MATRIX, DROPS, false, ML_F32 },
    { 17, 12, 9, 5, 1, ML_ACT_SILU, FUSED, ONE_TAKES_ALL, false, ML_F32 },
    { 21, 6, 20, 8, 3, ML_ACT_SILU, STRIDED, DROPS, false, ML_F32 },
    { 150, 12, 18, 3, 2, ML_ACT_SILU, FUSED, SPREAD, false, ML_F32 }, /* several tiles of rows in an expert */
    { 16, 5, 6, 4, 2, ML_ACT_RELU, SEPARATE, SPREAD, false, ML_F32 },
    { 16, 5, 33, 4, 2, ML_ACT_SILU, ONE_MATRIX, SPREAD, false, ML_F32 },
    { 0, 8, 4, 3, 2, ML_ACT_SILU, FUSED, SPREAD, false, ML_F32 },
    { 6, 8, 4, 3, 2, ML_ACT_RELU, ONE_MATRIX, SPREAD, false, ML_F32 },
    /* more experts than rows; k beyond a block of the product */
    { 1, 300, 40, 64, 6, ML_ACT_SILU, FUSED, SPREAD, false, ML_F32 },
    { 24, 10, 7, 4, 2, ML_ACT_SILU, FUSED, SPREAD, .fast = true },
    /* several parts of hidden columns, columns and rows */
    { 66, 33, 130, 3, 1, ML_ACT_RELU, ONE_MATRIX, ONE_TAKES_ALL, .fast = true, .w_dtype = ML_BF16 },
    { 20, 6, 7, 4, 2, ML_ACT_RELU, SEPARATE, DROPS, .fast = true },
    { 9, 10, 7, 4, 2, ML_ACT_SILU, FUSED, DROPS, .fast = true, .w_dtype = ML_BF16 },
    { 9, 40, 7, 4, 2, ML_ACT_SILU, SEPARATE, SPREAD, .w_dtype = ML_F16 },
    { 1, 40, 7, 4, 2, ML_ACT_RELU, ONE_MATRIX, SPREAD, .fast = true, .w_dtype = ML_BF16 },
    { 90, 300, 70, 3, 1, ML_ACT_SILU, FUSED, DROPS, .w_dtype = ML_BF16 },
    { 12, 9, 13, 6, 2, ML_ACT_RELU, ONE_MATRIX, DROPS, .w_dtype = ML_BF16 },
    { 0, 40, 7, 4, 2, ML_ACT_RELU, ONE_MATRIX, SPREAD, .fast = true },
    /* several slabs of columns, parts of hidden columns and tiles of rows on a GPU */
    { 7, 1040, 144, 3, 2, ML_ACT_SILU, FUSED, DROPS, false, ML_F32 },
    { 140, 16, 72, 4, 2, ML_ACT_SILU, SEPARATE, SPREAD, false, ML_F32 },
};

static const variant *variant_of(const test_case *c)
{
    return &variants[c->variant];
}

static void choose_experts(const variant *v, int32_t *id, ml_rng *rng)
{
    for (int64_t t = 0; t < v->n_token; t++) {
        /* Consecutive experts from a random one, so that a token has each at most once; none takes the last. */
        uint64_t n = (uint64_t)(v->n_expert > v->top_k ? v->n_expert - 1 : v->n_expert);
        uint64_t first = v->choice == ONE_TAKES_ALL ? 2 : ml_rng_below(rng, n);
        for (int64_t k = 0; k < v->top_k; k++) {
            bool dropped = v->choice == DROPS && (t % 7 == 3 || ml_rng_below(rng, 4) == 0);
            id[t * v->top_k + k] = dropped ? -1 : (int32_t)((first + (uint64_t)k) % n);
        }
    }
}

/* Row `i` of expert e's gate (or up) matrix. */
static const double *row_of(const test_case *c, bool up, int64_t e, int64_t i)
{
    const variant *v = variant_of(c);
    int64_t f = v->f, d = v->d;
    if (up && v->layout != FUSED) return c->in[4].real + (e * f + i) * d;
    bool wide = v->layout == FUSED || v->layout == STRIDED;
    return c->in[3].real + (e * (wide ? 2 * f : f) + (up ? f : 0) + i) * d;
}

static double dot(const double *a, const double *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* Smallest |gate x| over a token's experts: ReLU has a kink at 0, which no probe may cross. */
static double distance_from_kink(const test_case *c, int64_t t)
{
    const variant *v = variant_of(c);
    double smallest = INFINITY;
    for (int64_t k = 0; k < v->top_k; k++) {
        int32_t e = c->in[1].whole[t * v->top_k + k];
        for (int64_t i = 0; i < v->f && e >= 0; i++) {
            smallest = fmin(smallest, fabs(dot(row_of(c, false, e, i), c->in[0].real + t * v->d, v->d)));
        }
    }
    return smallest;
}

static void make(test_case *c, ml_rng *rng)
{
    const variant *v = variant_of(c);
    int64_t d = v->d, f = v->f, n = v->n_expert;
    bool wide = v->layout == FUSED || v->layout == STRIDED;
    c->param.experts.activation = v->activation;
    int32_t *id = calloc((size_t)(v->n_token * v->top_k) + 1, sizeof *id);
    choose_experts(v, id, rng);
    test_real(c, 0, 2, (int64_t[]){ v->n_token, d }, 1, rng);
    test_whole(c, 1, 2, (int64_t[]){ v->n_token, v->top_k }, id);
    free(id);
    test_real(c, 2, 2, (int64_t[]){ v->n_token, v->top_k }, 0.5, rng);
    test_real(c, 3, 3, (int64_t[]){ n, wide ? 2 * f : f, d }, 1 / sqrt((double)d), rng);
    if (v->layout == SEPARATE || v->layout == STRIDED) {
        test_real(c, 4, 3, (int64_t[]){ n, f, d }, 1 / sqrt((double)d), rng);
    }
    test_real(c, 5, 3, (int64_t[]){ n, d, f }, 1 / sqrt((double)f), rng);
    if (v->fast && v->w_dtype == ML_BF16) c->forward_tolerance = TEST_ROUNDED;
    c->out_count[0] = v->n_token * d;
    for (int i = 0; v->w_dtype != ML_F32 && i < 6; i++) {
        c->in[i].constant = v->fast || i >= 3;
        if (i < 3 || !c->in[i].n_dim) continue;
        /* Eighths in -1 .. 1: exact in every type. */
        int64_t count = c->in[i].dim[0] * c->in[i].dim[1] * c->in[i].dim[2];
        for (int64_t j = 0; j < count; j++) c->in[i].real[j] = (double)ml_rng_below(rng, 17) / 8 - 1;
    }
    for (int64_t t = 0; t < v->n_token && v->activation == ML_ACT_RELU; t++) {
        /* A probe of 2e-3 moves gate x by 2e-3 * max(|x|, |w|) < 1e-2, and so may rounding to bf16. */
        while (distance_from_kink(c, t) < 2e-2) {
            for (int64_t j = 0; j < d; j++) c->in[0].real[t * d + j] = (float)ml_rng_normal(rng);
        }
    }
}

/* Half of every expert's [2 f, d] matrix, as a strided tensor [n_expert, f, d]. */
static ml_tensor *half_of(ml_ctx *ctx, ml_tensor *w, bool second)
{
    int64_t n = w->dim[0], f = w->dim[1] / 2, d = w->dim[2];
    ml_tensor *flat = ml_tensor_reshape(ctx, w, 2, (int64_t[]){ n, 2 * f * d });
    ml_tensor *half = ml_tensor_cols(ctx, flat, second ? f * d : 0, f * d);
    half->n_dim = 3;
    half->dim[1] = f;
    half->dim[2] = d;
    return half;
}

static ml_tensor *as_dtype(ml_ctx *ctx, ml_tensor *w, ml_dtype dtype)
{
    return !w || dtype == ML_F32 ? w : test_convert(ctx, w, dtype);
}

static void build(ml_ctx *ctx, test_case *c, ml_tensor *const *in, ml_tensor **out)
{
    const variant *v = variant_of(c);
    if (v->fast) ctx->mode = ML_MODE_FAST;
    ml_tensor *gate = as_dtype(ctx, in[3], v->w_dtype), *up = as_dtype(ctx, in[4], v->w_dtype), *both = gate;
    if (v->layout == FUSED || v->layout == STRIDED) gate = half_of(ctx, both, false);
    if (v->layout == FUSED) up = half_of(ctx, both, true);
    ml_tensor *down = as_dtype(ctx, in[5], v->w_dtype);
    out[0] = ml_experts(ctx, in[0], in[1], in[2], gate, up, down, &c->param.experts);
}

static double activation_of(ml_activation activation, double x)
{
    return activation == ML_ACT_SILU ? x / (1 + exp(-x)) : fmax(x, 0);
}

static void reference(const test_case *c, double *const *out)
{
    const variant *v = variant_of(c);
    int64_t d = v->d, f = v->f;
    double hidden[256];
    for (int64_t i = 0; i < c->out_count[0]; i++) out[0][i] = 0;
    for (int64_t t = 0; t < v->n_token; t++) {
        const double *x = c->in[0].real + t * d;
        for (int64_t k = 0; k < v->top_k; k++) {
            int32_t e = c->in[1].whole[t * v->top_k + k];
            if (e < 0) continue;
            for (int64_t i = 0; i < f; i++) {
                hidden[i] = activation_of(v->activation, dot(row_of(c, false, e, i), x, d));
                if (v->layout != ONE_MATRIX) hidden[i] *= dot(row_of(c, true, e, i), x, d);
            }
            for (int64_t j = 0; j < d; j++) {
                out[0][t * d + j] += c->in[2].real[t * v->top_k + k] * dot(c->in[5].real + (e * d + j) * f, hidden, f);
            }
        }
    }
}

const test_op test_op_experts = {
    .n_variant = sizeof variants / sizeof *variants, .make = make, .build = build, .reference = reference
};
