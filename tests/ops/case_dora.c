#include "ops/case.h"

#include <math.h>

typedef struct {
    int64_t tokens, n;
    bool magnitudes, bias, some;
    int64_t zero; /* a column of norm 0; -1: none */
} shape;

static const shape shapes[] = {
    { 5, 7, true, false, false, -1 }, { 40, 150, true, true, false, 3 }, { 33, 12, true, true, true, -1 },
    { 20, 9, false, true, true, -1 }, { 0, 4, true, true, false, -1 },
};

static void make(test_case *c, ml_rng *rng)
{
    const shape *s = &shapes[c->variant];
    test_real(c, 0, 2, (int64_t[]){ s->tokens, s->n }, 1, rng);
    if (s->magnitudes) {
        test_real(c, 1, 1, &s->n, 1, rng);
        test_real(c, 2, 1, &s->n, 1, rng);
        c->in[2].constant = true;
        for (int64_t j = 0; j < s->n; j++) c->in[2].real[j] = fabs(c->in[2].real[j]) + 0.25;
        if (s->zero >= 0) c->in[2].real[s->zero] = 0;
    }
    if (s->bias) test_real(c, 3, 1, &s->n, 1, rng);
    c->in[3].constant = true;
    if (s->some) {
        int64_t n = 0;
        int32_t row[128];
        for (int32_t t = 0; t < s->tokens; t += 2) row[n++] = t;
        test_whole(c, 4, 1, &n, row);
    }
    c->out_count[0] = s->tokens * s->n;
}

static void build(ml_ctx *ctx, test_case *c, ml_tensor *const *in, ml_tensor **out)
{
    (void)c;
    out[0] = ml_dora(ctx, in[0], in[1], in[2], in[3], in[4]);
}

static void reference(const test_case *c, double *const *out)
{
    const shape *s = &shapes[c->variant];
    for (int64_t i = 0; i < s->tokens * s->n; i++) {
        int64_t t = i / s->n, j = i % s->n;
        bool has = !s->some || t % 2 == 0;
        double g = s->magnitudes && c->in[2].real[j] > 0 ? c->in[1].real[j] / c->in[2].real[j] : 1;
        out[0][i] = c->in[0].real[i];
        if (has) out[0][i] = g * out[0][i] + (s->bias ? c->in[3].real[j] : 0);
    }
}

const test_op test_op_dora = {
    .n_variant = sizeof shapes / sizeof shapes[0], .make = make, .build = build, .reference = reference
};
