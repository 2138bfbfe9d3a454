/* The operator tests: for every line of ops.def, every variant of its case file (see case.h). */
#include "ops/case.h"

#include "base/cpu.h"
#include "base/thread.h"
#include "support/support.h"
#include "tensor/blocks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef MOONLIGHT_CUDA_EMULATED
#include "emulate.h"
#endif

static ml_device *device; /* NULL: the processor */
static ml_precision precision;

/* Elements of each input whose gradient is checked by differences: few on a device, where all of them are compared with
 * the processor's as well. */
enum { N_PROBE = 48, N_DEVICE_PROBE = 4 };

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

/* Operators whose products are in bf16 on a device, with tolerances as ops.def's.  Rounding moves an operand by up to
 * 2^-9 of it, so a term of a sum by 2^-8 and a sum of k terms of random sign by less than 2^-8 of its size; a tensor's
 * largest difference is some three times as far from the mean as its largest element.  Where results of such products
 * are multiplied again (kept activations, too, are rounded), each stage adds as much. */
typedef struct {
    const char *name;
    double forward, backward;
} rounded_entry;
#define ROUNDING (1.0 / 256)
static const rounded_entry rounded_entries[] = {
    { "linear", ROUNDING, ROUNDING },          { "lora", 2 * ROUNDING, 2 * ROUNDING },
    { "experts", 3 * ROUNDING, 4 * ROUNDING }, { "experts_lora", 4 * ROUNDING, 6 * ROUNDING },
    { "logprob", ROUNDING, 2 * ROUNDING },
};

static const rounded_entry *rounded_of(const entry *e)
{
    for (size_t i = 0; i < sizeof rounded_entries / sizeof *rounded_entries; i++) {
        if (!strcmp(rounded_entries[i].name, e->name)) return &rounded_entries[i];
    }
    return NULL;
}

static double tolerance_of(const entry *e, const test_case *c, bool backward)
{
    if (precision == ML_PRECISION_BF16 && e->test->bf16_tolerance) {
        return (backward ? 2 : 1) * e->test->bf16_tolerance(c);
    }
    const rounded_entry *rounded = precision == ML_PRECISION_BF16 ? rounded_of(e) : NULL;
    if (rounded) return backward ? rounded->backward : rounded->forward;
    return backward ? e->backward_tolerance : e->forward_tolerance;
}

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

ml_tensor *test_convert(ml_ctx *ctx, ml_tensor *w, ml_dtype dtype)
{
    ml_error err;
    ml_tensor *converted = ml_tensor_new(ctx, dtype, w->n_dim, w->dim);
    const float *from = ml_tensor_read(ctx, w);
    int64_t n_col = ml_tensor_row_count(w);
    void *bytes = malloc((size_t)w->dim[0] * ml_dtype_row_bytes(dtype, n_col) + 1);
    if (!ml_dtype_is_block(dtype)) {
        ml_convert_from_f32(dtype, from, bytes, ml_tensor_count(w));
    } else if (ml_quantize_rows(dtype, from, w->dim[0], n_col, NULL, bytes, &err) != ML_OK) {
        ml_ctx_fail(ctx, ML_EINVAL, "%s", err.message);
    }
    ml_tensor_write(ctx, converted, bytes);
    free(bytes);
    return ctx->error.code == ML_OK ? converted : NULL;
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

/* ---- memory where the operator works, with sentinels around it ---- */

enum { SENTINEL_BYTES = 256, SENTINEL = 0xa5 };

/* n_bytes, after and before bytes that nobody may change. */
static char *place(size_t n_bytes, const void *from)
{
    ml_error err;
    size_t total = n_bytes + 2 * SENTINEL_BYTES;
    char *host = malloc(total), *p = host;
    memset(host, SENTINEL, total);
    if (from && n_bytes) memcpy(host + SENTINEL_BYTES, from, n_bytes);
    if (device) {
        void *base;
        assert_ok(ml_device_alloc(device, total, "a test's operand", &base, &err));
        assert_ok(ml_device_upload(device, base, host, total, &err));
        free(host);
        p = base;
    }
    return p + SENTINEL_BYTES;
}

/* Give back what place() made; fails when a sentinel has changed. */
static void release(char *p, size_t n_bytes, const char *what)
{
    ml_error err;
    size_t total = n_bytes + 2 * SENTINEL_BYTES;
    char *base = p - SENTINEL_BYTES, *host = base;
    if (device) {
        host = malloc(total);
        assert_ok(ml_device_download(device, host, base, total, &err));
        ml_device_release(device, base);
    }
    for (size_t i = 0; i < SENTINEL_BYTES; i++) {
        if ((unsigned char)host[i] != SENTINEL || (unsigned char)host[total - 1 - i] != SENTINEL) {
            fail_msg("%s: something was written around it", what);
        }
    }
    free(host);
}

/* Arenas on a device: what the largest cases take, since all of it is filled. */
enum { DEVICE_ACT_BYTES = 16 << 20, DEVICE_GRAD_BYTES = 16 << 20 };

/* Every byte of the arenas is NaN before the operator runs: what it reads without having written shows. */
static void poison(ml_ctx *ctx)
{
    ml_error err;
    if (!device) return;
    static char nan[DEVICE_ACT_BYTES];
    memset(nan, 0xff, sizeof nan);
    assert_true(ctx->data.capacity <= sizeof nan);
    assert_ok(ml_device_upload(device, ctx->data.base, nan, ctx->data.capacity, &err));
}

/* An output as the checks read it: in this machine's memory. */
static ml_tensor *bring(ml_ctx *ctx, ml_tensor *t)
{
    if (!t || !t->device) return t;
    ml_tensor *here = ml_ctx_scratch(ctx, sizeof *here);
    *here = ml_tensor_describe(t->dtype, t->n_dim, t->dim, (void *)(uintptr_t)ml_tensor_read(ctx, t));
    return here;
}

/* Contiguous copy of an output, which may be a strided view. */
static float *copy_rows(ml_ctx *ctx, const ml_tensor *t)
{
    size_t n = (size_t)ml_tensor_count(t);
    float *copy = malloc((n + 1) * sizeof *copy);
    const float *rows = ml_tensor_read(ctx, t);
    ml_error err;
    assert_ok(ml_ctx_status(ctx, &err));
    if (n) memcpy(copy, rows, n * sizeof *copy);
    return copy;
}

/* The gradient that arrives at an output. */
static void seed(ml_ctx *ctx, ml_tensor *t, const double *dy, int64_t count)
{
    int64_t n = ml_tensor_row_count(t);
    size_t room = (size_t)(t->dim[0] > 0 ? (t->dim[0] - 1) * t->stride + n : 0);
    float *values = calloc(room + 1, sizeof *values);
    for (int64_t j = 0; j < count; j++) values[j / n * t->stride + j % n] = (float)dy[j];
    ml_ctx_write(ctx, ml_tape_grad(ctx, t), values, (int64_t)room);
    free(values);
}

/* A weight in bf16 as products read it, laid out as values. */
static uint16_t *place_half(const float *values, size_t n)
{
    uint16_t *half = malloc(n * sizeof *half + 1);
    ml_convert_from_f32(ML_BF16, values, half, (int64_t)n);
    uint16_t *placed = (uint16_t *)(void *)place(n * sizeof *half, half);
    free(half);
    return placed;
}

static void run_operator(const test_op *test, test_case *c, double *const *dy, bool backward, result *r)
{
    ml_ctx ctx;
    ml_error err;
    size_t act_bytes = device ? DEVICE_ACT_BYTES : (size_t)1 << 30;
    size_t grad_bytes = device ? DEVICE_GRAD_BYTES : (size_t)256 << 20;
    assert_ok(ml_ctx_init_on(&ctx, device, act_bytes, grad_bytes, &err));
    ctx.precision = precision;
    poison(&ctx);
    ml_tensor inputs[ML_OP_MAX_IN];
    ml_tensor *in[ML_OP_MAX_IN] = { 0 }, *out[ML_OP_MAX_OUT] = { 0 };
    char *memory[ML_OP_MAX_IN] = { 0 };
    uint16_t *half[ML_OP_MAX_IN] = { 0 };
    for (int i = 0; i < ML_OP_MAX_IN; i++) {
        test_input *x = &c->in[i];
        if (!x->n_dim) continue;
        size_t n = (size_t)count_of(x);
        float *values = malloc((n + 1) * sizeof *values);
        for (size_t j = 0; j < n && x->dtype == ML_F32; j++) values[j] = (float)x->real[j];
        memory[i] = place(n * 4, x->dtype == ML_I32 ? (const void *)x->whole : values);
        /* In every other variant weights have their bf16 copies. */
        bool has_half = precision == ML_PRECISION_BF16 && i > 0 && x->dtype == ML_F32 && c->variant % 2;
        if (has_half) half[i] = place_half(values, n);
        free(values);
        inputs[i] = ml_tensor_describe(x->dtype, x->n_dim, x->dim, memory[i]);
        inputs[i].device = device;
        inputs[i].half = half[i];
        in[i] = &inputs[i];
        if (x->dtype == ML_I32) continue;
        inputs[i].needs_grad = differentiable_input(x);
    }
    ctx.recording = backward;
    test->build(&ctx, c, in, out);
    assert_ok(ml_ctx_status(&ctx, &err));
    for (int i = 0; i < ML_OP_MAX_OUT; i++) {
        if (c->out_count[i]) r->out[i] = copy_rows(&ctx, out[i]);
    }
    if (test->check) {
        ml_tensor *here[ML_OP_MAX_OUT];
        for (int i = 0; i < ML_OP_MAX_OUT; i++) here[i] = bring(&ctx, out[i]);
        test->check(c, here);
    }
    if (backward) {
        for (int i = 0; i < ML_OP_MAX_OUT && !test->own_loss; i++) {
            if (!c->out_count[i]) continue;
            seed(&ctx, out[i], dy[i], c->out_count[i]);
        }
        assert_ok(ml_tape_backward(&ctx, &err));
        for (int i = 0; i < ML_OP_MAX_IN; i++) {
            if (!in[i] || !in[i]->needs_grad) continue;
            const float *g = ml_tape_grad(&ctx, in[i]);
            size_t n_bytes = (size_t)count_of(&c->in[i]) * sizeof(float);
            r->grad[i] = malloc(n_bytes + 4);
            if (device) {
                assert_ok(ml_device_download(device, r->grad[i], g, n_bytes, &err));
            } else {
                memcpy(r->grad[i], g, n_bytes);
            }
        }
    }
    for (int i = 0; i < ML_OP_MAX_IN; i++) {
        if (memory[i]) release(memory[i], (size_t)count_of(&c->in[i]) * 4, "an input");
        if (half[i]) release((char *)half[i], (size_t)count_of(&c->in[i]) * 2, "a weight's bf16 copy");
    }
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
    double tolerance = fmax(tolerance_of(e, c, false), c->forward_tolerance);
    for (int i = 0; i < ML_OP_MAX_OUT; i++) {
        double largest = 1e-30, worst = 0;
        for (int64_t j = 0; j < c->out_count[i]; j++) {
            double difference = fabs((double)r->out[i][j] - out[i][j]);
            if (!(difference <= worst)) worst = difference; /* catches NaN too */
            if (fabs(out[i][j]) > largest) largest = fabs(out[i][j]);
        }
        if (!(worst <= tolerance * largest)) {
            fail_msg("%s variant %d output %d: relative difference %.3g, tolerance %.3g", e->name, c->variant, i,
                     worst / largest, tolerance);
        }
    }
}

/* Derivatives of the loss by some elements of an input, by differences of the reference in double precision. */
typedef struct {
    int n;
    int64_t at[N_PROBE];
    double expected[N_PROBE];
} probes;

/* Four-point central difference: error h^4, so 1e-3 leaves about 1e-12. */
static double differentiate(const entry *e, test_case *c, double *x, double *const *dy, double **out)
{
    const double h = 1e-3, was = *x, at[4] = { -2, -1, 1, 2 };
    double f[4];
    for (int p = 0; p < 4; p++) {
        *x = was + at[p] * h;
        f[p] = loss_of(e->test, c, dy, out);
    }
    *x = was;
    return (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h);
}

/* All elements of a small input, some of a large one.  Leaves perturbed values in `out`. */
static void make_probes(const entry *e, test_case *c, double *const *dy, double **out, ml_rng *rng,
                        probes p[ML_OP_MAX_IN])
{
    int most = device ? N_DEVICE_PROBE : N_PROBE;
    for (int i = 0; i < ML_OP_MAX_IN; i++) {
        test_input *in = &c->in[i];
        int64_t n = differentiable_input(in) ? count_of(in) : 0;
        p[i].n = n < most ? (int)n : most;
        for (int k = 0; k < p[i].n; k++) {
            p[i].at[k] = n <= most ? k : (int64_t)ml_rng_below(rng, (uint64_t)n);
            p[i].expected[k] = differentiate(e, c, &in->real[p[i].at[k]], dy, out);
        }
    }
}

static void check_backward(const entry *e, const test_case *c, const result *r, const probes p[ML_OP_MAX_IN])
{
    double tolerance = tolerance_of(e, c, true);
    for (int i = 0; i < ML_OP_MAX_IN; i++) {
        int64_t n = p[i].n ? count_of(&c->in[i]) : 0;
        double largest = 1e-30;
        for (int64_t j = 0; j < n; j++) {
            if (!isfinite(r->grad[i][j]))
                fail_msg("%s variant %d: gradient of input %d is not finite", e->name, c->variant, i);
            largest = fmax(largest, fabs((double)r->grad[i][j]));
        }
        for (int k = 0; k < p[i].n; k++) {
            double expected = p[i].expected[k], found = (double)r->grad[i][p[i].at[k]];
            largest = fmax(largest, fabs(expected));
            if (!(fabs(found - expected) <= tolerance * largest + 1e-9)) {
                fail_msg("%s variant %d: d/d(input %d)[%lld] is %.9g, expected %.9g (largest %.3g)", e->name,
                         c->variant, i, (long long)p[i].at[k], found, expected, largest);
            }
        }
    }
}

/* Every gradient beside that of another way to compute it, which differences have been compared with. */
static void compare_gradients(const entry *e, const test_case *c, const result *exact, const result *r,
                              double tolerance, const char *what)
{
    for (int i = 0; i < ML_OP_MAX_IN; i++) {
        double largest = 1e-30;
        int64_t n = exact->grad[i] ? count_of(&c->in[i]) : 0;
        for (int64_t j = 0; j < n; j++) largest = fmax(largest, fabs((double)exact->grad[i][j]));
        for (int64_t j = 0; j < n; j++) {
            double found = (double)r->grad[i][j], expected = (double)exact->grad[i][j];
            if (fabs(found - expected) <= tolerance * largest + 1e-9) continue;
            fail_msg("%s variant %d: d/d(input %d)[%lld] is %.9g, %.9g %s (largest %.3g)", e->name, c->variant, i,
                     (long long)j, found, expected, what, largest);
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

static void compare_twin(const entry *e, test_case *c, double *const *dy, const result *r)
{
    test_op twin = *e->test;
    twin.build = e->test->build_twin;
    result other = { 0 };
    run_operator(&twin, c, dy, e->differentiable, &other);
    expect_same_bits(e, c, r, &other, "the operators it fuses");
    free_result(&other);
}

/* The same bits whatever runs first. */
static void repeat_on_device(const entry *e, test_case *c, double *const *dy, const result *r)
{
    for (unsigned order = 0; order < 3; order++) {
#ifdef MOONLIGHT_CUDA_EMULATED
        ml_emulate_set_order(order);
#endif
        result again = { 0 };
        run_operator(e->test, c, dy, e->differentiable, &again);
        expect_same_bits(e, c, r, &again, "another run");
        free_result(&again);
    }
#ifdef MOONLIGHT_CUDA_EMULATED
    ml_emulate_set_order(0);
#endif
}

/* Every gradient beside the processor's in fp32, which its own test compares with differences. */
static void compare_with_processor(const entry *e, test_case *c, double *const *dy, const result *r)
{
    double tolerance = tolerance_of(e, c, true);
    result here = { 0 };
    ml_device *there = device;
    ml_precision wanted = precision;
    device = NULL;
    precision = ML_PRECISION_F32;
    run_operator(e->test, c, dy, e->differentiable, &here);
    device = there;
    precision = wanted;
    compare_gradients(e, c, &here, r, tolerance, "on the processor");
    free_result(&here);
}

/* The same bits on one thread; other instruction sets are as near to the reference, and to each other. */
static void repeat_on_processor(const entry *e, test_case *c, double *const *dy, double **out, const result *r,
                                const probes p[ML_OP_MAX_IN])
{
    ml_thread_set_count(1);
    result one_thread = { 0 };
    run_operator(e->test, c, dy, e->differentiable, &one_thread);
    ml_thread_set_count(0);
    expect_same_bits(e, c, r, &one_thread, "one thread");
    free_result(&one_thread);

    ml_isa best = ml_cpu_isa();
    e->test->reference(c, out);
    for (int isa = ML_ISA_SCALAR; isa < (int)best; isa++) {
        ml_cpu_set_isa((ml_isa)isa);
        result lower = { 0 };
        run_operator(e->test, c, dy, e->differentiable, &lower);
        if (e->test->build_twin) compare_twin(e, c, dy, &lower);
        check_forward(e, c, &lower, out);
        if (e->differentiable) {
            check_backward(e, c, &lower, p);
            compare_gradients(e, c, r, &lower, 2 * tolerance_of(e, c, true), "with the best instructions");
        }
        free_result(&lower);
    }
    ml_cpu_set_isa(best);
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
    probes p[ML_OP_MAX_IN] = { 0 };
    if (e->differentiable) {
        make_probes(e, &c, dy, out, &rng, p);
        check_backward(e, &c, &r, p);
    }
    if (e->test->build_twin) compare_twin(e, &c, dy, &r);

    if (device) {
        if (e->differentiable) compare_with_processor(e, &c, dy, &r);
        repeat_on_device(e, &c, dy, &r);
    } else {
        repeat_on_processor(e, &c, dy, out, &r, p);
    }

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
#ifdef MOONLIGHT_CUDA
    if (device) assert_non_null(ml_ops_cuda[e - entries].forward);
    if (precision == ML_PRECISION_BF16 && !rounded_of(e) && !e->test->bf16_tolerance) skip();
#endif
    for (int variant = 0; variant < e->test->n_variant; variant++) test_variant(e, variant);
}

/* test_ops [cuda|cuda-bf16] [OPERATOR]: on the processor or on the first GPU; all operators, or one.  Exit status 77
 * where there is no GPU. */
int main(int argc, char **argv)
{
    enum { N = sizeof entries / sizeof entries[0] };
    const char *only = argc > 1 ? argv[argc - 1] : NULL;
    if (argc > 1 && (!strcmp(argv[1], "cuda") || !strcmp(argv[1], "cuda-bf16"))) {
        if (!strcmp(argv[1], "cuda-bf16")) precision = ML_PRECISION_BF16;
        if (argc == 2) only = NULL;
        if (!test_open_device(&device)) return TEST_SKIPPED;
    }
    struct CMUnitTest tests[N];
    bool found = !only;
    for (int i = 0; i < N; i++) {
        found = found || !strcmp(only, entries[i].name);
        tests[i] = (struct CMUnitTest){ .name = entries[i].name,
                                        .test_func = test_operator,
                                        .initial_state = (void *)(uintptr_t)&entries[i] };
    }
    if (!found) {
        fprintf(stderr, "test_ops: no operator \"%s\" in ops.def\n", only);
        return 2;
    }
    cmocka_set_test_filter(only);
    int n_failed = cmocka_run_group_tests_name("operators", tests, NULL, NULL);
    ml_device_close(device);
    return n_failed;
}
