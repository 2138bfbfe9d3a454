/* Folders with FP8 matrices and a scale for each 128 x 128 block, as DeepSeek publishes them. */
#include "format/hf.h"
#include "format/source.h"
#include "infer/session.h"
#include "quant/convert.h"
#include "support/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ml_error err;

/* More than one block each way, and none of them whole. */
enum { D = 160, F = 300, VOCAB = 40, BLOCK = 128 };

typedef struct {
    const char *name;
    int64_t rows, cols; /* cols 0: a vector */
    bool fp8;
} entry;

static const entry entries[] = {
    { "model.embed_tokens.weight", VOCAB, D, false },
    { "model.norm.weight", D, 0, false },
    { "lm_head.weight", VOCAB, D, false },
    { "model.layers.0.input_layernorm.weight", D, 0, false },
    { "model.layers.0.post_attention_layernorm.weight", D, 0, false },
    { "model.layers.0.self_attn.q_proj.weight", D, D, true },
    { "model.layers.0.self_attn.k_proj.weight", D / 2, D, true },
    { "model.layers.0.self_attn.v_proj.weight", D / 2, D, true },
    { "model.layers.0.self_attn.o_proj.weight", D, D, true },
    { "model.layers.0.mlp.gate_proj.weight", F, D, true },
    { "model.layers.0.mlp.up_proj.weight", F, D, true },
    { "model.layers.0.mlp.down_proj.weight", D, F, true },
};
enum { N_ENTRY = sizeof entries / sizeof *entries };

static const char config[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 40, \"hidden_size\": 160, "
    "\"intermediate_size\": 300, \"num_hidden_layers\": 1, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
    "\"head_dim\": 40, \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, "
    "\"tie_word_embeddings\": false, \"hidden_act\": \"silu\"}";

/* A code that is no NaN, and its value by the OCP specification: sign, 4 bits of exponent biased by 7, 3 of mantissa.
 */
static uint8_t code_at(int which, int64_t i)
{
    uint8_t code = (uint8_t)((i * 2654435761LL + which * 40503LL) >> 7);
    return (code & 0x7f) == 0x7f ? 0x31 : code;
}

static double value_of(uint8_t code)
{
    int exponent = code >> 3 & 15, mantissa = code & 7;
    double size = exponent ? ldexp(8 + mantissa, exponent - 10) : ldexp(mantissa, -9);
    return code & 0x80 ? -size : size;
}

static float scale_at(int which, int64_t row, int64_t col)
{
    return 0.001f * (float)(1 + which % 3) + 0.0004f * (float)(row / BLOCK) + 0.00013f * (float)(col / BLOCK);
}

static double exact(int which, int64_t row, int64_t col)
{
    return value_of(code_at(which, row * entries[which].cols + col)) * (double)scale_at(which, row, col);
}

static void put_codes(ml_st_writer *w, int which, int64_t n)
{
    uint8_t *code = malloc((size_t)n);
    for (int64_t i = 0; i < n; i++) code[i] = code_at(which, i);
    assert_ok(ml_st_writer_put_raw(w, code, (size_t)n, &err));
    free(code);
}

static void put_numbers(ml_st_writer *w, int which, int64_t n)
{
    float *x = malloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        x[i] = entries[which].cols ? (float)((i * 7 + which) % 23 - 11) / 16 : 1 + (float)(i % 5) / 64;
    }
    assert_ok(ml_st_writer_put_raw(w, x, (size_t)n * sizeof *x, &err));
    free(x);
}

static void put_scales(ml_st_writer *w, int which)
{
    for (int64_t r = 0; r < entries[which].rows; r += BLOCK) {
        for (int64_t c = 0; c < entries[which].cols; c += BLOCK) {
            float scale = scale_at(which, r, c);
            assert_ok(ml_st_writer_put_raw(w, &scale, sizeof scale, &err));
        }
    }
}

static int64_t blocks(int64_t n)
{
    return (n + BLOCK - 1) / BLOCK;
}

/* more_scales: one of the scales has a row too many. */
static void write_folder(const char *folder, bool more_scales)
{
    ml_manifest *m;
    ml_st_writer *w;
    char name[128];
    assert_ok(ml_manifest_begin(&m, folder, 0, &err));
    assert_ok(ml_manifest_put(m, "config.json", config, strlen(config), &err));
    assert_ok(ml_st_writer_begin(&w, m, "model.safetensors", 0, &err));
    for (int i = 0; i < N_ENTRY; i++) {
        const entry *e = &entries[i];
        const int64_t shape[2] = { e->rows, e->cols }, scales[2] = { blocks(e->rows), blocks(e->cols) };
        ml_st_dtype dtype = e->fp8 ? ML_ST_F8_E4M3 : ML_ST_F32;
        assert_ok(ml_st_writer_declare(w, e->name, dtype, e->cols ? 2 : 1, shape, &err));
        if (!e->fp8) continue;
        snprintf(name, sizeof name, "%s_scale_inv", e->name);
        bool wrong = more_scales && i == N_ENTRY - 1;
        assert_ok(ml_st_writer_declare(w, name, ML_ST_F32, 2, (int64_t[]){ scales[0] + wrong, scales[1] }, &err));
    }
    assert_ok(ml_st_writer_start(w, &err));
    for (int i = 0; i < N_ENTRY; i++) {
        int64_t n = entries[i].rows * (entries[i].cols ? entries[i].cols : 1);
        if (!entries[i].fp8) {
            put_numbers(w, i, n);
            continue;
        }
        put_codes(w, i, n);
        put_scales(w, i);
        const float row[3] = { 0 };
        if (more_scales && i == N_ENTRY - 1) assert_ok(ml_st_writer_put_raw(w, row, sizeof row, &err));
    }
    assert_ok(ml_st_writer_end(w, &err));
    ml_st_writer_free(w);
    assert_ok(ml_manifest_commit(m, &err));
    ml_manifest_free(m);
}

/* Any rows of any matrix are code times scale, rounded once. */
static void test_values(void **state)
{
    (void)state;
    const char *work = test_make_folder();
    static const int64_t first[] = { 0, 1, 127, 128, 130, 150 }, count[] = { 160, 3, 2, 30, 25, 10 };
    ml_config c;
    ml_weight_source *source;
    const char *folder = test_path_in(work, "f");
    write_folder(folder, false);
    assert_ok(ml_weight_source_open(folder, &c, &source, &err));
    float *x = malloc(F * F * sizeof *x);
    for (int i = 0; i < N_ENTRY; i++) {
        const entry *e = &entries[i];
        ml_stored_weight w;
        if (!e->fp8) continue;
        assert_ok(source->find(source, e->name, 2, (int64_t[]){ e->rows, e->cols }, &w, &err));
        assert_null(w.data);
        for (int k = 0; k < 6; k++) {
            if (first[k] + count[k] > e->rows) continue;
            assert_ok(source->read_f32(source, &w, first[k], count[k], x, &err));
            for (int64_t r = 0; r < count[k]; r++) {
                for (int64_t j = 0; j < e->cols; j++) {
                    float wanted = (float)exact(i, first[k] + r, j);
                    if (x[r * e->cols + j] != wanted) {
                        fail_msg("%s [%lld, %lld]: found %.9g, expected %.9g", e->name, (long long)(first[k] + r),
                                 (long long)j, (double)x[r * e->cols + j], (double)wanted);
                    }
                }
            }
        }
    }
    free(x);
    source->free(source);
    test_remove_folder(work);
}

static void get_logits(const char *path, float *out)
{
    ml_model *m;
    ml_session *s;
    const int32_t id[] = { 5, 7, 11, 39, 2 };
    assert_ok(ml_model_open(path, &m, &err));
    assert_ok(ml_session_make(m, 8, true, &s, &err));
    assert_ok(ml_session_append(s, id, 5, &err));
    memcpy(out, ml_session_logits(s), VOCAB * sizeof *out);
    ml_session_free(s);
    ml_model_free(m);
}

/* What it becomes: bf16 in folders and in GGUF, the same model each time. */
static void test_conversion(void **state)
{
    (void)state;
    const char *work = test_make_folder();
    const char *folder = test_path_in(work, "f"), *copy = test_path_in(work, "copy"),
               *file = test_path_in(work, "x.gguf");
    ml_convert_report report;
    ml_config c;
    ml_weight_source *source;
    float wanted[VOCAB], found[VOCAB], x[D];
    write_folder(folder, false);
    ml_convert to_folder = { .from = folder, .to = copy }, to_file = { .from = folder, .to = file, .gguf = true };
    assert_ok(ml_convert_model(&to_folder, &report, &err));
    assert_int_equal(report.unused.n, 0); /* scales are no unknown tensors */
    assert_ok(ml_convert_model(&to_file, &report, &err));
    assert_int_equal(report.unused.n, 0);
    get_logits(folder, wanted);
    assert_true(isfinite(wanted[0]) && wanted[0] != wanted[1]);
    get_logits(copy, found);
    assert_memory_equal(found, wanted, sizeof wanted);
    assert_ok(ml_weight_source_open(copy, &c, &source, &err));
    ml_stored_weight w;
    assert_ok(source->find(source, entries[9].name, 2, (int64_t[]){ F, D }, &w, &err));
    assert_int_equal(w.dtype, ML_BF16);
    assert_ok(source->read_f32(source, &w, 200, 1, x, &err));
    for (int64_t j = 0; j < D; j++) { /* 8 bits of mantissa */
        double exactly = exact(9, 200, j);
        assert_true(fabs((double)x[j] - exactly) <= fabs(exactly) * 0x1p-8);
    }
    source->free(source);
    /* GGUF has q and k in the order of pairs: sums in another order. */
    get_logits(file, found);
    for (int i = 0; i < VOCAB; i++) assert_true(fabsf(found[i] - wanted[i]) <= 1e-3f * (1 + fabsf(wanted[i])));
    test_remove_folder(work);
}

static void test_wrong_scales(void **state)
{
    (void)state;
    const char *work = test_make_folder();
    ml_model *m;
    write_folder(test_path_in(work, "f"), true);
    assert_fails(ml_model_open(test_path_in(work, "f"), &m, &err), ML_EFORMAT, "down_proj.weight_scale_inv");
    test_remove_folder(work);
}

/* A folder of bytes that are 1s, in which one weight has another type. */
static void write_other(const char *folder, const char *name, ml_st_dtype dtype, const char *text)
{
    static const uint8_t ones[F * D * 8] = { 1 };
    ml_manifest *m;
    ml_st_writer *w;
    assert_ok(ml_manifest_begin(&m, folder, 0, &err));
    assert_ok(ml_manifest_put(m, "config.json", text, strlen(text), &err));
    assert_ok(ml_st_writer_begin(&w, m, "model.safetensors", 0, &err));
    for (int declare = 1; declare >= 0; declare--) {
        for (int i = 0; i < N_ENTRY; i++) {
            const entry *e = &entries[i];
            ml_st_dtype type = name && !strcmp(name, e->name) ? dtype : ML_ST_F32;
            const int64_t shape[2] = { e->rows, e->cols };
            size_t n = (size_t)(e->rows * (e->cols ? e->cols : 1)) * ml_st_dtype_size(type);
            if (declare)
                assert_ok(ml_st_writer_declare(w, e->name, type, e->cols ? 2 : 1, shape, &err));
            else
                assert_ok(ml_st_writer_put_raw(w, ones, n, &err));
        }
        if (declare) assert_ok(ml_st_writer_start(w, &err));
    }
    assert_ok(ml_st_writer_end(w, &err));
    ml_st_writer_free(w);
    assert_ok(ml_manifest_commit(m, &err));
    ml_manifest_free(m);
}

/* Codes of an encoding that is not known would be read as numbers. */
static void test_other_types(void **state)
{
    (void)state;
    static const ml_st_dtype others[] = { ML_ST_F64, ML_ST_F8_E5M2, ML_ST_I64, ML_ST_I32, ML_ST_I16, ML_ST_I8,
                                          ML_ST_U64, ML_ST_U32,     ML_ST_U16, ML_ST_U8,  ML_ST_BOOL };
    static const int which[] = { 0, 3, 6, 11 }; /* embedding, norm, projection, MLP */
    const char *work = test_make_folder();
    char folder[ML_PATH_MAX], part[200];
    ml_model *m;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        const char *name = entries[which[i % 4]].name;
        snprintf(folder, sizeof folder, "%s/%zu", work, i);
        write_other(folder, name, others[i], config);
        snprintf(part, sizeof part, "found %s: use the model's unquantised folder", ml_st_dtype_name(others[i]));
        assert_fails(ml_model_open(folder, &m, &err), ML_EINVAL, part);
        assert_non_null(strstr(err.message, name));
    }
    /* FP8 without its scales */
    snprintf(folder, sizeof folder, "%s/fp8", work);
    write_other(folder, entries[11].name, ML_ST_F8_E4M3, config);
    assert_fails(ml_model_open(folder, &m, &err), ML_EFORMAT,
                 "no tensor model.layers.0.mlp.down_proj.weight_scale_inv");
    assert_non_null(strstr(err.message, "tensor model.layers.0.mlp.down_proj.weight: is of type F8_E4M3"));
    ml_convert_report report;
    ml_convert copy = { .from = folder, .to = test_path_in(work, "copy") };
    assert_fails(ml_convert_model(&copy, &report, &err), ML_EFORMAT, "weight_scale_inv");
    test_remove_folder(work);
}

static void test_methods(void **state)
{
    (void)state;
    static const struct {
        const char *value, *part; /* NULL: it is read */
    } cases[] = {
        { "null", NULL },
        { "{\"activation_scheme\": \"dynamic\", \"fmt\": \"e4m3\", \"quant_method\": \"fp8\", "
          "\"weight_block_size\": [128, 128]}",
          NULL },
        { "{\"quant_method\": \"gptq\", \"bits\": 4}", "quantised by \"gptq\"" },
        { "{\"quant_method\": \"bitsandbytes\", \"load_in_8bit\": true}", "or a GGUF file of it" },
        { "{\"bits\": 4}", "a method it does not name" },
        { "[]", "a method it does not name" },
        { "{\"quant_method\": \"fp8\"}", "[128, 128]" },
        { "{\"quant_method\": \"fp8\", \"weight_block_size\": [64, 128]}", "[128, 128]" },
        { "{\"quant_method\": \"fp8\", \"weight_block_size\": [128, 128, 1]}", "[128, 128]" },
        { "{\"quant_method\": \"fp8\", \"weight_block_size\": [128, 128], \"fmt\": \"e5m2\"}", "e4m3" },
    };
    const char *work = test_make_folder();
    char folder[ML_PATH_MAX], text[1024];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ml_model *m;
        snprintf(folder, sizeof folder, "%s/%zu", work, i);
        snprintf(text, sizeof text, "{\"quantization_config\": %s, %s", cases[i].value, config + 1);
        write_other(folder, NULL, ML_ST_F32, text);
        if (cases[i].part) {
            assert_fails(ml_model_open(folder, &m, &err), ML_EINVAL, cases[i].part);
            continue;
        }
        assert_ok(ml_model_open(folder, &m, &err));
        ml_model_free(m);
    }
    test_remove_folder(work);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_other_types), cmocka_unit_test(test_methods),      cmocka_unit_test(test_values),
        cmocka_unit_test(test_conversion),  cmocka_unit_test(test_wrong_scales),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
