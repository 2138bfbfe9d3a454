/* Adapters on a device.  In training: the processor's course over frozen weights of several types, nothing waited for
 * within a step, resuming there and here, steps that are skipped.  In inference: terms of every kind against double
 * precision and the processor, several adapters in one pass as each alone.  On a GPU, or in builds with the emulated
 * one there. */
#include "infer/engine.h"
#include "infer/session.h"
#include "ops/cached.h"
#include "support/support.h"
#include "support/tiny_run.h"

#ifdef MOONLIGHT_CUDA_EMULATED
#include "emulate.h"
#endif

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ml_error err;
static ml_device *device;

typedef struct {
    test_model model;
    bool dora, half; /* half: the model's matrices are bf16 */
    bool there;
    ml_precision precision;
    ml_recompute recompute;
} way;

typedef struct {
    char folder[ML_PATH_MAX];
    ml_model *model;
    ml_adapter *adapter;
    test_stage self;
    ml_stage stage;
    ml_train_config config;
    ml_loop *loop;
} run;

static void begin(run *r, const char *folder, bool resume, const way *w)
{
    static const char *const everything[] = { "*" };
    ml_config c = test_model_config(w->model);
    memset(r, 0, sizeof *r);
    snprintf(r->folder, sizeof r->folder, "%s", folder);
    assert_ok(ml_model_make(&c, ML_F32, false, &r->model, &err));
    ml_model_init(r->model, 7);
    if (w->half) r->model = test_model_round_to_bf16(r->model);
    ml_adapter_config a = {
        .target = everything, .n_target = 1, .rank = 3, .alpha = 6, .dropout = 0.1, .dora = w->dora
    };
    assert_ok(ml_adapter_make(&a, r->model, resume ? 99 : 5, &r->adapter, &err));
    r->config = test_train_config();
    r->config.batch = 2;
    r->config.seq = 12;
    r->config.accumulate = 2;
    r->config.recompute = w->recompute;
    r->config.optim.lora_b_ratio = 4;
    r->config.schedule.lr = 1e-3; /* at more, tiny models go wild and no two computations stay together */
    r->config.adapter = r->adapter;
    if (w->there) r->config.device = device;
    r->config.precision = w->precision;
    r->self = (test_stage){ .seed = 3, .batch = 2, .seq = 12, .n_eval = 2 };
    r->stage = test_stage_make(&r->self);
    assert_ok(ml_loop_make(&r->config, r->folder, resume, r->model, &r->stage, NULL, NULL, &r->loop, &err));
}

static void end(run *r, bool keep)
{
    ml_loop_free(r->loop);
    ml_adapter_free(r->adapter);
    ml_model_free(r->model);
    if (!keep) test_remove_folder(r->folder);
}

/* On a device: all of it is queued, and nobody waits. */
static ml_train_step step_of(run *r)
{
    ml_train_step step;
    bool rolled_back;
    if (!r->config.device) {
        assert_ok(ml_loop_step(r->loop, &step, &err));
        return step;
    }
#ifdef MOONLIGHT_CUDA_EMULATED
    unsigned long long before = ml_emulate_count_waits();
#endif
    assert_ok(ml_loop_queue_step(r->loop, &err));
#ifdef MOONLIGHT_CUDA_EMULATED
    assert_true(ml_emulate_count_waits() == before);
#endif
    assert_ok(ml_loop_take_step(r->loop, &step, &rolled_back, &err));
    return step;
}

static void expect_near(const char *what, double found, double wanted, double tolerance)
{
    if (!(fabs(found - wanted) <= tolerance * fabs(wanted))) {
        fail_msg("%s: found %.9g there, expected %.9g within %g of it", what, found, wanted, tolerance);
    }
}

/* ---- beside the processor ---- */

/* fp32: sums in another order; AdamW's first updates are the signs of gradients, so that rounding of one near zero
 * moves a number by 2 lr.  bf16: operands are right to 2^-9, a mean over a batch to less. */
static void check_course(way w, int n_step)
{
    bool exact = w.precision == ML_PRECISION_F32;
    double near = exact ? 1e-4 : 1e-2, norm_near = exact ? 1e-3 : 5e-2, loss[2];
    run here, there;
    begin(&here, test_make_folder(), false, &w);
    w.there = true;
    begin(&there, test_make_folder(), false, &w);
    for (int i = 0; i < n_step; i++) {
        ml_train_step x = step_of(&here), y = step_of(&there);
        expect_near("loss", y.loss, x.loss, near);
        expect_near("gradient norm", y.grad_norm, x.grad_norm, norm_near);
        expect_near("update", y.update_rms, x.update_rms, norm_near);
        assert_true(!y.skipped && x.n_token == y.n_token);
    }
    assert_ok(ml_loop_evaluate(here.loop, &loss[0], &err));
    assert_ok(ml_loop_evaluate(there.loop, &loss[1], &err));
    if (n_step > 1) expect_near("evaluation", loss[1], loss[0], near);
    /* The norms that were made there belong to the numbers that were made there. */
    assert_ok(ml_adapter_pull(there.adapter, &err));
    ml_adapter_use_place(there.adapter, false);
    for (size_t i = 0; w.dora && i < there.adapter->n_term; i++) {
        const ml_tensor *norm = &there.adapter->term[i].norm;
        float found[4096];
        int64_t n = ml_tensor_count(norm);
        assert_true(n <= 4096);
        memcpy(found, norm->data, (size_t)n * sizeof *found);
        if (i == 0) assert_ok(ml_adapter_update_norms(there.adapter, &err)); /* of all of them */
        if (i == 0) continue;
        for (int64_t j = 0; j < n; j++) expect_near("norm", (double)found[j], (double)ml_f32(norm)[j], 1e-6);
    }
    ml_adapter_use_place(there.adapter, true);
    end(&here, false);
    end(&there, false);
}

static void test_course_of_the_processor(void **state)
{
    (void)state;
    check_course((way){ .model = TEST_MLA_LORA }, 3);
    check_course((way){ .model = TEST_MLA_LORA, .dora = true, .half = true }, 3);
    check_course((way){ .model = TEST_GQA_MOE, .dora = true, .recompute = ML_RECOMPUTE_LAYERS }, 3);
    check_course((way){ .model = TEST_GQA_MOE, .half = true, .precision = ML_PRECISION_BF16 }, 3);
    /* After a step a router's choice may tip over. */
    check_course((way){ .model = TEST_MLA_MOE, .dora = true, .precision = ML_PRECISION_BF16 }, 1);
}

/* ---- over time ---- */

static void assert_same(run *a, run *b)
{
    assert_ok(ml_adapter_pull(a->adapter, &err));
    assert_ok(ml_adapter_pull(b->adapter, &err));
    size_t n_bytes = a->adapter->values.capacity;
    assert_int_equal(n_bytes, b->adapter->values.capacity);
    if (memcmp(a->adapter->values.base, b->adapter->values.base, n_bytes)) fail_msg("the numbers or norms differ");
    const ml_optimizer *x = a->loop->optimizer, *y = b->loop->optimizer;
    assert_int_equal(ml_optimizer_get_step(x), ml_optimizer_get_step(y));
}

static void check_resume(way w)
{
    run straight, first, second, here;
    char folder[ML_PATH_MAX];
    double last = 0;
    w.there = true;
    begin(&straight, test_make_folder(), false, &w);
    for (int i = 0; i < 4; i++) last = step_of(&straight).loss;
    begin(&first, test_make_folder(), false, &w);
    for (int i = 0; i < 2; i++) step_of(&first);
    assert_ok(ml_loop_save(first.loop, &err));
    snprintf(folder, sizeof folder, "%s", first.folder);
    end(&first, true);
    begin(&second, folder, true, &w);
    for (int i = 2; i < 4; i++) {
        double loss = step_of(&second).loss;
        if (i == 3) assert_true(loss == last);
    }
    assert_same(&straight, &second);
    end(&second, true);
    w.there = false; /* the same files */
    w.precision = ML_PRECISION_F32;
    begin(&here, folder, true, &w);
    assert_int_equal(ml_loop_steps_done(here.loop), 2);
    step_of(&here);
    expect_near("loss after resuming here", step_of(&here).loss, last, 1e-2); /* bf16 products there */
    end(&here, false);
    end(&straight, false);
}

static void test_resume_is_bit_exact(void **state)
{
    (void)state;
    check_resume((way){ .model = TEST_MLA_LORA, .dora = true, .precision = ML_PRECISION_BF16 });
    check_resume((way){ .model = TEST_GQA_SIGMOID });
}

/* A gradient that is out of line changes nothing, norms included; the router's bias never moves. */
static void test_skipped_step_changes_nothing(void **state)
{
    (void)state;
    run a, b;
    way w = { .model = TEST_GQA_SIGMOID, .dora = true, .there = true };
    begin(&a, test_make_folder(), false, &w);
    begin(&b, test_make_folder(), false, &w);
    step_of(&a);
    step_of(&b);
    b.loop->guard.n_seen = 1000;
    b.loop->guard.deviations = 1;
    b.loop->guard.mean = -100;
    b.loop->guard.variance = 1e-6;
    ml_guard strict = b.loop->guard;
    assert_ok(ml_loop_save(b.loop, &err));
    assert_ok(ml_loop_restore(b.loop, true, &err)); /* takes the guard there */
    assert_true(b.loop->guard.mean == strict.mean);
    ml_train_step step = step_of(&b);
    assert_true(step.skipped && step.update_rms == 0 && isfinite(step.grad_norm));
    assert_same(&a, &b);
    end(&a, false);
    end(&b, false);
}

/* What a model says beside an adapter in training, as samples have it: the processor's logits. */
static void converse(run *r, float logits[2][TEST_VOCAB])
{
    ml_session *s;
    int32_t id[24];
    for (int i = 0; i < 24; i++) id[i] = (7 * i + 3) % TEST_VOCAB;
    assert_ok(ml_session_make(r->model, 32, true, &s, &err));
    ml_session_set_adapter(s, r->adapter);
    assert_ok(ml_session_append(s, id, 20, &err));
    memcpy(logits[0], ml_session_logits(s), sizeof logits[0]);
    for (int i = 20; i < 24; i++) assert_ok(ml_session_append_generated(s, id[i], &err));
    memcpy(logits[1], ml_session_logits(s), sizeof logits[1]);
    ml_session_free(s);
}

static void check_samples(way w)
{
    run here, there;
    float x[2][TEST_VOCAB], y[2][TEST_VOCAB], before[2][TEST_VOCAB];
    begin(&here, test_make_folder(), false, &w);
    w.there = true;
    begin(&there, test_make_folder(), false, &w);
    converse(&here, before);
    for (int i = 0; i < 2; i++) {
        step_of(&here);
        step_of(&there);
    }
    converse(&here, x);
    converse(&there, y);
    assert_true(memcmp(before, x, sizeof x) != 0); /* the adapter says something */
    for (int i = 0; i < 2 * TEST_VOCAB; i++) {
        double d = fabs((double)x[i / TEST_VOCAB][i % TEST_VOCAB] - (double)y[i / TEST_VOCAB][i % TEST_VOCAB]);
        /* fp32 throughout, but for a cache of halves, which may round the other way */
        if (!(d < 5e-3)) fail_msg("logit %d differs by %g", i, d);
    }
    end(&here, false);
    end(&there, false);
}

static void test_samples_there(void **state)
{
    (void)state;
    check_samples((way){ .model = TEST_MLA_LORA, .dora = true });
    check_samples((way){ .model = TEST_GQA_MOE });
}

/* What cannot be is refused. */
static void test_needs_an_uploaded_model(void **state)
{
    (void)state;
    ml_config c = test_model_config(TEST_DENSE);
    ml_model *m;
    ml_adapter *a;
    assert_ok(ml_model_make(&c, ML_F32, false, &m, &err));
    ml_model_init(m, 1);
    assert_ok(ml_adapter_make(&(ml_adapter_config){ .rank = 2, .alpha = 2 }, m, 1, &a, &err));
    assert_fails(ml_adapter_place(a, device, &err), ML_EINVAL, "beside a model there");
    assert_ok(ml_model_upload(m, device, 0, &err));
    assert_ok(ml_adapter_place(a, device, &err));
    assert_fails(ml_adapter_place(a, device, &err), ML_EINVAL, "beside a model there");
    ml_adapter_free(a);
    ml_model_free(m);
}

/* ---- inference: operators ---- */

static float *random_values(int64_t n, double std, uint64_t stream)
{
    ml_rng rng = ml_rng_make(11, stream);
    float *x = malloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = (float)(std * ml_rng_normal(&rng));
    return x;
}

static void *put(const void *from, size_t n_bytes)
{
    void *to;
    assert_ok(ml_device_alloc(device, n_bytes, "a test's memory", &to, &err));
    assert_ok(ml_device_upload(device, to, from, n_bytes, &err));
    return to;
}

/* A context whose arena is NaN: what is read without having been written shows. */
static void make_ctx(ml_ctx *ctx, int64_t n_decode)
{
    assert_ok(ml_ctx_init_on(ctx, device, (size_t)2 << 20, 0, &err));
    char *bytes = malloc(ctx->data.capacity);
    memset(bytes, 0xff, ctx->data.capacity);
    assert_ok(ml_device_upload(device, ctx->data.base, bytes, ctx->data.capacity, &err));
    free(bytes);
    ctx->mode = ML_MODE_FAST;
    ctx->n_decode = n_decode;
}

static ml_tensor *wrap(ml_ctx *ctx, ml_dtype dtype, int64_t n_row, int64_t n_col, const void *data)
{
    return ml_tensor_wrap(ctx, dtype, 2, (int64_t[]){ n_row, n_col }, (void *)(uintptr_t)data);
}

/* A term here and there: matrices [n_matrix], rank 0: none. */
typedef struct {
    int64_t n_matrix, rank, n_in, n_out;
    bool scales;
    float scale, *a, *b, *m, *norm;
    ml_token_term there;
} term;

static term make_term(int64_t n_matrix, int64_t rank, int64_t n_in, int64_t n_out, bool scales, uint64_t stream)
{
    term t = { .n_matrix = n_matrix, .rank = rank, .n_in = n_in, .n_out = n_out, .scales = scales, .scale = 0.75f };
    if (rank == 0) return t;
    int64_t n_a = n_matrix * rank * n_in, n_b = n_matrix * n_out * rank, n = n_matrix * n_out;
    t.a = random_values(n_a, 1 / sqrt((double)n_in), stream);
    t.b = random_values(n_b, 1 / sqrt((double)rank), stream + 1);
    t.m = random_values(n, 1, stream + 2);
    t.norm = random_values(n, 1, stream + 3);
    for (int64_t i = 0; i < n; i++) t.norm[i] = i % 5 == 3 ? 0 : fabsf(t.norm[i]) + 0.5f;
    t.there = (ml_token_term){ .a = put(t.a, (size_t)n_a * sizeof(float)),
                               .b = put(t.b, (size_t)n_b * sizeof(float)),
                               .m = scales ? put(t.m, (size_t)n * sizeof(float)) : NULL,
                               .norm = scales ? put(t.norm, (size_t)n * sizeof(float)) : NULL,
                               .rank = rank,
                               .n_in = n_in,
                               .n_out = n_out,
                               .scale = t.scale };
    return t;
}

static void free_term(term *t)
{
    const float *const there[] = { t->there.a, t->there.b, t->there.m, t->there.norm };
    for (int i = 0; i < 4; i++) ml_device_release(device, (void *)(uintptr_t)there[i]);
    free(t->a);
    free(t->b);
    free(t->m);
    free(t->norm);
}

static double factor_of(const term *t, int64_t out)
{
    return t->rank > 0 && t->scales && t->norm[out] > 0 ? (double)t->m[out] / (double)t->norm[out] : 1;
}

/* Row `out`, counted over all matrices, of the term times x; 0 without one. */
static double term_times(const term *t, int64_t out, const double *x)
{
    double sum = 0;
    for (int64_t r = 0; r < t->rank; r++) {
        const float *a = t->a + (out / t->n_out * t->rank + r) * t->n_in;
        double low = 0;
        for (int64_t i = 0; i < t->n_in; i++) low += (double)a[i] * x[i];
        sum += (double)t->b[out * t->rank + r] * low;
    }
    return sum * (double)t->scale;
}

/* Tables [N_TABLE][n_part] there, and of each token one of them, or none. */
enum { N_TABLE = 3 };

static const ml_token_term *const *put_tables(const term *t, int64_t n_part, const int *table_of, int64_t n_token,
                                              void *memory[2])
{
    ml_token_term there[N_TABLE * 3];
    const ml_token_term *of[16];
    assert_true(n_part <= 3 && n_token <= 16);
    for (int64_t i = 0; i < N_TABLE * n_part; i++) there[i] = t[i].there;
    memory[0] = put(there, (size_t)(N_TABLE * n_part) * sizeof there[0]);
    for (int64_t i = 0; i < n_token; i++) {
        of[i] = table_of[i] < 0 ? NULL : (const ml_token_term *)memory[0] + table_of[i] * n_part;
    }
    memory[1] = put(of, (size_t)n_token * sizeof of[0]);
    return memory[1];
}

static int64_t most_rank(const term *t, int64_t n_part, int64_t part)
{
    int64_t most = 0;
    for (int i = 0; i < N_TABLE; i++) most = t[i * n_part + part].rank > most ? t[i * n_part + part].rank : most;
    return most;
}

/* A product of two matrices with terms in some tables, a bias behind them. */
static void check_linear(bool has_bias)
{
    enum { N = 6, K = 37, FIRST = 5, SECOND = 130, N_OUT = FIRST + SECOND };
    static const int table_of[N] = { 1, -1, 0, 2, 0, -1 };
    term t[N_TABLE * 2];
    void *memory[2];
    for (int i = 0; i < N_TABLE; i++) { /* the third has nothing for the first matrix */
        t[2 * i] = make_term(1, i == 2 ? 0 : 3 + 6 * i, K, FIRST, i == 1, 10 * (uint64_t)i + 100);
        t[2 * i + 1] = make_term(1, 4, K, SECOND, i != 1, 10 * (uint64_t)i + 200);
    }
    float *x = random_values(N * K, 1, 1), *y = random_values(N * N_OUT, 1, 2), *bias = random_values(N_OUT, 1, 3);
    const ml_token_term *const *of_token = put_tables(t, 2, table_of, N, memory);
    ml_token_part part[2];
    for (int p = 0; p < 2; p++) {
        part[p] = (ml_token_part){ .terms = { of_token, p, most_rank(t, 2, p), true },
                                   .column = p * FIRST,
                                   .n = p ? SECOND : FIRST };
    }
    ml_ctx ctx;
    make_ctx(&ctx, N);
    ml_tensor *there = wrap(&ctx, ML_F32, N, N_OUT, y), *b = wrap(&ctx, ML_F32, 1, N_OUT, bias);
    assert_ok(
        ml_cuda_token_terms_linear(&ctx, there, wrap(&ctx, ML_F32, N, K, x), part, 2, has_bias ? b : NULL, N - 1));
    const float *found = ml_tensor_read(&ctx, there);
    assert_ok(ml_ctx_status(&ctx, &err));
    for (int64_t r = 0; r < N; r++) {
        double row[K];
        for (int64_t i = 0; i < K; i++) row[i] = (double)x[r * K + i];
        for (int64_t j = 0; j < N_OUT; j++) {
            const term *one = table_of[r] < 0 ? NULL : &t[table_of[r] * 2 + (j >= FIRST)];
            int64_t out = j < FIRST ? j : j - FIRST;
            double v = (double)y[r * N_OUT + j], f = found[r * N_OUT + j];
            if (r == N - 1) { /* beyond the rows that were meant */
                assert_true(f == v);
                continue;
            }
            if (!one || one->rank == 0) {
                float plain = has_bias ? y[r * N_OUT + j] + bias[j] : y[r * N_OUT + j];
                assert_true(found[r * N_OUT + j] == plain);
                continue;
            }
            v = factor_of(one, out) * (v + term_times(one, out, row)) + (has_bias ? (double)bias[j] : 0);
            /* sums of some 40 products of order 1, factors below 8: 2e-6 of ops.def's lora, times these */
            if (!(fabs(f - v) <= 2e-5)) fail_msg("row %d column %d is %.9g, expected %.9g", (int)r, (int)j, f, v);
        }
    }
    ml_ctx_free(&ctx);
    for (int i = 0; i < N_TABLE * 2; i++) free_term(&t[i]);
    for (int i = 0; i < 2; i++) ml_device_release(device, memory[i]);
    free(x);
    free(y);
    free(bias);
}

static void test_terms_of_tokens(void **state)
{
    (void)state;
    check_linear(false);
    check_linear(true);
}

/* Weights of experts there, [n, rows, cols], and the numbers they stand for. */
static ml_tensor put_weight(ml_dtype dtype, int64_t n, int64_t rows, int64_t cols, uint64_t stream, float **value)
{
    int64_t count = n * rows * cols;
    float *x = random_values(count, 1 / sqrt((double)cols), stream);
    char *data = malloc((size_t)count * 4);
    ml_convert_from_f32(dtype, x, data, count);
    ml_convert_to_f32(dtype, data, x, count);
    ml_tensor t = ml_tensor_describe(dtype, 3, (int64_t[]){ n, rows, cols },
                                     put(data, (size_t)(n * rows) * ml_dtype_row_bytes(dtype, cols)));
    t.device = device;
    free(data);
    *value = x;
    return t;
}

static void dot_rows(const float *w, int64_t rows, int64_t cols, const double *x, double *y)
{
    for (int64_t i = 0; i < rows; i++) {
        y[i] = 0;
        for (int64_t c = 0; c < cols; c++) y[i] += (double)w[i * cols + c] * x[c];
    }
}

/* Experts of tokens with terms of their own, or none, weights of one type or of two. */
static void check_experts(ml_dtype gate_type, ml_dtype up_type, bool has_up)
{
    enum { N = 5, D = 40, F = 24, EXPERTS = 4, TOP = 2 };
    static const int table_of[N] = { 0, -1, 1, 2, 0 };
    static const int32_t id[N * TOP] = { 3, 1, 1, 0, 3, -1, 1, 3, 0, 1 };
    float *value[3], *x = random_values(N * D, 1, 1), *prob = random_values(N * TOP, 1, 2);
    ml_tensor gate = put_weight(gate_type, EXPERTS, F, D, 3, &value[0]),
              up = put_weight(up_type, EXPERTS, F, D, 4, &value[1]),
              down = put_weight(gate_type, EXPERTS, D, F, 5, &value[2]);
    term t[N_TABLE * 3];
    for (int i = 0; i < N_TABLE; i++) { /* the second has none for down, the third for down alone */
        t[3 * i] = make_term(EXPERTS, i == 2 ? 0 : 3, D, F, i == 1, 10 * (uint64_t)i + 100);
        t[3 * i + 1] = make_term(EXPERTS, i == 2 || !has_up ? 0 : 5, D, F, i == 1, 10 * (uint64_t)i + 200);
        t[3 * i + 2] = make_term(EXPERTS, i == 1 ? 0 : 2, F, D, i == 2, 10 * (uint64_t)i + 300);
    }
    void *memory[2];
    const ml_token_term *const *of_token = put_tables(t, 3, table_of, N, memory);
    ml_token_terms terms[3];
    for (int p = 0; p < 3; p++) terms[p] = (ml_token_terms){ of_token, p, most_rank(t, 3, p), true };
    ml_experts_param param = { has_up ? ML_ACT_SILU : ML_ACT_RELU };
    ml_ctx ctx;
    make_ctx(&ctx, N);
    ml_tensor *in[3] = { wrap(&ctx, ML_F32, N, D, x), wrap(&ctx, ML_I32, N, TOP, id),
                         wrap(&ctx, ML_F32, N, TOP, prob) };
    ml_tensor *y = ml_tensor_new_2d(&ctx, ML_F32, N, D);
    assert_ok(
        ml_cuda_token_terms_experts(&ctx, y, in[0], in[1], in[2], &gate, has_up ? &up : NULL, &down, &param, terms, N));
    const float *found = ml_tensor_read(&ctx, y);
    const float *plain =
        ml_tensor_read(&ctx, ml_experts(&ctx, in[0], in[1], in[2], &gate, has_up ? &up : NULL, &down, &param));
    assert_ok(ml_ctx_status(&ctx, &err));
    for (int64_t r = 0; r < N; r++) {
        double row[D], want[D] = { 0 };
        for (int64_t c = 0; c < D; c++) row[c] = (double)x[r * D + c];
        if (table_of[r] < 0) assert_memory_equal(found + r * D, plain + r * D, D * sizeof *found);
        const term none = { .n_out = 1 }, *one = table_of[r] < 0 ? NULL : &t[table_of[r] * 3];
        const term *g = one ? one : &none, *u = one ? one + 1 : &none, *w = one ? one + 2 : &none;
        for (int k = 0; k < TOP; k++) {
            int64_t e = id[r * TOP + k];
            double pre[F], second[F], a[F], z[D];
            if (e < 0) continue;
            dot_rows(value[0] + e * F * D, F, D, row, pre);
            dot_rows(value[1] + e * F * D, F, D, row, second);
            for (int64_t i = 0; i < F; i++) {
                double p = factor_of(g, e * F + i) * (pre[i] + term_times(g, e * F + i, row));
                double q = factor_of(u, e * F + i) * (second[i] + term_times(u, e * F + i, row));
                a[i] = (double)prob[r * TOP + k] * (has_up ? p / (1 + exp(-p)) * q : fmax(p, 0));
            }
            dot_rows(value[2] + e * D * F, D, F, a, z);
            for (int64_t c = 0; c < D; c++) want[c] += factor_of(w, e * D + c) * (z[c] + term_times(w, e * D + c, a));
        }
        for (int64_t c = 0; c < D; c++) {
            /* of order 1 to 30 after two sums and their factors: ops.def's 4e-6 of these */
            if (fabs((double)found[r * D + c] - want[c]) <= 1e-4) continue;
            fail_msg("token %d column %d is %.9g, expected %.9g", (int)r, (int)c, (double)found[r * D + c], want[c]);
        }
    }
    ml_ctx_free(&ctx);
    void *const all[] = { gate.data, up.data, down.data, memory[0], memory[1] };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) ml_device_release(device, all[i]);
    for (int i = 0; i < N_TABLE * 3; i++) free_term(&t[i]);
    for (int i = 0; i < 3; i++) free(value[i]);
    free(x);
    free(prob);
}

static void test_terms_of_experts(void **state)
{
    (void)state;
    check_experts(ML_BF16, ML_BF16, true);
    check_experts(ML_F32, ML_F32, false);
    check_experts(ML_F32, ML_F16, true); /* which cannot be read together */
}

/* ---- inference: models ---- */

static int32_t tokens[64];

/* Random weights in fp32 or bf16; dense ones have biases. */
static ml_model *make_model(test_model which, bool half)
{
    ml_config c = test_model_config(which);
    ml_model *m;
    c.attention_bias = which == TEST_DENSE;
    assert_ok(ml_model_make(&c, ML_F32, false, &m, &err));
    ml_model_init(m, 5);
    ml_rng rng = ml_rng_make(9, 1);
    test_model_enlarge(m, &rng);
    for (size_t i = 0; i < m->n_weight; i++) {
        for (int64_t j = 0; strstr(m->weight[i].name, ".bias") && j < ml_weight_count(&m->weight[i]); j++) {
            ((float *)m->weight[i].data)[j] = (float)(0.3 * ml_rng_normal(&rng));
        }
    }
    for (int i = 0; i < 64; i++) tokens[i] = (int32_t)ml_rng_below(&rng, TEST_VOCAB);
    return half ? test_model_round_to_bf16(m) : m;
}

/* The same weights as fp32. */
static ml_model *widen(const ml_model *from)
{
    ml_model *m;
    assert_ok(ml_model_make(&from->config, ML_F32, false, &m, &err));
    for (size_t i = 0; i < m->n_weight; i++) {
        const ml_weight *w = &from->weight[i];
        ml_convert_to_f32(w->dtype, w->data, m->weight[i].data, ml_weight_count(w));
    }
    return m;
}

/* Which terms: all of rank 3, but 5 beside some; or those of every third module alone. */
static bool choose(void *arg, const ml_adapter_module *module, int64_t *rank, double *alpha)
{
    bool sparse = *(const bool *)arg;
    *rank = module->slot % 3 == 1 && module->slot < ML_SLOT_EXPERT_GATE ? 5 : 3;
    *alpha = 2 * (double)*rank;
    return !sparse || (module->layer + module->slot) % 3 == 0;
}

/* For inference, of a model whose weights this machine can read; m is off its norm by a tenth. */
static ml_adapter *make_adapter(const ml_model *m, bool dora, bool sparse, uint64_t seed)
{
    ml_adapter *a;
    assert_ok(ml_adapter_make_chosen(m, dora, false, choose, &sparse, &a, &err));
    for (size_t i = 0; i < a->n_term; i++) {
        ml_adapter_term *t = &a->term[i];
        ml_rng rng = ml_rng_make(seed, i + 1);
        double std = 1 / sqrt((double)t->module.cols);
        for (int64_t j = 0; j < ml_tensor_count(&t->a); j++) ml_f32(&t->a)[j] = (float)(std * ml_rng_normal(&rng));
        for (int64_t j = 0; j < ml_tensor_count(&t->b); j++) ml_f32(&t->b)[j] = (float)(0.2 * ml_rng_normal(&rng));
    }
    assert_ok(ml_adapter_update_norms(a, &err));
    for (size_t i = 0; i < a->n_term && dora; i++) {
        ml_rng rng = ml_rng_make(seed + 1, i + 1);
        for (int64_t j = 0; j < ml_tensor_count(&a->term[i].m); j++) {
            ml_f32(&a->term[i].m)[j] = ml_f32(&a->term[i].norm)[j] * (float)(1 + 0.1 * ml_rng_normal(&rng));
        }
    }
    return a;
}

/* A prompt of 20 in pieces of `chunk`, then 4 that are generated; logits behind each. */
static void say(ml_model *m, const ml_adapter *a, int64_t chunk, float logits[2][TEST_VOCAB])
{
    ml_session *s;
    assert_ok(ml_session_make(m, 32, true, &s, &err));
    ml_session_set_adapter(s, a);
    for (int64_t i = 0; i < 20; i += chunk) {
        assert_ok(ml_session_append(s, tokens + i, 20 - i < chunk ? 20 - i : chunk, &err));
    }
    memcpy(logits[0], ml_session_logits(s), sizeof logits[0]);
    for (int i = 20; i < 24; i++) assert_ok(ml_session_append_generated(s, tokens[i], &err));
    memcpy(logits[1], ml_session_logits(s), sizeof logits[1]);
    ml_session_free(s);
}

/* What a session says beside an adapter: here with the weights as fp32, there, and there in pieces. */
static void check_said(test_model which, bool half, bool dora, bool sparse)
{
    float here[2][TEST_VOCAB], there[2][TEST_VOCAB], plain[2][TEST_VOCAB], again[2][TEST_VOCAB];
    ml_model *m = make_model(which, half), *wide = widen(m);
    ml_adapter *a = make_adapter(m, dora, sparse, 21), *b = make_adapter(wide, dora, sparse, 21);
    say(wide, b, 20, here);
    say(wide, &ml_adapter_none, 20, plain);
    ml_adapter_free(b);
    ml_model_free(wide);
    assert_ok(ml_model_upload(m, device, 0, &err));
    ml_session *s;
    assert_ok(ml_session_make(m, 32, true, &s, &err));
    ml_session_set_adapter(s, a);
    assert_fails(ml_session_append(s, tokens, 2, &err), ML_EINVAL, "placed there");
    ml_session_free(s);
    /* Norms are made there. */
    for (size_t i = 0; i < a->n_term && dora; i++) {
        memset(a->term[i].norm.data, 0, (size_t)ml_tensor_count(&a->term[i].norm) * sizeof(float));
    }
    assert_ok(ml_adapter_place(a, device, &err));
    say(m, a, 20, there);
    double moved = 0, largest = 0;
    for (int i = 0; i < 2 * TEST_VOCAB; i++)
        largest = fmax(largest, fabs((double)here[i / TEST_VOCAB][i % TEST_VOCAB]));
    for (int i = 0; i < 2 * TEST_VOCAB; i++) {
        double x = here[i / TEST_VOCAB][i % TEST_VOCAB], y = there[i / TEST_VOCAB][i % TEST_VOCAB];
        /* A cache of halves may round the other way; where weights are bf16, products of prompts round activations to
         * 2^-9 of them, layer after layer.  Without adapters these models are off as far. */
        if (!(fabs(x - y) <= (half ? 0.03 : 1e-4) * largest)) {
            fail_msg("model %d: logit %d is %g, expected %g (of %g)", (int)which, i, y, x, largest);
        }
        moved = fmax(moved, fabs(x - (double)plain[i / TEST_VOCAB][i % TEST_VOCAB]));
    }
    assert_true(moved > 0.3); /* the adapter says something */
    say(m, a, 7, again);
    assert_memory_equal(again, there, sizeof there);
    ml_adapter_free(a);
    ml_model_free(m);
}

static void test_said_as_by_the_processor(void **state)
{
    (void)state;
    check_said(TEST_DENSE, true, true, false);
    check_said(TEST_GQA_MOE, false, false, false);
    check_said(TEST_GQA_MOE, true, true, true);
    check_said(TEST_MLA_MOE, false, true, false);
    check_said(TEST_MLA_MOE, true, true, false);
    check_said(TEST_MLA_LORA, true, false, true);
}

typedef struct {
    int32_t id[8];
    double logprob[8];
    int n;
} answer;

static bool take(void *arg, int32_t id, double logprob)
{
    answer *a = arg;
    a->id[a->n] = id;
    a->logprob[a->n++] = logprob;
    return true;
}

/* Requests first .. first + n - 1, through one engine, each some passes after the one before: a pass of one token is a
 * graph by the time that an adapter comes which has more terms. */
static void answer_all(ml_model *m, const ml_adapter *const *adapter, int first, int n, answer *out)
{
    ml_engine *e;
    ml_engine_config c = {
        .n_slot = 4, .capacity = 32, .chunk = 12, .n_valid = TEST_VOCAB, .kv_dtype = ML_F16, .reuse = true
    };
    assert_ok(ml_engine_make(m, &c, &e, &err));
    for (int i = 0, step = 0; i < n || ml_engine_is_busy(e); step++) {
        if (i < n && step == 3 * i) {
            int64_t id;
            ml_request q = { .prompt = tokens + first + i,
                             .n_prompt = 3 + 5 * (first + i),
                             .max_tokens = 6,
                             .sampling = { .temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 3 },
                             .adapter = adapter[first + i],
                             .on_token = take,
                             .arg = &out[i] };
            out[i++].n = 0;
            assert_ok(ml_engine_submit(e, &q, &id, &err));
        }
        assert_ok(ml_engine_step(e, &err));
    }
    ml_engine_free(e);
}

/* Adapters of other kinds, ranks and modules, and none, in one pass: each answer is as if alone, bit for bit. */
static void check_side_by_side(test_model which, bool half)
{
    ml_model *m = make_model(which, half);
    ml_adapter *one = make_adapter(m, false, false, 31), *two = make_adapter(m, true, true, 32);
    assert_ok(ml_model_upload(m, device, 0, &err));
    assert_ok(ml_adapter_place(one, device, &err));
    assert_ok(ml_adapter_place(two, device, &err));
    const ml_adapter *of[4] = { two, &ml_adapter_none, two, one };
    answer together[4] = { 0 }, alone = { 0 };
#ifdef MOONLIGHT_CUDA_EMULATED
    unsigned long long before = ml_emulate_count_graph_launches();
#endif
    answer_all(m, of, 0, 4, together);
#ifdef MOONLIGHT_CUDA_EMULATED
    assert_true(ml_emulate_count_graph_launches() > before);
#endif
    for (int i = 0; i < 4; i++) {
        answer_all(m, of, i, 1, &alone);
        assert_int_equal(alone.n, 6);
        assert_memory_equal(alone.id, together[i].id, sizeof alone.id);
        assert_memory_equal(alone.logprob, together[i].logprob, sizeof alone.logprob);
    }
    ml_adapter_free(one);
    ml_adapter_free(two);
    ml_model_free(m);
}

static void test_side_by_side(void **state)
{
    (void)state;
    check_side_by_side(TEST_DENSE, true);
    check_side_by_side(TEST_GQA_MOE, true);
    check_side_by_side(TEST_MLA_MOE, true);
    check_side_by_side(TEST_MLA_MOE, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_course_of_the_processor),
        cmocka_unit_test(test_resume_is_bit_exact),
        cmocka_unit_test(test_skipped_step_changes_nothing),
        cmocka_unit_test(test_samples_there),
        cmocka_unit_test(test_needs_an_uploaded_model),
        cmocka_unit_test(test_terms_of_tokens),
        cmocka_unit_test(test_terms_of_experts),
        cmocka_unit_test(test_said_as_by_the_processor),
        cmocka_unit_test(test_side_by_side),
    };
    if (ml_device_open(0, &device, &err) != ML_OK) {
        printf("skipped: no GPU (%s)\n", err.message);
        return 77;
    }
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    ml_device_close(device);
    return n_failed;
}
