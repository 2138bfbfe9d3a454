/* Adapters in inference on a device: terms of every kind against double precision and the processor, several adapters
 * in one pass as each alone.  On a GPU, or in builds with the emulated one there. */
#include "infer/engine.h"
#include "infer/session.h"
#include "ops/token_terms.h"
#include "support/answers.h"
#include "support/operands.h"
#include "support/support.h"

#ifdef MOONLIGHT_CUDA_EMULATED
#include "emulate.h"
#endif

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ml_error err;
static ml_device *device;

/* ---- operators ---- */

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
    t.a = test_random_values(11, n_a, 1 / sqrt((double)n_in), stream);
    t.b = test_random_values(11, n_b, 1 / sqrt((double)rank), stream + 1);
    t.m = test_random_values(11, n, 1, stream + 2);
    t.norm = test_random_values(11, n, 1, stream + 3);
    for (int64_t i = 0; i < n; i++) t.norm[i] = i % 5 == 3 ? 0 : fabsf(t.norm[i]) + 0.5f;
    t.there = (ml_token_term){ .a = test_put(device, t.a, (size_t)n_a * sizeof(float)),
                               .b = test_put(device, t.b, (size_t)n_b * sizeof(float)),
                               .m = scales ? test_put(device, t.m, (size_t)n * sizeof(float)) : NULL,
                               .norm = scales ? test_put(device, t.norm, (size_t)n * sizeof(float)) : NULL,
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
    memory[0] = test_put(device, there, (size_t)(N_TABLE * n_part) * sizeof there[0]);
    for (int64_t i = 0; i < n_token; i++) {
        of[i] = table_of[i] < 0 ? NULL : (const ml_token_term *)memory[0] + table_of[i] * n_part;
    }
    memory[1] = test_put(device, of, (size_t)n_token * sizeof of[0]);
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
    float *x = test_random_values(11, N * K, 1, 1), *y = test_random_values(11, N * N_OUT, 1, 2),
          *bias = test_random_values(11, N_OUT, 1, 3);
    const ml_token_term *const *of_token = put_tables(t, 2, table_of, N, memory);
    ml_token_part part[2];
    for (int p = 0; p < 2; p++) {
        part[p] = (ml_token_part){ .terms = { of_token, p, most_rank(t, 2, p), true },
                                   .column = p * FIRST,
                                   .n = p ? SECOND : FIRST };
    }
    ml_ctx ctx;
    test_make_ctx(&ctx, device, (size_t)2 << 20, N);
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
    float *x = test_random_values(11, count, 1 / sqrt((double)cols), stream);
    char *data = malloc((size_t)count * 4);
    ml_convert_from_f32(dtype, x, data, count);
    ml_convert_to_f32(dtype, data, x, count);
    ml_tensor t = ml_tensor_describe(dtype, 3, (int64_t[]){ n, rows, cols },
                                     test_put(device, data, (size_t)(n * rows) * ml_dtype_row_bytes(dtype, cols)));
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
    float *value[3], *x = test_random_values(11, N * D, 1, 1), *prob = test_random_values(11, N * TOP, 1, 2);
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
    test_make_ctx(&ctx, device, (size_t)2 << 20, N);
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

/* ---- models ---- */

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

/* What a session says beside an adapter: here with the weights as fp32, there, and there in pieces. */
static void check_said(test_model which, bool half, bool dora, bool sparse)
{
    float here[2][TEST_VOCAB], there[2][TEST_VOCAB], plain[2][TEST_VOCAB], again[2][TEST_VOCAB];
    ml_model *m = make_model(which, half), *wide = test_model_widen(m);
    ml_adapter *a = make_adapter(m, dora, sparse, 21), *b = make_adapter(wide, dora, sparse, 21);
    test_converse(wide, b, tokens, 20, here);
    test_converse(wide, &ml_adapter_none, tokens, 20, plain);
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
    test_converse(m, a, tokens, 20, there);
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
    test_converse(m, a, tokens, 7, again);
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

/* Requests first .. first + n - 1, through one engine, each some passes after the one before: a pass of one token is a
 * graph by the time that an adapter comes which has more terms. */
static void answer_all(ml_model *m, const ml_adapter *const *adapter, int first, int n, test_answer *out)
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
                             .on_token = test_take_token,
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
    test_answer together[4] = { 0 }, alone = { 0 };
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
        cmocka_unit_test(test_terms_of_tokens),
        cmocka_unit_test(test_terms_of_experts),
        cmocka_unit_test(test_said_as_by_the_processor),
        cmocka_unit_test(test_side_by_side),
    };
    if (!test_open_device(&device)) return TEST_SKIPPED;
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    ml_device_close(device);
    return n_failed;
}
