/* Conversion: through GGUF and back to the same bits, and folders that hold more than the model. */
#include "quant/convert.h"

#include "base/alloc.h"
#include "base/log.h"
#include "format/gguf.h"
#include "format/gguf_config.h"
#include "format/hf.h"
#include "format/source.h"
#include "infer/session.h"
#include "model/model.h"
#include "quant/hf_view.h"
#include "support/byte_tokenizer.h"
#include "support/support.h"

#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

static ml_error err;

typedef struct {
    const char *preset;
    const char *set; /* "field=value ..." */
    const char *arch;
} variant;

#define SMALL "vocab_size=96 hidden_size=32 num_hidden_layers=3 intermediate_size=48 max_position_embeddings=64 "
#define MLA_SMALL                                                                                                      \
    SMALL "num_attention_heads=4 num_key_value_heads=4 kv_lora_rank=12 qk_nope_head_dim=8 qk_rope_head_dim=4 "         \
          "rotary_dim=4 v_head_dim=6 n_routed_experts=8 num_experts_per_tok=3 moe_intermediate_size=16 "
#define GQA_SMALL SMALL "num_attention_heads=4 num_key_value_heads=2 head_dim=12 rotary_dim=12 "
#define DENSE_SMALL GQA_SMALL "first_k_dense_replace=3 "
#define MOE_SMALL GQA_SMALL "n_routed_experts=4 num_experts_per_tok=2 moe_intermediate_size=16 "
#define GLM_SMALL MOE_SMALL "scoring=sigmoid rope_interleaved=0 tie_word_embeddings=0 first_k_dense_replace=1 "

static const variant variants[] = {
    { "moonlight-tiny", MLA_SMALL, "deepseek2" },
    { "moonlight-tiny", MLA_SMALL "q_lora_rank=10 tie_word_embeddings=1 n_group=4 topk_group=2", "deepseek2" },
    { "moonlight-tiny", MLA_SMALL "yarn_factor=4 yarn_original_positions=16 yarn_mscale=0.7 yarn_mscale_all_dim=0.7",
      "deepseek2" },
    { "moonlight-tiny",
      MLA_SMALL "scoring=softmax norm_topk_prob=0 correction_bias=0 n_group=4 topk_group=2 group_by_best=1 "
                "latent_norm_eps=1e-6 yarn_factor=4 yarn_original_positions=16 yarn_mscale=1 yarn_mscale_all_dim=0.707",
      "deepseek2" },
    { "nano-moe", MOE_SMALL, "ernie4_5-moe" },
    { "nano-moe", MOE_SMALL "first_k_dense_replace=1 n_shared_experts=2 tie_word_embeddings=0", "ernie4_5-moe" },
    { "nano-moe", GLM_SMALL "qk_norm=1 rotary_dim=6", "glm4moe" },
    { "nano-moe", GLM_SMALL "attention_bias=1 correction_bias=1 n_shared_experts=2", "glm4moe" },
    { "qwen-toy", DENSE_SMALL, "qwen2" },
    { "qwen-toy", DENSE_SMALL "qk_norm=1 attention_bias=0 yarn_factor=2 yarn_original_positions=32", "qwen3" },
    { "qwen-toy", DENSE_SMALL "attention_bias=0 tie_word_embeddings=0", "llama" },
    { "qwen-toy",
      DENSE_SMALL "attention_bias=0 llama3_factor=8 llama3_low_freq_factor=1 llama3_high_freq_factor=4 "
                  "llama3_original_positions=32 rope_theta=500",
      "llama" },
    { "moonlight-tiny", MLA_SMALL "scoring=softmax norm_topk_prob=0 routed_scaling_factor=1 correction_bias=0",
      "deepseek2" },
};
enum { N_VARIANT = sizeof variants / sizeof *variants };

static void apply(ml_config *c, const char *set)
{
    char text[1024], *rest;
    snprintf(text, sizeof text, "%s", set);
    for (char *word = strtok_r(text, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        char *equals = strchr(word, '=');
        *equals = 0;
        assert_ok(ml_config_set(c, word, equals + 1, "test", &err));
    }
    assert_ok(ml_config_check(c, "test", &err));
}

/* A folder with fresh weights, norms and biases among them. */
static void write_folder(const variant *v, ml_dtype dtype, const char *folder, ml_config *config)
{
    ml_model *m;
    ml_manifest *manifest;
    assert_ok(ml_config_preset(v->preset, config, &err));
    apply(config, v->set);
    assert_ok(ml_model_make(config, ML_F32, false, &m, &err));
    ml_model_init(m, 3);
    for (size_t i = 0; i < m->n_weight; i++) {
        float *x = m->weight[i].data;
        for (int64_t k = 0; k < ml_weight_count(&m->weight[i]) && m->weight[i].n_dim == 1; k++) {
            x[k] += 0.01f * (float)(k % 5);
        }
    }
    assert_ok(ml_manifest_begin(&manifest, folder, 0, &err));
    assert_ok(ml_hf_save(m, dtype, NULL, manifest, &err));
    assert_ok(ml_manifest_commit(manifest, &err));
    ml_manifest_free(manifest);
    ml_model_free(m);
}

static ml_convert_report convert(const char *from, const char *to, const char *mix, bool gguf)
{
    ml_convert_report report;
    ml_convert x = { .from = from, .to = to, .gguf = gguf };
    if (mix) assert_ok(ml_quant_mix_find(mix, &x.plan.mix, &err));
    assert_ok(ml_convert_model(&x, &report, &err));
    return report;
}

static void assert_same_tensors(const char *a, const char *b)
{
    ml_safetensors *x, *y;
    assert_ok(ml_safetensors_open(&x, a, &err));
    assert_ok(ml_safetensors_open(&y, b, &err));
    assert_int_equal(ml_safetensors_count(x), ml_safetensors_count(y));
    for (size_t i = 0; i < ml_safetensors_count(x); i++) {
        const ml_st_tensor *t = ml_safetensors_at(x, i), *u = ml_safetensors_find(y, t->name);
        if (!u) fail_msg("%s lacks %s", b, t->name);
        if (t->dtype != u->dtype || t->n_bytes != u->n_bytes || memcmp(t->data, u->data, t->n_bytes)) {
            fail_msg("%s is not the same in %s", t->name, b);
        }
    }
    ml_safetensors_close(x);
    ml_safetensors_close(y);
}

static void assert_same_file(const char *a, const char *b)
{
    ml_map x, y;
    assert_ok(ml_map_open(a, &x, &err));
    assert_ok(ml_map_open(b, &y, &err));
    assert_int_equal(x.size, y.size);
    assert_memory_equal(x.data, y.data, x.size);
    ml_map_close(&x);
    ml_map_close(&y);
}

static void get_logits(const char *path, float *out)
{
    ml_model *m;
    ml_session *s;
    const int32_t id[] = { 5, 7, 11, 90, 2 };
    assert_ok(ml_model_open(path, &m, &err));
    assert_ok(ml_session_make(m, 8, true, &s, &err));
    assert_ok(ml_session_append(s, id, 5, &err));
    memcpy(out, ml_session_logits(s), 96 * sizeof *out);
    ml_session_free(s);
    ml_model_free(m);
}

/* Folder -> GGUF -> folder -> GGUF: the weights, the configuration, the file. */
static void test_round_trip(void **state)
{
    (void)state;
    for (int i = 0; i < N_VARIANT; i++) {
        const variant *v = &variants[i];
        const char *work = test_make_folder(), *field;
        const char *first = test_path_in(work, "first"), *file = test_path_in(work, "m.gguf"),
                   *second = test_path_in(work, "second");
        const char *again = test_path_in(work, "again.gguf");
        ml_config config, back;
        write_folder(v, i % 2 ? ML_BF16 : ML_F32, first, &config);
        ml_convert_report report = convert(first, file, NULL, true);
        assert_string_equal(report.kind, v->arch);
        assert_int_equal(report.unused.n, 0);
        report = convert(file, second, NULL, false);
        assert_int_equal(report.unused.n, 0);
        assert_string_equal(report.kind, ml_config_class_name(&config));
        assert_ok(ml_config_load(test_path_in(second, "config.json"), &back, &err));
        /* A router bias that is not there is written as zeros. */
        config.correction_bias = back.correction_bias;
        if (!ml_config_same_model(&config, &back, &field)) fail_msg("%s of %s is another", field, v->arch);
        assert_same_tensors(first, second);
        convert(second, again, NULL, true);
        assert_same_file(file, again);
        float a[96], b[96];
        get_logits(first, a);
        /* The products of a Llama's q and k are summed in another order, and a split kv_b is another algorithm; logits
         * are about 1. */
        bool exact = strcmp(v->arch, "llama") && strcmp(v->arch, "deepseek2");
        get_logits(file, b);
        for (int k = 0; k < 96; k++) {
            if (!(fabs((double)a[k] - (double)b[k]) <= (exact ? 0 : 1e-5))) {
                fail_msg("%s %d: logit %d is %g, expected %g", v->arch, i, k, (double)b[k], (double)a[k]);
            }
        }
        get_logits(second, b);
        assert_memory_equal(a, b, sizeof a);
        test_remove_folder(work);
    }
}

/* Every tensor's type is the one it had. */
static void test_quantised_files_stay_as_they_are(void **state)
{
    (void)state;
    const char *work = test_make_folder();
    const char *folder = test_path_in(work, "f"), *q = test_path_in(work, "q.gguf"),
               *again = test_path_in(work, "again.gguf");
    ml_config config;
    const variant v = { "moonlight-tiny", MLA_SMALL "hidden_size=256 moe_intermediate_size=96", "deepseek2" };
    write_folder(&v, ML_F32, folder, &config);
    convert(folder, q, "q4_k_m", true);
    convert(q, again, NULL, true);
    assert_same_file(q, again);
    ml_gguf *g;
    static const struct {
        const char *name;
        ml_dtype dtype;
    } expected[] = {
        { "token_embd.weight", ML_Q4_K },          { "output.weight", ML_Q6_K },
        { "blk.0.attn_norm.weight", ML_F32 },      { "blk.1.ffn_gate_inp.weight", ML_F32 },
        { "blk.1.exp_probs_b.bias", ML_F32 },      { "blk.1.ffn_gate_exps.weight", ML_Q4_K },
        { "blk.1.ffn_down_exps.weight", ML_Q5_0 }, /* rows of 96 */
        { "blk.2.ffn_down_exps.weight", ML_Q8_0 }, /* a layer with more bits: q6_k, which does not fit */
        { "blk.1.attn_k_b.weight", ML_F16 },       /* rows of 8: no block fits */
    };
    assert_ok(ml_gguf_open(&g, q, &err));
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        const ml_gguf_tensor *t = ml_gguf_find(g, expected[i].name);
        assert_non_null(t);
        assert_string_equal(ml_dtype_name(t->dtype), ml_dtype_name(expected[i].dtype));
    }
    ml_gguf_close(g);
    test_remove_folder(work);
}

/* A folder that holds more than the model: rows of the embedding, tensors of others, fp8 with scales, files. */
static void write_odd_folder(const char *folder)
{
    static const char config[] =
        "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"torch_dtype\": \"bfloat16\", "
        "\"vocab_size\": 4, \"hidden_size\": 2, \"intermediate_size\": 3, \"num_hidden_layers\": 1, "
        "\"num_attention_heads\": 1, \"rms_norm_eps\": 1e-5, \"tie_word_embeddings\": true, \"own\": [1, 2]}";
    static const struct {
        const char *name;
        ml_st_dtype dtype;
        int n_dim;
        int64_t shape[2];
    } tensors[] = {
        { "model.embed_tokens.weight", ML_ST_BF16, 2, { 6, 2 } },
        { "model.norm.weight", ML_ST_BF16, 1, { 2, 0 } },
        { "model.layers.0.input_layernorm.weight", ML_ST_BF16, 1, { 2, 0 } },
        { "model.layers.0.post_attention_layernorm.weight", ML_ST_F32, 1, { 2, 0 } },
        { "model.layers.0.self_attn.q_proj.weight", ML_ST_BF16, 2, { 2, 2 } },
        { "model.layers.0.self_attn.k_proj.weight", ML_ST_F16, 2, { 2, 2 } },
        { "model.layers.0.self_attn.v_proj.weight", ML_ST_BF16, 2, { 2, 2 } },
        { "model.layers.0.self_attn.o_proj.weight", ML_ST_BF16, 2, { 2, 2 } },
        { "model.layers.0.self_attn.rotary_emb.inv_freq", ML_ST_F32, 1, { 1, 0 } },
        { "model.layers.0.mlp.gate_proj.weight", ML_ST_F8_E4M3, 2, { 3, 2 } },
        { "model.layers.0.mlp.gate_proj.weight_scale_inv", ML_ST_F32, 2, { 1, 1 } },
        { "model.layers.0.mlp.up_proj.weight", ML_ST_BF16, 2, { 3, 2 } },
        { "model.layers.0.mlp.down_proj.weight", ML_ST_BF16, 2, { 2, 3 } },
        { "something.else", ML_ST_I64, 1, { 2, 0 } },
    };
    enum { N = sizeof tensors / sizeof *tensors };
    ml_manifest *m;
    ml_st_writer *w;
    assert_ok(ml_manifest_begin(&m, folder, 0, &err));
    assert_ok(ml_manifest_put(m, "config.json", config, strlen(config), &err));
    assert_ok(ml_manifest_put(m, "notes.txt", "kept", 4, &err));
    assert_ok(ml_manifest_put(m, "pytorch_model.bin", "not kept", 8, &err));
    assert_ok(ml_st_writer_begin(&w, m, "model.safetensors", 0, &err));
    for (int i = 0; i < N; i++) {
        assert_ok(ml_st_writer_declare(w, tensors[i].name, tensors[i].dtype, tensors[i].n_dim, tensors[i].shape, &err));
    }
    assert_ok(ml_st_writer_start(w, &err));
    for (int i = 0; i < N; i++) {
        uint8_t bytes[64];
        const float scale = 0.5f;
        size_t n = ml_st_dtype_size(tensors[i].dtype) * (size_t)tensors[i].shape[0];
        if (tensors[i].n_dim == 2) n *= (size_t)tensors[i].shape[1];
        for (size_t k = 0; k < n; k++) bytes[k] = (uint8_t)(0x38 + i + (int)k % 3);
        if (strstr(tensors[i].name, "scale_inv")) memcpy(bytes, &scale, sizeof scale);
        assert_ok(ml_st_writer_put_raw(w, bytes, n, &err));
    }
    assert_ok(ml_st_writer_end(w, &err));
    ml_st_writer_free(w);
    assert_ok(ml_manifest_commit(m, &err));
    ml_manifest_free(m);
}

static void test_folder_to_folder(void **state)
{
    (void)state;
    const char *work = test_make_folder();
    const char *from = test_path_in(work, "from"), *to = test_path_in(work, "to"), *half = test_path_in(work, "half");
    ml_safetensors *x, *y;
    write_odd_folder(from);
    convert(from, to, NULL, false);
    assert_ok(ml_safetensors_open(&x, from, &err));
    assert_ok(ml_safetensors_open(&y, to, &err));
    assert_int_equal(ml_safetensors_count(y), ml_safetensors_count(x) - 1); /* scales are multiplied in */
    for (size_t i = 0; i < ml_safetensors_count(y); i++) {
        const ml_st_tensor *u = ml_safetensors_at(y, i), *t = ml_safetensors_find(x, u->name);
        if (t->dtype == ML_ST_F8_E4M3) {
            float wide[6], narrow[6];
            assert_int_equal(u->dtype, ML_ST_BF16);
            assert_ok(ml_st_read_all_f32(t, narrow, &err));
            assert_ok(ml_st_read_all_f32(u, wide, &err));
            for (int k = 0; k < 6; k++) assert_true(wide[k] == 0.5f * narrow[k]); /* 4 bits of mantissa fit */
            continue;
        }
        assert_int_equal(t->dtype, u->dtype);
        assert_memory_equal(t->data, u->data, t->n_bytes);
    }
    ml_safetensors_close(y);
    assert_true(ml_path_exists(test_path_in(to, "notes.txt")));
    assert_false(ml_path_exists(test_path_in(to, "pytorch_model.bin")));
    json_t *config;
    assert_ok(ml_json_load(test_path_in(to, "config.json"), &config, &err));
    assert_int_equal(json_array_size(json_object_get(config, "own")), 2);
    json_decref(config);

    convert(from, half, "f16", false);
    assert_ok(ml_safetensors_open(&y, half, &err));
    assert_int_equal(ml_safetensors_find(y, "model.embed_tokens.weight")->dtype, ML_ST_F16);
    assert_int_equal(ml_safetensors_find(y, "model.embed_tokens.weight")->shape[0], 6);
    assert_int_equal(ml_safetensors_find(y, "model.norm.weight")->dtype, ML_ST_BF16);
    assert_int_equal(ml_safetensors_find(y, "something.else")->dtype, ML_ST_I64);
    assert_ok(ml_json_load(test_path_in(half, "config.json"), &config, &err));
    assert_string_equal(json_string_value(json_object_get(config, "torch_dtype")), "float16");
    json_decref(config);
    ml_safetensors_close(y);
    ml_safetensors_close(x);
    test_remove_folder(work);
}

static void test_unused_tensors_are_told(void **state)
{
    (void)state;
    const char *work = test_make_folder();
    const char *from = test_path_in(work, "from"), *file = test_path_in(work, "m.gguf");
    write_odd_folder(from);
    ml_convert_report report = convert(from, file, NULL, true);
    assert_int_equal(report.unused.n, 1); /* frequencies of rotary embeddings follow from the configuration */
    assert_string_equal(report.unused.names, "something.else");
    assert_string_equal(report.kind, "llama");
    ml_gguf *g;
    assert_ok(ml_gguf_open(&g, file, &err));
    assert_int_equal(ml_gguf_find(g, "token_embd.weight")->shape[0], 6);
    assert_int_equal(ml_gguf_find(g, "blk.0.ffn_gate.weight")->dtype, ML_BF16);
    ml_gguf_close(g);
    test_remove_folder(work);
}

static void test_rules(void **state)
{
    (void)state;
    ml_quant_rule rule[3];
    ml_quant_plan plan = { .rule = rule, .n_rule = 3 };
    ml_dtype dtype;
    assert_ok(ml_quant_mix_find("q4_k", &plan.mix, &err));
    assert_ok(ml_quant_rule_parse("expert_*=q6_k", &rule[0], &err));
    assert_ok(ml_quant_rule_parse("model.layers.2.*=bf16", &rule[1], &err));
    assert_ok(ml_quant_rule_parse("blk.3.ffn_up_exps.weight=q8_0", &rule[2], &err));
    ml_quant_tensor t = {
        "model.layers.1.mlp.experts.0.up_proj.weight", "blk.1.ffn_up_exps.weight", 1, 4, 256, false, ML_F32
    };
    assert_ok(ml_quant_choose(&plan, &t, &dtype, &err));
    assert_int_equal(dtype, ML_Q6_K);
    t.ours = "model.layers.2.mlp.experts.0.up_proj.weight";
    assert_ok(ml_quant_choose(&plan, &t, &dtype, &err));
    assert_int_equal(dtype, ML_BF16);
    t.theirs = "blk.3.ffn_up_exps.weight";
    assert_ok(ml_quant_choose(&plan, &t, &dtype, &err));
    assert_int_equal(dtype, ML_Q8_0);
    t.ours = "model.layers.2.input_layernorm.weight"; /* no rule reaches a norm */
    assert_ok(ml_quant_choose(&plan, &t, &dtype, &err));
    assert_int_equal(dtype, ML_F32);
    t.n_col = 100;
    t.ours = "model.layers.1.mlp.experts.0.up_proj.weight";
    t.theirs = "blk.1.ffn_up_exps.weight";
    assert_fails(ml_quant_choose(&plan, &t, &dtype, &err), ML_EINVAL, "rows of 100");
    assert_fails(ml_quant_rule_parse("ffn_down", &rule[0], &err), ML_EINVAL, "GLOB=TYPE");
    assert_fails(ml_quant_rule_parse("ffn_down=q3_k", &rule[0], &err), ML_EINVAL, "\"q3_k\"");
    assert_fails(ml_quant_mix_find("q9", &plan.mix, &err), ML_EINVAL, "q4_k_m");
}

/* Ctrl-C in the middle. */
static void test_stopping_leaves_nothing(void **state)
{
    (void)state;
    const char *work = test_make_folder();
    const char *from = test_path_in(work, "from"), *folder = test_path_in(work, "folder"),
               *file = test_path_in(work, "file.gguf");
    char **names;
    size_t n;
    ml_config config;
    ml_convert_report report;
    write_folder(&variants[0], ML_F32, from, &config);
    convert(from, file, NULL, true);
    const ml_convert cases[] = { { .from = from, .to = folder },
                                 { .from = file, .to = folder },
                                 { .from = from, .to = test_path_in(work, "other.gguf"), .gguf = true } };
    ml_stop_set(true);
    for (int i = 0; i < 3; i++) assert_fails(ml_convert_model(&cases[i], &report, &err), ML_ECANCEL, "stopped");
    ml_stop_set(false);
    assert_ok(ml_dir_list(work, &names, &n, &err));
    assert_int_equal(n, 2);
    ml_dir_list_free(names, n);
    test_remove_folder(work);
}

/* Importance of a MoE model from a text: from its file the same file again; what counts is lost less. */
static void put_u32(uint8_t *bytes, size_t *n, uint32_t value)
{
    for (int i = 0; i < 4; i++) bytes[(*n)++] = (uint8_t)(value >> 8 * i);
}

/* The older form by hand, from what the newer says: of every tensor the means, times calls; experts end to end. */
static size_t make_dat(const ml_importance *im, uint8_t *bytes)
{
    size_t n = 0;
    put_u32(bytes, &n, (uint32_t)im->n);
    for (size_t i = 0; i < im->n; i++) {
        const ml_importance_entry *e = &im->entry[i];
        size_t n_name = strlen(e->name);
        put_u32(bytes, &n, (uint32_t)n_name);
        memcpy(bytes + n, e->name, n_name);
        n += n_name;
        put_u32(bytes, &n, 4); /* a power of two, so that nothing is rounded */
        put_u32(bytes, &n, (uint32_t)(e->n_matrix * e->n_col));
        for (int64_t k = 0; k < e->n_matrix * e->n_col; k++) {
            float value = 4 * e->mean[k];
            uint32_t bits;
            memcpy(&bits, &value, sizeof bits);
            put_u32(bytes, &n, bits);
        }
    }
    put_u32(bytes, &n, 1);
    put_u32(bytes, &n, 4);
    memcpy(bytes + n, "text", 4);
    return n + 4;
}

static void check_dat(const ml_importance *im, const char *folder, const char *wanted, const char *dat, const char *to)
{
    static uint8_t bytes[1 << 20];
    ml_convert_report report;
    ml_importance read;
    size_t n = make_dat(im, bytes);
    assert_true(n < sizeof bytes);
    assert_ok(ml_file_replace(dat, bytes, n, &err));
    ml_convert x = { .from = folder, .to = to, .gguf = true, .importance = dat };
    assert_ok(ml_quant_mix_find("q4_0", &x.plan.mix, &err));
    assert_ok(ml_convert_model(&x, &report, &err));
    assert_same_file(wanted, to);
    assert_int_equal(report.coverage.n_expert, 0); /* it does not say */
    /* Cut anywhere within the entries: refused. */
    for (size_t cut = 0; cut < n - 12; cut += cut < 400 ? 1 : 997) {
        assert_ok(ml_file_replace(dat, bytes, cut, &err));
        assert_fails(ml_importance_load(dat, &read, &err), ML_EFORMAT, "im.dat");
        assert_int_equal(read.n, 0);
    }
    /* Every byte of the first entries changed: refused, or numbers still. */
    int fd = open(dat, O_WRONLY | O_TRUNC | O_CLOEXEC);
    assert_true(fd >= 0 && pwrite(fd, bytes, n, 0) == (ssize_t)n);
    for (size_t i = 0; i < 700; i++) {
        const uint8_t old = bytes[i], forms[4] = { 0x00, 0xff, (uint8_t)~old, (uint8_t)(old + 1) };
        for (int k = 0; k < 4; k++) {
            assert_int_equal(pwrite(fd, &forms[k], 1, (off_t)i), 1);
            ml_status status = ml_importance_load(dat, &read, &err);
            assert_true(status == ML_OK || status == ML_EFORMAT || status == ML_EINVAL);
            ml_importance_free(&read);
        }
        assert_int_equal(pwrite(fd, &old, 1, (off_t)i), 1);
    }
    close(fd);
    uint8_t name_bytes[4] = { 0xff, 0xff, 0xff, 0x7f };
    memcpy(bytes + 4, name_bytes, 4);
    assert_ok(ml_file_replace(dat, bytes, n, &err));
    assert_fails(ml_importance_load(dat, &read, &err), ML_EFORMAT, "offset 4: expected a tensor's name");
}

static void test_calibration(void **state)
{
    (void)state;
    const char *work = test_make_folder();
    const char *folder = test_path_in(work, "f"), *text = test_path_in(work, "text"),
               *plain = test_path_in(work, "plain.gguf");
    const char *weighted = test_path_in(work, "weighted.gguf"), *again = test_path_in(work, "again.gguf"),
               *file = test_path_in(work, "im.gguf");
    static const char words[] = "a calibration text, of which every byte is a token; it is short, but long enough.";
    ml_config config;
    ml_convert_report report;
    const variant v = { "nano-moe", MOE_SMALL "vocab_size=258 hidden_size=64 moe_intermediate_size=32", NULL };
    write_folder(&v, ML_F32, folder, &config);
    ml_tokenizer_free(test_byte_tokenizer(folder, true, 0));
    assert_ok(ml_file_replace(text, words, strlen(words), &err));
    convert(folder, plain, "q4_0", true);
    ml_convert x = { .from = folder, .to = weighted, .gguf = true, .calibrate = text, .importance = file };
    assert_ok(ml_quant_mix_find("q4_0", &x.plan.mix, &err));
    assert_ok(ml_convert_model(&x, &report, &err));
    const ml_quant_error *e = &report.errors.by[ML_CLASS_EXPERT_UP][ML_Q4_0];
    assert_int_equal(e->n_tensor, 3);
    assert_int_equal(e->n_element, 3 * 4 * 32 * 64);
    assert_true(e->error > 0 && e->error < 0.02 * e->square); /* 4 bits of normal numbers: 0.09 squared is 0.008 */
    x.to = again;
    x.calibrate = NULL;
    assert_ok(ml_convert_model(&x, &report, &err));
    assert_same_file(weighted, again);

    ml_importance im;
    const float *mean;
    assert_ok(ml_importance_load(file, &im, &err));
    ml_gguf_entry up = { .name = "blk.0.ffn_up_exps.weight", .n_part = 4, .rows = 32, .cols = 64 };
    double n_seen = 0, plain_error = 0, weighted_error = 0;
    ml_config ignored;
    ml_weight_source *exact, *a, *b;
    assert_ok(ml_weight_source_open(folder, &ignored, &exact, &err));
    assert_ok(ml_weight_source_open(plain, &ignored, &a, &err));
    assert_ok(ml_weight_source_open(weighted, &ignored, &b, &err));
    for (int64_t expert = 0; expert < 4; expert++) {
        float want[32 * 64], p[32 * 64], q[32 * 64];
        ml_weight_source *source[3] = { exact, a, b };
        float *to[3] = { want, p, q };
        char name[64];
        assert_ok(ml_importance_find(&im, &up, expert, &mean, &err));
        if (!mean) continue; /* no token went there */
        snprintf(name, sizeof name, "model.layers.0.mlp.experts.%lld.up_proj.weight", (long long)expert);
        for (int k = 0; k < 3; k++) {
            ml_stored_weight w;
            assert_ok(source[k]->find(source[k], name, 2, (int64_t[]){ 32, 64 }, &w, &err));
            assert_ok(source[k]->read_f32(source[k], &w, 0, 32, to[k], &err));
        }
        for (int k = 0; k < 32 * 64; k++) {
            plain_error += (double)mean[k % 64] * pow((double)p[k] - (double)want[k], 2);
            weighted_error += (double)mean[k % 64] * pow((double)q[k] - (double)want[k], 2);
        }
        for (size_t k = 0; k < im.n; k++) {
            if (!strcmp(im.entry[k].name, up.name)) n_seen += (double)im.entry[k].count[expert];
        }
    }
    assert_true(n_seen ==
                2.0 * (double)(strlen(words) + 2)); /* two experts a token, and a BOS before each window of 64 */
    assert_true(weighted_error < 0.9 * plain_error);
    /* What the experts saw, counted again here. */
    double fewest = 1e9, most = 0;
    int64_t n_expert = 0, n_unseen = 0;
    for (size_t k = 0; k < im.n; k++) {
        if (!strstr(im.entry[k].name, "ffn_down_exps")) continue;
        for (int64_t i = 0; i < im.entry[k].n_matrix; i++, n_expert++) {
            fewest = fmin(fewest, (double)im.entry[k].count[i]);
            most = fmax(most, (double)im.entry[k].count[i]);
            n_unseen += im.entry[k].count[i] == 0;
        }
    }
    assert_int_equal(report.coverage.n_expert, n_expert);
    assert_int_equal(report.coverage.n_expert, 3 * 4);
    assert_int_equal(report.coverage.n_unseen, n_unseen);
    assert_true(report.coverage.fewest == fewest && report.coverage.most == most);
    assert_in_range((int64_t)report.coverage.median, (int64_t)fewest, (int64_t)most);
    check_dat(&im, folder, weighted, test_path_in(work, "im.dat"), test_path_in(work, "dat.gguf"));
    up.cols = 32;
    assert_fails(ml_importance_find(&im, &up, 0, &mean, &err), ML_EINVAL, "another model");
    exact->free(exact);
    a->free(a);
    b->free(b);
    ml_importance_free(&im);
    test_remove_folder(work);
}

/* ---- gate and up as one ---- */

static bool is_part_of_fused(const char *name, bool *gate)
{
    *gate = strstr(name, "ffn_gate_exps") != NULL;
    return *gate || strstr(name, "ffn_up_exps");
}

static void declare_fused(ml_gguf_writer *w, const ml_gguf *g)
{
    for (size_t i = 0; i < ml_gguf_count(g); i++) {
        const ml_gguf_tensor *t = ml_gguf_at(g, i);
        int64_t shape[3] = { t->shape[0], 2 * t->shape[1], t->shape[2] };
        char name[ML_GGUF_TENSOR_NAME_MAX];
        bool gate, fused = is_part_of_fused(t->name, &gate);
        if (!fused) assert_ok(ml_gguf_writer_declare(w, t->name, t->dtype, t->n_dim, t->shape, &err));
        if (!fused || !gate) continue;
        snprintf(name, sizeof name, "%.*s.ffn_gate_up_exps.weight", (int)(strstr(t->name, ".ffn") - t->name), t->name);
        assert_ok(ml_gguf_writer_declare(w, name, t->dtype, 3, shape, &err));
    }
}

static void put_fused(ml_gguf_writer *w, const ml_gguf *g)
{
    for (size_t i = 0; i < ml_gguf_count(g); i++) {
        const ml_gguf_tensor *t = ml_gguf_at(g, i), *up;
        char name[ML_GGUF_TENSOR_NAME_MAX];
        bool gate, fused = is_part_of_fused(t->name, &gate);
        if (!fused) assert_ok(ml_gguf_writer_put(w, t->data, t->n_bytes, &err));
        if (!fused || !gate) continue;
        snprintf(name, sizeof name, "%.*s.ffn_up_exps.weight", (int)(strstr(t->name, ".ffn") - t->name), t->name);
        up = ml_gguf_find(g, name);
        assert_non_null(up);
        size_t one = t->n_bytes / (size_t)t->shape[0];
        for (int64_t e = 0; e < t->shape[0]; e++) {
            assert_ok(ml_gguf_writer_put(w, (const char *)t->data + (size_t)e * one, one, &err));
            assert_ok(ml_gguf_writer_put(w, (const char *)up->data + (size_t)e * one, one, &err));
        }
    }
}

/* Files whose experts have gate and up in one tensor mean the same, and are written with two. */
static void test_fused_experts(void **state)
{
    (void)state;
    const char *work = test_make_folder(), *const mixes[] = { "f32", "q8_0" };
    const char *folder = test_path_in(work, "f"), *plain = test_path_in(work, "plain.gguf"),
               *fused = test_path_in(work, "fused.gguf");
    const char *again = test_path_in(work, "again.gguf");
    ml_config config;
    const variant v = { "moonlight-tiny", MLA_SMALL "hidden_size=64 moe_intermediate_size=32", NULL };
    write_folder(&v, ML_F32, folder, &config);
    for (int k = 0; k < 2; k++) {
        const ml_gguf_arch *arch;
        ml_gguf *g;
        ml_gguf_writer *w;
        bool pair_rows;
        float wanted[96], found[96];
        convert(folder, plain, mixes[k], true);
        assert_ok(ml_gguf_open(&g, plain, &err));
        assert_ok(ml_gguf_config(g, &config, &err));
        assert_ok(ml_gguf_arch_for(&config, &arch, &pair_rows, &err));
        assert_ok(ml_gguf_writer_begin(&w, fused, &err));
        assert_ok(ml_gguf_put_config(w, &config, arch, &err));
        declare_fused(w, g);
        assert_ok(ml_gguf_writer_start(w, &err));
        put_fused(w, g);
        assert_ok(ml_gguf_writer_end(w, &err));
        ml_gguf_writer_free(w);
        get_logits(plain, wanted);
        get_logits(fused, found);
        assert_memory_equal(wanted, found, sizeof wanted);
        convert(fused, again, NULL, true);
        get_logits(again, found);
        assert_memory_equal(wanted, found, sizeof wanted);
        ml_gguf_close(g);
        assert_ok(ml_gguf_open(&g, again, &err));
        assert_non_null(ml_gguf_find(g, "blk.1.ffn_up_exps.weight"));
        assert_null(ml_gguf_find(g, "blk.1.ffn_gate_up_exps.weight"));
        ml_gguf_close(g);
        for (int i = 0; i < 3; i++) remove((const char *[]){ plain, fused, again }[i]);
    }
    test_remove_folder(work);
}

/* A set of files is the file that it would have been, whichever of them is named. */
static void test_split_set(void **state)
{
    (void)state;
    const char *work = test_make_folder();
    const char *folder = test_path_in(work, "f"), *whole = test_path_in(work, "whole.gguf"),
               *set = test_path_in(work, "set.gguf");
    ml_config config;
    ml_convert_report report;
    float wanted[96], found[96];
    const variant v = { "moonlight-tiny", MLA_SMALL, NULL };
    write_folder(&v, ML_F32, folder, &config);
    convert(folder, whole, NULL, true);
    ml_convert x = { .from = folder, .to = set, .gguf = true, .split_bytes = 40000 };
    assert_ok(ml_convert_model(&x, &report, &err));
    assert_in_range(report.n_file, 3, 20);
    assert_false(ml_path_exists(set));
    get_logits(whole, wanted);
    for (size_t i = 1; i <= report.n_file; i++) {
        char part[ML_PATH_MAX];
        ml_map map;
        snprintf(part, sizeof part, "%.4000s/set-%05zu-of-%05zu.gguf", work, i, report.n_file);
        get_logits(part, found);
        assert_memory_equal(wanted, found, sizeof wanted);
        assert_ok(ml_map_open(part, &map, &err));
        assert_true(map.size < 40000 + 12000); /* a set's file, and its metadata */
        ml_map_close(&map);
    }
    /* Written again as one file, it is that file. */
    const char *again = test_path_in(work, "again.gguf");
    char first[64];
    snprintf(first, sizeof first, "set-00001-of-%05zu.gguf", report.n_file);
    convert(test_path_in(work, first), again, NULL, true);
    assert_same_file(whole, again);
    assert_fails(ml_convert_model(&x, &report, &err), ML_EINVAL, "exists already");
    x.to = test_path_in(work, "crumbs.gguf");
    x.split_bytes = 1; /* every tensor by itself */
    assert_ok(ml_convert_model(&x, &report, &err));
    assert_in_range(report.n_file, 30, 100);
    test_remove_folder(work);
}

static void test_refusals(void **state)
{
    (void)state;
    const char *work = test_make_folder();
    const char *from = test_path_in(work, "from");
    ml_convert_report report;
    write_odd_folder(from);
    ml_convert x = { .from = from, .to = test_path_in(work, "x") };
    assert_ok(ml_quant_mix_find("q8_0", &x.plan.mix, &err));
    assert_fails(ml_convert_model(&x, &report, &err), ML_EINVAL, "quantised types are for GGUF files");
    x.from = test_path_in(work, "nothing");
    x.gguf = true;
    assert_fails(ml_convert_model(&x, &report, &err), ML_EIO, "nothing");
    test_remove_folder(work);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_quantised_files_stay_as_they_are),
        cmocka_unit_test(test_folder_to_folder),
        cmocka_unit_test(test_unused_tensors_are_told),
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_stopping_leaves_nothing),
        cmocka_unit_test(test_calibration),
        cmocka_unit_test(test_fused_experts),
        cmocka_unit_test(test_split_set),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
