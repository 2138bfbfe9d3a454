/* Forms of tokenizer.json beside byte-level BPE: SentencePiece's vocabularies, normal form C, tokens around texts.  Ids
 * and texts of Hugging Face tokenizers (tests/golden/make_tokenizer.py). */
#include "support/support.h"

#include "base/alloc.h"
#include "base/json.h"
#include "base/rng.h"
#include "format/gguf_tokenizer.h"
#include "token/build.h"

#include <string.h>

static ml_error err;
#define GOLDEN MOONLIGHT_SOURCE_DIR "/tests/golden/"

static char folder[ML_PATH_MAX];

/* `root` as a tokenizer.json, opened. */
static ml_status open_root(const json_t *root, ml_tokenizer **out)
{
    char path[ML_PATH_MAX];
    assert_ok(ml_path_join(path, folder, "tokenizer.json", &err));
    assert_ok(ml_json_save(root, path, &err));
    return ml_tokenizer_open(folder, out, &err);
}

static void assert_ids(const ml_ids *ids, const json_t *wanted, const char *text, const char *what)
{
    for (size_t i = 0; i < ids->n && i < json_array_size(wanted); i++) {
        if (ids->id[i] == json_integer_value(json_array_get(wanted, i))) continue;
        fail_msg("%s of \"%s\": id %zu is %d, expected %lld", what, text, i, ids->id[i],
                 (long long)json_integer_value(json_array_get(wanted, i)));
    }
    if (ids->n != json_array_size(wanted)) {
        fail_msg("%s of \"%s\": %zu ids, expected %zu", what, text, ids->n, json_array_size(wanted));
    }
}

static void check_encoding(const ml_tokenizer *t, const json_t *one)
{
    const json_t *value = json_object_get(one, "text");
    const char *text = json_string_value(value);
    size_t n = json_string_length(value);
    ml_ids ids = { 0 };
    assert_ok(ml_tokenizer_encode(t, text, n, false, &ids, &err));
    assert_ids(&ids, json_object_get(one, "ids"), text, "ids");
    ids.n = 0;
    assert_ok(ml_tokenizer_encode(t, text, n, true, &ids, &err));
    assert_ids(&ids, json_object_get(one, "ids_special"), text, "ids with specials");
    ids.n = 0;
    assert_ok(ml_tokenizer_append_prefix(t, &ids, &err));
    assert_ok(ml_tokenizer_encode(t, text, n, true, &ids, &err));
    assert_ok(ml_tokenizer_append_suffix(t, &ids, &err));
    assert_ids(&ids, json_object_get(one, "ids_around"), text, "ids with what stands around");
    ml_ids_free(&ids);
}

/* At once, and token by token. */
static void check_decoding(const ml_tokenizer *t, const json_t *one)
{
    const json_t *list = json_object_get(one, "ids"), *wanted = json_object_get(one, "decoded");
    ml_ids ids = { 0 };
    ml_chars out = { 0 };
    ml_detok d = { 0 };
    for (size_t i = 0; i < json_array_size(list); i++) {
        int32_t id = (int32_t)json_integer_value(json_array_get(list, i));
        assert_ok(ml_ids_append(&ids, &id, 1, &err));
        assert_ok(ml_detok_push(&d, t, id, &out, &err));
    }
    assert_ok(ml_detok_flush(&d, &out, &err));
    char *text;
    size_t n;
    assert_ok(ml_tokenizer_decode(t, ids.id, ids.n, false, &text, &n, &err));
    if (n != json_string_length(wanted) || memcmp(text, json_string_value(wanted), n) != 0) {
        fail_msg("decoded \"%s\", expected \"%s\"", text, json_string_value(wanted));
    }
    assert_int_equal(out.n, n);
    if (n) assert_memory_equal(out.data, text, n);
    ml_free(text);
    ml_chars_free(&out);
    ml_ids_free(&ids);
}

static void check_cases(const ml_tokenizer *t, const json_t *cases)
{
    assert_true(json_array_size(cases) > 10);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        check_encoding(t, json_array_get(cases, i));
        check_decoding(t, json_array_get(cases, i));
    }
}

static void sentencepiece_forms_equal_hugging_face(void **state)
{
    (void)state;
    json_t *golden, *forms, *form;
    const char *name;
    strcpy(folder, test_make_folder());
    assert_ok(ml_json_load(GOLDEN "tokenizer_forms.json", &golden, &err));
    assert_ok(ml_json_object(golden, "forms", "golden", &forms, &err));
    assert_int_equal(json_object_size(forms), 8);
    json_object_foreach(forms, name, form)
    {
        json_t *root = json_object_get(form, "root"), *cases = json_object_get(form, "cases");
        const char *model = json_string_value(json_object_get(form, "model"));
        json_object_set(root, "model", json_object_get(json_object_get(golden, "models"), model));
        print_message("form \"%s\"\n", name);
        ml_tokenizer *t, *again;
        assert_ok(open_root(root, &t));
        assert_true(ml_tokenizer_is_sentencepiece(t));
        check_cases(t, cases);
        /* Written by us, the same again. */
        assert_ok(ml_tokenizer_save(t, folder, &err));
        assert_ok(ml_tokenizer_open(folder, &again, &err));
        check_cases(again, cases);
        assert_string_equal(ml_tokenizer_fingerprint(again), ml_tokenizer_fingerprint(t));
        ml_tokenizer_free(again);
        char path[ML_PATH_MAX];
        assert_ok(ml_path_join(path, folder, "tokenizer_config.json", &err));
        assert_int_equal(remove(path), 0);
        ml_tokenizer_free(t);
    }
    json_decref(golden);
    test_remove_folder(folder);
}

/* Training lists one way to make each piece, not all: no scores amount to that. */
static void merges_without_scores_stay_out_of_gguf(void **state)
{
    (void)state;
    char path[ML_PATH_MAX];
    strcpy(folder, test_make_folder());
    json_t *golden;
    assert_ok(ml_json_load(GOLDEN "tokenizer_forms.json", &golden, &err));
    json_t *root = json_object_get(json_object_get(json_object_get(golden, "forms"), "prepend"), "root");
    json_object_set(root, "model", json_object_get(json_object_get(golden, "models"), "bytes"));
    ml_tokenizer *t;
    ml_gguf_writer *w;
    assert_ok(open_root(root, &t));
    assert_false(ml_tokenizer_is_scored(t));
    assert_ok(ml_path_join(path, folder, "t.gguf", &err));
    assert_ok(ml_gguf_writer_begin(&w, path, &err));
    assert_fails(ml_gguf_put_tokenizer(w, t, ml_tokenizer_vocab_size(t), &err), ML_EINVAL, "keep its tokenizer.json");
    ml_gguf_writer_free(w);
    ml_tokenizer_free(t);
    json_decref(golden);
    test_remove_folder(folder);
}

static void normal_form_c_equals_hugging_face(void **state)
{
    (void)state;
    json_t *golden, *root, *cases;
    strcpy(folder, test_make_folder());
    assert_ok(ml_json_load(GOLDEN "tokenizer_forms.json", &golden, &err));
    assert_ok(ml_json_load(GOLDEN "tokenizer_small.json", &root, &err));
    json_object_set_new(root, "normalizer", json_pack("{s:s}", "type", "NFC"));
    assert_ok(ml_json_array(golden, "nfc", "golden", &cases, &err));
    assert_int_equal(json_array_size(cases), 5);
    ml_tokenizer *t;
    assert_ok(open_root(root, &t));
    for (int saved = 0; saved < 2; saved++) {
        assert_true(ml_tokenizer_is_nfc(t));
        for (size_t i = 0; i < json_array_size(cases); i++) {
            const json_t *one = json_array_get(cases, i);
            const char *text = json_string_value(json_object_get(one, "text"));
            ml_ids ids = { 0 };
            assert_ok(ml_tokenizer_encode(t, text, strlen(text), true, &ids, &err));
            assert_ids(&ids, json_object_get(one, "ids"), text, "ids");
            ml_ids_free(&ids);
        }
        if (saved) break;
        assert_ok(ml_tokenizer_save(t, folder, &err));
        ml_tokenizer_free(t);
        assert_ok(ml_tokenizer_open(folder, &t, &err));
    }
    /* Bytes that are no UTF-8 stay, and what is normal is not changed on their account. */
    static const char broken[] = "e\xCC\x81\xFF"
                                 "e\xCC\x81\xE2\x82";
    static const char normal[] = "\xC3\xA9\xFF\xC3\xA9\xE2\x82";
    ml_ids a = { 0 }, b = { 0 };
    assert_ok(ml_tokenizer_encode(t, broken, sizeof broken - 1, false, &a, &err));
    assert_ok(ml_tokenizer_encode(t, normal, sizeof normal - 1, false, &b, &err));
    assert_int_equal(a.n, b.n);
    assert_memory_equal(a.id, b.id, a.n * sizeof *a.id);
    ml_ids_free(&a);
    ml_ids_free(&b);
    ml_tokenizer_free(t);
    json_decref(root);
    json_decref(golden);
    test_remove_folder(folder);
}

/* Where a form is like these but for one key, it is refused by the key's name. */
static void forms_that_cannot_be_honoured(void **state)
{
    (void)state;
    static const struct {
        const char *change; /* merged into the root */
        const char *part;
    } refused[] = {
        { "{\"pre_tokenizer\": {\"type\": \"Metaspace\"}, \"normalizer\": null}", "Metaspace split" },
        { "{\"pre_tokenizer\": {\"type\": \"Metaspace\", \"split\": false, \"replacement\": \"_\"}, \"normalizer\": "
          "null}",
          "replacement" },
        { "{\"pre_tokenizer\": {\"type\": \"Metaspace\", \"split\": false, \"prepend_scheme\": \"last\"}, "
          "\"normalizer\": null}",
          "prepend_scheme" },
        { "{\"pre_tokenizer\": {\"type\": \"Metaspace\", \"split\": false}}", "null beside Metaspace" },
        { "{\"normalizer\": {\"type\": \"Prepend\", \"prepend\": \"\xE2\x96\x81\"}}", "normalizer" },
        { "{\"added_tokens\": [{\"id\": 0, \"content\": \"<unk>\", \"normalized\": true}]}", "normalized" },
        { "{\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"Sequence\": {\"id\": \"A\"}}, "
          "{\"Sequence\": {\"id\": \"A\"}}], \"special_tokens\": {}}}",
          "twice" },
    };
    strcpy(folder, test_make_folder());
    json_t *golden;
    assert_ok(ml_json_load(GOLDEN "tokenizer_forms.json", &golden, &err));
    json_t *form = json_object_get(json_object_get(json_object_get(golden, "forms"), "prepend"), "root");
    json_object_set(form, "model", json_object_get(json_object_get(golden, "models"), "bytes"));
    ml_tokenizer *t;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        json_t *root = json_copy(form), *change;
        assert_ok(ml_json_parse(refused[i].change, strlen(refused[i].change), "change", &change, &err));
        json_object_update(root, change);
        assert_fails(open_root(root, &t), ML_EINVAL, refused[i].part);
        json_decref(change);
        json_decref(root);
    }
    json_t *model = json_object_get(form, "model");
    json_object_del(json_object_get(model, "vocab"), "<0x41>");
    assert_fails(open_root(form, &t), ML_EINVAL, "no <0x41>");
    json_object_set_new(model, "ignore_merges", json_true());
    assert_fails(open_root(form, &t), ML_EINVAL, "ignore_merges");
    json_decref(golden);
    test_remove_folder(folder);
}

/* Keys of tokenizer_config.json decide over the template of tokenizer.json, both at once. */
static void config_says_what_stands_around(void **state)
{
    (void)state;
    static const struct {
        const char *config;
        bool bos, eos;
    } cases[] = {
        { "{}", true, true }, /* the template: [BOS] text [EOS] */
        { "{\"add_bos_token\": null}", true, true },
        { "{\"add_bos_token\": true}", true, false },
        { "{\"add_bos_token\": false}", false, false },
        { "{\"add_eos_token\": true}", false, true },
    };
    char path[ML_PATH_MAX];
    strcpy(folder, test_make_folder());
    assert_ok(ml_path_join(path, folder, "tokenizer_config.json", &err));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *root, *config, *processor;
        static const char template[] =
            "{\"type\": \"Sequence\", \"processors\": [{\"type\": \"ByteLevel\"}, {\"type\": \"TemplateProcessing\", "
            "\"single\": [{\"SpecialToken\": {\"id\": \"[BOS]\"}}, {\"Sequence\": {\"id\": \"A\"}}, "
            "{\"SpecialToken\": {\"id\": \"[EOS]\"}}], \"special_tokens\": {\"[BOS]\": {\"ids\": [2]}, \"[EOS]\": "
            "{\"ids\": [3]}}}]}";
        assert_ok(ml_json_load(GOLDEN "tokenizer_small.json", &root, &err));
        assert_ok(ml_json_parse(template, strlen(template), "template", &processor, &err));
        assert_ok(ml_json_parse(cases[i].config, strlen(cases[i].config), "config", &config, &err));
        json_object_set_new(root, "post_processor", processor);
        json_object_set_new(config, "bos_token", json_string("[BOS]"));
        json_object_set_new(config, "eos_token", json_string("[EOS]"));
        assert_ok(ml_json_save(config, path, &err));
        ml_tokenizer *t;
        ml_ids ids = { 0 };
        assert_ok(open_root(root, &t));
        assert_int_equal(ml_tokenizer_add_bos(t), cases[i].bos);
        assert_int_equal(ml_tokenizer_add_eos(t), cases[i].eos);
        assert_ok(ml_tokenizer_append_prefix(t, &ids, &err));
        assert_ok(ml_tokenizer_append_suffix(t, &ids, &err));
        assert_int_equal(ids.n, cases[i].bos + cases[i].eos);
        if (cases[i].bos) assert_int_equal(ids.id[0], 2);
        if (cases[i].eos) assert_int_equal(ids.id[ids.n - 1], 3);
        ml_ids_free(&ids);
        ml_tokenizer_free(t);
        json_decref(config);
        json_decref(root);
    }
    test_remove_folder(folder);
}

/* What goes on with a text keeps its space; what begins one loses it, and so does what follows a special token. */
static void a_space_is_the_text_s_own_inside(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("models/stories260K.gguf");
    static const struct {
        bool inside;
        const char *text;
    } cases[] = { { false, "Once uponOnce" }, { true, " Once uponOnce" } };
    ml_tokenizer *t;
    ml_ids ids = { 0 };
    assert_ok(ml_tokenizer_open(test_data_path("models/stories260K.gguf"), &t, &err));
    assert_ok(ml_tokenizer_encode(t, "Once upon<s>Once", 16, true, &ids, &err));
    for (size_t k = 0; k < 2; k++) {
        ml_detok d = { .skip_special = true, .inside = cases[k].inside };
        ml_chars out = { 0 };
        for (size_t i = 0; i < ids.n; i++) assert_ok(ml_detok_push(&d, t, ids.id[i], &out, &err));
        assert_int_equal(out.n, strlen(cases[k].text));
        assert_memory_equal(out.data, cases[k].text, out.n);
        ml_chars_free(&out);
    }
    ml_ids_free(&ids);
    /* So with answers: behind text, and behind a token that begins one. */
    ml_ids prompt = { 0 }, answer = { 0 };
    ml_chars out = { 0 };
    int32_t mark = ml_tokenizer_find(t, "<s>");
    assert_ok(ml_tokenizer_encode(t, "Once upon", 9, false, &prompt, &err));
    assert_ok(ml_tokenizer_encode(t, "a time", 6, false, &answer, &err));
    assert_ok(ml_tokenizer_decode_answer(t, &prompt, answer.id, answer.n, &out, &err));
    assert_int_equal(out.n, 7);
    assert_memory_equal(out.data, " a time", 7);
    assert_ok(ml_ids_append(&prompt, &mark, 1, &err));
    assert_ok(ml_tokenizer_decode_answer(t, &prompt, answer.id, answer.n, &out, &err));
    assert_int_equal(out.n, 6);
    assert_memory_equal(out.data, "a time", 6);
    ml_chars_free(&out);
    ml_ids_free(&prompt);
    ml_ids_free(&answer);
    ml_tokenizer_free(t);
}

/* Published scores as merges and back: the same ids for any text, and still scores. */
static void scores_survive_as_merges(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("models/stories260K.gguf");
    static const char *const atoms[] = { " ",  "  ",  "a",  "e",    "the",      "Once", "upon", ".",  "\n",
                                         "\t", "ing", "ll", "\xFF", "\xC3\xA9", "q",    "ee",   "tt", "\xE2\x96\x81" };
    ml_tokenizer *scored, *merged;
    strcpy(folder, test_make_folder());
    assert_ok(ml_tokenizer_open(test_data_path("models/stories260K.gguf"), &scored, &err));
    assert_ok(ml_tokenizer_save(scored, folder, &err));
    assert_ok(ml_tokenizer_open(folder, &merged, &err));
    assert_true(ml_tokenizer_is_scored(merged) && ml_tokenizer_merge_count(merged) > 100);
    assert_true(ml_tokenizer_add_bos(merged) && ml_tokenizer_space_prefix(merged));
    assert_string_equal(ml_tokenizer_fingerprint(merged), ml_tokenizer_fingerprint(scored));
    ml_rng rng = ml_rng_make(5, 1);
    for (int k = 0; k < 3000; k++) {
        char text[256];
        size_t n = 0, n_atom = 1 + ml_rng_below(&rng, 40);
        for (size_t i = 0; i < n_atom; i++) {
            const char *atom = atoms[ml_rng_below(&rng, sizeof atoms / sizeof atoms[0])];
            memcpy(text + n, atom, strlen(atom));
            n += strlen(atom);
        }
        ml_ids a = { 0 }, b = { 0 };
        assert_ok(ml_tokenizer_encode(scored, text, n, false, &a, &err));
        assert_ok(ml_tokenizer_encode(merged, text, n, false, &b, &err));
        if (a.n != b.n || memcmp(a.id, b.id, a.n * sizeof *a.id) != 0) fail_msg("\"%.*s\" differs", (int)n, text);
        ml_ids_free(&a);
        ml_ids_free(&b);
    }
    ml_tokenizer_free(scored);
    ml_tokenizer_free(merged);
    test_remove_folder(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sentencepiece_forms_equal_hugging_face),
        cmocka_unit_test(merges_without_scores_stay_out_of_gguf),
        cmocka_unit_test(normal_form_c_equals_hugging_face),
        cmocka_unit_test(forms_that_cannot_be_honoured),
        cmocka_unit_test(config_says_what_stands_around),
        cmocka_unit_test(a_space_is_the_text_s_own_inside),
        cmocka_unit_test(scores_survive_as_merges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
