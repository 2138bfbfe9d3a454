#include "ops/case.h"

#include <math.h>

/* x is `columns` wide from column `first` of a tensor that is `width` wide. */
static const struct {
    int64_t n_token, width, first, columns, d;
    float eps;
    double std;
} variants[] = {
    { 5, 7, 0, 7, 7, 1e-5f, 1 },
    { 100, 192, 0, 192, 192, 1e-6f, 1 }, /* several blocks of rows in the gain's gradient */
    { 33, 90, 6, 72, 24, 1e-6f, 1 },     /* three heads, a column view */
    { 9, 64, 0, 64, 64, 1e-8f, 0.02 },   /* mean(x^2) near 4e-4: this eps moves y by 12 times the tolerance */
    { 0, 8, 0, 8, 4, 1e-6f, 1 },
    { 20, 260, 0, 260, 260, 1e-6f, 1 }, /* these three: several warps, several pieces and many threads on a GPU */
    { 9, 1100, 0, 1100, 1100, 1e-6f, 1 },
    { 2, 9001, 0, 9001, 9001, 1e-6f, 1 },
    { 6, 1, 0, 1, 1, 0.5f, 1 }, /* without a large eps the gradient would cancel to nothing */
};

static void make(test_case *c, ml_rng *rng)
{
    int64_t n = variants[c->variant].n_token, d = variants[c->variant].d;
    test_real(c, 0, 2, (int64_t[]){ n, variants[c->variant].width }, variants[c->variant].std, rng);
    test_real(c, 1, 1, &d, 1, rng);
    c->param.rmsnorm.eps = variants[c->variant].eps;
    c->out_count[0] = n * variants[c->variant].columns;
}

static void build(ml_ctx *ctx, test_case *c, ml_tensor *const *in, ml_tensor **out)
{
    int64_t first = variants[c->variant].first, columns = variants[c->variant].columns;
    out[0] = ml_rmsnorm(ctx, ml_tensor_cols(ctx, in[0], first, columns), in[1], c->param.rmsnorm.eps);
}

static void reference(const test_case *c, double *const *out)
{
    int64_t width = variants[c->variant].width, columns = variants[c->variant].columns, d = variants[c->variant].d;
    for (int64_t t = 0; t < variants[c->variant].n_token; t++) {
        for (int64_t g = 0; g < columns / d; g++) {
            const double *x = c->in[0].real + t * width + variants[c->variant].first + g * d;
            double sum = 0;
            for (int64_t i = 0; i < d; i++) sum += x[i] * x[i];
            double root = sqrt(sum / (double)d + (double)c->param.rmsnorm.eps);
            for (int64_t i = 0; i < d; i++) out[0][t * columns + g * d + i] = x[i] / root * c->in[1].real[i];
        }
    }
}

const test_op test_op_rmsnorm = {
    .n_variant = sizeof variants / sizeof variants[0], .make = make, .build = build, .reference = reference
};
