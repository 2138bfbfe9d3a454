/* Architectures: parameter counts as published, config.json round trips, refusals. */
#include "model/config.h"
#include "model/model.h"
#include "support/support.h"

#include <string.h>

static ml_error err;

static void expect_counts(const char *preset, int64_t total, int64_t active)
{
    ml_config c;
    assert_ok(ml_config_preset(preset, &c, &err));
    ml_param_counts n = ml_model_count(&c);
    assert_int_equal(n.total, total);
    if (active) assert_int_equal(n.active, active);
}

/* The published models' numbers of parameters. */
static void test_parameter_counts(void **state)
{
    (void)state;
    expect_counts("nano-moe", 11327424, 7788480);
    expect_counts("moonlight-moe-130m", 134891136, 67782272);
    expect_counts("qwen-toy", 331617664, 331617664);
    expect_counts("moonlight-16b", 15960110208, 2914776192);
    ml_config c;
    assert_ok(ml_config_preset("moonlight-16b", &c, &err));
    assert_int_equal(ml_model_count(&c).without_embedding, 15289021568);
    assert_int_equal(ml_model_count(&c).active_without_embedding, 2243687552);
}

/* The count from the configuration equals the number of elements that a model really has. */
static void test_counts_match_the_weights(void **state)
{
    (void)state;
    const char *const names[] = { "nano-moe", "moonlight-tiny", "moonlight-tiny-256", "moonlight-moe-130m" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        ml_config c;
        ml_model *m;
        assert_ok(ml_config_preset(names[i], &c, &err));
        assert_ok(ml_model_make(&c, ML_F32, true, &m, &err));
        int64_t weights = 0, params = 0, untrained = 0;
        for (size_t j = 0; j < m->n_weight; j++) {
            weights += ml_weight_count(&m->weight[j]);
            if (!m->weight[j].trained) untrained += ml_weight_count(&m->weight[j]);
        }
        for (size_t j = 0; j < m->n_param; j++) params += ml_param_count(&m->param[j]);
        assert_int_equal(weights, ml_model_count(&c).total);
        assert_int_equal(params + untrained, weights);
        ml_model_free(m);
    }
}

/* HF tensors of moonlight-16b: 26 * 204 + 10 + 3 without the 27 inv_freq buffers. */
static void test_moonlight_16b_tensor_names(void **state)
{
    (void)state;
    ml_config c;
    ml_model *m;
    assert_ok(ml_config_preset("moonlight-16b", &c, &err));
    assert_ok(ml_model_make(&c, ML_BF16, false, &m, &err)); /* address space only: nothing is touched */
    assert_int_equal(m->n_weight, 26 * 204 + 10 + 3);
    const ml_weight *w = ml_model_find_weight(m, "model.layers.26.mlp.experts.63.down_proj.weight");
    assert_non_null(w);
    assert_int_equal(w->dim[0], 2048);
    assert_int_equal(w->dim[1], 1408);
    assert_non_null(ml_model_find_weight(m, "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"));
    assert_null(ml_model_find_weight(m, "model.layers.0.mlp.gate.weight"));
    ml_model_free(m);
}

static void expect_class(const char *preset, const char *wanted)
{
    ml_config c, again;
    char folder[ML_PATH_MAX], path[ML_PATH_MAX];
    assert_ok(ml_config_preset(preset, &c, &err));
    assert_string_equal(ml_config_class_name(&c), wanted);
    strcpy(folder, test_make_folder());
    assert_ok(ml_path_join(path, folder, "config.json", &err));
    assert_ok(ml_config_save(&c, ML_F32, path, &err));
    assert_ok(ml_config_load(path, &again, &err));
    const char *field = NULL;
    if (!ml_config_same_model(&c, &again, &field))
        fail_msg("%s: %s changed on the way through config.json", preset, field);
    assert_int_equal(memcmp(&c.balance_coef, &again.balance_coef, sizeof c.balance_coef), 0);
    assert_int_equal(c.init, again.init);
    assert_int_equal(c.eos_token_id, again.eos_token_id);
    test_remove_folder(folder);
}

static void test_presets_choose_their_class(void **state)
{
    (void)state;
    expect_class("nano-moe", "Ernie4_5_MoeForCausalLM");
    expect_class("moonlight-moe-130m", "MoonlightMoeForCausalLM");
    expect_class("qwen-toy", "Qwen2ForCausalLM");
    expect_class("moonlight-16b", "DeepseekV3ForCausalLM");
    expect_class("moonlight-tiny", "DeepseekV3ForCausalLM");
}

/* The published config.json says what the preset says. */
static void test_published_config(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("kimi/Moonlight-16B-A3B-Instruct_config.json");
    ml_config published, preset;
    assert_ok(ml_config_load(test_data_path("kimi/Moonlight-16B-A3B-Instruct_config.json"), &published, &err));
    assert_ok(ml_config_preset("moonlight-16b", &preset, &err));
    const char *field = NULL;
    if (!ml_config_same_model(&published, &preset, &field)) fail_msg("%s differs", field);
    assert_int_equal(published.eos_token_id, 163586);
}

static void test_overrides_and_refusals(void **state)
{
    (void)state;
    ml_config c;
    assert_ok(ml_config_preset("nano-moe", &c, &err));
    assert_ok(ml_config_set(&c, "hidden_size", "96", "args", &err));
    assert_ok(ml_config_set(&c, "scoring", "sigmoid", "args", &err));
    assert_ok(ml_config_set(&c, "qk_norm", "on", "args", &err));
    assert_int_equal(c.hidden_size, 96);
    assert_int_equal(c.scoring, ML_SCORE_SIGMOID);
    assert_fails(ml_config_set(&c, "hidden", "96", "args", &err), ML_EINVAL, "no key model.hidden");
    assert_fails(ml_config_set(&c, "hidden_size", "9x", "args", &err), ML_EINVAL, "expected a whole number");
    assert_fails(ml_config_set(&c, "scoring", "argmax", "args", &err), ML_EINVAL, "one of softmax sigmoid");
    assert_fails(ml_config_preset("moonlight-17b", &c, &err), ML_EINVAL, "there are nano-moe");

    assert_ok(ml_config_preset("nano-moe", &c, &err));
    c.num_experts_per_tok = 5;
    assert_fails(ml_config_check(&c, "x.ini", &err), ML_EINVAL,
                 "num_experts_per_tok 5 is not between 1 and n_routed_experts 4");
    c.num_experts_per_tok = 2;
    c.num_key_value_heads = 3;
    assert_fails(ml_config_check(&c, "x.ini", &err), ML_EINVAL, "num_key_value_heads 3 does not divide");
    c.num_key_value_heads = 2;
    c.rotary_dim = 23;
    assert_fails(ml_config_check(&c, "x.ini", &err), ML_EINVAL, "even number");
}

static void expect_refused(const char *text, const char *part)
{
    char folder[ML_PATH_MAX], path[ML_PATH_MAX];
    ml_config c;
    strcpy(folder, test_make_folder());
    assert_ok(ml_path_join(path, folder, "config.json", &err));
    assert_ok(ml_file_replace(path, text, strlen(text), &err));
    memset(&err, 0, sizeof err);
    ml_status status = ml_config_load(path, &c, &err);
    if (status == ML_OK || !strstr(err.message, part)) fail_msg("status %d, message \"%s\"", status, err.message);
    test_remove_folder(folder);
}

static void test_bad_config_json(void **state)
{
    (void)state;
    expect_refused("", "config.json");
    expect_refused("[]", "expected a JSON object");
    expect_refused("{}", "architectures");
    expect_refused("{\"architectures\": [\"GPT2LMHeadModel\"]}", "GPT2LMHeadModel");
    expect_refused("{\"architectures\": [\"LlamaForCausalLM\"]}", "vocab_size");
    const char *llama =
        "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 10, \"hidden_size\": %s, "
        "\"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"intermediate_size\": 4, \"hidden_act\": \"%s\"}";
    char text[512];
    snprintf(text, sizeof text, llama, "\"8\"", "silu");
    expect_refused(text, "hidden_size");
    snprintf(text, sizeof text, llama, "-8", "silu");
    expect_refused(text, "hidden_size");
    snprintf(text, sizeof text, llama, "8", "gelu");
    expect_refused(text, "hidden_act");
    snprintf(text, sizeof text, llama, "6", "silu"); /* heads of 3 cannot rotate in pairs */
    expect_refused(text, "rotary_dim");
    snprintf(text, sizeof text, llama, "8000000000000000000", "silu");
    expect_refused(text, "head_dim");
}

static const char qwen3[] = "{\"architectures\": [\"Qwen3ForCausalLM\"], \"vocab_size\": 10, \"hidden_size\": 8, "
                            "\"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"intermediate_size\": 4, %s}";

/* What transformers would compute and this program would not is no matter of a key being known. */
static void test_refused_variants(void **state)
{
    (void)state;
    static const struct {
        const char *keys, *part;
    } variants[] = {
        { "\"attention_bias\": true", "attention_bias" }, /* a bias on the output projection too */
        { "\"use_sliding_window\": true", "use_sliding_window" },
        { "\"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 8}", "linear" },
        { "\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8}", "factors 0 < low < high; found 2048, 0, 0" },
        { "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 8, \"attention_factor\": 1.5}", "attention_factor" },
        { "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 8, \"truncate\": false}", "truncate" },
    };
    char text[1024];
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++) {
        snprintf(text, sizeof text, qwen3, variants[i].keys);
        expect_refused(text, variants[i].part);
    }
    ml_config c;
    snprintf(text, sizeof text, qwen3, "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 8}");
    assert_ok(ml_config_parse(text, strlen(text), "text", &c, &err));
    assert_string_equal(ml_config_class_name(&c), "Qwen3ForCausalLM");
    c.attention_bias = 1;
    assert_string_not_equal(ml_config_class_name(&c), "Qwen3ForCausalLM");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parameter_counts),
        cmocka_unit_test(test_counts_match_the_weights),
        cmocka_unit_test(test_moonlight_16b_tensor_names),
        cmocka_unit_test(test_presets_choose_their_class),
        cmocka_unit_test(test_published_config),
        cmocka_unit_test(test_overrides_and_refusals),
        cmocka_unit_test(test_bad_config_json),
        cmocka_unit_test(test_refused_variants),
    };
    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
