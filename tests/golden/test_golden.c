/* Whole models against PyTorch and transformers: logits, loss, every gradient, and ten optimizer steps.
 *
 * The golden files (README.md here says how they were made and what is in them) hold no weights: both sides compute
 * them from a formula.  Running a test needs neither PyTorch nor a network. */
#include "format/safetensors.h"
#include "model/place.h"
#include "optim/optimizer.h"
#include "support/formula.h"
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ml_error err;
static ml_device *device; /* NULL: the processor */

/* ---- one batch through the model ---- */

typedef struct {
    ml_safetensors *file;
    ml_model *model;
    ml_ctx ctx;
    int64_t n_token, n_seq, n_target;
    int32_t *id, *target, *pos, *seq;
    bool training;
} golden;

/* The bars.  Both sides run forward and backward, in fp32 against fp64 (transformers: fp32): rounding makes differences
 * of some 1e-6 of a tensor's largest gradient, and of 1e-6 in a loss of 1 to 10, also after ten steps.  They hold for
 * every model since in every file no choice of an expert, no place within an expert's capacity and no ReLU lies within
 * rounding of its threshold where that would show: the generators search for such ids (README.md). */
static const double LOGIT_BAR = 1e-4, GRADIENT_BAR = 1e-4 /* of the tensor's largest element */, LOSS_BAR = 1e-5;

typedef struct {
    double ce, balance, z, total;
} losses;

static const ml_st_tensor *find(const golden *g, const char *name)
{
    const ml_st_tensor *t = ml_safetensors_find(g->file, name);
    if (!t) fail_msg("the golden file lacks %s", name);
    return t;
}

static double *read_real(const golden *g, const char *name, int64_t *n)
{
    const ml_st_tensor *t = find(g, name);
    double *values = calloc((size_t)t->n_element + 1, sizeof *values);
    if (t->dtype == ML_ST_F64)
        memcpy(values, t->data, t->n_bytes);
    else {
        float *f = calloc((size_t)t->n_element + 1, sizeof *f);
        assert_ok(ml_st_read_all_f32(t, f, &err));
        for (int64_t i = 0; i < t->n_element; i++) values[i] = f[i];
        free(f);
    }
    *n = t->n_element;
    return values;
}

static int32_t *read_whole(const golden *g, const char *name, int64_t *n)
{
    const ml_st_tensor *t = find(g, name);
    int64_t *wide = calloc((size_t)t->n_element + 1, sizeof *wide);
    int32_t *values = calloc((size_t)t->n_element + 1, sizeof *values);
    assert_ok(ml_st_read_all_i64(t, wide, &err));
    for (int64_t i = 0; i < t->n_element; i++) values[i] = (int32_t)wide[i];
    free(wide);
    *n = t->n_element;
    return values;
}

static void open_golden(golden *g, const char *label, const char *preset)
{
    char path[ML_PATH_MAX];
    *g = (golden){ .training = preset != NULL };
    const char *moved = getenv("MOONLIGHT_TEST_SOURCE"); /* built elsewhere: scripts/gpu-check --packed */
    snprintf(path, sizeof path, "%s/tests/golden/%s.safetensors", moved ? moved : MOONLIGHT_SOURCE_DIR, label);
    assert_ok(ml_safetensors_open(&g->file, path, &err));
    ml_config config;
    if (preset) {
        assert_ok(ml_config_preset(preset, &config, &err));
    } else {
        /* The configuration is what transformers had, in its own keys: reading it is part of the test. */
        char folder[ML_PATH_MAX], file[ML_PATH_MAX];
        strcpy(folder, test_make_folder());
        assert_ok(ml_path_join(file, folder, "config.json", &err));
        const char *text = ml_safetensors_metadata(g->file, "config");
        assert_ok(ml_file_replace(file, text, strlen(text), &err));
        assert_ok(ml_config_load(file, &config, &err));
        test_remove_folder(folder);
    }
    assert_ok(ml_model_make(&config, ML_F32, true, &g->model, &err));
    test_fill_by_formula(g->model, "");
    if (device) assert_ok(ml_model_place(g->model, device, ML_PLACE_F32, &err));
    size_t act_bytes = (size_t)(device ? 3 : 8) << 30, grad_bytes = (size_t)(device ? 1 : 2) << 30;
    assert_ok(ml_ctx_init_on(&g->ctx, device, act_bytes, grad_bytes, &err));
    int64_t n_offset;
    g->id = read_whole(g, "ids", &g->n_token);
    g->seq = read_whole(g, "seq", &n_offset);
    g->n_seq = n_offset - 1;
    g->target = calloc((size_t)g->n_token, sizeof *g->target);
    g->pos = calloc((size_t)g->n_token, sizeof *g->pos);
    for (int64_t s = 0; s < g->n_seq; s++) {
        for (int32_t t = g->seq[s]; t < g->seq[s + 1]; t++) {
            bool last = t + 1 == g->seq[s + 1];
            g->pos[t] = t - g->seq[s];
            g->target[t] = last ? -1 : g->id[t + 1];
            g->n_target += !last;
        }
    }
}

static void close_golden(golden *g)
{
    ml_safetensors_close(g->file);
    ml_model_free(g->model);
    ml_ctx_free(&g->ctx);
    free(g->id);
    free(g->seq);
    free(g->target);
    free(g->pos);
}

static ml_tensor *forward(golden *g, ml_router_stats *stats, bool training)
{
    ml_ctx *ctx = &g->ctx;
    int64_t n_offset = g->n_seq + 1;
    /* The input must outlive the backward pass. */
    static ml_model_input in;
    in = (ml_model_input){ .id = ml_tensor_wrap(ctx, ML_I32, 1, &g->n_token, g->id),
                           .pos = ml_tensor_wrap(ctx, ML_I32, 1, &g->n_token, g->pos),
                           .seq = ml_tensor_wrap(ctx, ML_I32, 1, &n_offset, g->seq),
                           .training = training,
                           .aux_scale = 1,
                           .stats = stats };
    return ml_model_forward(ctx, g->model, &in);
}

/* Loss and gradients of the mean cross-entropy plus the auxiliary losses. */
static losses backward(golden *g)
{
    ml_ctx *ctx = &g->ctx;
    const ml_config *c = &g->model->config;
    ml_router_stats stats;
    assert_ok(ml_router_stats_make(device, c, &stats, &err));
    ml_model_zero_grads(g->model);
    ml_ctx_reset(ctx);
    ctx->recording = true;
    ml_tensor *hidden = forward(g, &stats, g->training);
    ml_tensor *target = ml_tensor_wrap(ctx, ML_I32, 1, &g->n_token, g->target);
    ml_tensor *logp = ml_model_logprob(ctx, g->model, hidden, target);
    assert_ok(ml_ctx_status(ctx, &err));
    const float *found = ml_tensor_read(ctx, logp);
    float *seed = calloc((size_t)g->n_token + 1, sizeof *seed);
    losses l = { 0 };
    assert_ok(ml_ctx_status(ctx, &err));
    for (int64_t t = 0; t < g->n_token; t++) {
        if (g->target[t] < 0) continue;
        l.ce -= (double)found[t] / (double)g->n_target;
        seed[t] = (float)(-1.0 / (double)g->n_target);
    }
    assert_ok(ml_ctx_write(ctx, ml_tape_grad(ctx, logp), seed, g->n_token));
    free(seed);
    assert_ok(ml_tape_backward(ctx, &err));
    assert_ok(ml_model_pull_grads(g->model, &err));
    assert_ok(ml_router_stats_pull(&stats, &err));
    double scale = c->aux_mean ? 1.0 / (double)(c->num_hidden_layers - c->first_k_dense_replace) : 1;
    l.balance = stats.balance * scale;
    l.z = stats.z * scale;
    l.total = l.ce + (g->training ? c->balance_coef * l.balance + c->z_coef * l.z : 0);
    ml_router_stats_free(&stats);
    return l;
}

/* ---- comparisons ---- */

static void expect_near(const char *what, double found, double wanted, double tolerance)
{
    if (!(fabs(found - wanted) <= tolerance)) {
        fail_msg("%s: found %.9g, expected %.9g (difference %.3g, tolerance %.3g)", what, found, wanted,
                 fabs(found - wanted), tolerance);
    }
}

static const float *grad_of(const ml_model *m, const ml_weight *w)
{
    return (const float *)(m->grads.base + ((const char *)w->data - m->values.base));
}

/* The gradient of a tensor, or of all experts' tensors one after another for a name with "experts.*". */
static double *gather_grad(const ml_model *m, const char *name, int64_t *n, int64_t *n_stack)
{
    const char *star = strchr(name, '*');
    *n_stack = star ? m->config.n_routed_experts : 1;
    double *all = NULL;
    *n = 0;
    for (int64_t e = 0; e < *n_stack; e++) {
        char single[256];
        if (star)
            snprintf(single, sizeof single, "%.*s%lld%s", (int)(star - name), name, (long long)e, star + 1);
        else
            snprintf(single, sizeof single, "%s", name);
        const ml_weight *w = ml_model_find_weight(m, single);
        if (!w) fail_msg("the model has no %s", single);
        int64_t count = ml_weight_count(w);
        all = realloc(all, (size_t)(*n + count) * sizeof *all);
        for (int64_t i = 0; i < count; i++) all[*n + i] = grad_of(m, w)[i];
        *n += count;
    }
    return all;
}

static void compare_gradient(const golden *g, const char *key)
{
    const char *name = strchr(key, '.') + 1;
    bool full = !strncmp(key, "grad.", 5), norm = !strncmp(key, "grad_norm.", 10);
    int64_t n, n_stack, n_wanted;
    double *found = gather_grad(g->model, name, &n, &n_stack), *wanted = read_real(g, key, &n_wanted);
    double largest = 1e-12;
    for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs(found[i]));
    if (norm) {
        assert_int_equal(n_wanted, n_stack);
        for (int64_t s = 0; s < n_stack; s++) {
            double sum = 0, biggest = 0;
            for (int64_t i = s * (n / n_stack); i < (s + 1) * (n / n_stack); i++) sum += found[i] * found[i];
            for (int64_t i = 0; i < n_stack; i++) biggest = fmax(biggest, wanted[i]);
            expect_near(key, sqrt(sum), wanted[s], GRADIENT_BAR * biggest);
        }
    } else {
        if (full) assert_int_equal(n_wanted, n);
        for (int64_t i = 0; i < n_wanted; i++) {
            int64_t at = n <= n_wanted ? i : i * n / n_wanted;
            expect_near(key, found[at], wanted[i], GRADIENT_BAR * largest);
        }
    }
    free(found);
    free(wanted);
}

static void compare_gradients(const golden *g)
{
    int64_t n_compared = 0;
    for (size_t i = 0; i < ml_safetensors_count(g->file); i++) {
        const char *key = ml_safetensors_at(g->file, i)->name;
        if (strncmp(key, "grad", 4)) continue;
        compare_gradient(g, key);
        n_compared++;
    }
    assert_true(n_compared > 20);
}

/* Every logit of the batch. */
static void compare_logits(golden *g)
{
    int64_t n;
    double *wanted = read_real(g, "logits", &n);
    ml_ctx_reset(&g->ctx);
    ml_tensor *logits = ml_model_logits(&g->ctx, g->model, forward(g, NULL, false));
    assert_ok(ml_ctx_status(&g->ctx, &err));
    assert_int_equal(n, ml_tensor_count(logits));
    const float *found = ml_tensor_read(&g->ctx, logits);
    assert_ok(ml_ctx_status(&g->ctx, &err));
    for (int64_t i = 0; i < n; i++) expect_near("logits", found[i], wanted[i], LOGIT_BAR);
    free(wanted);
}

/* Logits at some positions and vocabulary entries, and the log-sum-exp of whole rows. */
static void compare_sampled_logits(golden *g, bool training)
{
    int64_t n_position, n_vocab, n;
    const char *prefix = training ? "train_" : "";
    char key[64];
    int32_t *position = read_whole(g, "position", &n_position), *vocab = read_whole(g, "vocab", &n_vocab);
    snprintf(key, sizeof key, "%slogits", prefix);
    double *wanted = read_real(g, key, &n);
    assert_int_equal(n, n_position * n_vocab);
    snprintf(key, sizeof key, "%slse", prefix);
    double *lse = read_real(g, key, &n);
    ml_ctx_reset(&g->ctx);
    ml_tensor *logits = ml_model_logits(&g->ctx, g->model, forward(g, NULL, training));
    assert_ok(ml_ctx_status(&g->ctx, &err));
    const float *found = ml_tensor_read(&g->ctx, logits);
    assert_ok(ml_ctx_status(&g->ctx, &err));
    for (int64_t p = 0; p < n_position; p++) {
        const float *row = found + position[p] * logits->dim[1];
        double sum = 0;
        for (int64_t v = 0; v < logits->dim[1]; v++) sum += exp((double)row[v]);
        expect_near("lse", log(sum), lse[p], LOGIT_BAR);
        for (int64_t v = 0; v < n_vocab; v++) expect_near("logits", row[vocab[v]], wanted[p * n_vocab + v], LOGIT_BAR);
    }
    free(position);
    free(vocab);
    free(wanted);
    free(lse);
}

static double learning_rate(const golden *g)
{
    const char *lr = ml_safetensors_metadata(g->file, "lr");
    return lr ? strtod(lr, NULL) : 1e-3;
}

/* Ten steps on the same batch, from the formula's weights. */
static void compare_training(golden *g, ml_optim_name name)
{
    int64_t n;
    double lr = learning_rate(g);
    double *wanted = read_real(g, name == ML_OPTIM_MUON ? "muon_losses" : "adamw_losses", &n);
    assert_int_equal(n, 10);
    test_fill_by_formula(g->model, "");
    assert_ok(ml_model_push(g->model, &err));
    ml_optim_config config = ml_optim_default_config(name);
    ml_optim_storage storage = { 0 };
    int64_t n_param = (int64_t)g->model->n_param;
    ml_optimizer *optimizer;
    if (device)
        assert_ok(ml_optimizer_make_on(&g->ctx, &config, &storage, g->model->param, n_param, &optimizer, &err));
    else
        assert_ok(ml_optimizer_make(&config, g->model->param, n_param, &optimizer, &err));
    for (int64_t step = 0; step < n; step++) {
        losses l = backward(g);
        char what[64];
        snprintf(what, sizeof what, "%s loss %lld", name == ML_OPTIM_MUON ? "muon" : "adamw", (long long)step);
        expect_near(what, l.total, wanted[step], LOSS_BAR);
        ml_ctx_reset(&g->ctx);
        assert_ok(ml_optimizer_step(optimizer, lr, 1, NULL, &err));
    }
    ml_optimizer_free(optimizer);
    free(wanted);
}

/* ---- the models ---- */

static void compare_hf_model(const char *label)
{
    golden g;
    int64_t n;
    open_golden(&g, label, NULL);
    compare_logits(&g);
    losses l = backward(&g);
    double *loss = read_real(&g, "loss", &n);
    expect_near("loss", l.ce, loss[0], LOSS_BAR);
    free(loss);
    compare_gradients(&g);
    compare_training(&g, ML_OPTIM_ADAMW);
    compare_training(&g, ML_OPTIM_MUON);
    close_golden(&g);
}

static void compare_preset(const char *label, const char *preset)
{
    golden g;
    int64_t n;
    open_golden(&g, label, preset);
    compare_sampled_logits(&g, false);
    compare_sampled_logits(&g, true);
    losses l = backward(&g);
    const struct {
        const char *key;
        double found;
    } parts[] = { { "loss_ce", l.ce }, { "loss_balance", l.balance }, { "loss_z", l.z }, { "loss_total", l.total } };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        double *wanted = read_real(&g, parts[i].key, &n);
        expect_near(parts[i].key, parts[i].found, wanted[0], LOSS_BAR);
        free(wanted);
    }
    compare_gradients(&g);
    compare_training(&g, ML_OPTIM_ADAMW);
    compare_training(&g, ML_OPTIM_MUON);
    close_golden(&g);
}

static void test_moonlight_tiny(void **state)
{
    (void)state;
    compare_hf_model("moonlight_tiny");
}

static void test_deepseek_with_q_lora_groups_and_yarn(void **state)
{
    (void)state;
    compare_hf_model("deepseek_yarn");
}

static void test_deepseek_v2(void **state)
{
    (void)state;
    compare_hf_model("deepseek_v2");
}

static void test_deepseek_v2_groups(void **state)
{
    (void)state;
    compare_hf_model("deepseek_v2_groups");
}

static void test_llama3(void **state)
{
    (void)state;
    compare_hf_model("llama3");
}

static void test_qwen2(void **state)
{
    (void)state;
    compare_hf_model("qwen2");
}

static void test_qwen3(void **state)
{
    (void)state;
    compare_hf_model("qwen3");
}

static void test_glm4_moe(void **state)
{
    (void)state;
    compare_hf_model("glm4_moe");
}

static void test_ernie4_5_moe(void **state)
{
    (void)state;
    compare_hf_model("ernie4_5_moe");
}

static void test_nano_moe(void **state)
{
    (void)state;
    compare_preset("nano_moe", "nano-moe");
}

static void test_moonlight_moe_130m(void **state)
{
    (void)state;
    compare_preset("moonlight_moe_130m", "moonlight-moe-130m");
}

/* test_golden [large] [cuda].  The models that cost seconds and gigabytes have a program run of their own. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moonlight_tiny), cmocka_unit_test(test_deepseek_with_q_lora_groups_and_yarn),
        cmocka_unit_test(test_deepseek_v2),    cmocka_unit_test(test_deepseek_v2_groups),
        cmocka_unit_test(test_llama3),         cmocka_unit_test(test_qwen2),
        cmocka_unit_test(test_qwen3),          cmocka_unit_test(test_glm4_moe),
        cmocka_unit_test(test_ernie4_5_moe),   cmocka_unit_test(test_nano_moe),
    };
    const struct CMUnitTest large[] = { cmocka_unit_test(test_moonlight_moe_130m) };
    bool is_large = argc > 1 && !strcmp(argv[1], "large"), is_there = argc > 1 && !strcmp(argv[argc - 1], "cuda");
    if (is_there && !test_open_device(&device)) return TEST_SKIPPED;
#ifdef MOONLIGHT_CUDA_EMULATED /* slow: latent attention with experts in groups, a dense model */
    const struct CMUnitTest few[] = { cmocka_unit_test(test_qwen3),
                                      cmocka_unit_test(test_deepseek_with_q_lora_groups_and_yarn) };
    if (is_there) return cmocka_run_group_tests_name("golden, emulated device", few, NULL, NULL);
#endif
    int n_failed = is_large ? cmocka_run_group_tests_name("golden, large", large, NULL, NULL)
                            : cmocka_run_group_tests_name("golden", tests, NULL, NULL);
    ml_device_close(device);
    return n_failed;
}
