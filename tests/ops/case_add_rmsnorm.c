#include "ops/case.h"

#include <math.h>

typedef enum { BOTH, ONLY_Y, ONLY_SUM } wanted; /* outputs that the loss depends on */

/* a and b are d wide from column `first` of tensors that are `width` wide. */
static const struct {
    int64_t n_token, width, first, d;
    float eps;
    double std;
    wanted wanted;
} variants[] = {
    { 5, 7, 0, 7, 1e-5f, 1, BOTH },        { 100, 192, 0, 192, 1e-6f, 1, BOTH }, /* several blocks of rows in the gain's
                                                                                    gradient */
    { 33, 90, 6, 72, 1e-6f, 1, BOTH },   /* column views: b's gradient lies otherwise than the sum's */
    { 9, 64, 0, 64, 1e-8f, 0.02, BOTH }, /* mean(x^2) near 8e-4: this eps moves y by 6 times the tolerance */
    { 0, 8, 0, 8, 1e-6f, 1, BOTH },        { 20, 260, 0, 260, 1e-6f, 1, BOTH }, /* these three: several warps, several
                                                                                   pieces and many threads on a GPU */
    { 9, 1100, 0, 1100, 1e-6f, 1, BOTH },  { 2, 9001, 0, 9001, 1e-6f, 1, BOTH }, { 12, 48, 0, 48, 1e-6f, 1, ONLY_Y },
    { 12, 48, 0, 48, 1e-6f, 1, ONLY_SUM },
};

static void make(test_case *c, ml_rng *rng)
{
    int64_t n = variants[c->variant].n_token, d = variants[c->variant].d;
    for (int i = 0; i < 2; i++) {
        test_real(c, i, 2, (int64_t[]){ n, variants[c->variant].width }, variants[c->variant].std, rng);
    }
    test_real(c, 2, 1, &d, 1, rng);
    c->param.rmsnorm.eps = variants[c->variant].eps;
    if (variants[c->variant].wanted != ONLY_Y) c->out_count[0] = n * d;
    if (variants[c->variant].wanted != ONLY_SUM) c->out_count[1] = n * d;
}

static ml_tensor *view(ml_ctx *ctx, const test_case *c, ml_tensor *t)
{
    int64_t d = variants[c->variant].d;
    return t->dim[1] == d ? t : ml_tensor_cols(ctx, t, variants[c->variant].first, d);
}

static void build(ml_ctx *ctx, test_case *c, ml_tensor *const *in, ml_tensor **out)
{
    ml_normed_sum s;
    ml_add_rmsnorm(ctx, view(ctx, c, in[0]), view(ctx, c, in[1]), in[2], c->param.rmsnorm.eps, &s);
    out[0] = s.sum;
    out[1] = s.y;
}

static void build_twin(ml_ctx *ctx, test_case *c, ml_tensor *const *in, ml_tensor **out)
{
    out[0] = ml_add(ctx, view(ctx, c, in[0]), view(ctx, c, in[1]), 1);
    out[1] = ml_rmsnorm(ctx, out[0], in[2], c->param.rmsnorm.eps);
}

static void reference(const test_case *c, double *const *out)
{
    int64_t width = variants[c->variant].width, d = variants[c->variant].d;
    for (int64_t t = 0; t < variants[c->variant].n_token; t++) {
        const double *a = c->in[0].real + t * width + variants[c->variant].first;
        const double *b = c->in[1].real + t * width + variants[c->variant].first;
        double squares = 0;
        for (int64_t i = 0; i < d; i++) squares += (a[i] + b[i]) * (a[i] + b[i]);
        double root = sqrt(squares / (double)d + (double)c->param.rmsnorm.eps);
        for (int64_t i = 0; i < d; i++) {
            if (c->out_count[0]) out[0][t * d + i] = a[i] + b[i];
            if (c->out_count[1]) out[1][t * d + i] = (a[i] + b[i]) / root * c->in[2].real[i];
        }
    }
}

const test_op test_op_add_rmsnorm = { .n_variant = sizeof variants / sizeof variants[0],
                                      .make = make,
                                      .build = build,
                                      .build_twin = build_twin,
                                      .reference = reference };
