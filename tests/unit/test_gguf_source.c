/* Models in GGUF files: a real one's words, and what the metadata says. */
#include "base/alloc.h"
#include "token/tokenizer.h"
#include "infer/generate.h"
#include "model/model.h"
#include "quant/convert.h"
#include "support/support.h"

#include <string.h>

static ml_error err;

/* The 200 tokens that follow the beginning of a text, likeliest first. */
static ml_generation continue_greedily(ml_model *m, const ml_tokenizer *t)
{
    ml_session *s;
    ml_sampler *sampler;
    ml_generation g;
    ml_sampling sampling = { .temperature = 0, .top_p = 1, .repetition_penalty = 1 };
    ml_generate_config config = { .max_tokens = 200 };
    int32_t bos = ml_tokenizer_bos(t);
    m->config.max_position_embeddings = 256; /* the file says 128; its positions have no end */
    assert_ok(ml_session_make(m, 256, true, &s, &err));
    assert_ok(ml_sampler_make(&sampling, m->config.vocab_size, ml_tokenizer_vocab_size(t), &sampler, &err));
    assert_ok(ml_generate(s, sampler, &bos, 1, &config, &g, &err));
    ml_sampler_free(sampler);
    ml_session_free(s);
    return g;
}

/* Published with the model: what another program says with it. */
static void compare_text(const char *path)
{
    ml_model *m;
    ml_tokenizer *t;
    char *expected;
    ml_chars text = { 0 };
    assert_ok(ml_model_open(path, &m, &err));
    assert_ok(ml_tokenizer_open(path, &t, &err));
    ml_generation g = continue_greedily(m, t);
    assert_int_equal(g.n, 200);
    ml_detok detok = { .skip_special = true };
    for (int64_t i = 0; i < g.n; i++) assert_ok(ml_detok_push(&detok, t, g.id[i], &text, &err));
    assert_ok(ml_detok_flush(&detok, &text, &err));
    assert_ok(ml_chars_append(&text, "", 1, &err));
    assert_ok(ml_file_read(test_data_path("models/stories260K_greedy200.txt"), &expected, NULL, &err));
    assert_string_equal(expected + strlen(expected) - 1, "\n");
    expected[strlen(expected) - 1] = 0;
    assert_string_equal(text.data, expected);
    ml_free(expected);
    ml_chars_free(&text);
    ml_generation_free(&g);
    ml_tokenizer_free(t);
    ml_model_free(m);
}

static void test_real_model(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("models/stories260K.gguf");
    compare_text(test_data_path("models/stories260K.gguf"));
}

/* The same words from a folder made of it, and from a file made of that. */
static void test_real_model_converted(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("models/stories260K.gguf");
    char folder[ML_PATH_MAX], file[ML_PATH_MAX];
    const char *work = test_make_folder();
    ml_convert_report report;
    assert_ok(ml_path_join(folder, work, "hf", &err));
    assert_ok(ml_path_join(file, work, "m.gguf", &err));
    ml_convert to_folder = { .from = test_data_path("models/stories260K.gguf"), .to = folder };
    assert_ok(ml_convert_model(&to_folder, &report, &err));
    assert_true(report.has_tokenizer);
    compare_text(folder);
    ml_convert to_file = { .from = folder, .to = file, .gguf = true };
    assert_ok(ml_convert_model(&to_file, &report, &err));
    compare_text(file);
    test_remove_folder(work);
}

/* A safetensors file is opened with the config.json beside it. */
static void test_safetensors_file(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("models/tiny_llama_safetensors/model.safetensors");
    ml_model *m;
    assert_ok(ml_model_open(test_data_path("models/tiny_llama_safetensors/model.safetensors"), &m, &err));
    assert_int_equal(m->config.vocab_size, 16);
    assert_int_equal(m->config.intermediate_size, 344);
    ml_model_free(m);
    assert_ok(ml_model_open(test_data_path("models/tiny_llama_safetensors"), &m, &err));
    assert_int_equal(m->embed.dtype, ML_BF16);
    ml_model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real_model),
        cmocka_unit_test(test_real_model_converted),
        cmocka_unit_test(test_safetensors_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
