#include "ops/case.h"

#include "ops/cpu/dropout.h"

#include <math.h>
#include <stdlib.h>

enum { MARGIN = 3 }; /* columns before and after the view of y */

typedef struct {
    int64_t tokens, n, k, r;
    bool some; /* only every third token has the term */
    float scale, dropout;
} shape;

static const shape shapes[] = {
    { 5, 7, 9, 2, false, 2, 0 },       { 70, 33, 300, 8, false, 0.5f, 0 }, { 33, 12, 20, 1, true, 1, 0 },
    { 40, 9, 600, 4, false, 2, 0.3f }, { 31, 9, 16, 4, true, 2, 0.5f },    { 0, 4, 6, 2, false, 1, 0.1f },
};

static void make(test_case *c, ml_rng *rng)
{
    const shape *s = &shapes[c->variant];
    c->param.lora = (ml_lora_param){ s->scale, s->dropout, 77 };
    test_real(c, 0, 2, (int64_t[]){ s->tokens, s->n + 2 * MARGIN }, 1, rng);
    test_real(c, 1, 2, (int64_t[]){ s->tokens, s->k }, 1, rng);
    test_real(c, 2, 2, (int64_t[]){ s->r, s->k }, 1, rng);
    test_real(c, 3, 2, (int64_t[]){ s->n, s->r }, 1, rng);
    if (s->some) {
        int64_t n = 0;
        int32_t row[128];
        for (int32_t t = 1; t < s->tokens; t += 3) row[n++] = t;
        test_whole(c, 4, 1, &n, row);
    }
    c->out_count[0] = s->tokens * s->n;
}

static void build(ml_ctx *ctx, test_case *c, ml_tensor *const *in, ml_tensor **out)
{
    const shape *s = &shapes[c->variant];
    ml_tensor *y = ml_tensor_cols(ctx, in[0], MARGIN, s->n);
    out[0] = ml_lora(ctx, y, in[1], in[2], in[3], in[4], &c->param.lora);
}

static void reference(const test_case *c, double *const *out)
{
    const shape *s = &shapes[c->variant];
    float ones[1024], mask[1024];
    for (int64_t j = 0; j < s->k; j++) ones[j] = 1;
    for (int64_t t = 0; t < s->tokens; t++) {
        double h[16] = { 0 };
        /* Which elements stay is the operator's choice; what that makes of them is checked. */
        ml_dropout_row(s->dropout, c->param.lora.seed, t, 0, s->k, ones, false, mask);
        for (int64_t i = 0; i < s->r; i++) {
            for (int64_t j = 0; j < s->k; j++) {
                double x = mask[j] != 0 ? c->in[1].real[t * s->k + j] / (double)(1 - s->dropout) : 0;
                h[i] += c->in[2].real[i * s->k + j] * x;
            }
        }
        for (int64_t i = 0; i < s->n; i++) {
            double sum = 0;
            for (int64_t j = 0; j < s->r; j++) sum += c->in[3].real[i * s->r + j] * h[j];
            bool has = !s->some || t % 3 == 1;
            out[0][t * s->n + i] =
                c->in[0].real[t * (s->n + 2 * MARGIN) + MARGIN + i] + (has ? (double)s->scale * sum : 0);
        }
    }
}

const test_op test_op_lora = {
    .n_variant = sizeof shapes / sizeof shapes[0], .make = make, .build = build, .reference = reference
};
