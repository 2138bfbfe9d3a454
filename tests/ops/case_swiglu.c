#include "ops/case.h"

#include <math.h>

/* Variant 1 reads columns 3 .. 3 + 2 f of a wider tensor. */
static int64_t first_column(const test_case *c)
{
    return c->variant == 1 ? 3 : 0;
}

static int64_t n_gate(const test_case *c)
{
    return (c->in[0].dim[1] - 2 * first_column(c)) / 2;
}

static void make(test_case *c, ml_rng *rng)
{
    const int64_t shapes[][2] = { { 5, 14 }, { 70, 2 * 37 + 6 }, { 0, 8 }, { 3, 64 } };
    const int64_t *shape = shapes[c->variant];
    /* The last variant reaches where e^-gate over- and underflows the sigmoid. */
    test_real(c, 0, 2, shape, c->variant == 3 ? 40 : 1.5, rng);
    c->out_count[0] = shape[0] * n_gate(c);
}

static void build(ml_ctx *ctx, test_case *c, ml_tensor *const *in, ml_tensor **out)
{
    ml_tensor *x = c->variant == 1 ? ml_tensor_cols(ctx, in[0], first_column(c), 2 * n_gate(c)) : in[0];
    out[0] = ml_swiglu(ctx, x);
}

static void reference(const test_case *c, double *const *out)
{
    int64_t f = n_gate(c), width = c->in[0].dim[1];
    for (int64_t t = 0; t < c->in[0].dim[0]; t++) {
        const double *gate = c->in[0].real + t * width + first_column(c), *up = gate + f;
        for (int64_t i = 0; i < f; i++) out[0][t * f + i] = gate[i] / (1 + exp(-gate[i])) * up[i];
    }
}

const test_op test_op_swiglu = { .n_variant = 4, .make = make, .build = build, .reference = reference };
