/* Tokenizer files that are damaged, unusual or not what they should be: an error that names the place, never a crash.
 */
#include "support/support.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "token/build.h"
#include "token/tokenizer.h"

#include <stdio.h>
#include <string.h>

static ml_error err;
static const char *folder;

static int set_up(void **state)
{
    (void)state;
    folder = test_make_folder();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    test_remove_folder(folder);
    return 0;
}

static const char *write_bytes(const char *name, const void *data, size_t n)
{
    static char path[ML_PATH_MAX];
    assert_ok(ml_path_join(path, folder, name, &err));
    FILE *file = fopen(path, "wb"); // not ml_file_replace: hundreds of fsyncs take seconds
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
    return path;
}

static const char *write_text(const char *name, const char *text)
{
    return write_bytes(name, text, strlen(text));
}

static void fails(const char *path, ml_status code, const char *part)
{
    ml_tokenizer *t = NULL;
    assert_fails(ml_tokenizer_open(path, &t, &err), code, part);
    assert_null(t);
}

/* A tokenizer.json with the given model members and other members. */
static void hf_fails(const char *model, const char *rest, ml_status code, const char *part)
{
    char text[2048];
    snprintf(text, sizeof text,
             "{\"model\": {\"type\": \"BPE\", %s}, \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": "
             "false}%s}",
             model, rest);
    fails(write_text("tokenizer.json", text), code, part);
}

#define VOCAB "\"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, \"aba\": 3}"

static void tokenizer_json_names_the_key(void **state)
{
    (void)state;
    hf_fails(VOCAB, "", ML_EFORMAT, "merges");
    hf_fails("\"vocab\": [], \"merges\": []", "", ML_EFORMAT, "vocab");
    hf_fails("\"vocab\": {}, \"merges\": []", "", ML_EFORMAT, "empty");
    hf_fails("\"vocab\": {\"a\": \"0\"}, \"merges\": []", "", ML_EFORMAT, "\"a\"");
    hf_fails("\"vocab\": {\"a\": -1}, \"merges\": []", "", ML_EFORMAT, "-1");
    hf_fails("\"vocab\": {\"a\": 99999999999}, \"merges\": []", "", ML_EFORMAT, "99999999999");
    hf_fails("\"vocab\": {\"a\": 99999999999999999999}, \"merges\": []", "", ML_EFORMAT, "integer");
    hf_fails("\"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []", "", ML_EFORMAT, "twice");
    hf_fails("\"vocab\": {\"a\": 0, \"a\": 1}, \"merges\": []", "", ML_EFORMAT, "tokenizer.json");
    hf_fails("\"vocab\": {\"\": 0}, \"merges\": []", "", ML_EFORMAT, "empty");
    hf_fails(VOCAB ", \"merges\": [\"a\"]", "", ML_EFORMAT, "merges[0]");
    hf_fails(VOCAB ", \"merges\": [[\"a\"]]", "", ML_EFORMAT, "merges[0]");
    hf_fails(VOCAB ", \"merges\": [7]", "", ML_EFORMAT, "merges[0]");
    hf_fails(VOCAB ", \"merges\": [\"a c\"]", "", ML_EFORMAT, "\"c\"");
    hf_fails(VOCAB ", \"merges\": [\"b a\"]", "", ML_EFORMAT, "\"ba\"");
    hf_fails(VOCAB ", \"merges\": [\"a b\", \"a b\"]", "", ML_EFORMAT, "twice");
    hf_fails(VOCAB ", \"merges\": [\"ab \"]", "", ML_EFORMAT, "merge 0");
    hf_fails(VOCAB ", \"merges\": [], \"dropout\": 0.1", "", ML_EINVAL, "model.dropout");
    hf_fails(VOCAB ", \"merges\": [], \"byte_fallback\": true", "", ML_EINVAL, "model.byte_fallback");
    hf_fails(VOCAB ", \"merges\": [], \"end_of_word_suffix\": \"</w>\"", "", ML_EINVAL, "end_of_word_suffix");
    hf_fails(VOCAB ", \"merges\": [], \"unk_token\": \"z\"", "", ML_EFORMAT, "unk_token");
    hf_fails(VOCAB ", \"merges\": [], \"fuse_unk\": 3", "", ML_EFORMAT, "fuse_unk");
    hf_fails(VOCAB ", \"merges\": []", ", \"normalizer\": {\"type\": \"NFKC\"}", ML_EINVAL, "normalizer");
    hf_fails(VOCAB ", \"merges\": []", ", \"normalizer\": {\"type\": \"Sequence\"}", ML_EFORMAT, "normalizers");
    hf_fails(VOCAB ", \"merges\": []", ", \"normalizer\": {\"type\": \"Prepend\", \"prepend\": \"x\"}", ML_EINVAL,
             "Prepend");
    hf_fails(VOCAB ", \"merges\": []", ", \"normalizer\": {\"type\": \"Replace\"}", ML_EINVAL, "Replace");
    hf_fails(VOCAB ", \"merges\": []", ", \"post_processor\": {\"type\": \"BertProcessing\"}", ML_EINVAL,
             "post_processor");
    hf_fails(VOCAB ", \"merges\": []",
             ", \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [], \"special_tokens\": {}}",
             ML_EINVAL, "no text");
    hf_fails(VOCAB ", \"merges\": []",
             ", \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": "
             "\"x\"}}], \"special_tokens\": {}}",
             ML_EFORMAT, "single");
    hf_fails(VOCAB ", \"merges\": []",
             ", \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": "
             "\"x\"}}, {\"Sequence\": {\"id\": \"A\"}}], \"special_tokens\": {\"x\": {\"ids\": [77]}}}",
             ML_EFORMAT, "77");
    hf_fails(VOCAB ", \"merges\": []", ", \"truncation\": {\"max_length\": 3}", ML_EINVAL, "truncation");
    hf_fails(VOCAB ", \"merges\": []", ", \"decoder\": {\"type\": \"WordPiece\"}", ML_EINVAL, "decoder");
    hf_fails(VOCAB ", \"merges\": []", ", \"added_tokens\": 3", ML_EFORMAT, "added_tokens");
    hf_fails(VOCAB ", \"merges\": []", ", \"added_tokens\": [{\"id\": 9}]", ML_EFORMAT, "content");
    hf_fails(VOCAB ", \"merges\": []", ", \"added_tokens\": [{\"id\": 9, \"content\": \"x\", \"lstrip\": true}]",
             ML_EINVAL, "lstrip");
    hf_fails(VOCAB ", \"merges\": []", ", \"added_tokens\": [{\"id\": 1, \"content\": \"x\"}]", ML_EFORMAT, "twice");
    hf_fails(VOCAB ", \"merges\": []",
             ", \"added_tokens\": [{\"id\": 8, \"content\": \"x\"}, {\"id\": 9, \"content\": \"x\"}]", ML_EFORMAT,
             "same bytes");
    fails(write_text("tokenizer.json", "{\"model\": {\"type\": \"Unigram\", \"vocab\": []}}"), ML_EINVAL, "model.type");
    fails(write_text("tokenizer.json", "{\"model\": {" VOCAB ", \"merges\": []}, \"pre_tokenizer\": null}"), ML_EINVAL,
          "pre_tokenizer");
    fails(write_text("tokenizer.json", "{\"a\": 1}"), ML_EFORMAT, "key model");
    fails(write_text("tokenizer.json", "{"), ML_EFORMAT, "tokenizer.json");
    fails(write_text("tokenizer.json", ""), ML_EFORMAT, "tokenizer.json");
}

static void pre_tokenizer_fails(const char *node, const char *part)
{
    char text[1024];
    snprintf(text, sizeof text, "{\"model\": {" VOCAB ", \"merges\": []}, \"pre_tokenizer\": %s}", node);
    fails(write_text("tokenizer.json", text), ML_EINVAL, part);
}

static void pre_tokenizers_that_cannot_be_honoured(void **state)
{
    (void)state;
    pre_tokenizer_fails("{\"type\": \"ByteLevel\"}", "add_prefix_space");
    pre_tokenizer_fails("{\"type\": \"Metaspace\"}", "Metaspace");
    pre_tokenizer_fails("{\"type\": \"Sequence\", \"pretokenizers\": []}", "ByteLevel");
    pre_tokenizer_fails(
        "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\"}, "
        "\"behavior\": \"Removed\"}]}",
        "Removed");
    pre_tokenizer_fails(
        "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\w\"}, "
        "\"behavior\": \"Isolated\"}]}",
        "\\w");
}

/* Sequence, pairs, Digits, String patterns and holes are legal. */
static void an_unusual_tokenizer_json(void **state)
{
    (void)state;
    const char *path = write_text("tokenizer.json", "{\"model\": {\"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, \"1\": 7, "
                                                    "\"11\": 8, \"+\": 4}, \"merges\": [[\"a\", \"b\"], [\"1\", "
                                                    "\"1\"]]}, \"normalizer\": {\"type\": \"Sequence\", "
                                                    "\"normalizers\": []}, \"pre_tokenizer\": {\"type\": \"Sequence\", "
                                                    "\"pretokenizers\": [{\"type\": \"Digits\", \"individual_digits\": "
                                                    "true}, {\"type\": \"Split\", \"pattern\": {\"String\": "
                                                    "\"+\"}, \"behavior\": \"Isolated\"}, {\"type\": \"ByteLevel\", "
                                                    "\"add_prefix_space\": false, \"use_regex\": false}]}}");
    ml_tokenizer *t;
    assert_ok(ml_tokenizer_open(path, &t, &err));
    ml_ids ids = { 0 };
    assert_ok(ml_tokenizer_encode(t, "ab11+ab", 7, false, &ids, &err));
    static const int32_t wanted[] = { 2, 7, 7, 4, 2 };
    assert_int_equal(ids.n, 5);
    assert_memory_equal(ids.id, wanted, sizeof wanted);
    assert_int_equal(ml_tokenizer_vocab_size(t), 9);
    ml_ids_free(&ids);
    ml_tokenizer_free(t);
}

/* tiktoken ranks of the 256 bytes and more. */
static size_t byte_ranks(char *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t n = 0;
    for (int b = 0; b < 256; b++) n += (size_t)sprintf(out + n, "%c%c== %d\n", digits[b >> 2], digits[(b & 3) << 4], b);
    return n;
}

static void tiktoken_fails(const char *line, ml_status code, const char *part)
{
    char text[8192];
    size_t n = byte_ranks(text);
    snprintf(text + n, sizeof text - n, "%s", line);
    ml_tokenizer *t = NULL;
    assert_fails(
        ml_tokenizer_open_with(write_text("x.tiktoken", text), &(ml_tokenizer_extra){ .pattern = "gpt4" }, &t, &err),
        code, part);
}

static void tiktoken_names_the_line(void **state)
{
    (void)state;
    tiktoken_fails("YWI", ML_EFORMAT, "line 257");
    tiktoken_fails("YWI=", ML_EFORMAT, "line 257");
    tiktoken_fails("YWI= ", ML_EFORMAT, "line 257");
    tiktoken_fails("YWI= x", ML_EFORMAT, "line 257");
    tiktoken_fails("YW?= 256", ML_EFORMAT, "base64");
    tiktoken_fails("Y=I= 256", ML_EFORMAT, "base64");
    tiktoken_fails("==== 256", ML_EFORMAT, "base64");
    tiktoken_fails(" 256", ML_EFORMAT, "base64");
    tiktoken_fails("YWI= -1", ML_EFORMAT, "rank");
    tiktoken_fails("YWI= 99999999999", ML_EFORMAT, "rank");
    tiktoken_fails("YWI= 4294967296", ML_EFORMAT, "4294967296");
    tiktoken_fails("YWI= 255", ML_EFORMAT, "twice");
    tiktoken_fails("YWI= 256\nYWI= 257", ML_EFORMAT, "same bytes");
    const char *path = write_text("x.tiktoken", "YQ== 0\nYg== 1\n");
    ml_tokenizer *t = NULL;
    ml_tokenizer_extra extra = { .pattern = "gpt4" };
    assert_fails(ml_tokenizer_open_with(path, &extra, &t, &err), ML_EFORMAT, "0x00");
    fails(write_text("x.tiktoken", "\n\n"), ML_EFORMAT, "no ranks");
    fails(write_bytes("x.tiktoken", "\0\x89PNG\n", 6), ML_EFORMAT, "x.tiktoken");
}

/* The merge of a token is what its bytes end with; a token nothing merges to is met only as a whole piece. */
static void tiktoken_ranks_and_stored_pattern(void **state)
{
    (void)state;
    char text[8192];
    size_t n = byte_ranks(text);
    /* ab 256, abab 257, xyz 258 (neither xy nor yz is a token); 259 is left out, as cl100k_base leaves one id out */
    snprintf(text + n, sizeof text - n, "YWI= 256\r\nYWJhYg== 257\neHl6 258");
    const char *path = write_text("x.tiktoken", text);
    fails(path, ML_EINVAL, "--pattern");
    write_text("tokenizer_config.json",
               "{\"split_pattern\": \"gpt2\", \"model_max_length\": 1000000000000000019884624838656, "
               "\"eos_token\": {\"content\": \"<end>\"}, \"added_tokens_decoder\": {\"260\": "
               "{\"content\": \"<end>\", \"special\": true}}}");
    path = write_text("x.tiktoken", text);
    ml_tokenizer *t;
    assert_ok(ml_tokenizer_open(path, &t, &err));
    assert_int_equal(ml_tokenizer_merge_count(t), 2);
    int32_t left, right, result;
    ml_tokenizer_merge(t, 1, &left, &right, &result);
    assert_int_equal(left, 256);
    assert_int_equal(right, 256);
    assert_int_equal(result, 257);
    assert_int_equal(ml_tokenizer_eos(t), 260);
    ml_ids ids = { 0 };
    assert_ok(ml_tokenizer_encode(t, "xyz xyz<end>", 12, true, &ids, &err));
    static const int32_t wanted[] = { 258, ' ', 'x', 'y', 'z', 260 };
    assert_int_equal(ids.n, 6);
    assert_memory_equal(ids.id, wanted, sizeof wanted);
    ml_ids_free(&ids);
    ml_tokenizer_free(t);
    assert_fails(ml_tokenizer_open_with(path, &(ml_tokenizer_extra){ .pattern = "gpt4" }, &t, &err), ML_EINVAL, "gpt2");
    write_text("tokenizer_config.json",
               "{\"added_tokens_decoder\": {\"x\": {\"content\": \"y\"}}, \"split_pattern\": \"gpt2\"}");
    fails(write_text("x.tiktoken", text), ML_EFORMAT, "added_tokens_decoder");
    write_text("tokenizer_config.json",
               "{\"added_tokens_decoder\": {\"1\": {\"content\": \"y\"}}, \"split_pattern\": \"gpt2\"}");
    fails(write_text("x.tiktoken", text), ML_EFORMAT, "twice");
}

static void gpt2_files_name_the_line(void **state)
{
    (void)state;
    write_text("encoder.json", "{\"a\": 0, \"b\": 1, \"ab\": 2, \"<end>\": 3}");
    write_text("vocab.bpe", "#version: 0.2\na b\n");
    ml_tokenizer *t;
    assert_ok(ml_tokenizer_open(folder, &t, &err));
    assert_int_equal(ml_tokenizer_find(t, "<end>"), 3);
    assert_int_equal(ml_tokenizer_merge_count(t), 1);
    ml_tokenizer_free(t);
    write_text("vocab.bpe", "#version: 0.2\na b\na\n");
    fails(folder, ML_EFORMAT, "line 3");
    write_text("vocab.bpe", "#version: 0.2\na c\n");
    fails(folder, ML_EFORMAT, "\"c\"");
    write_text("vocab.bpe", "a b\na b\n");
    fails(folder, ML_EFORMAT, "twice");
    write_text("vocab.bpe", "a b");
    write_text("encoder.json", "[1]");
    fails(folder, ML_EFORMAT, "vocabulary");
    write_text("encoder.json", "{\"a\": 0, \"b\": 1, \"ab\": 2}");
    write_text("tokenizer_config.json", "{\"tokenizer_class\": \"Qwen2Tokenizer\"}");
    fails(folder, ML_EINVAL, "tokenizer_class");
}

static void folders(void **state)
{
    (void)state;
    char path[ML_PATH_MAX];
    fails(folder, ML_EINVAL, "holds no tokenizer");
    fails("/nonexistent/tokenizer.json", ML_EIO, "/nonexistent");
    assert_ok(ml_path_join(path, folder, "step_000010", &err));
    assert_ok(ml_dir_make(path, &err));
    ml_tokenizer *t;
    assert_ok(ml_tokenizer_open(MOONLIGHT_SOURCE_DIR "/tests/golden/tokenizer_small.json", &t, &err));
    assert_ok(ml_tokenizer_save(t, path, &err));
    ml_tokenizer_free(t);
    fails(folder, ML_EINVAL, "holds no tokenizer");
    write_text("latest", "step_000010\n");
    assert_ok(ml_tokenizer_open(folder, &t, &err));
    ml_tokenizer_free(t);
}

/* Every truncation and many single-byte changes of a real file: an error or a tokenizer, and under the sanitizer
 * nothing else. */
static void damaged_files(void **state)
{
    (void)state;
    char *text, tiktoken[8192];
    size_t n;
    assert_ok(ml_file_read(MOONLIGHT_SOURCE_DIR "/tests/golden/tokenizer_small.json", &text, &n, &err));
    ml_rng rng = ml_rng_make(3, 3);
    ml_tokenizer *t = NULL;
    for (int k = 0; k < 150; k++) {
        fails(write_bytes("tokenizer.json", text, ml_rng_below(&rng, n - 2)), ML_EFORMAT, "tokenizer.json");
        size_t at = ml_rng_below(&rng, n);
        char kept = text[at];
        text[at] = (char)ml_rng_u32(&rng);
        if (ml_tokenizer_open(write_bytes("tokenizer.json", text, n), &t, &err) == ML_OK) ml_tokenizer_free(t);
        text[at] = kept;
    }
    ml_free(text);
    n = byte_ranks(tiktoken);
    for (int k = 0; k < 150; k++) {
        size_t at = ml_rng_below(&rng, n);
        ml_tokenizer_extra extra = { .pattern = "gpt2" };
        char kept = tiktoken[at];
        tiktoken[at] = (char)ml_rng_u32(&rng);
        if (ml_tokenizer_open_with(write_bytes("x.tiktoken", tiktoken, n), &extra, &t, &err) == ML_OK)
            ml_tokenizer_free(t);
        tiktoken[at] = kept;
        assert_int_not_equal(ml_tokenizer_open_with(write_bytes("x.tiktoken", tiktoken, at), &extra, &t, &err), ML_OK);
    }
}

/* Running out of memory at any allocation of opening and encoding is an ordinary error without a leak. */
static void out_of_memory(void **state)
{
    (void)state;
    char text[8192];
    size_t n = byte_ranks(text);
    snprintf(text + n, sizeof text - n, "YWI= 256\nYWJhYg== 257\n");
    const char *path = write_text("x.tiktoken", text);
    int64_t n_live = ml_alloc_get_stats().n_live;
    ml_tokenizer_extra extra = { .pattern = "gpt4" };
    bool done = false;
    int64_t n_failed = 0;
    for (; !done && n_failed < 10000; n_failed++) {
        ml_tokenizer *t = NULL;
        ml_ids ids = { 0 };
        ml_alloc_fail_after(n_failed);
        ml_status status = ml_tokenizer_open_with(path, &extra, &t, &err);
        if (status == ML_OK) {
            status = ml_tokenizer_encode(t, "abab abac \xC3\xA9 abacabac", 21, false, &ids, &err);
            ml_tokenizer_free(t);
        }
        ml_alloc_fail_after(-1);
        done = status == ML_OK;
        assert_true(done || status == ML_ENOMEM);
        ml_ids_free(&ids);
        assert_int_equal(ml_alloc_get_stats().n_live, n_live);
    }
    assert_true(done);
    assert_true(n_failed > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(tokenizer_json_names_the_key, set_up, tear_down),
        cmocka_unit_test_setup_teardown(pre_tokenizers_that_cannot_be_honoured, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_unusual_tokenizer_json, set_up, tear_down),
        cmocka_unit_test_setup_teardown(tiktoken_names_the_line, set_up, tear_down),
        cmocka_unit_test_setup_teardown(tiktoken_ranks_and_stored_pattern, set_up, tear_down),
        cmocka_unit_test_setup_teardown(gpt2_files_name_the_line, set_up, tear_down),
        cmocka_unit_test_setup_teardown(folders, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damaged_files, set_up, tear_down),
        cmocka_unit_test_setup_teardown(out_of_memory, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
