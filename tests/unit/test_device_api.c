/* The library's choice of a device as another program makes it, through moonlight.h alone: with the processor where
 * there is no GPU, and with a GPU, or the emulated one, beside the processor. */
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { N_PROMPT = 24, N_GENERATED = 6, MAX_VOCAB = 512 };

static ml_error err;
static char work[512], recipe[600], run[600];
static char folder[600]; /* of the model that was trained */

static void write_recipe(void)
{
    FILE *f = fopen(recipe, "w");
    assert_non_null(f);
    fprintf(f,
            "[model]\npreset = nano-moe\nhidden_size = 32\nnum_hidden_layers = 2\nnum_attention_heads = 2\n"
            "num_key_value_heads = 1\nhead_dim = 16\nrotary_dim = 16\nmoe_intermediate_size = 32\n"
            "max_position_embeddings = 64\n[data]\ndir = %.500s/data\nbytes = 60k\nvocab_size = 300\n"
            "[train]\nsteps = 3\nbatch = 1\nseq = 16\n[optim]\nwarmup = 1\n[eval]\nevery = 0\nwindows = 1\n"
            "[checkpoint]\nevery = 0\n",
            work);
    assert_int_equal(fclose(f), 0);
}

static bool has_gpu(void)
{
    ml_model *m;
    assert_ok(ml_model_open_on(folder, "auto", &m, &err));
    bool there = !strncmp(ml_model_get_device(m), "cuda:", 5);
    ml_model_free(m);
    return there;
}

/* Trains on what there is, which the plan says before. */
static void test_training(void **state)
{
    (void)state;
    ml_trainer_config config = { .recipe = recipe, .run_folder = run, .device = "gpu" };
    ml_trainer *t;
    assert_fails(ml_trainer_open(&config, &t, &err), ML_EINVAL, "expected auto, cpu, cuda or cuda:N");
    assert_null(t);
    config.device = "auto";
    assert_ok(ml_trainer_open(&config, &t, &err));
    ml_trainer_plan plan = ml_trainer_get_plan(t);
    assert_true(!strcmp(plan.device, "cpu") || !strncmp(plan.device, "cuda:", 5));
    assert_true(plan.total_bytes > 0 && plan.available_bytes > plan.total_bytes);
    assert_true((plan.host_bytes > 0) == !strncmp(plan.device, "cuda:", 5));
    char device[32];
    snprintf(device, sizeof device, "%s", plan.device);
    assert_ok(ml_trainer_run(t, &err));
    snprintf(folder, sizeof folder, "%s", ml_trainer_get_result(t).best);
    ml_trainer_free(t);
    assert_true(has_gpu() == !strncmp(device, "cuda:", 5)); /* both choose alike */
}

static void test_words(void **state)
{
    (void)state;
    ml_model *m;
    assert_ok(ml_model_open(folder, &m, &err));
    assert_string_equal(ml_model_get_device(m), "cpu");
    ml_model_free(m);
    assert_ok(ml_model_open_on(folder, "cpu", &m, &err));
    assert_string_equal(ml_model_get_device(m), "cpu (as asked)");
    ml_model_free(m);
    assert_fails(ml_model_open_on(folder, "gpu", &m, &err), ML_EINVAL, "expected auto, cpu, cuda or cuda:N");
    assert_null(m);
    assert_fails(ml_model_open_on("/no/such/model", "auto", &m, &err), ML_EINVAL, "/no/such/model");
    assert_ok(ml_model_open_on(folder, "auto", &m, &err));
    bool there = !strncmp(ml_model_get_device(m), "cuda:0 (", 8);
    assert_true(there || !strncmp(ml_model_get_device(m), "cpu (cuda:0: ", 13)); /* and why */
    ml_model_free(m);
    if (there) {
        assert_fails(ml_model_open_on(folder, "cuda:1000", &m, &err), ML_EINVAL, "give a smaller number");
    } else {
        assert_fails(ml_model_open_on(folder, "cuda", &m, &err), ML_EINVAL, "give --device cpu");
    }
    assert_null(m);
}

/* What a session says behind a prompt and behind tokens that were generated, and what ml_generate makes of it. */
typedef struct {
    float logits[2][MAX_VOCAB];
    int64_t n_vocab;
    ml_generation generation;
} saying;

static void listen_to(const char *device, bool use_cache, const char *kv_type, saying *out)
{
    ml_model *m;
    ml_session *s;
    ml_sampler *sampler;
    int32_t prompt[N_PROMPT];
    assert_ok(ml_model_open_on(folder, device, &m, &err));
    assert_ok(ml_model_repack(m, &err));
    ml_model_info info = ml_model_get_info(m);
    out->n_vocab = info.n_vocab;
    assert_true(info.n_vocab <= MAX_VOCAB);
    for (int i = 0; i < N_PROMPT; i++) prompt[i] = (int32_t)(i * 37 % info.n_vocab);
    assert_ok(ml_session_make_typed(m, 48, use_cache, kv_type, &s, &err));
    assert_null(ml_session_logits(s));
    assert_ok(ml_session_append(s, prompt, N_PROMPT, &err));
    memcpy(out->logits[0], ml_session_logits(s), (size_t)info.n_vocab * sizeof(float));
    for (int i = 0; i < N_GENERATED; i++) assert_ok(ml_session_append_generated(s, prompt[i], &err));
    memcpy(out->logits[1], ml_session_logits(s), (size_t)info.n_vocab * sizeof(float));
    assert_int_equal(ml_session_count(s), N_PROMPT + N_GENERATED);
    assert_fails(ml_session_append(s, (int32_t[]){ -1 }, 1, &err), ML_EINVAL, "token id -1");
    ml_session_truncate(s, 0);
    ml_sampling sampling = ml_sampling_default();
    assert_ok(ml_sampler_make(&sampling, info.n_vocab, info.n_vocab, &sampler, &err));
    ml_generate_config config = { .max_tokens = N_GENERATED };
    assert_ok(ml_generate(s, sampler, prompt, N_PROMPT, &config, &out->generation, &err));
    assert_int_equal(out->generation.n, N_GENERATED);
    ml_sampler_free(sampler);
    ml_session_free(s);
    ml_model_free(m);
}

/* fp32 weights: the same sums in another order, and a cache that may round a value the other way: 2e-3 of logits of
 * order 1, as in test_device_decode. */
static void test_inference(void **state)
{
    (void)state;
    static saying here, there, again;
    listen_to("cpu", true, "f16", &here);
    listen_to("auto", true, "f16", &there);
    for (int i = 0; i < 2; i++) {
        for (int64_t j = 0; j < here.n_vocab; j++) assert_true(fabsf(here.logits[i][j] - there.logits[i][j]) < 2e-3f);
    }
    assert_true(fabs(here.generation.logprob[0] - there.generation.logprob[0]) < 4e-3);
    listen_to("auto", false, "f16", &again); /* without a cache: the same bits */
    assert_memory_equal(again.logits, there.logits, sizeof there.logits);
    assert_memory_equal(again.generation.id, there.generation.id, N_GENERATED * sizeof(int32_t));
    ml_generation_free(&here.generation);
    ml_generation_free(&there.generation);
    ml_generation_free(&again.generation);
}

static int set_up(void **state)
{
    (void)state;
    snprintf(work, sizeof work, "%.500s", test_make_folder());
    snprintf(recipe, sizeof recipe, "%s/tiny.ini", work);
    snprintf(run, sizeof run, "%s/run", work);
    write_recipe();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    test_remove_folder(work);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_training),
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_inference),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
