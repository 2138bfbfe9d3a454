#include "ops/case.h"

#include <math.h>

enum { MAX_PAIR = 32, MAX_TOKEN = 70 };

static const struct {
    int64_t n_token, first, padding; /* columns before and after the heads in the tensor that x is a view of */
    ml_rope_param param;
    int32_t pos0;
} variants[] = {
    { 70, 0, 0, { .n_head = 3, .d_head = 24, .n_rot = 24, .interleaved = true, .magnitude = 1 }, 0 },
    { 40, 5, 2, { .n_head = 2, .d_head = 64, .n_rot = 64, .magnitude = 1 }, 0 },
    { 9,
      0,
      1,
      { .n_head = 2, .d_head = 30, .offset = 20, .n_rot = 10, .interleaved = true, .magnitude = 1.25f },
      8000 },
    { 9, 3, 0, { .n_head = 4, .d_head = 13, .offset = 4, .n_rot = 6, .magnitude = 0.75f }, 130000 },
    { 0, 0, 0, { .n_head = 2, .d_head = 8, .n_rot = 8, .magnitude = 1 }, 0 },
};

/* 10000^(-2i / n_rot), as every model of the family has it. */
static void fill_inv_freq(int64_t n_rot, float *inv_freq)
{
    for (int64_t i = 0; i < n_rot / 2; i++) inv_freq[i] = (float)pow(10000, -2.0 * (double)i / (double)n_rot);
}

static void make(test_case *c, ml_rng *rng)
{
    static float inv_freq[MAX_PAIR];
    ml_rope_param *p = &c->param.rope;
    *p = variants[c->variant].param;
    fill_inv_freq(p->n_rot, inv_freq);
    p->inv_freq = inv_freq;
    int64_t n = variants[c->variant].n_token;
    int64_t width = variants[c->variant].first + p->n_head * p->d_head + variants[c->variant].padding;
    test_real(c, 0, 2, (int64_t[]){ n, width }, 1, rng);
    int32_t pos[MAX_TOKEN];
    /* Two sequences in the batch: positions restart. */
    for (int64_t t = 0; t < n; t++) pos[t] = variants[c->variant].pos0 + (int32_t)(t < n / 3 ? t : t - n / 3);
    test_whole(c, 1, 1, &n, pos);
    c->out_count[0] = n * p->n_head * p->d_head;
}

static void build(ml_ctx *ctx, test_case *c, ml_tensor *const *in, ml_tensor **out)
{
    const ml_rope_param *p = &c->param.rope;
    ml_tensor *x = ml_tensor_cols(ctx, in[0], variants[c->variant].first, p->n_head * p->d_head);
    out[0] = ml_rope(ctx, x, in[1], p);
}

static void reference(const test_case *c, double *const *out)
{
    const ml_rope_param *p = &c->param.rope;
    int64_t width = c->in[0].dim[1], columns = p->n_head * p->d_head;
    for (int64_t t = 0; t < c->in[0].dim[0]; t++) {
        for (int64_t h = 0; h < p->n_head; h++) {
            const double *x = c->in[0].real + t * width + variants[c->variant].first + h * p->d_head;
            double *y = out[0] + t * columns + h * p->d_head;
            for (int64_t i = 0; i < p->d_head; i++) y[i] = x[i];
            for (int64_t i = 0; i < p->n_rot / 2; i++) {
                int64_t a = p->offset + (p->interleaved ? 2 * i : i);
                int64_t b = p->interleaved ? a + 1 : a + p->n_rot / 2;
                double angle = (double)c->in[1].whole[t] * (double)p->inv_freq[i], m = (double)p->magnitude;
                y[a] = m * (x[a] * cos(angle) - x[b] * sin(angle));
                y[b] = m * (x[a] * sin(angle) + x[b] * cos(angle));
            }
        }
    }
}

const test_op test_op_rope = {
    .n_variant = sizeof variants / sizeof variants[0], .make = make, .build = build, .reference = reference
};
