/* Checkpoints of the two small PyTorch models (tests/golden/make_pt.py): every weight, and what their keys say. */
#include "format/pt_source.h"

#include "base/alloc.h"
#include "base/file.h"
#include "format/open_tokenizer.h"
#include "format/safetensors.h"
#include "format/source.h"
#include "model/model.h"
#include "quant/convert.h"
#include "support/support.h"
#include "token/chat.h"

#include <string.h>

static ml_error err;

#define GOLDEN MOONLIGHT_SOURCE_DIR "/tests/golden/"

/* Rows from the middle on as well as all of them: a part of a fused matrix begins where it should. */
static void compare_weight(const ml_weight_source *source, const ml_weight *w, const ml_safetensors *expected)
{
    ml_stored_weight stored;
    const ml_st_tensor *t;
    float got[4096], want[4096];
    assert_true(source->has(source, w->name));
    assert_ok(source->find(source, w->name, w->n_dim, w->dim, &stored, &err));
    assert_ok(ml_safetensors_get(expected, w->name, w->n_dim, w->dim, &t, &err));
    assert_true(t->n_element <= 4096);
    assert_ok(ml_st_read_all_f32(t, want, &err));
    assert_ok(source->read_f32(source, &stored, 0, w->dim[0], got, &err));
    assert_memory_equal(got, want, (size_t)t->n_element * sizeof *got);
    int64_t half = w->dim[0] / 2, cols = w->n_dim > 1 ? w->dim[1] : 1;
    assert_ok(source->read_f32(source, &stored, half, w->dim[0] - half, got, &err));
    assert_memory_equal(got, want + half * cols, (size_t)((w->dim[0] - half) * cols) * sizeof *got);
    if (stored.data) assert_memory_equal(stored.data, want, (size_t)t->n_element * sizeof *got);
}

static ml_config compare_file(const char *pt, const char *safetensors)
{
    ml_config config;
    ml_weight_source *source;
    ml_safetensors *expected;
    ml_model *m;
    assert_int_equal(ml_weight_source_kind(pt), ML_SOURCE_PT);
    assert_ok(ml_weight_source_open(pt, &config, &source, &err));
    assert_ok(ml_safetensors_open(&expected, safetensors, &err));
    assert_ok(ml_model_make(&config, ML_F32, false, &m, &err));
    assert_int_equal(m->n_weight, ml_safetensors_count(expected));
    for (size_t i = 0; i < m->n_weight; i++) compare_weight(source, &m->weight[i], expected);
    assert_false(source->has(source, "lm_head.weight"));
    assert_false(source->has(source, "model.layers.9.input_layernorm.weight"));
    ml_model_free(m);
    ml_safetensors_close(expected);
    source->free(source);
    return config;
}

static void test_moonlight_moe(void **state)
{
    (void)state;
    ml_config c = compare_file(GOLDEN "pt_moonlight_moe.pt", GOLDEN "pt_moonlight_moe.safetensors");
    assert_int_equal(c.hidden_size, 16);
    assert_int_equal(c.head_dim, 8);
    assert_int_equal(c.n_routed_experts, 3);
    assert_int_equal(c.num_experts_per_tok, 2);
    assert_int_equal(c.max_position_embeddings, 32);
    assert_true(c.expert_relu && c.head_bias && c.tie_word_embeddings && c.rope_interleaved);
    assert_true(c.rms_norm_eps == 1e-8 && c.rope_theta == 10000 && c.capacity_factor == 1.25);
}

static void test_nano_moe(void **state)
{
    (void)state;
    ml_config c = compare_file(GOLDEN "pt_nano_moe.pt", GOLDEN "pt_nano_moe.safetensors");
    assert_int_equal(c.hidden_size, 16);
    assert_int_equal(c.num_key_value_heads, 2);
    assert_int_equal(c.moe_intermediate_size, 20);
    assert_int_equal(c.n_shared_experts, 1);
    assert_true(c.norm_topk_prob && c.rms_norm_eps == 1e-6);
}

/* A folder made of one holds the same weights, and one that GGUF cannot express says why. */
static void test_convert(void **state)
{
    (void)state;
    ml_convert_report report;
    char folder[ML_PATH_MAX], file[ML_PATH_MAX];
    const char *work = test_make_folder();
    assert_ok(ml_path_join(folder, work, "hf", &err));
    assert_ok(ml_path_join(file, work, "x.gguf", &err));
    ml_convert x = { .from = GOLDEN "pt_moonlight_moe.pt", .to = folder };
    assert_ok(ml_convert_model(&x, &report, &err));
    assert_string_equal(report.kind, "MoonlightMoeForCausalLM");
    assert_false(report.has_tokenizer);
    ml_safetensors *a, *b;
    assert_ok(ml_safetensors_open(&a, folder, &err));
    assert_ok(ml_safetensors_open(&b, GOLDEN "pt_moonlight_moe.safetensors", &err));
    assert_int_equal(ml_safetensors_count(a), ml_safetensors_count(b));
    for (size_t i = 0; i < ml_safetensors_count(a); i++) {
        const ml_st_tensor *t = ml_safetensors_at(a, i), *u = ml_safetensors_find(b, t->name);
        assert_non_null(u);
        assert_int_equal(t->n_bytes, u->n_bytes);
        assert_memory_equal(t->data, u->data, t->n_bytes);
    }
    ml_safetensors_close(a);
    ml_safetensors_close(b);
    x.to = file;
    x.gguf = true;
    assert_fails(ml_convert_model(&x, &report, &err), ML_EINVAL, "its output has a bias");
    assert_false(ml_path_exists(file));
    x.from = GOLDEN "pt_nano_moe.pt";
    assert_ok(ml_convert_model(&x, &report, &err));
    assert_string_equal(report.kind, "ernie4_5-moe");
    test_remove_folder(work);
}

static void copy_file(const char *from, const char *to)
{
    char *data;
    size_t n;
    assert_ok(ml_file_read(from, &data, &n, &err));
    assert_ok(ml_file_replace(to, data, n, &err));
    ml_free(data);
}

/* What a conversion has: <|system|> (-1: none), and the chat format by name. */
static void expect_talk(const char *folder, int32_t mark, const char *stored, const char *chosen)
{
    ml_config c;
    ml_weight_source *source;
    ml_tokenizer *t;
    ml_chat_format f;
    assert_ok(ml_weight_source_open(folder, &c, &source, &err));
    assert_ok(ml_tokenizer_open(folder, &t, &err));
    assert_int_equal(ml_tokenizer_find(t, "<|system|>"), mark);
    assert_int_equal(ml_tokenizer_find(t, "<|assistant|>"), mark < 0 ? -1 : mark + 2);
    assert_string_equal(ml_chat_words[c.chat_format], stored);
    assert_ok(ml_chat_choose(t, NULL, ml_chat_words[c.chat_format], &f, &err));
    assert_string_equal(ml_chat_name(&f), chosen);
    ml_tokenizer_free(t);
    source->free(source);
}

/* The marks of turns follow GPT-2's last token in the models that were taught them, which published names tell; the
 * first stage's has none, nor has a tokenizer that ends in something else. */
static void test_marks(void **state)
{
    (void)state;
    static const char merges[] = "#version: 0.2\na b\n";
    static const char plain[] = "{\"a\": 0, \"b\": 1, \"ab\": 2, \"<|endoftext|>\": 3}";
    static const struct {
        const char *name;
        int32_t mark;
        const char *stored, *chosen;
    } cases[] = { { "chat_best.pt", 4, "moonlight-moe", "moonlight-moe" },
                  { "it_best.pt", 4, "moonlight-moe", "moonlight-moe" },
                  { "best.pt", -1, "auto", "none" } };
    ml_convert_report report;
    char work[ML_PATH_MAX], gpt2[ML_PATH_MAX], path[ML_PATH_MAX], bare[ML_PATH_MAX], to[ML_PATH_MAX];
    strcpy(work, test_make_folder());
    assert_ok(ml_path_join(gpt2, work, "gpt2", &err));
    assert_ok(ml_dir_make(gpt2, &err));
    assert_ok(ml_path_join(path, gpt2, "encoder.json", &err));
    assert_ok(ml_file_replace(path, plain, sizeof plain - 1, &err));
    assert_ok(ml_path_join(path, gpt2, "vocab.bpe", &err));
    assert_ok(ml_file_replace(path, merges, sizeof merges - 1, &err));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_ok(ml_path_join(path, work, cases[i].name, &err));
        copy_file(GOLDEN "pt_moonlight_moe.pt", path);
        snprintf(bare, sizeof bare, "%.200s/bare%zu", work, i);
        snprintf(to, sizeof to, "%.200s/direct%zu", work, i);
        ml_convert x = { .from = path, .to = to, .tokenizer = gpt2 };
        assert_ok(ml_convert_model(&x, &report, &err));
        expect_talk(to, cases[i].mark, cases[i].stored, cases[i].chosen);
        /* The same from a folder that was made without a tokenizer. */
        x = (ml_convert){ .from = path, .to = bare };
        assert_ok(ml_convert_model(&x, &report, &err));
        snprintf(to, sizeof to, "%.200s/later%zu", work, i);
        x = (ml_convert){ .from = bare, .to = to, .tokenizer = gpt2 };
        assert_ok(ml_convert_model(&x, &report, &err));
        expect_talk(to, cases[i].mark, cases[i].stored, cases[i].chosen);
    }
    test_remove_folder(work);
}

static void test_published_marks(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("gpt2/encoder.json");
    ml_config c;
    ml_tokenizer *t;
    assert_ok(ml_config_preset("moonlight-moe-130m", &c, &err));
    assert_ok(ml_config_set(&c, "chat_format", "moonlight-moe", "test", &err));
    assert_ok(ml_tokenizer_open_for(test_data_path("gpt2"), &c, &t, &err));
    assert_int_equal(ml_tokenizer_find(t, "<|endoftext|>"), 50256);
    assert_int_equal(ml_tokenizer_find(t, "<|system|>"), 50257);
    assert_int_equal(ml_tokenizer_find(t, "<|user|>"), 50258);
    assert_int_equal(ml_tokenizer_find(t, "<|assistant|>"), 50259);
    ml_tokenizer_free(t);
    c.vocab_size = 50259; /* no room for the last */
    assert_ok(ml_tokenizer_open_for(test_data_path("gpt2"), &c, &t, &err));
    assert_int_equal(ml_tokenizer_vocab_size(t), 50257);
    ml_tokenizer_free(t);
}

/* What torch.save wrote of something else. */
static void test_refusals(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("pt/state_dict.pt");
    ml_config config;
    ml_weight_source *source;
    assert_fails(ml_weight_source_open(test_data_path("pt/state_dict.pt"), &config, &source, &err), ML_EINVAL,
                 "holds neither model_cfg");
    assert_null(source);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moonlight_moe), cmocka_unit_test(test_nano_moe),        cmocka_unit_test(test_convert),
        cmocka_unit_test(test_marks),         cmocka_unit_test(test_published_marks), cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
