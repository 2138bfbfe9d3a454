/* A model whose weights stay in a source, in mixed types: against the same numbers in fp32, and against itself
 * repacked. */
#include "model/model.h"

#include "base/thread.h"
#include "support/support.h"
#include "support/tiny_run.h"
#include "tensor/blocks.h"

#include <math.h>
#include <string.h>

static ml_error err;

enum { N_TOKEN = 40 };

/* ---- a source in memory: the weights of an fp32 model, in types that go round ---- */

typedef struct {
    ml_weight_source base;
    ml_model *from;
    ml_dtype *dtype; /* [n_weight] */
    void **data;     /* [n_weight] */
    bool freed;
} memory_source;

static const ml_dtype round_robin[] = { ML_Q8_0, ML_Q4_K, ML_F16, ML_Q6_K, ML_BF16, ML_Q5_0, ML_F32, ML_Q5_K, ML_Q4_0 };

static const ml_weight *weight_of(const ml_weight_source *s, const char *name, size_t *index)
{
    const memory_source *m = (const memory_source *)s;
    const ml_weight *w = ml_model_find_weight(m->from, name);
    if (w) *index = (size_t)(w - m->from->weight);
    return w;
}

static bool has(const ml_weight_source *s, const char *name)
{
    size_t i;
    return weight_of(s, name, &i) != NULL;
}

static ml_status find(const ml_weight_source *s, const char *name, int n_dim, const int64_t *dim, ml_stored_weight *out,
                      ml_error *e)
{
    const memory_source *m = (const memory_source *)s;
    size_t i;
    const ml_weight *w = weight_of(s, name, &i);
    if (!w) return ml_fail(e, ML_EFORMAT, "no tensor %s", name);
    assert_int_equal(n_dim, w->n_dim);
    *out = (ml_stored_weight){ .dtype = m->dtype[i], .n_dim = n_dim, .entry = w };
    for (int d = 0; d < n_dim; d++) {
        assert_int_equal(dim[d], w->dim[d]);
        out->dim[d] = dim[d];
    }
    /* One kind of weight is not readable in place. */
    if (!strstr(name, "o_proj")) out->data = m->data[i];
    return ML_OK;
}

static ml_status read_f32(const ml_weight_source *s, const ml_stored_weight *w, int64_t row, int64_t n_row, float *out,
                          ml_error *e)
{
    (void)s;
    (void)e;
    const ml_weight *from = w->entry;
    int64_t cols = from->n_dim == 2 ? from->dim[1] : 1;
    memcpy(out, (const float *)from->data + row * cols, (size_t)(n_row * cols) * sizeof *out);
    return ML_OK;
}

static void free_memory(ml_weight_source *s)
{
    ((memory_source *)s)->freed = true;
}

static bool is_matrix(const ml_weight *w)
{
    return w->n_dim == 2 && w->kind != ML_PARAM_ROUTER;
}

/* Store every matrix of m in some type, and make m's own numbers what that type keeps of them. */
static void make_source(memory_source *s, ml_model *m)
{
    *s = (memory_source){ .base = { "memory", has, find, read_f32, NULL, free_memory }, .from = m };
    s->dtype = ml_calloc(m->n_weight, sizeof *s->dtype);
    s->data = ml_calloc(m->n_weight, sizeof *s->data);
    size_t next = 0;
    for (size_t i = 0; i < m->n_weight; i++) {
        ml_weight *w = &m->weight[i];
        int64_t n = ml_weight_count(w);
        if (is_matrix(w)) s->dtype[i] = round_robin[next++ % (sizeof round_robin / sizeof round_robin[0])];
        if (strstr(w->name, "kv_b_proj") || strstr(w->name, "o_proj")) s->dtype[i] = ML_F32;
        if (is_matrix(w) && w->dim[1] % ml_dtype_block_length(s->dtype[i])) s->dtype[i] = ML_BF16;
        s->data[i] = ml_alloc((size_t)w->dim[0] * ml_dtype_row_bytes(s->dtype[i], n / w->dim[0]));
        if (ml_dtype_is_block(s->dtype[i])) {
            assert_ok(ml_quantize_rows(s->dtype[i], w->data, w->dim[0], w->dim[1], NULL, s->data[i], &err));
        } else {
            ml_convert_from_f32(s->dtype[i], w->data, s->data[i], n);
        }
        ml_convert_to_f32(s->dtype[i], s->data[i], w->data, n);
    }
}

static void free_source(memory_source *s)
{
    assert_true(s->freed);
    for (size_t i = 0; i < s->from->n_weight; i++) ml_free(s->data[i]);
    ml_free(s->data);
    ml_free(s->dtype);
}

static ml_config wide(test_model which)
{
    ml_config c = test_model_config(which);
    c.hidden_size = 256;
    c.intermediate_size = 512;
    if (c.n_routed_experts) c.moe_intermediate_size = 256;
    assert_ok(ml_config_check(&c, "test", &err));
    return c;
}

static ml_model *make_model(const ml_config *config)
{
    ml_model *m;
    assert_ok(ml_model_make(config, ML_F32, false, &m, &err));
    ml_model_init(m, 5);
    ml_rng rng = ml_rng_make(9, 1);
    for (size_t i = 0; i < m->n_weight; i++) {
        ml_weight *w = &m->weight[i];
        float *x = w->data;
        for (int64_t k = 0; k < ml_weight_count(w); k++) {
            if (!w->trained) x[k] = (float)(0.1 * (ml_rng_uniform(&rng) - 0.5));
            if (w->kind == ML_PARAM_NORM) x[k] = (float)(0.5 + ml_rng_uniform(&rng));
            if (w->kind == ML_PARAM_EMBEDDING) x[k] *= 5;
        }
    }
    return m;
}

/* Logits of all positions [N_TOKEN, vocab], and log-probabilities of some targets. */
static void run(ml_model *m, ml_mode mode, float *logits, float *logp)
{
    ml_ctx ctx;
    assert_ok(ml_ctx_init(&ctx, (size_t)256 << 20, 0, &err));
    ctx.mode = mode;
    int32_t id[N_TOKEN], pos[N_TOKEN], target[N_TOKEN], seq[3] = { 0, 17, N_TOKEN };
    for (int i = 0; i < N_TOKEN; i++) {
        id[i] = i * 7 % TEST_VOCAB;
        pos[i] = i < 17 ? i : i - 17;
        target[i] = i * 5 % TEST_VOCAB;
    }
    int64_t n = N_TOKEN, n_seq = 3;
    ml_model_input in = { .id = ml_tensor_wrap(&ctx, ML_I32, 1, &n, id),
                          .pos = ml_tensor_wrap(&ctx, ML_I32, 1, &n, pos),
                          .seq = ml_tensor_wrap(&ctx, ML_I32, 1, &n_seq, seq) };
    ml_tensor *hidden = ml_model_forward(&ctx, m, &in);
    ml_tensor *y = ml_model_logits(&ctx, m, hidden);
    ml_tensor *p = ml_model_logprob(&ctx, m, hidden, ml_tensor_wrap(&ctx, ML_I32, 1, &n, target));
    assert_ok(ml_ctx_status(&ctx, &err));
    memcpy(logits, y->data, (size_t)(N_TOKEN * m->config.vocab_size) * sizeof(float));
    memcpy(logp, p->data, N_TOKEN * sizeof(float));
    ml_ctx_free(&ctx);
}

static double largest_difference(const float *a, const float *b, int64_t n)
{
    double d = 0;
    for (int64_t i = 0; i < n; i++) d = fmax(d, fabs((double)a[i] - (double)b[i]));
    return d;
}

static void test_bound_model_computes_what_its_numbers_say(void **state)
{
    (void)state;
    for (int which = 0; which < TEST_N_MODEL; which++) {
        ml_config config = wide((test_model)which);
        ml_model *plain = make_model(&config), *bound;
        memory_source source;
        make_source(&source, plain);
        assert_ok(ml_model_bind(&config, &source.base, &bound, &err));
        int64_t n = N_TOKEN * config.vocab_size;
        float *want = ml_calloc((size_t)n, 4), *got = ml_calloc((size_t)n, 4), *again = ml_calloc((size_t)n, 4);
        float logp[3][N_TOKEN];
        run(plain, ML_MODE_EXACT, want, logp[0]);
        run(bound, ML_MODE_EXACT, got, logp[1]);
        /* The same fp32 numbers in another order of summation. */
        assert_true(largest_difference(want, got, n) < 2e-5);
        assert_true(largest_difference(logp[0], logp[1], N_TOKEN) < 2e-5);
        run(bound, ML_MODE_FAST, got, logp[1]);
        /* Activations of 8 bits: a product is off by about 0.7 % (a step of 1/127 of the largest of a row, spread
         * evenly, against values of a third of it), and a dozen follow each other. */
        double sum = 0, whole = 0;
        for (int64_t i = 0; i < n; i++) {
            sum += fabs((double)want[i] - (double)got[i]);
            whole += fabs((double)want[i]);
        }
        assert_true(sum < 0.1 * whole);
        assert_ok(ml_model_repack(bound, &err));
        assert_true(bound->panels.base != NULL);
        run(bound, ML_MODE_FAST, again, logp[2]);
        assert_memory_equal(got, again, (size_t)n * sizeof *got);
        assert_memory_equal(logp[1], logp[2], sizeof logp[1]);
        ml_thread_set_count(2);
        run(bound, ML_MODE_FAST, again, logp[2]);
        ml_thread_set_count(1);
        assert_memory_equal(got, again, (size_t)n * sizeof *got);
        ml_model_free(bound);
        free_source(&source);
        ml_model_free(plain);
        ml_free(want);
        ml_free(got);
        ml_free(again);
    }
}

/* A failure leaves the source to the caller. */
static void test_missing_tensor_is_named(void **state)
{
    (void)state;
    ml_config config = wide((test_model)0), deeper = config;
    ml_model *plain = make_model(&config), *bound;
    memory_source source;
    make_source(&source, plain);
    deeper.num_hidden_layers++;
    assert_int_equal(ml_model_bind(&deeper, &source.base, &bound, &err), ML_EFORMAT);
    assert_null(bound);
    char name[64];
    snprintf(name, sizeof name, "model.layers.%d.", (int)config.num_hidden_layers);
    assert_non_null(strstr(err.message, name));
    assert_false(source.freed);
    source.freed = true;
    free_source(&source);
    ml_model_free(plain);
}

int main(void)
{
    ml_thread_set_count(1);
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_bound_model_computes_what_its_numbers_say),
                                        cmocka_unit_test(test_missing_tensor_is_named) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
