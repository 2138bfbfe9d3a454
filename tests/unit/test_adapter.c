/* Adapters: what a fresh one leaves alone, merging, gradients against those of the weights, what a cache makes of them,
 * several in one pass, and their files. */
#include "format/peft.h"
#include "infer/engine.h"
#include "infer/session.h"
#include "model/adapter.h"
#include "support/answers.h"
#include "support/support.h"
#include "support/tiny_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ml_error err;

enum { N_TOKEN = 24 };

static const char *const everything[] = { "*" };

static ml_model *make_model(test_model which, bool trainable)
{
    ml_config c = test_model_config(which);
    ml_model *m;
    assert_ok(ml_model_make(&c, ML_F32, trainable, &m, &err));
    ml_model_init(m, 7);
    return m;
}

/* Beside every module that the model has. */
static ml_adapter *make_adapter(const ml_model *m, bool dora)
{
    ml_adapter *a;
    ml_adapter_config c = { .target = everything, .n_target = 1, .rank = 3, .alpha = 6, .dora = dora };
    assert_ok(ml_adapter_make(&c, m, 5, &a, &err));
    return a;
}

/* Values as training would leave them. */
static void spoil(ml_adapter *a, uint64_t seed)
{
    for (size_t i = 0; i < a->n_param; i++) {
        const ml_param *p = &a->param[i];
        ml_rng rng = ml_rng_make(seed, i + 1);
        for (int64_t j = 0; j < ml_param_count(p); j++) {
            float z = (float)ml_rng_normal(&rng);
            if (p->kind == ML_PARAM_LORA_B) p->value[j] = 0.1f * z;
            if (p->kind == ML_PARAM_MAGNITUDE) p->value[j] *= 1 + 0.1f * z;
        }
    }
    assert_ok(ml_adapter_update_norms(a, &err));
}

typedef struct {
    int32_t id[N_TOKEN], pos[N_TOKEN], seq[3], target[N_TOKEN];
} batch;

static batch make_batch(void)
{
    batch b = { .seq = { 0, 10, N_TOKEN } };
    ml_rng rng = ml_rng_make(3, 1);
    for (int32_t t = 0; t < N_TOKEN; t++) {
        b.id[t] = (int32_t)ml_rng_below(&rng, TEST_VOCAB);
        b.target[t] = (int32_t)ml_rng_below(&rng, TEST_VOCAB);
        b.pos[t] = t < 10 ? t : t - 10;
    }
    return b;
}

static ml_tensor *wrap(ml_ctx *ctx, int32_t *data, int64_t n)
{
    return ml_tensor_wrap(ctx, ML_I32, 1, &n, data);
}

/* Logits [N_TOKEN, vocab] without a cache; with `seeds` also gradients of sum(seed * log p). */
static float *run_model(ml_model *m, ml_adapter *a, bool backward, bool recompute)
{
    ml_ctx ctx;
    batch b = make_batch();
    assert_ok(ml_ctx_init(&ctx, (size_t)1 << 28, (size_t)1 << 26, &err));
    ml_adapter_group group = { .adapter = a };
    ml_adapter_use use = { .group = &group, .n_group = 1, .training = backward };
    ml_model_input in = { .id = wrap(&ctx, b.id, N_TOKEN),
                          .pos = wrap(&ctx, b.pos, N_TOKEN),
                          .seq = wrap(&ctx, b.seq, 3),
                          .training = backward,
                          .recompute = recompute,
                          .aux_scale = 1,
                          .adapters = a ? &use : NULL };
    ctx.recording = backward;
    ml_tensor *x = ml_model_forward(&ctx, m, &in);
    float *out = calloc(N_TOKEN * TEST_VOCAB, sizeof *out);
    if (backward) {
        ml_tensor *logp = ml_model_logprob(&ctx, m, x, wrap(&ctx, b.target, N_TOKEN));
        float *seed = ml_tape_grad(&ctx, logp);
        for (int t = 0; t < N_TOKEN && seed; t++) seed[t] = (float)(t % 5) - 1.5f;
        assert_ok(ml_tape_backward(&ctx, &err));
    } else {
        ml_tensor *y = ml_model_logits(&ctx, m, x);
        assert_ok(ml_ctx_status(&ctx, &err));
        memcpy(out, y->data, N_TOKEN * TEST_VOCAB * sizeof *out);
    }
    ml_ctx_free(&ctx);
    return out;
}

static double difference(const float *a, const float *b, int64_t n)
{
    double worst = 0, largest = 1e-30;
    for (int64_t i = 0; i < n; i++) {
        worst = fmax(worst, fabs((double)a[i] - (double)b[i]));
        largest = fmax(largest, fabs((double)b[i]));
    }
    return worst / largest;
}

static void test_fresh_changes_no_bit(void **state)
{
    (void)state;
    for (int which = 0; which < TEST_N_MODEL; which++) {
        ml_model *m = make_model((test_model)which, false);
        float *plain = run_model(m, NULL, false, false);
        for (int dora = 0; dora < 2; dora++) {
            ml_adapter *a = make_adapter(m, dora);
            assert_true(a->n_term > 0);
            float *with = run_model(m, a, false, false);
            for (int i = 0; i < N_TOKEN * TEST_VOCAB; i++) assert_true(plain[i] == with[i]);
            spoil(a, 1);
            free(with);
            with = run_model(m, a, false, false);
            assert_true(difference(with, plain, N_TOKEN * TEST_VOCAB) > 1e-3); /* now it does something */
            free(with);
            ml_adapter_free(a);
        }
        free(plain);
        ml_model_free(m);
    }
}

/* The model's weights with the adapter merged in, in another model. */
static ml_model *merge(test_model which, const ml_adapter *a, bool trainable)
{
    ml_model *merged = make_model(which, trainable);
    for (size_t i = 0; i < a->n_term; i++) {
        const ml_adapter_term *t = &a->term[i];
        for (int64_t e = 0; e < t->module.n_matrix; e++) {
            char name[ML_WEIGHT_NAME_MAX];
            const char *star = strchr(t->module.name, '*');
            if (star)
                snprintf(name, sizeof name, "%.*s%d%s.weight", (int)(star - t->module.name), t->module.name, (int)e,
                         star + 1);
            else
                snprintf(name, sizeof name, "%s.weight", t->module.name);
            ml_weight *w = ml_model_find_weight(merged, name);
            assert_non_null(w);
            assert_ok(ml_adapter_read_merged(a, t, e, 0, t->module.rows, w->data, &err));
        }
    }
    return merged;
}

static void test_merged_weights(void **state)
{
    (void)state;
    for (int which = 0; which < TEST_N_MODEL; which++) {
        for (int dora = 0; dora < 2; dora++) {
            ml_model *m = make_model((test_model)which, false);
            ml_adapter *a = make_adapter(m, dora);
            spoil(a, 2);
            ml_model *merged = merge((test_model)which, a, false);
            float *with = run_model(m, a, false, false), *want = run_model(merged, NULL, false, false);
            double d = difference(with, want, N_TOKEN * TEST_VOCAB);
            if (!(d <= 1e-5)) fail_msg("model %d, dora %d: merged logits differ by %.3g", which, dora, d);
            free(with);
            free(want);
            ml_model_free(merged);
            ml_adapter_free(a);
            ml_model_free(m);
        }
    }
}

/* By the chain rule from the gradient G of the merged matrix V' = g (W + s B A), g = m / |W + s B A|:
 *   dB = s g G A^T,   dA = s B^T (g G),   dm = rowsum(G V) / |V|;  LoRA: g = 1 */
static void expect_term_gradients(const ml_adapter_term *t, int64_t e, const float *G, const ml_adapter *a)
{
    int64_t rows = t->module.rows, cols = t->module.cols, r = t->rank;
    float *da = calloc((size_t)(r * cols), sizeof *da), *db = calloc((size_t)(rows * r), sizeof *db);
    float *dm = calloc((size_t)rows, sizeof *dm), *v = calloc((size_t)(rows * cols), sizeof *v);
    const float *A = ml_f32(&t->a) + e * r * cols, *B = ml_f32(&t->b) + e * rows * r;
    assert_ok(ml_adapter_read_merged(a, t, e, 0, rows, v, &err));
    for (int64_t i = 0; i < rows; i++) {
        int64_t row = e * rows + i;
        double g = a->dora ? (double)ml_f32(&t->m)[row] / (double)ml_f32(&t->norm)[row] : 1, sum = 0;
        for (int64_t k = 0; k < r; k++) {
            double s = 0;
            for (int64_t c = 0; c < cols; c++) s += g * (double)G[i * cols + c] * (double)A[k * cols + c];
            db[i * r + k] = (float)((double)t->scale * s);
            for (int64_t c = 0; c < cols; c++) {
                da[k * cols + c] += (float)((double)t->scale * (double)B[i * r + k] * g * (double)G[i * cols + c]);
            }
        }
        for (int64_t c = 0; c < cols; c++) sum += (double)G[i * cols + c] * (double)v[i * cols + c];
        if (a->dora) dm[i] = (float)(sum / (double)ml_f32(&t->m)[row]);
    }
    /* fp32 sums over tokens in another order. */
    double tolerance = 2e-5, d = difference(t->a.grad + e * r * cols, da, r * cols);
    if (!(d <= tolerance)) fail_msg("%s, %d: gradient of A differs by %.3g", t->module.name, (int)e, d);
    d = difference(t->b.grad + e * rows * r, db, rows * r);
    if (!(d <= tolerance)) fail_msg("%s, %d: gradient of B differs by %.3g", t->module.name, (int)e, d);
    d = a->dora ? difference(t->m.grad + e * rows, dm, rows) : 0;
    if (!(d <= tolerance)) fail_msg("%s, %d: gradient of m differs by %.3g", t->module.name, (int)e, d);
    free(da);
    free(db);
    free(dm);
    free(v);
}

static const float *gradient_of(const ml_model *m, const ml_adapter_module *module, int64_t e)
{
    char name[ML_WEIGHT_NAME_MAX];
    const char *star = strchr(module->name, '*');
    if (star)
        snprintf(name, sizeof name, "%.*s%d%s.weight", (int)(star - module->name), module->name, (int)e, star + 1);
    else
        snprintf(name, sizeof name, "%s.weight", module->name);
    const ml_weight *w = ml_model_find_weight(m, name);
    return (const float *)(const void *)(m->grads.base + ((const char *)w->data - m->values.base));
}

static void test_gradients(void **state)
{
    (void)state;
    for (int which = 0; which < TEST_N_MODEL; which++) {
        for (int dora = 0; dora < 2; dora++) {
            ml_model *m = make_model((test_model)which, false);
            ml_adapter *a = make_adapter(m, dora);
            spoil(a, 3);
            ml_model *merged = merge((test_model)which, a, true);
            ml_model_zero_grads(merged);
            free(run_model(merged, NULL, true, false));
            for (int recompute = 0; recompute < 2; recompute++) {
                ml_adapter_zero_grads(a);
                free(run_model(m, a, true, recompute));
                for (size_t i = 0; i < a->n_term; i++) {
                    const ml_adapter_module *module = &a->term[i].module;
                    for (int64_t e = 0; e < module->n_matrix; e++) {
                        expect_term_gradients(&a->term[i], e, gradient_of(merged, module, e), a);
                    }
                }
            }
            ml_model_free(merged);
            ml_adapter_free(a);
            ml_model_free(m);
        }
    }
}

/* ---- with a cache ---- */

/* Logits behind the last of the ids: a prompt, then single tokens. */
static void run_session(ml_model *m, const ml_adapter *a, const int32_t *id, int64_t n_prompt, int64_t n, float *logits)
{
    ml_session *s;
    assert_ok(ml_session_make_as(m, 64, true, ML_F32, &s, &err));
    ml_session_set_adapter(s, a);
    assert_ok(ml_session_append(s, id, n_prompt, &err));
    for (int64_t i = n_prompt; i < n; i++) assert_ok(ml_session_append_generated(s, id[i], &err));
    memcpy(logits, ml_session_logits(s), TEST_VOCAB * sizeof *logits);
    ml_session_free(s);
}

static void test_cached(void **state)
{
    (void)state;
    for (int which = 0; which < TEST_N_MODEL; which++) {
        for (int dora = 0; dora < 2; dora++) {
            ml_model *m = make_model((test_model)which, false);
            ml_adapter *a = make_adapter(m, dora);
            batch b = make_batch();
            spoil(a, 4);
            float *want = run_model(m, a, false, false), found[TEST_VOCAB];
            for (int64_t n_prompt = 1; n_prompt <= 10; n_prompt += 3) { /* the first sequence: prefill, then decode */
                run_session(m, a, b.id, n_prompt, 10, found);
                double d = difference(found, want + 9 * TEST_VOCAB, TEST_VOCAB);
                /* The absorbed and the decompressed form round differently. */
                if (!(d <= 2e-5)) fail_msg("model %d, dora %d, prompt %d: %.3g", which, dora, (int)n_prompt, d);
            }
            free(want);
            ml_adapter_free(a);
            ml_model_free(m);
        }
    }
}

static void answer_all(ml_model *m, const ml_adapter *const *adapter, int n, int64_t n_slot, test_answer *out)
{
    ml_engine *e;
    ml_engine_config c = { .n_slot = n_slot, .capacity = 40, .n_valid = TEST_VOCAB, .kv_dtype = ML_F32 };
    batch b = make_batch();
    assert_ok(ml_engine_make(m, &c, &e, &err));
    for (int i = 0; i < n; i++) {
        out[i].n = 0;
        int64_t id;
        ml_request q = { .prompt = b.id + i,
                         .n_prompt = 7,
                         .sampling = ml_sampling_default(),
                         .max_tokens = 12,
                         .adapter = adapter[i],
                         .on_token = test_take_token,
                         .arg = &out[i] };
        q.sampling.temperature = 0;
        assert_ok(ml_engine_submit(e, &q, &id, &err));
    }
    while (ml_engine_is_busy(e)) assert_ok(ml_engine_step(e, &err));
    ml_engine_free(e);
}

/* The dense model with biases behind q, k and v. */
static ml_model *make_biased_model(void)
{
    ml_config c = test_model_config(TEST_DENSE);
    ml_model *m;
    ml_rng rng = ml_rng_make(2, 1);
    c.attention_bias = 1;
    assert_ok(ml_model_make(&c, ML_F32, false, &m, &err));
    ml_model_init(m, 7);
    for (size_t i = 0; i < m->n_weight; i++) {
        const ml_weight *w = &m->weight[i];
        for (int64_t j = 0; strstr(w->name, ".bias") && j < ml_weight_count(w); j++) {
            ((float *)w->data)[j] = (float)ml_rng_normal(&rng);
        }
    }
    return m;
}

/* Requests with different adapters in one pass are answered as each alone, bit for bit. */
static void test_side_by_side(void **state)
{
    (void)state;
    for (int which = 0; which <= TEST_N_MODEL; which++) {
        ml_model *m = which == TEST_N_MODEL ? make_biased_model() : make_model((test_model)which, false);
        ml_adapter *one = make_adapter(m, false), *two = make_adapter(m, true);
        spoil(one, 5);
        spoil(two, 6);
        m->adapter = one; /* what NULL means */
        const ml_adapter *of[4] = { NULL, two, &ml_adapter_none, one };
        test_answer together[4], alone[4];
        answer_all(m, of, 4, 4, together);
        answer_all(m, of, 4, 1, alone);
        for (int i = 0; i < 4; i++) {
            assert_int_equal(together[i].n, alone[i].n);
            assert_memory_equal(together[i].id, alone[i].id, sizeof together[i].id[0] * (size_t)together[i].n);
            assert_memory_equal(together[i].logprob, alone[i].logprob,
                                sizeof together[i].logprob[0] * (size_t)together[i].n);
        }
        m->adapter = NULL;
        ml_adapter_free(one);
        ml_adapter_free(two);
        ml_model_free(m);
    }
}

/* ---- names ---- */

static void test_targets(void **state)
{
    (void)state;
    ml_model *m = make_model(TEST_MLA_MOE, false);
    ml_adapter *a;
    const char *const none[] = { "q_prj" }, *const experts[] = { "experts.*" };
    ml_adapter_config c = { .target = none, .n_target = 1, .rank = 2, .alpha = 2 };
    assert_int_equal(ml_adapter_make(&c, m, 1, &a, &err), ML_EINVAL);
    assert_non_null(strstr(err.message, "q_prj"));
    assert_non_null(strstr(err.message, "self_attn.kv_a_proj_with_mqa")); /* what there is */
    assert_non_null(strstr(err.message, "mlp.experts.*.down_proj"));
    c.target = experts;
    for (int dora = 0; dora < 2; dora++) {
        int64_t n_param;
        c.dora = dora;
        assert_ok(ml_adapter_make(&c, m, 1, &a, &err));
        assert_int_equal(a->n_term, 3); /* one expert layer */
        assert_ok(ml_adapter_plan(&c, &m->config, &n_param, &err));
        assert_int_equal(n_param, ml_adapter_count(a));
        ml_adapter_free(a);
    }
    c.dora = false;
    c.n_target = 0;
    assert_ok(ml_adapter_make(&c, m, 1, &a, &err));
    assert_int_equal(a->n_term, 2 * 4); /* q, kv_a, kv_b, o */
    ml_adapter_free(a);
    ml_model_free(m);
}

/* spec/megatron: 216 tensors, about 3.55 million numbers. */
static void test_moonlight_default(void **state)
{
    (void)state;
    ml_config c;
    int64_t n_param;
    ml_adapter_module *module;
    size_t n, n_attention = 0;
    assert_ok(ml_config_preset("moonlight-16b", &c, &err));
    assert_ok(ml_adapter_plan(&(ml_adapter_config){ .rank = 8, .alpha = 16 }, &c, &n_param, &err));
    assert_ok(ml_adapter_list_modules(&c, &module, &n, &err));
    for (size_t i = 0; i < n; i++) n_attention += ml_adapter_matches("self_attn.*", module[i].name);
    ml_free(module);
    assert_int_equal(2 * n_attention, 216);
    assert_in_range(n_param, 3540000, 3560000);
}

/* ---- files ---- */

static void save(const ml_adapter *a, const char *folder)
{
    ml_manifest *manifest;
    assert_ok(ml_manifest_begin(&manifest, folder, 0, &err));
    assert_ok(ml_peft_save(a, ML_F32, "somewhere", manifest, &err));
    assert_ok(ml_manifest_commit(manifest, &err));
    ml_manifest_free(manifest);
}

static void test_files(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX];
    snprintf(folder, sizeof folder, "%s", test_make_folder());
    for (int which = 0; which < TEST_N_MODEL; which++) {
        for (int dora = 0; dora < 2; dora++) {
            ml_model *m = make_model((test_model)which, false);
            ml_adapter *a = make_adapter(m, dora), *back;
            spoil(a, 8);
            save(a, folder);
            assert_ok(ml_peft_load(folder, m, &back, &err));
            float *one = run_model(m, a, false, false), *two = run_model(m, back, false, false);
            assert_memory_equal(one, two, N_TOKEN * TEST_VOCAB * sizeof *one);
            free(one);
            free(two);
            ml_adapter_free(back);
            ml_adapter_free(a);
            ml_model_free(m);
        }
    }
    /* Another model's, by name and by shape. */
    ml_model *other = make_model(TEST_DENSE, false);
    ml_adapter *back;
    assert_int_equal(ml_peft_load(folder, other, &back, &err), ML_EINVAL);
    assert_non_null(strstr(err.message, "another model"));
    ml_model_free(other);
    ml_config c = test_model_config(TEST_MLA_LORA);
    c.hidden_size = 40;
    assert_ok(ml_model_make(&c, ML_F32, false, &other, &err));
    ml_model_init(other, 7);
    assert_int_equal(ml_peft_load(folder, other, &back, &err), ML_EINVAL);
    assert_non_null(strstr(err.message, "another model"));
    ml_model_free(other);
    test_remove_folder(folder);
}

/* Integers are codes of an encoding that is not known. */
static void test_other_types(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX], *bytes, *type;
    size_t n;
    snprintf(folder, sizeof folder, "%s", test_make_folder());
    const char *path = test_path_in(folder, "adapter_model.safetensors");
    ml_model *m = make_model(TEST_DENSE, false);
    ml_adapter *a = make_adapter(m, false), *back;
    save(a, folder);
    assert_ok(ml_file_read(path, &bytes, &n, &err));
    while ((type = strstr(bytes + 8, "\"F32\""))) type[1] = 'I'; /* the header's length stands in 8 bytes before it */
    assert_ok(ml_file_replace(path, bytes, n, &err));
    assert_fails(ml_peft_load(folder, m, &back, &err), ML_EINVAL, "expected type F32, BF16 or F16, found I32");
    ml_free(bytes);
    ml_adapter_free(a);
    ml_model_free(m);
    test_remove_folder(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fresh_changes_no_bit),
        cmocka_unit_test(test_merged_weights),
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_cached),
        cmocka_unit_test(test_side_by_side),
        cmocka_unit_test(test_targets),
        cmocka_unit_test(test_moonlight_default),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_other_types),
    };
    return cmocka_run_group_tests_name("adapter", tests, NULL, NULL);
}
