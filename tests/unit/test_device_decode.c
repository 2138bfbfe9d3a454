/* Inference on a device: products of generated tokens, attention over a cache, sessions and the engine, against double
 * precision and against the processor; and the same bits however tokens are batched and cut. */
#include "infer/engine.h"
#include "infer/open.h"
#include "infer/session.h"
#include "model/kv_cache.h"
#include "ops/cached.h"
#include "support/answers.h"
#include "support/operands.h"
#include "support/support.h"
#include "support/tiny_run.h"
#include "tensor/blocks.h"

#ifdef MOONLIGHT_CUDA_EMULATED
#include "emulate.h"
#endif

#include <math.h>
#include <stdlib.h>
#include <string.h>

static ml_error err;
static ml_device *device;

/* ---- products ---- */

/* [n_row, k] in a type, on the device, and the numbers it stands for here. */
typedef struct {
    ml_tensor stored;
    float *value;
} weight;

static weight make_weight(ml_dtype dtype, int n_dim, const int64_t *dim, uint64_t stream)
{
    int64_t k = dim[n_dim - 1], n_row = dim[0] * (n_dim == 3 ? dim[1] : 1);
    size_t n_bytes = (size_t)n_row * ml_dtype_row_bytes(dtype, k);
    float *x = test_random_values(7, n_row * k, 1 / sqrt((double)k), stream);
    weight w = { .value = malloc((size_t)(n_row * k) * sizeof(float)) };
    char *data = malloc(n_bytes);
    if (ml_can_quantize(dtype)) {
        assert_ok(ml_quantize_rows(dtype, x, n_row, k, NULL, data, &err));
    } else if (ml_dtype_is_block(dtype)) {
        /* Any codes, with scales that are small numbers: every half of the block is finite. */
        ml_rng rng = ml_rng_make(3, stream);
        for (size_t i = 0; i < n_bytes; i++) data[i] = (char)(ml_rng_below(&rng, 256) & (i % 2 ? 0x2f : 0xff));
    } else {
        ml_convert_from_f32(dtype, x, data, n_row * k);
    }
    ml_convert_to_f32(dtype, data, w.value, n_row * k);
    free(x);
    void *there = test_put(device, data, n_bytes);
    free(data);
    w.stored = ml_tensor_describe(dtype, n_dim, dim, there);
    w.stored.device = device;
    return w;
}

static void free_weight(weight *w)
{
    ml_device_release(device, w->stored.data);
    free(w->value);
}

/* y [n, n_out] of a linear, the first n_decode rows as generated tokens */
static float *run_linear(const weight *w, const float *x, int64_t n, int64_t n_decode)
{
    ml_ctx ctx;
    test_make_ctx(&ctx, device, (size_t)4 << 20, n_decode);
    int64_t dim[2] = { n, w->stored.dim[1] };
    ml_tensor stored = w->stored;
    ml_tensor *y = ml_linear(&ctx, ml_tensor_wrap(&ctx, ML_F32, 2, dim, (void *)(uintptr_t)x), &stored, NULL);
    float *out = malloc((size_t)(n * w->stored.dim[0]) * sizeof *out);
    const float *from = ml_tensor_read(&ctx, y);
    assert_ok(ml_ctx_status(&ctx, &err));
    memcpy(out, from, (size_t)(n * w->stored.dim[0]) * sizeof *out);
    ml_ctx_free(&ctx);
    return out;
}

/* A sum of k products, each rounded to 2^-24, and as many additions: k * 2^-24 of the sum of magnitudes is what cannot
 * be exceeded, and a sixteenth of it what is not at these sizes. */
static void expect_products(const weight *w, const float *x, int64_t n, const float *y, const char *what)
{
    int64_t n_out = w->stored.dim[0], k = w->stored.dim[1];
    for (int64_t r = 0; r < n; r++) {
        for (int64_t j = 0; j < n_out; j++) {
            double sum = 0, magnitude = 0;
            for (int64_t l = 0; l < k; l++) {
                double p = (double)x[r * k + l] * (double)w->value[j * k + l];
                sum += p;
                magnitude += fabs(p);
            }
            double bound = magnitude * ldexp((double)k / 16 + 8, -24);
            if (fabs((double)y[r * n_out + j] - sum) <= bound) continue;
            fail_msg("%s %s: row %lld column %lld is %.9g, expected %.9g", ml_dtype_name(w->stored.dtype), what,
                     (long long)r, (long long)j, (double)y[r * n_out + j], sum);
        }
    }
}

static void check_linear(ml_dtype dtype, int64_t n_out, int64_t k)
{
    enum { N = 19 };
    int64_t dim[2] = { n_out, k };
    weight w = make_weight(dtype, 2, dim, (uint64_t)dtype + 10);
    float *x = test_random_values(7, N * k, 1, 5);
    float *all = run_linear(&w, x, N, N);
    expect_products(&w, x, N, all, "generated");
    size_t row_bytes = (size_t)n_out * sizeof(float);
    static const int64_t counts[] = { 1, 3, 5, 16 };
    for (int i = 0; i < 4; i++) {
        float *some = run_linear(&w, x, counts[i], counts[i]);
        assert_memory_equal(some, all, (size_t)counts[i] * row_bytes);
        free(some);
    }
    float *mixed = run_linear(&w, x, N, 7), *prompt = run_linear(&w, x, N, 0);
    expect_products(&w, x, N, prompt, "prompt");
    assert_memory_equal(mixed, all, 7 * row_bytes);
    assert_memory_equal(mixed + 7 * n_out, prompt + 7 * n_out, 12 * row_bytes);
    free(mixed);
    free(prompt);
    free(all);
    free(x);
    free_weight(&w);
}

static void test_products_of_every_type(void **state)
{
    (void)state;
    for (int dtype = 0; dtype < ML_N_DTYPE; dtype++) {
        if (dtype == ML_I32) continue;
        check_linear((ml_dtype)dtype, 21, ml_dtype_block_length((ml_dtype)dtype) == 256 ? 512 : 352);
    }
}

static void test_products_of_odd_sizes(void **state)
{
    (void)state;
    for (int dtype = ML_F32; dtype <= ML_F16; dtype++) {
        check_linear((ml_dtype)dtype, 3, 37);
        check_linear((ml_dtype)dtype, 18, 8);
        check_linear((ml_dtype)dtype, 1, 2);
    }
    check_linear(ML_Q8_0, 5, 32);
    check_linear(ML_Q6_K, 2, 256);
}

/* ---- experts ---- */

enum { N_EXPERT = 6, TOP_K = 3, N_TOKEN = 9 };

/* y of the first n tokens */
static float *run_experts(const weight *gate, const weight *up, const weight *down, const float *x, int64_t n,
                          const int32_t *id, const float *prob, int64_t n_decode)
{
    ml_ctx ctx;
    test_make_ctx(&ctx, device, (size_t)4 << 20, n_decode);
    int64_t d = gate->stored.dim[2], x_dim[2] = { n, d }, k_dim[2] = { n, TOP_K };
    ml_tensor g = gate->stored, u, w = down->stored;
    if (up) u = up->stored;
    ml_experts_param param = { up ? ML_ACT_SILU : ML_ACT_RELU };
    ml_tensor *y =
        ml_experts(&ctx, ml_tensor_wrap(&ctx, ML_F32, 2, x_dim, (void *)(uintptr_t)x),
                   ml_tensor_wrap(&ctx, ML_I32, 2, k_dim, (void *)(uintptr_t)id),
                   ml_tensor_wrap(&ctx, ML_F32, 2, k_dim, (void *)(uintptr_t)prob), &g, up ? &u : NULL, &w, &param);
    float *out = malloc((size_t)(n * d) * sizeof *out);
    const float *from = ml_tensor_read(&ctx, y);
    assert_ok(ml_ctx_status(&ctx, &err));
    memcpy(out, from, (size_t)(n * d) * sizeof *out);
    ml_ctx_free(&ctx);
    return out;
}

static double dot(const float *w, const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)w[i] * (double)x[i];
    return sum;
}

static double *experts_reference(const weight *gate, const weight *up, const weight *down, const float *x,
                                 const int32_t *id, const float *prob)
{
    int64_t f = gate->stored.dim[1], d = gate->stored.dim[2];
    double *y = calloc((size_t)(N_TOKEN * d), sizeof *y), *a = malloc((size_t)f * sizeof *a);
    for (int64_t t = 0; t < N_TOKEN; t++) {
        for (int k = 0; k < TOP_K; k++) {
            int64_t e = id[t * TOP_K + k];
            if (e < 0) continue;
            for (int64_t i = 0; i < f; i++) {
                double g = dot(gate->value + (e * f + i) * d, x + t * d, d);
                a[i] = up ? g / (1 + exp(-g)) * dot(up->value + (e * f + i) * d, x + t * d, d) : fmax(g, 0);
            }
            for (int64_t c = 0; c < d; c++) {
                double sum = 0;
                for (int64_t i = 0; i < f; i++) sum += (double)down->value[(e * d + c) * f + i] * a[i];
                y[t * d + c] += (double)prob[t * TOP_K + k] * sum;
            }
        }
    }
    free(a);
    return y;
}

static void check_experts(ml_dtype first, ml_dtype second, int64_t f, int64_t d, bool has_up)
{
    static const int32_t id[N_TOKEN * TOP_K] = { 5, 0, 2, 2, 5, 1,  2,  0, 5, 5, 2, -1, 1, 2,
                                                 0, 0, 2, 5, 2, -1, -1, 5, 1, 2, 0, 1,  2 };
    weight gate = make_weight(first, 3, (int64_t[]){ N_EXPERT, f, d }, 1);
    weight up = make_weight(first, 3, (int64_t[]){ N_EXPERT, f, d }, 2);
    weight down = make_weight(second, 3, (int64_t[]){ N_EXPERT, d, f }, 3);
    float *x = test_random_values(7, N_TOKEN * d, 1, 4), *prob = test_random_values(7, N_TOKEN * TOP_K, 1, 5);
    double *expected = experts_reference(&gate, has_up ? &up : NULL, &down, x, id, prob);
    float *all = run_experts(&gate, has_up ? &up : NULL, &down, x, N_TOKEN, id, prob, N_TOKEN);
    for (int64_t i = 0; i < N_TOKEN * d; i++) {
        /* Values of order 1 from two sums of up to 512 products: 4e-6 as in ops.def, relative to the largest, here < 8.
         */
        if (fabs((double)all[i] - expected[i]) <= 3e-5) continue;
        fail_msg("experts of %s: element %lld is %.9g, expected %.9g", ml_dtype_name(first), (long long)i,
                 (double)all[i], expected[i]);
    }
    float *alone = run_experts(&gate, has_up ? &up : NULL, &down, x, 1, id, prob, 1);
    assert_memory_equal(alone, all, (size_t)d * sizeof(float));
    float *mixed = run_experts(&gate, has_up ? &up : NULL, &down, x, N_TOKEN, id, prob, 4);
    assert_memory_equal(mixed, all, (size_t)(4 * d) * sizeof(float));
    for (int64_t i = 4 * d; i < N_TOKEN * d; i++) assert_true(fabs((double)mixed[i] - expected[i]) <= 3e-5);
    free(alone);
    free(mixed);
    free(all);
    free(expected);
    free(x);
    free(prob);
    free_weight(&gate);
    free_weight(&up);
    free_weight(&down);
}

static void test_experts_of_generated_tokens(void **state)
{
    (void)state;
    check_experts(ML_F32, ML_F32, 24, 40, true);
    check_experts(ML_BF16, ML_BF16, 24, 40, false);
    check_experts(ML_BF16, ML_F16, 20, 36, true);
    check_experts(ML_Q4_K, ML_Q8_0, 32, 256, true);
    check_experts(ML_Q8_0, ML_Q6_K, 256, 64, true);
}

/* ---- attention over a cache ---- */

enum { N_SEQ = 2, LENGTH = 90, PAGE = 16 };

typedef struct {
    bool mla;
    ml_attention_param gqa;
    ml_mla_param latent;
    ml_dtype dtype, weight; /* of the cache, of kv_b */
    bool split;             /* k_b and v_b instead */
} attention;

typedef struct {
    int64_t q, k, tail, v, y; /* columns */
} columns;

static columns columns_of(const attention *a)
{
    const ml_mla_param *m = &a->latent;
    const ml_attention_param *g = &a->gqa;
    if (a->mla) {
        return (columns){ m->n_head * (m->d_nope + m->n_rot), m->kv_lora_rank, m->n_rot, 0, m->n_head * m->d_v };
    }
    return (columns){ g->n_head * g->d_qk, g->n_kv_head * g->d_qk, 0, g->n_kv_head * g->d_v, g->n_head * g->d_v };
}

/* n_bytes of `from` where `on` is. */
static void *put(ml_device *on, const void *from, size_t n_bytes)
{
    if (on) return test_put(on, from, n_bytes);
    return memcpy(malloc(n_bytes), from, n_bytes);
}

static void drop(ml_device *on, void *p)
{
    if (on) {
        ml_device_release(on, p);
    } else {
        free(p);
    }
}

/* A matrix of the type, the same bits wherever it lies. */
static ml_tensor matrix(ml_device *on, ml_dtype dtype, int64_t n_row, int64_t k, uint64_t stream)
{
    float *x = test_random_values(7, n_row * k, 1 / sqrt((double)k), stream);
    size_t n_bytes = (size_t)n_row * ml_dtype_row_bytes(dtype, k);
    void *data = malloc(n_bytes);
    if (ml_dtype_is_block(dtype)) {
        assert_ok(ml_quantize_rows(dtype, x, n_row, k, NULL, data, &err));
    } else {
        ml_convert_from_f32(dtype, x, data, n_row * k);
    }
    ml_tensor t = ml_tensor_describe(dtype, 2, (int64_t[]){ n_row, k }, put(on, data, n_bytes));
    t.device = on;
    free(data);
    free(x);
    return t;
}

/* Both sequences, token by token in turn, `chunk` in a call, all decoded or all prompt. */
static float *run_attention(ml_device *on, const attention *a, int64_t chunk, bool decode)
{
    enum { N = N_SEQ * LENGTH, PAGES = (LENGTH + PAGE - 1) / PAGE };
    columns c = columns_of(a);
    int32_t seq[N], pos[N], table[N_SEQ * PAGES];
    for (int i = 0; i < N; i++) seq[i] = i % N_SEQ, pos[i] = i / N_SEQ;
    for (int i = 0; i < N_SEQ * PAGES; i++) table[i] = (i * 7) % (N_SEQ * PAGES); /* 7 is coprime to 12 */
    float *q = test_random_values(7, N * c.q, 1.5, 1), *k = test_random_values(7, N * c.k, 1, 2),
          *v = test_random_values(7, N * (c.v + 1), 1, 3);
    float *tail = test_random_values(7, N * (c.tail + 1), 1, 4), *out = malloc((size_t)(N * c.y) * sizeof *out);
    int64_t k_bytes = (int64_t)(ml_dtype_row_bytes(a->dtype, c.k) + ml_dtype_row_bytes(a->dtype, c.tail)) + 4;
    int64_t v_bytes = (int64_t)ml_dtype_row_bytes(a->dtype, c.v) + 4;
    size_t n_row = N_SEQ * PAGES * PAGE;
    char *nan = malloc(n_row * (size_t)(k_bytes + v_bytes));
    memset(nan, 0xff, n_row * (size_t)(k_bytes + v_bytes));
    ml_kv_view view = { .dtype = a->dtype,
                        .k = put(on, nan, n_row * (size_t)k_bytes),
                        .v = put(on, nan, n_row * (size_t)v_bytes),
                        .k_row_bytes = k_bytes,
                        .v_row_bytes = v_bytes,
                        .page_size = PAGE,
                        .page_table = put(on, table, sizeof table),
                        .pages_per_seq = PAGES };
    free(nan);
    const ml_mla_param *m = &a->latent;
    int64_t n_kv = m->n_head * (m->d_nope + m->d_v);
    ml_tensor kv_b = { 0 }, k_b = { 0 }, v_b = { 0 };
    if (a->mla && !a->split) kv_b = matrix(on, a->weight, n_kv, m->kv_lora_rank, 5);
    if (a->mla && a->split) {
        k_b = matrix(on, a->weight, m->n_head * m->kv_lora_rank, m->d_nope, 6);
        v_b = matrix(on, a->weight, m->n_head * m->d_v, m->kv_lora_rank, 7);
    }
    ml_mla_weights weights = { .kv_b = a->split ? NULL : &kv_b,
                               .k_b = a->split ? &k_b : NULL,
                               .v_b = a->split ? &v_b : NULL };
    ml_ctx ctx;
    assert_ok(ml_ctx_init_on(&ctx, on, (size_t)96 << 20, 0, &err));
    ctx.mode = ML_MODE_FAST;
    for (int64_t at = 0, n; at < N; at += n) {
        n = N - at < chunk ? N - at : chunk;
        ml_ctx_mark mark = ml_ctx_get_mark(&ctx);
        ml_tensor *s = ml_tensor_wrap(&ctx, ML_I32, 1, &n, seq + at),
                  *p = ml_tensor_wrap(&ctx, ML_I32, 1, &n, pos + at);
        ml_tensor *tq = ml_tensor_wrap(&ctx, ML_F32, 2, (int64_t[]){ n, c.q }, q + at * c.q);
        ml_tensor *tk = ml_tensor_wrap(&ctx, ML_F32, 2, (int64_t[]){ n, c.k }, k + at * c.k), *y;
        if (a->mla) {
            ml_tensor *tt = ml_tensor_wrap(&ctx, ML_F32, 2, (int64_t[]){ n, c.tail }, tail + at * c.tail);
            ml_kv_store(&ctx, &view, tk, tt, NULL, s, p);
            y = ml_attention_cached_mla(&ctx, tq, &weights, &view, s, p, decode ? n : 0, m);
        } else {
            ml_tensor *tv = ml_tensor_wrap(&ctx, ML_F32, 2, (int64_t[]){ n, c.v }, v + at * c.v);
            ml_kv_store(&ctx, &view, tk, NULL, tv, s, p);
            y = ml_attention_cached(&ctx, tq, &view, s, p, decode ? n : 0, &a->gqa);
        }
        const float *from = ml_tensor_read(&ctx, y);
        assert_ok(ml_ctx_status(&ctx, &err));
        memcpy(out + at * c.y, from, (size_t)(n * c.y) * sizeof *out);
        ml_ctx_release(&ctx, mark);
    }
    ml_ctx_free(&ctx);
    void *const all[] = { view.k, view.v, (void *)(uintptr_t)view.page_table, kv_b.data, k_b.data, v_b.data };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) drop(on, all[i]);
    free(q);
    free(k);
    free(v);
    free(tail);
    return out;
}

/* Both are exact up to the rounding of sums; test_attention_cached holds the processor's to 1e-5 of double precision.
 */
static void check_attention(attention a, bool thorough)
{
    columns c = columns_of(&a);
    int64_t n = N_SEQ * LENGTH * c.y;
    a.gqa.scale = a.latent.scale = 1 / sqrtf((float)(a.mla ? a.latent.d_nope + a.latent.n_rot : a.gqa.d_qk));
    float *here = run_attention(NULL, &a, N_SEQ * LENGTH, false); /* in fp32 whatever the cache */
    for (int decode = 0; decode < 2; decode++) {
        float *there = run_attention(device, &a, N_SEQ * LENGTH, decode != 0);
        for (int64_t i = 0; i < n; i++) {
            if (fabs((double)there[i] - (double)here[i]) <= 2e-5) continue;
            fail_msg("cache %s, %s: element %lld is %.9g, the processor's %.9g", ml_dtype_name(a.dtype),
                     decode ? "decode" : "prefill", (long long)i, (double)there[i], (double)here[i]);
        }
        float *pieces = thorough ? run_attention(device, &a, 37, decode != 0) : NULL;
        if (pieces) assert_memory_equal(pieces, there, (size_t)n * sizeof *there);
        free(pieces);
        free(there);
    }
    free(here);
}

static attention gqa(int64_t n_head, int64_t n_kv_head, int64_t d_qk, int64_t d_v, ml_dtype dtype)
{
    return (attention){
        .gqa = { .n_head = n_head, .n_kv_head = n_kv_head, .d_qk = d_qk, .d_v = d_v, .k_step = d_qk, .v_step = d_v },
        .dtype = dtype
    };
}

static attention mla(ml_mla_param shape, ml_dtype dtype, ml_dtype weight_type, bool split)
{
    return (attention){ .mla = true, .latent = shape, .dtype = dtype, .weight = weight_type, .split = split };
}

static void test_cached_attention(void **state)
{
    (void)state;
    check_attention(gqa(4, 2, 32, 32, ML_F16), true);
    check_attention(gqa(3, 1, 20, 33, ML_F32), false);
    check_attention(gqa(2, 2, 80, 80, ML_BF16), false);
    check_attention(gqa(2, 1, 160, 160, ML_Q8_0), false);
}

static void test_cached_latent_attention(void **state)
{
    (void)state;
    const ml_mla_param odd = { .n_head = 5, .d_nope = 24, .n_rot = 8, .d_v = 20, .kv_lora_rank = 40 };
    const ml_mla_param block = { .n_head = 2, .d_nope = 32, .n_rot = 32, .d_v = 24, .kv_lora_rank = 256 };
    check_attention(mla(odd, ML_F16, ML_BF16, false), true);
    check_attention(mla(odd, ML_F32, ML_F32, true), false);
    check_attention(mla(block, ML_Q8_0, ML_Q8_0, true), false);
    check_attention(mla(block, ML_BF16, ML_Q4_K, false), false);
}

/* ---- models ---- */

static int32_t tokens[64];

/* Random weights in fp32 or bf16, and tokens. */
static ml_model *make_model(test_model which, bool half)
{
    ml_config config = test_model_config(which);
    ml_model *m;
    assert_ok(ml_model_make(&config, ML_F32, false, &m, &err));
    ml_model_init(m, 5);
    ml_rng rng = ml_rng_make(9, 1);
    test_model_enlarge(m, &rng);
    for (int i = 0; i < 64; i++) tokens[i] = (int32_t)ml_rng_below(&rng, TEST_VOCAB);
    return half ? test_model_round_to_bf16(m) : m;
}

/* A prompt of 40 in pieces of `chunk`, then 8 that are generated; logits after each phase. */
static void converse(ml_model *m, int64_t chunk, bool use_cache, float logits[2][TEST_VOCAB])
{
    ml_session *s;
    assert_ok(ml_session_make(m, 64, use_cache, &s, &err));
    for (int64_t i = 0; i < 40; i += chunk) {
        assert_ok(ml_session_append(s, tokens + i, 40 - i < chunk ? 40 - i : chunk, &err));
    }
    memcpy(logits[0], ml_session_logits(s), sizeof logits[0]);
    for (int i = 40; i < 48; i++) assert_ok(ml_session_append_generated(s, tokens[i], &err));
    memcpy(logits[1], ml_session_logits(s), sizeof logits[1]);
    ml_session_free(s);
}

static int64_t count_experts(test_model which)
{
    return test_model_config(which).n_routed_experts;
}

/* Both compute the same sums in another order; a cache of halves may then round a value the other way. */
static void check_session(test_model which, bool half)
{
    float here[2][TEST_VOCAB], there[2][TEST_VOCAB], again[2][TEST_VOCAB];
    ml_model *m = make_model(which, half), *wide = test_model_widen(m);
    converse(wide, 40, true, here);
    ml_model_free(wide);
    assert_ok(ml_model_upload(m, device, 0, &err));
    assert_fails(ml_model_upload(m, device, 0, &err), ML_EINVAL, "already");
    converse(m, 40, true, there);
    for (int i = 0; i < 2 * TEST_VOCAB; i++) {
        double difference =
            fabs((double)here[i / TEST_VOCAB][i % TEST_VOCAB] - (double)there[i / TEST_VOCAB][i % TEST_VOCAB]);
        /* bf16 weights: products of prompts round activations to 2^-9 of them, and logits are of order 1 to 4. */
        if (difference > (half ? 0.05 : 2e-3)) fail_msg("model %d: logits differ by %g", (int)which, difference);
    }
    converse(m, 7, true, again);
    assert_memory_equal(again, there, sizeof there);
    converse(m, 40, false, again);
    assert_memory_equal(again, there, sizeof there);
    ml_model_free(m);
    if (count_experts(which) == 0) return;
    m = make_model(which, half);
    size_t experts, all = ml_model_upload_bytes(m, &experts);
    assert_true(experts > 0 && experts < all);
    assert_ok(ml_model_upload(m, device, all - experts / 2, &err));
    assert_true(m->n_layer_pinned > 0);
    converse(m, 40, true, again);
    assert_memory_equal(again, there, sizeof there);
    ml_model_free(m);
    m = make_model(which, half);
    assert_fails(ml_model_upload(m, device, (all - experts) / 2, &err), ML_ENOMEM, "--device cpu");
    ml_model_free(m);
}

static void test_sessions(void **state)
{
    (void)state;
    for (int which = 0; which < TEST_N_MODEL; which++) check_session((test_model)which, false);
    check_session(TEST_MLA_MOE, true);
    check_session(TEST_GQA_MOE, true);
}

/* Passes are long where there is room, and never longer than the context. */
static void test_passes_of_prompts(void **state)
{
    (void)state;
    ml_model *m = make_model(TEST_MLA_MOE, true);
    assert_int_equal(ml_runner_choose_pass(m, 1 << 20, ML_F16), ML_PROMPT_PASS);
    assert_ok(ml_model_upload(m, device, 0, &err));
    assert_int_equal(ml_runner_choose_pass(m, 1 << 15, ML_F16), ML_DEVICE_PROMPT_PASS);
    assert_int_equal(ml_runner_choose_pass(m, 100, ML_F16), 100);
    int64_t fits = ml_device_get_info(device).free_bytes / ml_kv_cache_token_bytes(&m->config, ML_F16);
    assert_int_equal(ml_runner_choose_pass(m, fits, ML_F16), ML_PROMPT_PASS);
    ml_model_free(m);
}

/* ---- the engine ---- */

static void answer_together(ml_model *m, int n_request, int first, test_answer *out)
{
    ml_engine *e;
    ml_engine_config config = {
        .n_slot = 3, .capacity = 48, .chunk = 16, .n_valid = TEST_VOCAB, .kv_dtype = ML_F16, .reuse = true
    };
    assert_ok(ml_engine_make(m, &config, &e, &err));
    for (int i = 0; i < n_request; i++) {
        int64_t id;
        int which = first + i;
        ml_request q = { .prompt = tokens + which,
                         .n_prompt = 5 + 9 * which,
                         .max_tokens = 6,
                         .sampling = { .top_p = 1, .repetition_penalty = 1 }, /* temperature 0: the likeliest */
                         .on_token = test_take_token,
                         .arg = &out[i] };
        out[i].n = 0;
        assert_ok(ml_engine_submit(e, &q, &id, &err));
    }
    while (ml_engine_is_busy(e)) assert_ok(ml_engine_step(e, &err));
    ml_engine_free(e);
}

static void test_answers_do_not_depend_on_the_batch(void **state)
{
    (void)state;
    static const test_model models[] = { TEST_GQA_MOE, TEST_MLA_MOE };
    for (int i = 0; i < 2; i++) {
        ml_model *m = make_model(models[i], true);
        assert_ok(ml_model_upload(m, device, 0, &err));
        test_answer together[3] = { 0 }, alone = { 0 };
        answer_together(m, 3, 0, together);
        for (int r = 0; r < 3; r++) {
            answer_together(m, 1, r, &alone);
            assert_int_equal(alone.n, 6);
            assert_memory_equal(alone.id, together[r].id, sizeof alone.id);
            assert_memory_equal(alone.logprob, together[r].logprob, sizeof alone.logprob);
        }
        ml_model_free(m);
    }
}

/* A pass that was captured computes what the launches themselves do, for other tokens and pages, rows filled up. */
static void test_graphs_repeat_the_pass(void **state)
{
    (void)state;
    enum { N = 9, STEPS = 4 };
    ml_model *m = make_model(TEST_MLA_MOE, false);
    assert_ok(ml_model_upload(m, device, 0, &err));
    ml_runner_config config = { .n_seq = N, .capacity = 16, .max_token = 64, .kv_dtype = ML_F16 };
    static float logits[2][STEPS][N * TEST_VOCAB];
    int32_t want[N], seq[N], pos[N], id[N];
    for (int as_graph = 0; as_graph < 2; as_graph++) {
        ml_runner *r;
        assert_ok(ml_runner_make(m, &config, &r, &err));
        for (int i = 0; i < N; i++) assert_true(ml_pages_reserve(ml_runner_pages(r), i, STEPS));
#ifdef MOONLIGHT_CUDA_EMULATED
        unsigned long long before = ml_emulate_count_graph_launches();
#endif
        for (int step = 0; step < STEPS; step++) {
            for (int i = 0; i < N; i++) {
                want[i] = i;
                seq[i] = (i + step) % N;
                pos[i] = step;
                id[i] = tokens[(i * 5 + step) % 64];
            }
            if (as_graph) {
                assert_ok(ml_runner_forward(r, N, N, id, pos, seq, &err));
                assert_ok(ml_runner_logits(r, N, want, logits[1][step], &err));
                assert_int_equal(ml_runner_count_launches(r) > 0, step > 0);
            } else {
                /* A prompt token in the pass keeps it from being a decode pass; its own logits nobody wants. */
                id[N - 1] = tokens[((N - 1) * 5 + step) % 64];
                assert_ok(ml_runner_forward(r, N, N - 1, id, pos, seq, &err));
                assert_ok(ml_runner_logits(r, N - 1, want, logits[0][step], &err));
                assert_int_equal(ml_runner_count_launches(r), 0);
            }
        }
#ifdef MOONLIGHT_CUDA_EMULATED
        assert_int_equal(ml_emulate_count_graph_launches() - before, as_graph ? STEPS - 1 : 0);
#endif
        ml_runner_free(r);
    }
    /* The first step's rows see only themselves; in later ones a sequence has been prompt where the other run decoded.
     */
    assert_memory_equal(logits[0][0], logits[1][0], (N - 1) * TEST_VOCAB * sizeof(float));
    for (int step = 1; step < STEPS; step++) {
        for (int i = 0; i < (N - 1) * TEST_VOCAB; i++) {
            assert_true(fabs((double)logits[0][step][i] - (double)logits[1][step][i]) < 2e-3);
        }
    }
    ml_model_free(m);
}

/* What is wrong with the data is found by the kernels and told by the next wait. */
static void test_an_unknown_token_is_an_error(void **state)
{
    (void)state;
    ml_model *m = make_model(TEST_DENSE, false);
    assert_ok(ml_model_upload(m, device, 0, &err));
    ml_runner *r;
    ml_runner_config config = { .n_seq = 1, .capacity = 16, .max_token = 16, .kv_dtype = ML_F16 };
    float logits[TEST_VOCAB];
    assert_ok(ml_runner_make(m, &config, &r, &err));
    assert_true(ml_pages_reserve(ml_runner_pages(r), 0, 2));
    assert_ok(ml_runner_forward(r, 2, 0, (int32_t[]){ 1, TEST_VOCAB }, (int32_t[]){ 0, 1 }, (int32_t[]){ 0, 0 }, &err));
    assert_fails(ml_runner_logits(r, 1, (int32_t[]){ 1 }, logits, &err), ML_EINVAL, "outside the table");
    ml_runner_free(r);
    ml_model_free(m);
}

/* A trained model: what it says is what the processor says. */
static void test_a_trained_model_says_the_same(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("models/stories260K.gguf");
    enum { N = 24 };
    int32_t said[2][N];
    for (int on = 0; on < 2; on++) {
        ml_model *m;
        ml_session *s;
        assert_ok(ml_model_open(test_data_path("models/stories260K.gguf"), &m, &err));
        if (on) assert_ok(ml_model_upload(m, device, 0, &err));
        assert_ok(ml_session_make(m, 64, true, &s, &err));
        assert_ok(ml_session_append(s, (int32_t[]){ 1 }, 1, &err));
        for (int i = 0; i < N; i++) {
            const float *z = ml_session_logits(s);
            int32_t best = 0;
            for (int32_t j = 1; j < (int32_t)m->config.vocab_size; j++) best = z[j] > z[best] ? j : best;
            said[on][i] = best;
            assert_ok(ml_session_append_generated(s, best, &err));
        }
        ml_session_free(s);
        ml_model_free(m);
    }
    assert_memory_equal(said[0], said[1], sizeof said[0]);
}

int main(void)
{
    if (!test_open_device(&device)) return TEST_SKIPPED;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products_of_every_type),
        cmocka_unit_test(test_products_of_odd_sizes),
        cmocka_unit_test(test_experts_of_generated_tokens),
        cmocka_unit_test(test_cached_attention),
        cmocka_unit_test(test_cached_latent_attention),
        cmocka_unit_test(test_sessions),
        cmocka_unit_test(test_passes_of_prompts),
        cmocka_unit_test(test_answers_do_not_depend_on_the_batch),
        cmocka_unit_test(test_graphs_repeat_the_pass),
        cmocka_unit_test(test_an_unknown_token_is_an_error),
        cmocka_unit_test(test_a_trained_model_says_the_same),
    };
    int status = cmocka_run_group_tests(tests, NULL, NULL);
    ml_device_close(device);
    return status;
}
