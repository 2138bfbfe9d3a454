/* The operator tests: for every line of ops.def, every variant of its case file (see case.h). */
#include "ops/case.h"

#include "base/cpu.h"
#include "base/thread.h"
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_PROBE = 48 }; /* elements of each input whose gradient is checked by differences */

typedef struct {
    const char *name;
    const test_op *test;
    bool differentiable;
    double forward_tolerance, backward_tolerance;
} entry;

static const entry entries[] = {
#define ML_OP(name_, differentiable_, forward_tolerance_, backward_tolerance_, ...)                                    \
    { #name_, &test_op_##name_, differentiable_, forward_tolerance_, backward_tolerance_ },
#include "ops/ops.def"
#undef ML_OP
};

static int64_t count_of(const test_input *in)
{
    int64_t n = in->n_dim ? 1 : 0;
    for (int i = 0; i < in->n_dim; i++) n *= in->dim[i];
    return n;
}

static void describe(test_input *in, ml_dtype dtype, int n_dim, const int64_t *dims)
{
    in->dtype = dtype;
    in->n_dim = n_dim;
    for (int i = 0; i < n_dim; i++) in->dim[i] = dims[i];
}

void test_real(test_case *c, int i, int n_dim, const int64_t *dims, double std, ml_rng *rng)
{
    test_input *in = &c->in[i];
    describe(in, ML_F32, n_dim, dims);
    int64_t n = count_of(in);
    in->real = calloc((size_t)n + 1, sizeof *in->real);
    for (int64_t j = 0; j < n; j++) in->real[j] = (float)(std * ml_rng_normal(rng));
}

void test_whole(test_case *c, int i, int n_dim, const int64_t *dims, const int32_t *values)
{
    test_input *in = &c->in[i];
    describe(in, ML_I32, n_dim, dims);
    size_t n = (size_t)count_of(in);
    in->whole = calloc(n + 1, sizeof *in->whole);
    if (n) memcpy(in->whole, values, n * sizeof *in->whole);
}

static bool differentiable_input(const test_input *in)
{
    return in->n_dim && in->dtype == ML_F32 && !in->constant;
}

/* What one run of the operator left: outputs and gradients of the inputs. */
typedef struct {
    float *out[ML_OP_MAX_OUT];
    float *grad[ML_OP_MAX_IN];
} result;

static void free_result(result *r)
{
    for (int i = 0; i < ML_OP_MAX_OUT; i++) free(r->out[i]);
    for (int i = 0; i < ML_OP_MAX_IN; i++) free(r->grad[i]);
}

/* Contiguous copy of an output, which may be a strided view. */
static float *copy_rows(const ml_tensor *t, const float *data)
{
    int64_t n = ml_tensor_row_count(t);
    float *copy = malloc((size_t)(n * t->dim[0] + 1) * sizeof *copy);
    for (int64_t i = 0; i < t->dim[0]; i++) memcpy(copy + i * n, data + i * t->stride, (size_t)n * sizeof *copy);
    return copy;
}

static void run_operator(const test_op *test, test_case *c, double *const *dy, bool backward, result *r)
{
    ml_ctx ctx;
    ml_error err;
    assert_ok(ml_ctx_init(&ctx, (size_t)1 << 30, (size_t)1 << 28, &err));
    ml_tensor inputs[ML_OP_MAX_IN];
    ml_tensor *in[ML_OP_MAX_IN] = { 0 }, *out[ML_OP_MAX_OUT] = { 0 };
    void *memory[ML_OP_MAX_IN] = { 0 };
    for (int i = 0; i < ML_OP_MAX_IN; i++) {
        test_input *x = &c->in[i];
        if (!x->n_dim) continue;
        size_t n = (size_t)count_of(x);
        memory[i] = malloc((n + 1) * 4);
        inputs[i] = ml_tensor_describe(x->dtype, x->n_dim, x->dim, memory[i]);
        in[i] = &inputs[i];
        if (x->dtype == ML_I32) {
            memcpy(memory[i], x->whole, n * 4);
            continue;
        }
        for (size_t j = 0; j < n; j++) ((float *)memory[i])[j] = (float)x->real[j];
        inputs[i].needs_grad = differentiable_input(x);
    }
    ctx.recording = backward;
    test->build(&ctx, c, in, out);
    assert_ok(ml_ctx_status(&ctx, &err));
    for (int i = 0; i < ML_OP_MAX_OUT; i++) {
        if (c->out_count[i]) r->out[i] = copy_rows(out[i], ml_f32(out[i]));
    }
    if (test->check) test->check(c, out);
    if (backward) {
        for (int i = 0; i < ML_OP_MAX_OUT && !test->own_loss; i++) {
            if (!c->out_count[i]) continue;
            float *g = ml_tape_grad(&ctx, out[i]);
            int64_t n = ml_tensor_row_count(out[i]);
            for (int64_t j = 0; j < c->out_count[i]; j++) g[j / n * out[i]->stride + j % n] += (float)dy[i][j];
        }
        assert_ok(ml_tape_backward(&ctx, &err));
        for (int i = 0; i < ML_OP_MAX_IN; i++) {
            if (!in[i] || !in[i]->needs_grad) continue;
            const float *g = ml_tape_grad(&ctx, in[i]);
            size_t n_bytes = (size_t)count_of(&c->in[i]) * sizeof(float);
            r->grad[i] = malloc(n_bytes + 4);
            memcpy(r->grad[i], g, n_bytes);
        }
    }
    for (int i = 0; i < ML_OP_MAX_IN; i++) free(memory[i]);
    ml_ctx_free(&ctx);
}

/* The scalar whose gradient is checked: the operator's own loss, or sum(dy * out). */
static double loss_of(const test_op *test, const test_case *c, double *const *dy, double **out)
{
    test->reference(c, out);
    if (test->own_loss) return test->own_loss(c, out);
    double sum = 0;
    for (int i = 0; i < ML_OP_MAX_OUT; i++) {
        for (int64_t j = 0; j < c->out_count[i]; j++) sum += dy[i][j] * out[i][j];
    }
    return sum;
}

static void check_forward(const entry *e, const test_case *c, const result *r, double *const *out)
{
    for (int i = 0; i < ML_OP_MAX_OUT; i++) {
        double largest = 1e-30, worst = 0;
        for (int64_t j = 0; j < c->out_count[i]; j++) {
            double difference = fabs((double)r->out[i][j] - out[i][j]);
            if (!(difference <= worst)) worst = difference; /* catches NaN too */
            if (fabs(out[i][j]) > largest) largest = fabs(out[i][j]);
        }
        if (!(worst <= e->forward_tolerance * largest)) {
            fail_msg("%s variant %d output %d: relative difference %.3g, tolerance %.3g", e->name, c->variant, i,
                     worst / largest, e->forward_tolerance);
        }
    }
}

static void check_backward(const entry *e, test_case *c, const result *r, double *const *dy, double **out, ml_rng *rng)
{
    for (int i = 0; i < ML_OP_MAX_IN; i++) {
        test_input *in = &c->in[i];
        int64_t n = count_of(in);
        if (!differentiable_input(in) || n == 0) continue;
        double largest = 1e-30;
        for (int64_t j = 0; j < n; j++) {
            if (!isfinite(r->grad[i][j]))
                fail_msg("%s variant %d: gradient of input %d is not finite", e->name, c->variant, i);
            if (fabs((double)r->grad[i][j]) > largest) largest = fabs((double)r->grad[i][j]);
        }
        for (int probe = 0; probe < N_PROBE && probe < n; probe++) {
            int64_t j = n <= N_PROBE ? probe : (int64_t)ml_rng_below(rng, (uint64_t)n);
            /* Four-point central difference: error h^4, so 1e-3 leaves about 1e-12. */
            double h = 1e-3, x = in->real[j], f[4];
            const double at[4] = { -2, -1, 1, 2 };
            for (int p = 0; p < 4; p++) {
                in->real[j] = x + at[p] * h;
                f[p] = loss_of(e->test, c, dy, out);
            }
            in->real[j] = x;
            double expected = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h);
            if (fabs(expected) > largest) largest = fabs(expected);
            double found = (double)r->grad[i][j];
            if (!(fabs(found - expected) <= e->backward_tolerance * largest + 1e-9)) {
                fail_msg("%s variant %d: d/d(input %d)[%lld] is %.9g, expected %.9g (largest %.3g)", e->name,
                         c->variant, i, (long long)j, found, expected, largest);
            }
        }
    }
}

static void expect_same_bits(const entry *e, const test_case *c, const result *a, const result *b, const char *what)
{
    for (int i = 0; i < ML_OP_MAX_OUT; i++) {
        if (c->out_count[i] && memcmp(a->out[i], b->out[i], (size_t)c->out_count[i] * 4)) {
            fail_msg("%s variant %d: output %d has other bits with %s", e->name, c->variant, i, what);
        }
    }
    for (int i = 0; i < ML_OP_MAX_IN; i++) {
        if (a->grad[i] && memcmp(a->grad[i], b->grad[i], (size_t)count_of(&c->in[i]) * 4)) {
            fail_msg("%s variant %d: gradient %d has other bits with %s", e->name, c->variant, i, what);
        }
    }
}

static void test_variant(const entry *e, int variant)
{
    test_case c = { .variant = variant };
    ml_rng rng = ml_rng_make(1234, (uint64_t)variant);
    e->test->make(&c, &rng);
    double *out[ML_OP_MAX_OUT], *dy[ML_OP_MAX_OUT];
    for (int i = 0; i < ML_OP_MAX_OUT; i++) {
        out[i] = calloc((size_t)c.out_count[i] + 1, sizeof *out[i]);
        dy[i] = calloc((size_t)c.out_count[i] + 1, sizeof *dy[i]);
        for (int64_t j = 0; j < c.out_count[i]; j++) dy[i][j] = (float)ml_rng_normal(&rng);
    }
    result r = { 0 };
    run_operator(e->test, &c, dy, e->differentiable, &r);
    e->test->reference(&c, out);
    check_forward(e, &c, &r, out);
    if (e->differentiable) check_backward(e, &c, &r, dy, out, &rng);

    ml_thread_set_count(1);
    result one_thread = { 0 };
    run_operator(e->test, &c, dy, e->differentiable, &one_thread);
    ml_thread_set_count(0);
    expect_same_bits(e, &c, &r, &one_thread, "one thread");
    free_result(&one_thread);

    ml_isa best = ml_cpu_isa();
    for (int isa = ML_ISA_SCALAR; isa < (int)best; isa++) {
        ml_cpu_set_isa((ml_isa)isa);
        result lower = { 0 };
        run_operator(e->test, &c, dy, e->differentiable, &lower);
        e->test->reference(&c, out); /* the differences left perturbed values there */
        check_forward(e, &c, &lower, out);
        if (e->differentiable) check_backward(e, &c, &lower, dy, out, &rng);
        free_result(&lower);
    }
    ml_cpu_set_isa(best);

    free_result(&r);
    for (int i = 0; i < ML_OP_MAX_OUT; i++) {
        free(out[i]);
        free(dy[i]);
    }
    for (int i = 0; i < ML_OP_MAX_IN; i++) {
        free(c.in[i].real);
        free(c.in[i].whole);
    }
}

static void test_operator(void **state)
{
    const entry *e = *state;
    assert_true(e->test->n_variant > 0);
    for (int variant = 0; variant < e->test->n_variant; variant++) test_variant(e, variant);
}

int main(void)
{
    enum { N = sizeof entries / sizeof entries[0] };
    struct CMUnitTest tests[N];
    for (int i = 0; i < N; i++) {
        tests[i] = (struct CMUnitTest){ .name = entries[i].name,
                                        .test_func = test_operator,
                                        .initial_state = (void *)(uintptr_t)&entries[i] };
    }
    return cmocka_run_group_tests_name("operators", tests, NULL, NULL);
}
