#include "ops/case.h"

static void make(test_case *c, ml_rng *rng)
{
    enum { N_TOKEN = 90 };
    const int64_t tables[][2] = { { 11, 5 }, { 7, 70 }, { 4, 3 } };
    int64_t n_token = c->variant == 2 ? 0 : N_TOKEN;
    /* Fewer rows than tokens: most rows are picked several times.  Row 0 never is. */
    int32_t id[N_TOKEN];
    for (int i = 0; i < N_TOKEN; i++) id[i] = 1 + (int32_t)ml_rng_below(rng, (uint64_t)tables[c->variant][0] - 1);
    test_real(c, 0, 2, tables[c->variant], 1, rng);
    test_whole(c, 1, 1, &n_token, id);
    c->out_count[0] = n_token * tables[c->variant][1];
}

static void build(ml_ctx *ctx, test_case *c, ml_tensor *const *in, ml_tensor **out)
{
    (void)c;
    out[0] = ml_embedding(ctx, in[0], in[1]);
}

static void reference(const test_case *c, double *const *out)
{
    int64_t d = c->in[0].dim[1];
    for (int64_t i = 0; i < c->out_count[0]; i++) out[0][i] = c->in[0].real[c->in[1].whole[i / d] * d + i % d];
}

const test_op test_op_embedding = { .n_variant = 3, .make = make, .build = build, .reference = reference };
