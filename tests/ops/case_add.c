#include "ops/case.h"

static void make(test_case *c, ml_rng *rng)
{
    const int64_t shapes[][2] = { { 5, 7 }, { 200, 33 }, { 0, 4 }, { 9, 64 } };
    const int64_t *shape = shapes[c->variant];
    test_real(c, 0, 2, shape, 1, rng);
    test_real(c, 1, 2, shape, 1, rng);
    c->param.add.scale = c->variant == 1 ? 1.0f : 0.25f;
    c->out_count[0] = shape[0] * shape[1];
}

static void build(ml_ctx *ctx, test_case *c, ml_tensor *const *in, ml_tensor **out)
{
    out[0] = ml_add(ctx, in[0], in[1], c->param.add.scale);
}

static void reference(const test_case *c, double *const *out)
{
    for (int64_t i = 0; i < c->out_count[0]; i++) {
        out[0][i] = c->in[0].real[i] + (double)c->param.add.scale * c->in[1].real[i];
    }
}

const test_op test_op_add = { .n_variant = 4, .make = make, .build = build, .reference = reference };
