/* Damaged model files, exhaustively: every truncation, and every byte set to 00, FF, its complement and one more.  Each
 * is opened as a person's model would be (architecture, weights, tokenizer), and is refused with a message or is a
 * model still.  A sanitizer build watches the reads. */
#include "base/alloc.h"
#include "base/memory.h"
#include "format/gguf_source.h"
#include "format/gguf_tokenizer.h"
#include "format/hf.h"
#include "format/pt_source.h"
#include "model/model.h"
#include "quant/convert.h"
#include "support/byte_tokenizer.h"
#include "support/support.h"

#include <string.h>
#include <time.h>

static ml_error err;

typedef struct {
    const char *what;
    const uint8_t *data;
    size_t n;
    ml_config config; /* of an HF folder */
    int64_t n_model, n_refused;
    double slowest; /* seconds of CPU */
} target;

typedef void (*open_fn)(target *t, const uint8_t *data, size_t n);

static void expect_message(target *t)
{
    t->n_refused++;
    if (!*err.message || (err.code != ML_EFORMAT && err.code != ML_EINVAL)) {
        fail_msg("%s: code %d, message \"%s\"", t->what, err.code, err.message);
    }
}

/* Takes the source over. */
static void bind(target *t, const ml_config *config, ml_weight_source *source)
{
    ml_model *m;
    if (ml_model_bind(config, source, &m, &err) != ML_OK) {
        source->free(source);
        expect_message(t);
        return;
    }
    t->n_model++;
    ml_model_free(m);
}

static void open_gguf(target *t, const uint8_t *data, size_t n)
{
    ml_gguf *g;
    ml_config config;
    ml_weight_source *source;
    ml_tokenizer *tokenizer;
    if (ml_gguf_open_memory(&g, data, n, "file", &err) != ML_OK) {
        expect_message(t);
        return;
    }
    if (ml_gguf_tokenizer(g, &tokenizer, &err) == ML_OK)
        ml_tokenizer_free(tokenizer);
    else
        expect_message(t);
    if (ml_gguf_source_make(g, &config, &source, &err) == ML_OK) {
        bind(t, &config, source);
    } else {
        ml_gguf_close(g);
        expect_message(t);
    }
}

static void open_pt(target *t, const uint8_t *data, size_t n)
{
    ml_pt *pt;
    ml_config config;
    ml_weight_source *source;
    if (ml_pt_open_memory(&pt, data, n, "file", &err) != ML_OK) {
        expect_message(t);
    } else if (ml_pt_source_make(pt, "file", &config, &source, &err) == ML_OK) {
        bind(t, &config, source);
    } else {
        ml_pt_close(pt);
        expect_message(t);
    }
}

static void open_safetensors(target *t, const uint8_t *data, size_t n)
{
    ml_safetensors *file;
    ml_config config = t->config;
    ml_weight_source *source;
    if (ml_safetensors_open_memory(&file, data, n, "file", &err) != ML_OK) {
        expect_message(t);
    } else if (ml_hf_source_make(file, "file", &config, &source, &err) == ML_OK) {
        bind(t, &config, source);
    } else {
        ml_safetensors_close(file);
        expect_message(t);
    }
}

static void open_config(target *t, const uint8_t *data, size_t n)
{
    ml_config config;
    if (ml_config_parse((const char *)data, n, "file", &config, &err) == ML_OK)
        t->n_model++;
    else
        expect_message(t);
}

/* Numbers of tensors mean the same to every reader: of those one in so many is damaged, of all other bytes each. */
enum { NUMBERS_STEP = 61 };

/* Under a sanitizer each opening costs ten times as much: every third byte there. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { STEP = 3, WATCHED = 0 };
#else
enum { STEP = 1, WATCHED = 1 };
#endif

static void open_timed(target *t, open_fn open, const uint8_t *data, size_t n)
{
    struct timespec before, after;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    open(t, data, n);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    double seconds = (double)(after.tv_sec - before.tv_sec) + 1e-9 * (double)(after.tv_nsec - before.tv_nsec);
    if (seconds > t->slowest) t->slowest = seconds;
}

/* Bytes are damaged in every way, `is_number` [n] or NULL says which are of tensors; memory is exactly as long as the
 * file, so that a sanitizer sees one byte beyond. */
static void damage(target *t, open_fn open, const bool *is_number)
{
    uint8_t *copy = ml_alloc(t->n);
    assert_non_null(copy);
    memcpy(copy, t->data, t->n);
    for (size_t i = 0; i < t->n; i++) {
        if (i % (is_number && is_number[i] ? NUMBERS_STEP : STEP)) continue;
        const uint8_t old = copy[i], forms[4] = { 0x00, 0xff, (uint8_t)~old, (uint8_t)(old + 1) };
        for (int k = 0; k < 4; k++) {
            copy[i] = forms[k];
            if (forms[k] != old) open_timed(t, open, copy, t->n);
        }
        copy[i] = old;
        uint8_t *part = ml_alloc(i);
        assert_non_null(part);
        if (i) memcpy(part, t->data, i);
        open_timed(t, open, part, i);
        ml_free(part);
    }
    ml_free(copy);
    print_message("%s: %lld refused, %lld still a model; %.4f s for the slowest\n", t->what, (long long)t->n_refused,
                  (long long)t->n_model, t->slowest);
    assert_true(t->n_refused > 0);
}

/* [n], none yet. */
static bool *make_numbers(size_t n)
{
    bool *is_number = ml_calloc(n, sizeof *is_number);
    assert_non_null(is_number);
    return is_number;
}

/* A folder with the smallest of models, and its tokenizer. */
static void write_folder(const char *folder, ml_config *c)
{
    static const char *const small[][2] = {
        { "vocab_size", "258" },        { "hidden_size", "4" },
        { "num_hidden_layers", "1" },   { "num_attention_heads", "1" },
        { "num_key_value_heads", "1" }, { "head_dim", "4" },
        { "rotary_dim", "4" },          { "n_routed_experts", "2" },
        { "num_experts_per_tok", "1" }, { "moe_intermediate_size", "2" },
    };
    ml_model *m;
    ml_manifest *manifest;
    assert_ok(ml_config_preset("nano-moe", c, &err));
    for (size_t i = 0; i < sizeof small / sizeof *small; i++) {
        assert_ok(ml_config_set(c, small[i][0], small[i][1], "test", &err));
    }
    assert_ok(ml_model_make(c, ML_F32, false, &m, &err));
    ml_model_init(m, 1);
    assert_ok(ml_manifest_begin(&manifest, folder, 0, &err));
    assert_ok(ml_hf_save(m, ML_BF16, NULL, manifest, &err));
    assert_ok(ml_manifest_commit(manifest, &err));
    ml_manifest_free(manifest);
    ml_model_free(m);
    ml_tokenizer_free(test_byte_tokenizer(folder, true, 0));
}

static bool *numbers_of_gguf(const uint8_t *data, size_t n)
{
    ml_gguf *g;
    bool *is_number = make_numbers(n);
    assert_ok(ml_gguf_open_memory(&g, data, n, "file", &err));
    for (size_t i = 0; i < ml_gguf_count(g); i++) {
        const ml_gguf_tensor *t = ml_gguf_at(g, i);
        memset(is_number + ((const uint8_t *)t->data - data), 1, t->n_bytes);
    }
    ml_gguf_close(g);
    return is_number;
}

static bool *numbers_of_pt(const uint8_t *data, size_t n)
{
    ml_pt *pt;
    bool *is_number = make_numbers(n);
    assert_ok(ml_pt_open_memory(&pt, data, n, "file", &err));
    for (size_t i = 0; i < ml_pt_count(pt); i++) {
        const ml_pt_tensor *t = ml_pt_at(pt, i);
        if (t->n_element > 4)
            memset(is_number + (t->data - data), 1, (size_t)t->n_element * ml_st_dtype_size(t->dtype));
    }
    ml_pt_close(pt);
    return is_number;
}

static void test_gguf(void **state)
{
    (void)state;
    const char *work = test_make_folder();
    const char *file = test_path_in(work, "m.gguf"), *folder = test_path_in(work, "f");
    ml_convert_report report;
    ml_map map;
    target t = { .what = "GGUF" };
    write_folder(folder, &t.config);
    ml_convert x = { .from = folder, .to = file, .gguf = true };
    assert_ok(ml_convert_model(&x, &report, &err));
    assert_true(report.has_tokenizer);
    assert_ok(ml_map_open(file, &map, &err));
    t.data = map.data;
    t.n = map.size;
    bool *is_number = numbers_of_gguf(map.data, map.size);
    damage(&t, open_gguf, is_number);
    ml_free(is_number);
    ml_map_close(&map);
    test_remove_folder(work);
}

static void test_safetensors(void **state)
{
    (void)state;
    const char *work = test_make_folder();
    ml_map map, config;
    target t = { .what = "safetensors" }, c = { .what = "config.json" };
    write_folder(work, &t.config);
    assert_ok(ml_map_open(test_path_in(work, "model.safetensors"), &map, &err));
    t.data = map.data;
    t.n = map.size;
    damage(&t, open_safetensors, NULL);
    ml_map_close(&map);
    assert_ok(ml_map_open(test_path_in(work, "config.json"), &config, &err));
    c.data = config.data;
    c.n = config.size;
    damage(&c, open_config, NULL);
    ml_map_close(&config);
    test_remove_folder(work);
}

static void test_pt(void **state)
{
    (void)state;
    static const char *const names[] = { "pt_moonlight_moe.pt", "pt_nano_moe.pt" };
    for (int i = 0; i < 2; i++) {
        ml_map map;
        target t = { .what = names[i] };
        assert_ok(ml_map_open(test_path_in(MOONLIGHT_SOURCE_DIR "/tests/golden", names[i]), &map, &err));
        t.data = map.data;
        t.n = map.size;
        bool *is_number = numbers_of_pt(map.data, map.size);
        damage(&t, open_pt, is_number);
        ml_free(is_number);
        ml_map_close(&map);
    }
}

static void test_memory(void **state)
{
    (void)state;
    int64_t peak = ml_memory_peak();
    /* All the files above are below 100 kB; the bound is for each, and this is more than any of them had. */
    if (WATCHED && peak) assert_true(peak < (int64_t)80 << 20);
    assert_int_equal(ml_alloc_get_stats().n_live, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gguf),
        cmocka_unit_test(test_safetensors),
        cmocka_unit_test(test_pt),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
