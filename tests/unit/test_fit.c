/* Whether a model fits: what is said before anything is allocated, that the advice holds, and that weights which need
 * not fit stay in their file. */
#include "infer/fit.h"

#include "base/alloc.h"
#include "base/memory.h"
#include "format/hf.h"
#include "format/source.h"
#include "infer/loaded.h"
#include "infer/perplexity.h"
#include "infer/session.h"
#include "quant/convert.h"
#include "support/support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1 /* whose own memory is counted with the process's */
#else
#define SANITIZED 0
#endif

static ml_error err;

/* ---- the plan ---- */

/* The published model: 15.96G parameters; files of llama.cpp's types have 8.5, 4.5 ... bits a weight. */
static void test_moonlight_16b(void **state)
{
    (void)state;
    ml_config c;
    int64_t bytes = 0, last = 0;
    assert_ok(ml_config_preset("moonlight-16b", &c, &err));
    ml_fit_plan p = ml_fit_make_plan(&c, 1000, 100, 0, ML_F16);
    assert_int_equal(p.cache, 8192LL * 27 * (512 + 64) * 2);
    assert_int_equal(ml_fit_make_plan(&c, 0, 0, 100, ML_F32).cache, 100LL * 27 * (512 + 64) * 4);
    assert_int_equal(p.total, 1100 + p.cache + p.work);
    assert_in_range(p.work, 100 << 20, 500 << 20); /* the bar for all but weights and cache is half a gigabyte */

    const struct {
        int64_t gb;
        const char *mix;
        double bits; /* a parameter */
    } rows[] = { { 64, "bf16", 16 },    { 24, "q8_0", 8.5 }, { 16, "q6_k", 7.3 },
                 { 13, "q5_k_m", 5.9 }, { 10, "q4_0", 4.6 }, { 6, NULL, 0 } };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *mix = ml_fit_find_mix(&c, rows[i].gb * 1000000000, 0, ML_F16, &bytes);
        print_message("%lld GB: %s, %.2f GB\n", (long long)rows[i].gb, mix ? mix : "none", (double)bytes * 1e-9);
        if (!rows[i].mix) {
            assert_null(mix);
            assert_int_equal(bytes, last); /* the smallest that there is */
            continue;
        }
        assert_non_null(mix);
        assert_string_equal(mix, rows[i].mix);
        assert_true(bytes <= rows[i].gb * 1000000000 - p.cache - p.work);
        assert_true(i == 0 || bytes < last);
        double expected = 15.96e9 * rows[i].bits / 8;
        assert_true((double)bytes > 0.95 * expected && (double)bytes < 1.05 * expected);
        last = bytes;
    }
    assert_ok(ml_config_preset("moonlight-moe-130m", &c, &err)); /* which no GGUF architecture expresses */
    assert_null(ml_fit_find_mix(&c, 64000000000, 0, ML_F16, &bytes));
}

/* Experts of the last layers, as few as need be. */
static void test_dividing_experts(void **state)
{
    (void)state;
    int64_t expert[4] = { 0, 50, 70, 60 }, there, elsewhere;
    const ml_upload_sizes s = { .n_layer = 4, .rest = 20, .expert = expert };
    const struct {
        int64_t most, n, there, elsewhere;
    } rows[] = { { 0, 0, 200, 0 },    { 1000, 0, 200, 0 }, { 200, 0, 200, 0 }, { 199, 1, 140, 60 },
                 { 139, 2, 70, 130 }, { 69, 3, 20, 180 },  { 20, 3, 20, 180 }, { 19, -1, 20, 180 } };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(ml_upload_divide(&s, rows[i].most, &there, &elsewhere), rows[i].n);
        assert_int_equal(there, rows[i].there);
        assert_int_equal(elsewhere, rows[i].elsewhere);
    }
}

/* Every parameter once, in each type its bytes; what is rounded up is at most 256 bytes for each of 5 thousand. */
static void test_plan_on_a_device(void **state)
{
    (void)state;
    ml_config c;
    ml_fit_device_plan p;
    const ml_memory_budget b = { .kv_dtype = ML_F16 };
    const int64_t gb = 1000000000, pad = 5400 * 256;
    assert_ok(ml_config_preset("moonlight-16b", &c, &err));
    assert_ok(ml_fit_plan_device(&c, ML_BF16, NULL, &b, 141 * gb, &p, &err));
    assert_in_range(p.all, ml_model_weight_bytes(&c, ML_BF16), ml_model_weight_bytes(&c, ML_BF16) + pad);
    assert_true(p.fits && p.n_layer_in_host == 0 && p.weights == p.all && p.host == 0);
    assert_int_equal(p.cache, 8192LL * 27 * 576 * 2);
    int64_t experts = 2 * ml_model_count_groups(&c).experts;
    assert_in_range(p.all - p.least, experts, experts + pad);
    assert_int_equal(p.weights_room, p.available - p.cache - p.work);
    assert_ok(ml_fit_plan_device(&c, ML_BF16, NULL, &b, 24 * gb, &p, &err));
    assert_true(p.fits && p.weights + p.host == p.all && p.weights <= p.weights_room);
    assert_true(p.weights + p.host / p.n_layer_in_host > p.weights_room); /* with one layer more it is too much */
    assert_ok(ml_fit_plan_device(&c, ML_BF16, NULL, &b, p.cache + p.work + p.least - 1, &p, &err));
    assert_false(p.fits);

    /* Of a mix as of its file, whose tensors ml_fit_find_mix counts. */
    int64_t bytes;
    assert_string_equal(ml_fit_find_mix(&c, 10 * gb, 0, ML_F16, &bytes), "q4_0");
    assert_ok(ml_fit_plan_device_mix(&c, "q4_0", &b, 24 * gb, &p, &err));
    assert_in_range(p.all, bytes, bytes + pad);
    assert_ok(ml_config_preset("moonlight-moe-130m", &c, &err));
    assert_fails(ml_fit_plan_device_mix(&c, "q4_k", &b, 24 * gb, &p, &err), ML_EINVAL, "GGUF");
}

/* ---- opening ---- */

enum { WINDOW = 64, N_TEXT = 512 };

/* 44 MB in fp32. */
static void write_model(const char *folder, ml_config *config)
{
    ml_model *m;
    ml_manifest *manifest;
    assert_ok(ml_config_preset("nano-moe", config, &err));
    assert_ok(ml_model_make(config, ML_F32, false, &m, &err));
    ml_model_init(m, 3);
    assert_ok(ml_manifest_begin(&manifest, folder, 0, &err));
    assert_ok(ml_hf_save(m, ML_F32, NULL, manifest, &err));
    assert_ok(ml_manifest_commit(manifest, &err));
    ml_manifest_free(manifest);
    ml_model_free(m);
}

static void measure(const char *folder, int64_t *stored, int64_t *copied)
{
    ml_config config;
    ml_weight_source *source;
    size_t a, b;
    assert_ok(ml_weight_source_open(folder, &config, &source, &err));
    assert_ok(ml_model_measure_bind(&config, source, &a, &b, &err));
    *stored = (int64_t)a;
    *copied = (int64_t)b;
    source->free(source);
}

/* What the message advises, done: the mix that it names fits where the model did not. */
static void follow_advice(const char *folder, const ml_memory_budget *budget, const char *to)
{
    char mix[16];
    const char *advice = strstr(err.message, "--quant ");
    ml_convert_report report;
    ml_model *m;
    assert_non_null(advice);
    assert_int_equal(sscanf(advice, "--quant %15s", mix), 1);
    ml_convert x = { .from = folder, .to = to, .gguf = true };
    assert_ok(ml_quant_mix_find(mix, &x.plan.mix, &err));
    assert_ok(ml_convert_model(&x, &report, &err));
    assert_ok(ml_model_open_within(to, budget, &m, &err));
    ml_model_free(m);
}

static void test_refusal_before_allocating(void **state)
{
    (void)state;
    const char *folder = test_make_folder();
    const char *from = test_path_in(folder, "m"), *to = test_path_in(folder, "small.gguf");
    ml_config c;
    ml_model *m;
    int64_t stored, copied;
    write_model(from, &c);
    measure(from, &stored, &copied);
    ml_param_counts n = ml_model_count(&c);
    /* Every weight once, and what copies lose by alignment. */
    assert_true(stored + copied >= n.total * 4 && stored + copied < n.total * 4 + (64 << 10));
    ml_fit_plan p = ml_fit_make_plan(&c, stored, copied, 0, ML_F16);

    ml_memory_budget budget = { .available = p.total, .kv_dtype = ML_F16 };
    assert_ok(ml_model_open_within(from, &budget, &m, &err));
    ml_model_free(m);
    int64_t live = ml_alloc_get_stats().live_bytes, before = ml_memory_peak();
    budget.available = p.total - 1;
    assert_fails(ml_model_open_within(from, &budget, &m, &err), ML_ENOMEM, "does not fit");
    assert_null(m);
    assert_int_equal(ml_alloc_get_stats().live_bytes, live);
    assert_true(SANITIZED || ml_memory_peak() - before < 4 << 20);
    print_message("%s\n", err.message);
    assert_null(strstr(err.message, "--stream"));
    follow_advice(from, &budget, to);
    budget.offers_stream = true; /* named where it would help, that is, where the rest fits */
    assert_fails(ml_model_open_within(from, &budget, &m, &err), ML_ENOMEM, "; --stream on runs it");
    budget.available = p.total - p.stored - 1;
    assert_fails(ml_model_open_within(from, &budget, &m, &err), ML_ENOMEM, "does not fit");
    assert_null(strstr(err.message, "--stream"));
    budget.available = p.total - 1;
    budget.offers_stream = false;

    /* With a smaller cache it would fit; with a larger it would not. */
    budget.cache_token = 1;
    assert_ok(ml_model_open_within(from, &budget, &m, &err));
    ml_model_free(m);
    budget.cache_token = 1 << 20;
    assert_fails(ml_model_open_within(from, &budget, &m, &err), ML_ENOMEM, "of keys and values");
    /* Nothing fits. */
    budget = (ml_memory_budget){ .available = 1000, .kv_dtype = ML_F16 };
    assert_fails(ml_model_open_within(from, &budget, &m, &err), ML_ENOMEM, "even in q4_0 its weights take");

    /* Streamed, the mapped weights need not fit: only what is allocated. */
    budget = (ml_memory_budget){ .available = p.total - p.stored, .kv_dtype = ML_F16, .stream = true };
    assert_ok(ml_model_open_within(from, &budget, &m, &err));
    assert_ok(ml_fit_check_cache(m, 1000, &budget, "x", &err));
    int64_t most = (budget.available - copied) / (p.cache / c.max_position_embeddings);
    assert_ok(ml_fit_check_cache(m, most, &budget, "x", &err));
    assert_fails(ml_fit_check_cache(m, most + 1, &budget, "fewer --max-tokens", &err), ML_ENOMEM, "fewer --max-tokens");
    budget.stream = false;
    assert_fails(ml_fit_check_cache(m, most, &budget, "x", &err), ML_ENOMEM, "and the weights leave");
    ml_model_free(m);
    budget.available--;
    budget.stream = true;
    assert_fails(ml_model_open_within(from, &budget, &m, &err), ML_ENOMEM, "does not fit");
    test_remove_folder(folder);
}

/* ---- repacking ---- */

/* Memory that looked to be there and is not to be had: `auto` goes on without it and keeps why, `on` fails. */
static void test_repacking_without_memory(void **state)
{
    (void)state;
    const char *folder = test_make_folder();
    const char *from = test_path_in(folder, "m"), *file = test_path_in(folder, "m.gguf");
    const ml_memory_budget budget = { .kv_dtype = ML_F16 };
    ml_config c;
    ml_model *m = NULL;
    ml_convert_report report;
    if (ml_memory_available() < (int64_t)3 << 30) {
        print_message("skipped: less than 3 GB of memory are available\n");
        skip();
    }
    write_model(from, &c);
    ml_convert x = { .from = from, .to = file, .gguf = true };
    assert_ok(ml_quant_mix_find("q4_0", &x.plan.mix, &err));
    assert_ok(ml_convert_model(&x, &report, &err));
    assert_ok(ml_loaded_open_weights(file, "auto", &budget, &m, &err));
    assert_true(m->panels.capacity > 0 && !m->repack_failure[0]);
    ml_model_free(m);
    int64_t before = ml_alloc_get_stats().n_total;
    assert_ok(ml_loaded_open_weights(file, "off", &budget, &m, &err));
    int64_t n = ml_alloc_get_stats().n_total - before;
    ml_model_free(m);
    bool fell_back = false, failed = false;
    for (int64_t i = n; i < n + 8 && !fell_back; i++) { /* arenas are not counted among n */
        ml_alloc_fail_after(i);
        ml_status status = ml_loaded_open_weights(file, "auto", &budget, &m, &err);
        ml_alloc_fail_after(-1);
        if (status != ML_OK) continue;
        fell_back = m->repack_failure[0] && !m->panels.capacity;
        if (fell_back) assert_non_null(strstr(m->repack_failure, "out of memory"));
        ml_model_free(m);
        ml_alloc_fail_after(i);
        failed = ml_loaded_open_weights(file, "on", &budget, &m, &err) == ML_ENOMEM;
        ml_alloc_fail_after(-1);
        if (!failed) ml_model_free(m);
    }
    assert_true(fell_back && failed);
    test_remove_folder(folder);
}

/* ---- streaming ---- */

static int64_t anonymous_bytes(void)
{
    char line[256];
    long long kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "RssAnon: %lld kB", &kib) == 1) break;
    }
    fclose(file);
    return (int64_t)kib * 1024;
}

static void note_anonymous(void *arg, int64_t n_done, int64_t n_window, double nll)
{
    (void)n_done;
    (void)n_window;
    (void)nll;
    int64_t *most = arg, now = anonymous_bytes();
    if (now > *most) *most = now;
}

/* Perplexity and divergence of one model against another: memory of their own is that of a pass, and the weights of
 * both (58 MB) stay in the page cache, from which the system may drop them. */
static void test_streamed_perplexity(void **state)
{
    (void)state;
    const char *folder = test_make_folder();
    const char *from = test_path_in(folder, "m"), *to = test_path_in(folder, "q8.gguf");
    ml_config c;
    ml_model *base, *m;
    ml_convert_report report;
    ml_perplexity result;
    static int32_t id[N_TEXT];
    const ml_memory_budget budget = { .kv_dtype = ML_F16, .stream = true };
    ml_convert x = { .from = from, .to = to, .gguf = true };
    write_model(from, &c);
    assert_ok(ml_quant_mix_find("q8_0", &x.plan.mix, &err));
    assert_ok(ml_convert_model(&x, &report, &err));
    for (int i = 0; i < N_TEXT; i++) id[i] = (i * 37 + i / 5) % (int32_t)c.vocab_size;
    assert_ok(ml_model_open_within(from, &budget, &base, &err));
    assert_ok(ml_model_open_within(to, &budget, &m, &err));
    int64_t before = anonymous_bytes(), most = before;
    const ml_perplexity_config config = { .id = id,
                                          .n_id = N_TEXT,
                                          .window = WINDOW,
                                          .batch = WINDOW,
                                          .bos = -1,
                                          .kv_dtype = ML_F16,
                                          .base = base,
                                          .on_window = note_anonymous,
                                          .arg = &most };
    assert_ok(ml_perplexity_measure(m, &config, &result, &err));
    assert_true(result.kl > 0 && result.kl < 0.01);
    print_message("%.1f MB of its own, for 58 MB of weights\n", (double)(most - before) * 1e-6);
    assert_true(most > before && (SANITIZED || most - before < 24 << 20));
    ml_model_free(m);
    ml_model_free(base);
    test_remove_folder(folder);
}

/* ---- what a cgroup leaves ---- */

static void put(const char *folder, const char *name, const char *text)
{
    assert_ok(ml_file_replace(test_path_in(folder, name), text, strlen(text), &err));
}

static void test_cgroups(void **state)
{
    (void)state;
    const char *folder = test_make_folder();
    assert_true(ml_memory_available_in_cgroup(folder) == INT64_MAX);
    assert_true(ml_memory_available_in_cgroup("/no/such/folder") == INT64_MAX);
    put(folder, "memory.current", "700\n");
    put(folder, "memory.max", "max\n");
    assert_true(ml_memory_available_in_cgroup(folder) == INT64_MAX);
    put(folder, "memory.max", "1000\n");
    assert_int_equal(ml_memory_available_in_cgroup(folder), 300);
    /* Files in the page cache, a mapped model among them, are no loss. */
    put(folder, "memory.stat", "anon 200\nfile 500\ninactive_file 150\nactive_file 250\n");
    assert_int_equal(ml_memory_available_in_cgroup(folder), 700);
    put(folder, "memory.current", "2000\n");
    assert_int_equal(ml_memory_available_in_cgroup(folder), 0);
    test_remove_folder(folder);
    folder = test_make_folder();
    put(folder, "memory.limit_in_bytes", "5000\n");
    put(folder, "memory.usage_in_bytes", "1000\n");
    assert_int_equal(ml_memory_available_in_cgroup(folder), 4000);
    test_remove_folder(folder);
    assert_true(ml_memory_available() > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moonlight_16b),
        cmocka_unit_test(test_dividing_experts),
        cmocka_unit_test(test_plan_on_a_device),
        cmocka_unit_test(test_refusal_before_allocating),
        cmocka_unit_test(test_repacking_without_memory),
        cmocka_unit_test(test_streamed_perplexity),
        cmocka_unit_test(test_cgroups),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
