#include "ops/case.h"

#include <math.h>
#include <stdlib.h>

typedef struct {
    int64_t n_token, d, n_vocab;
    bool bias;
    int every_ignored; /* tokens t % every_ignored == 1 have no target; 0: all have one */
    double std;        /* of x; large: forward only */
    bool fast;         /* the products for inference */
    ml_dtype w_dtype;  /* other than f32: not trained, and in fast mode forward only */
} variant;

static const variant variants[] = {
    { 9, 12, 37, false, 0, 1, false, ML_F32 },
    { 13, 7, 50, true, 3, 1, false, ML_F32 },
    { 6, 4, 2603, true, 4, 1, false, ML_F32 }, /* many tiles of rows */
    { 530, 3, 11, true, 5, 1, false, ML_F32 }, /* of tokens */
    { 5, 300, 19, false, 0, 0.1, false, ML_F32 },
    { 4, 3, 1, true, 0, 1, false, ML_F32 },
    { 3, 5, 8, true, 1, 1, false, ML_F32 },
    { 0, 5, 8, true, 0, 1, false, ML_F32 },
    { 20, 6, 700, true, 0, 100, false, ML_F32 }, /* logits far beyond the range of exp */
    { 13, 40, 600, true, 4, 1, .fast = true },
    { 7, 40, 30, true, 4, 1, .fast = true, .w_dtype = ML_BF16 },
    { 7, 40, 530, false, 0, 1, .w_dtype = ML_F16 },
    { 6, 300, 2603, true, 4, 0.1, .w_dtype = ML_BF16 }, /* several blocks of logits, and of columns */
};

static void make(test_case *c, ml_rng *rng)
{
    const variant *v = &variants[c->variant];
    test_real(c, 0, 2, (int64_t[]){ v->n_token, v->d }, v->std, rng);
    test_real(c, 1, 2, (int64_t[]){ v->n_vocab, v->d }, 1, rng);
    if (v->bias) test_real(c, 2, 1, &v->n_vocab, 1, rng);
    for (int i = 0; i < 3; i++) c->in[i].constant = v->std > 1 || (v->w_dtype != ML_F32 && (v->fast || i == 1));
    for (int64_t i = 0; v->w_dtype != ML_F32 && i < v->n_vocab * v->d; i++) {
        c->in[1].real[i] = (double)ml_rng_below(rng, 17) / 8 - 1; /* exact in every type */
    }
    int32_t *target = calloc((size_t)v->n_token + 1, sizeof *target);
    for (int64_t t = 0; t < v->n_token; t++) {
        bool ignored = v->every_ignored && t % v->every_ignored == 1 % v->every_ignored;
        target[t] = ignored ? -1 : (int32_t)ml_rng_below(rng, (uint64_t)v->n_vocab);
    }
    if (v->n_token > 2 && !v->every_ignored) target[2] = (int32_t)v->n_vocab - 1;
    test_whole(c, 3, 1, &v->n_token, target);
    free(target);
    if (v->fast && v->w_dtype == ML_BF16) c->forward_tolerance = TEST_ROUNDED;
    c->out_count[0] = v->n_token;
}

static void build(ml_ctx *ctx, test_case *c, ml_tensor *const *in, ml_tensor **out)
{
    const variant *v = &variants[c->variant];
    if (v->fast) ctx->mode = ML_MODE_FAST;
    ml_tensor *w = in[1];
    if (v->w_dtype != ML_F32) w = test_convert(ctx, in[1], v->w_dtype);
    out[0] = ml_logprob(ctx, in[0], w, in[2], in[3]);
}

static double logit_of(const test_case *c, int64_t t, int64_t v)
{
    int64_t d = c->in[0].dim[1];
    double sum = c->in[2].n_dim ? c->in[2].real[v] : 0;
    for (int64_t j = 0; j < d; j++) sum += c->in[0].real[t * d + j] * c->in[1].real[v * d + j];
    return sum;
}

static void reference(const test_case *c, double *const *out)
{
    int64_t n_vocab = c->in[1].dim[0];
    for (int64_t t = 0; t < c->in[0].dim[0]; t++) {
        out[0][t] = 0;
        if (c->in[3].whole[t] < 0) continue;
        double target = logit_of(c, t, c->in[3].whole[t]), sum = 0, max = -INFINITY;
        for (int64_t v = 0; v < n_vocab; v++) {
            double logit = logit_of(c, t, v);
            if (logit > max) {
                sum *= exp(max - logit);
                max = logit;
            }
            sum += exp(logit - max);
        }
        out[0][t] = target - max - log(sum);
    }
}

const test_op test_op_logprob = {
    .n_variant = sizeof variants / sizeof *variants, .make = make, .build = build, .reference = reference
};
