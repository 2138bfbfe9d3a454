#include "ops/case.h"

enum { MARGIN = 3 }; /* columns before and after a strided view of x */

typedef struct {
    int64_t tokens, n, k;
    bool bias, strided, fast;
    ml_dtype w_dtype; /* other than f32: not trained, and in fast mode forward only */
    bool parts;       /* w is two tensors, one after the other; then it is not trained */
} shape;

static const shape shapes[] = {
    { 5, 7, 3, true, false, false, .w_dtype = ML_F32 },
    { 70, 50, 33, false, false, false, .w_dtype = ML_F32 },
    { 33, 17, 300, true, true, false, .w_dtype = ML_F32 },
    { 260, 70, 40, true, false, false, .w_dtype = ML_F32 },
    { 0, 4, 6, true, false, false, .w_dtype = ML_F32 },
    { 4, 5, 0, true, false, false, .w_dtype = ML_F32 },
    { 9, 21, 100, true, true, true, .w_dtype = ML_F32 },
    { 0, 4, 6, false, false, true, .w_dtype = ML_F32 },
    { 7, 19, 70, true, true, true, .w_dtype = ML_BF16 },
    { 6, 18, 50, true, false, false, .w_dtype = ML_F16 },
    { 5, 19, 512, true, true, false, .w_dtype = ML_Q4_K },
    { 6, 300, 96, false, false, false, .w_dtype = ML_Q8_0 },
    { 5, 19, 512, true, true, true, .w_dtype = ML_Q4_K },
    { 3, 40, 96, true, false, true, .w_dtype = ML_Q8_0 },
    { 4, 150, 768, true, true, false, .w_dtype = ML_Q6_K },
    { 70, 80, 320, true, false, false, .w_dtype = ML_BF16, .parts = true },
    { 6, 90, 20, false, true, false, .w_dtype = ML_F32, .parts = true },
};

/* Numbers that the type holds exactly, and x that 8 bits hold exactly, each block with its largest number. */
static void make_for_blocks(test_case *c, const shape *s, ml_rng *rng)
{
    double *x = c->in[0].real, *w = c->in[1].real;
    int64_t stride = c->in[0].dim[1], margin = s->strided ? MARGIN : 0;
    for (int64_t i = 0; i < s->tokens * s->k; i++) {
        double whole = i % 32 ? (double)ml_rng_below(rng, 255) - 127 : 127;
        x[i / s->k * stride + margin + i % s->k] = whole / 64;
    }
    for (int64_t i = 0; i < s->n * s->k; i++) {
        if (s->w_dtype == ML_Q6_K) { /* scale 64 of each 16 (its largest code -32), d 1 / 1024 */
            w[i] = (i % 16 ? (double)ml_rng_below(rng, 64) - 32 : -32) / 16;
        } else if (s->w_dtype == ML_Q8_0) {
            w[i] = (i % 32 ? (double)ml_rng_below(rng, 255) - 127 : 127) / 64;
        } else { /* scale 63 / 64, minimum 63 / 8, codes 0 and 15 among the others */
            double code = i % 32 == 0 ? 0 : i % 32 == 1 ? 15 : (double)ml_rng_below(rng, 16);
            w[i] = 63.0 / 64 * code - 63.0 / 8;
        }
    }
}

static void make(test_case *c, ml_rng *rng)
{
    const shape *s = &shapes[c->variant];
    test_real(c, 0, 2, (int64_t[]){ s->tokens, s->strided ? s->k + 2 * MARGIN : s->k }, 1, rng);
    test_real(c, 1, 2, (int64_t[]){ s->n, s->k }, 1, rng);
    if (s->w_dtype != ML_F32) {
        /* Quarters in -2 .. 2: exact in every type. */
        for (int64_t i = 0; i < s->n * s->k; i++) c->in[1].real[i] = (double)ml_rng_below(rng, 17) / 4 - 2;
        if (ml_dtype_is_block(s->w_dtype)) make_for_blocks(c, s, rng);
        c->in[0].constant = s->fast;
    }
    c->in[1].constant = s->w_dtype != ML_F32 || s->parts;
    if (s->bias) test_real(c, 2, 1, &s->n, 1, rng);
    if (s->fast && s->w_dtype == ML_BF16) c->forward_tolerance = TEST_ROUNDED;
    c->out_count[0] = s->tokens * s->n;
}

static void build(ml_ctx *ctx, test_case *c, ml_tensor *const *in, ml_tensor **out)
{
    const shape *s = &shapes[c->variant];
    if (s->fast) ctx->mode = ML_MODE_FAST;
    ml_tensor *x = s->strided ? ml_tensor_cols(ctx, in[0], MARGIN, s->k) : in[0]; // [tokens, k]
    ml_tensor *w = in[1];
    if (s->w_dtype != ML_F32) w = test_convert(ctx, in[1], s->w_dtype);
    if (s->parts) {
        int64_t first = s->n / 3;
        ml_tensor *parts = ml_ctx_scratch(ctx, 2 * sizeof *parts); /* the backward looks at them */
        for (int i = 0; i < 2; i++) {
            parts[i] = ml_tensor_describe(w->dtype, 2, (int64_t[]){ i ? s->n - first : first, s->k },
                                          (char *)w->data + (i ? ml_dtype_row_bytes(w->dtype, first * s->k) : 0));
            parts[i].device = w->device;
        }
        ml_tensor *whole = ml_ctx_scratch(ctx, sizeof *whole);
        *whole = ml_tensor_describe(w->dtype, 2, (int64_t[]){ s->n, s->k }, w->data);
        whole->device = w->device;
        whole->part = parts;
        whole->n_part = 2;
        w = whole;
    }
    out[0] = ml_linear(ctx, x, w, in[2]);
}

static void reference(const test_case *c, double *const *out)
{
    const shape *s = &shapes[c->variant];
    int64_t stride = c->in[0].dim[1];
    const double *x = c->in[0].real + (s->strided ? MARGIN : 0), *w = c->in[1].real, *b = c->in[2].real;
    for (int64_t t = 0; t < s->tokens; t++) {
        for (int64_t i = 0; i < s->n; i++) {
            double sum = b ? b[i] : 0;
            for (int64_t j = 0; j < s->k; j++) sum += x[t * stride + j] * w[i * s->k + j];
            out[0][t * s->n + i] = sum;
        }
    }
}

const test_op test_op_linear = {
    .n_variant = sizeof shapes / sizeof shapes[0], .make = make, .build = build, .reference = reference
};
