/* LoRA and DoRA against PEFT and PyTorch: the loss, and every gradient of an adapter. */
#include "format/safetensors.h"
#include "model/adapter.h"
#include "support/formula.h"
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ml_error err;
static ml_device *device; /* NULL: the processor */

enum { RANK = 3, ALPHA = 6, MAX_TOKEN = 64 };

typedef struct {
    ml_safetensors *file;
    ml_model *model;
    int64_t n_token, n_seq, n_target;
    int32_t id[MAX_TOKEN], pos[MAX_TOKEN], target[MAX_TOKEN], seq[MAX_TOKEN + 1];
} golden;

static int64_t read_whole(const golden *g, const char *name, int32_t *out)
{
    const ml_st_tensor *t = ml_safetensors_find(g->file, name);
    int64_t value[MAX_TOKEN + 1];
    if (!t || t->n_element > MAX_TOKEN) fail_msg("the golden file has no good %s", name);
    assert_ok(ml_st_read_all_i64(t, value, &err));
    for (int64_t i = 0; i < t->n_element; i++) out[i] = (int32_t)value[i];
    return t->n_element;
}

/* A small nano-moe, as make_tuning.py has it. */
static ml_config experts_config(void)
{
    static const char *const same[][2] = {
        { "vocab_size", "258" },      { "hidden_size", "48" },
        { "num_hidden_layers", "2" }, { "num_attention_heads", "4" },
        { "head_dim", "12" },         { "num_key_value_heads", "2" },
        { "rotary_dim", "12" },       { "moe_intermediate_size", "64" },
    };
    ml_config c;
    assert_ok(ml_config_preset("nano-moe", &c, &err));
    for (size_t i = 0; i < sizeof same / sizeof same[0]; i++) {
        assert_ok(ml_config_set(&c, same[i][0], same[i][1], "test", &err));
    }
    return c;
}

static void open_golden(golden *g, const char *label)
{
    char path[ML_PATH_MAX];
    ml_config c;
    *g = (golden){ 0 };
    const char *moved = getenv("MOONLIGHT_TEST_SOURCE"); /* built elsewhere: scripts/gpu-check --packed */
    snprintf(path, sizeof path, "%s/tests/golden/adapter_%s.safetensors", moved ? moved : MOONLIGHT_SOURCE_DIR, label);
    assert_ok(ml_safetensors_open(&g->file, path, &err));
    if (!strcmp(label, "experts")) {
        c = experts_config();
    } else {
        const char *text = ml_safetensors_metadata(g->file, "config");
        assert_ok(ml_config_parse(text, strlen(text), path, &c, &err));
    }
    assert_ok(ml_model_make(&c, ML_F32, false, &g->model, &err));
    test_fill_by_formula(g->model, "");
    g->n_token = read_whole(g, "ids", g->id);
    g->n_seq = read_whole(g, "seq", g->seq) - 1;
    for (int64_t s = 0; s < g->n_seq; s++) {
        for (int32_t t = g->seq[s]; t < g->seq[s + 1]; t++) {
            bool last = t + 1 == g->seq[s + 1];
            g->pos[t] = t - g->seq[s];
            g->target[t] = last ? -1 : g->id[t + 1];
            g->n_target += !last;
        }
    }
}

/* ---- the adapter: what the file has gradients of, with values by formula ---- */

typedef struct {
    const golden *g;
    const char *kind;
} chooser;

/* "model.layers.3.mlp.experts.*.up_proj", 7, "a" -> "lora.grad.model.layers.3.mlp.experts.7.up_proj.a" */
static void make_key(const char *kind, const ml_adapter_module *m, int64_t i, const char *piece, char key[256])
{
    char weight[ML_WEIGHT_NAME_MAX];
    ml_adapter_name_weight(m, i, weight);
    snprintf(key, 256, "%s.grad.%.*s.%s", kind, (int)(strlen(weight) - strlen(".weight")), weight, piece);
}

static bool choose(void *arg, const ml_adapter_module *module, int64_t *rank, double *alpha)
{
    const chooser *c = arg;
    char key[256];
    make_key(c->kind, module, 0, "a", key);
    *rank = RANK;
    *alpha = ALPHA;
    return ml_safetensors_find(c->g->file, key) != NULL;
}

static void fill(const ml_adapter_module *m, int64_t i, const char *piece, double base, double std, bool multiply,
                 float *x, int64_t n)
{
    char weight[ML_WEIGHT_NAME_MAX], name[256];
    ml_adapter_name_weight(m, i, weight);
    snprintf(name, sizeof name, "%.*s.%s", (int)(strlen(weight) - strlen(".weight")), weight, piece);
    float *value = calloc((size_t)n + 1, sizeof *value);
    test_formula(name, base, std, n, value);
    for (int64_t j = 0; j < n; j++) x[j] = multiply ? x[j] * value[j] : value[j];
    free(value);
}

/* The magnitudes begin as the norms of the weights alone, which is what they are while B is zero. */
static ml_adapter *make_adapter(const golden *g, const char *kind)
{
    ml_adapter *a;
    chooser c = { g, kind };
    assert_ok(ml_adapter_make_chosen(g->model, !strcmp(kind, "dora"), true, choose, &c, &a, &err));
    assert_true(a->n_term > 0);
    assert_ok(ml_adapter_update_norms(a, &err));
    for (size_t i = 0; i < a->n_term; i++) {
        ml_adapter_term *t = &a->term[i];
        const ml_adapter_module *m = &t->module;
        for (int64_t e = 0; e < m->n_matrix; e++) {
            fill(m, e, "a", 0, 1 / sqrt((double)m->cols), false, ml_f32(&t->a) + e * RANK * m->cols, RANK * m->cols);
            fill(m, e, "b", 0, 0.1, false, ml_f32(&t->b) + e * RANK * m->rows, RANK * m->rows);
        }
        if (!a->dora) continue;
        memcpy(t->m.data, t->norm.data, (size_t)ml_tensor_count(&t->m) * sizeof(float));
        for (int64_t e = 0; e < m->n_matrix; e++) {
            fill(m, e, "m", 1, 0.1, true, ml_f32(&t->m) + e * m->rows, m->rows);
        }
    }
    assert_ok(ml_adapter_update_norms(a, &err));
    return a;
}

/* Beside the model on the device, where its norms are made once more. */
static void go_there(const golden *g, ml_adapter *a)
{
    if (!device) return;
    ml_ctx ctx;
    assert_ok(ml_model_upload(g->model, device, 0, &err));
    assert_ok(ml_adapter_place(a, device, &err));
    assert_ok(ml_ctx_init_on(&ctx, device, (size_t)1 << 24, 0, &err));
    (void)ml_adapter_queue_norms(&ctx, a);
    assert_ok(ml_ctx_status(&ctx, &err));
    ml_ctx_free(&ctx);
}

/* ---- one pass ---- */

static double run(const golden *g, ml_adapter *a)
{
    ml_ctx ctx;
    assert_ok(ml_ctx_init_on(&ctx, device, (size_t)1 << 28, (size_t)1 << 26, &err));
    int64_t n_offset = g->n_seq + 1;
    ml_adapter_group group = { .adapter = a };
    ml_adapter_use use = { .group = &group, .n_group = 1, .training = true };
    ml_model_input in = { .id = ml_tensor_wrap(&ctx, ML_I32, 1, &g->n_token, (void *)(uintptr_t)g->id),
                          .pos = ml_tensor_wrap(&ctx, ML_I32, 1, &g->n_token, (void *)(uintptr_t)g->pos),
                          .seq = ml_tensor_wrap(&ctx, ML_I32, 1, &n_offset, (void *)(uintptr_t)g->seq),
                          .training = true,
                          .aux_scale = 1,
                          .adapters = &use };
    ctx.recording = true;
    ml_tensor *target = ml_tensor_wrap(&ctx, ML_I32, 1, &g->n_token, (void *)(uintptr_t)g->target);
    ml_tensor *logp = ml_model_logprob(&ctx, g->model, ml_model_forward(&ctx, g->model, &in), target);
    float *grad = ml_tape_grad(&ctx, logp), seed[MAX_TOKEN] = { 0 };
    const float *found = ml_tensor_read(&ctx, logp);
    assert_ok(ml_ctx_status(&ctx, &err));
    double sum = 0;
    for (int64_t t = 0; t < g->n_token; t++) {
        if (g->target[t] < 0) continue;
        sum -= (double)found[t];
        seed[t] = -1.0f / (float)g->n_target;
    }
    assert_ok(ml_ctx_write(&ctx, grad, seed, g->n_token));
    assert_ok(ml_tape_backward(&ctx, &err));
    ml_ctx_free(&ctx);
    return sum / (double)g->n_target;
}

/* Within 1e-4 of the largest element: fp32 rounding is some 1e-6 of it. */
static void compare(const golden *g, const char *kind, const ml_adapter_module *m, int64_t i, const char *piece,
                    const float *found, int64_t n)
{
    char key[256];
    make_key(kind, m, i, piece, key);
    const ml_st_tensor *t = ml_safetensors_find(g->file, key);
    if (!t || t->n_element != n) fail_msg("%s: expected %lld numbers in the golden file", key, (long long)n);
    float *wanted = calloc((size_t)n + 1, sizeof *wanted);
    assert_ok(ml_st_read_all_f32(t, wanted, &err));
    double largest = 1e-12, worst = 0;
    for (int64_t j = 0; j < n; j++) {
        largest = fmax(largest, fabs((double)wanted[j]));
        double d = fabs((double)wanted[j] - (double)found[j]);
        if (!(d <= worst)) worst = d;
    }
    if (!(worst <= 1e-4 * largest)) fail_msg("%s: difference %.3g of %.3g", key, worst, largest);
    free(wanted);
}

static void check(const char *label, const char *kind)
{
    golden g;
    open_golden(&g, label);
    ml_adapter *a = make_adapter(&g, kind);
    char key[64];
    go_there(&g, a);
    double loss = run(&g, a), wanted;
    snprintf(key, sizeof key, "%s.loss", kind);
    const ml_st_tensor *t = ml_safetensors_find(g.file, key);
    assert_non_null(t);
    memcpy(&wanted, t->data, sizeof wanted);
    if (!(fabs(loss - wanted) <= 1e-5 * wanted)) fail_msg("%s %s: loss %.9g, expected %.9g", label, kind, loss, wanted);
    assert_ok(ml_adapter_pull_grads(a, &err));
    ml_adapter_use_place(a, false);
    for (size_t i = 0; i < a->n_term; i++) {
        const ml_adapter_term *term = &a->term[i];
        const ml_adapter_module *m = &term->module;
        for (int64_t e = 0; e < m->n_matrix; e++) {
            compare(&g, kind, m, e, "a", term->a.grad + e * RANK * m->cols, RANK * m->cols);
            compare(&g, kind, m, e, "b", term->b.grad + e * RANK * m->rows, RANK * m->rows);
            if (a->dora) compare(&g, kind, m, e, "m", term->m.grad + e * m->rows, m->rows);
        }
    }
    ml_adapter_free(a);
    ml_model_free(g.model);
    ml_safetensors_close(g.file);
}

static void test_deepseek(void **state)
{
    (void)state;
    check("deepseek_yarn", "lora");
    check("deepseek_yarn", "dora");
}

/* With biases of q, k and v, which magnitudes leave alone. */
static void test_qwen2(void **state)
{
    (void)state;
    check("qwen2", "lora");
    check("qwen2", "dora");
}

static void test_experts(void **state)
{
    (void)state;
    check("experts", "lora");
    check("experts", "dora");
}

/* test_adapter_golden [cuda] */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_deepseek), cmocka_unit_test(test_qwen2),
                                        cmocka_unit_test(test_experts) };
    if (argc > 1 && !strcmp(argv[1], "cuda") && !test_open_device(&device)) return TEST_SKIPPED;
    int n_failed = cmocka_run_group_tests_name("adapter gradients", tests, NULL, NULL);
    ml_device_close(device);
    return n_failed;
}
