/* Encoding and decoding against published vectors and Hugging Face tokenizers (tests/golden/make_tokenizer.py). */
#include "support/support.h"

#include "base/alloc.h"
#include "base/json.h"
#include "base/rng.h"
#include "base/thread.h"
#include "token/build.h"
#include "token/tokenizer.h"

#include <stdlib.h>
#include <string.h>

static ml_error err;
#define GOLDEN MOONLIGHT_SOURCE_DIR "/tests/golden/"

static ml_tokenizer *open_tokenizer(const char *path)
{
    ml_tokenizer *t;
    assert_ok(ml_tokenizer_open(path, &t, &err));
    return t;
}

static void check_ids(const ml_tokenizer *t, const char *text, size_t n, bool parse_special, const json_t *wanted)
{
    ml_ids ids = { 0 };
    assert_ok(ml_tokenizer_encode(t, text, n, parse_special, &ids, &err));
    for (size_t i = 0; i < ids.n && i < json_array_size(wanted); i++) {
        if (ids.id[i] != json_integer_value(json_array_get(wanted, i))) {
            fail_msg("text \"%.*s\": id %zu is %d, expected %lld", (int)n, text, i, ids.id[i],
                     (long long)json_integer_value(json_array_get(wanted, i)));
        }
    }
    if (ids.n != json_array_size(wanted))
        fail_msg("text \"%.*s\": %zu ids, expected %zu", (int)n, text, ids.n, json_array_size(wanted));
    char *back;
    size_t n_back;
    assert_ok(ml_tokenizer_decode(t, ids.id, ids.n, false, &back, &n_back, &err));
    assert_int_equal(n_back, n);
    assert_memory_equal(back, text, n);
    ml_free(back);
    ml_ids_free(&ids);
}

static void ids_equal_hugging_face(void **state)
{
    (void)state;
    ml_tokenizer *t = open_tokenizer(GOLDEN "tokenizer_small.json");
    json_t *root, *cases;
    assert_ok(ml_json_load(GOLDEN "tokenizer_cases.json", &root, &err));
    assert_ok(ml_json_array(root, "cases", "golden", &cases, &err));
    assert_true(json_array_size(cases) > 20);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *one = json_array_get(cases, i);
        const char *text = json_string_value(json_object_get(one, "text"));
        check_ids(t, text, strlen(text), false, json_object_get(one, "ids"));
        check_ids(t, text, strlen(text), true, json_object_get(one, "ids_special"));
    }
    json_decref(root);
    ml_tokenizer_free(t);
}

static void properties_of_the_small_tokenizer(void **state)
{
    (void)state;
    ml_tokenizer *t = open_tokenizer(GOLDEN "tokenizer_small.json");
    assert_int_equal(ml_tokenizer_vocab_size(t), 421);
    assert_int_equal(ml_tokenizer_merge_count(t), 420 - 256 - 4);
    assert_string_equal(ml_tokenizer_pattern(t), "gpt2");
    assert_string_equal(ml_tokenizer_kind(t), "tokenizer.json");
    assert_int_equal(ml_tokenizer_find(t, "[EOS]"), 3);
    assert_int_equal(ml_tokenizer_find(t, "[EOS"), -1);
    assert_int_equal(ml_tokenizer_find(t, "the"), -1);
    assert_int_equal(ml_tokenizer_find(t, "<note>"), 420);
    assert_true(ml_tokenizer_is_special(t, 3));
    assert_false(ml_tokenizer_is_special(t, 420));
    assert_true(ml_tokenizer_is_added(t, 420));
    assert_false(ml_tokenizer_is_added(t, 4));
    assert_int_equal(ml_tokenizer_unk(t), 0);
    assert_int_equal(ml_tokenizer_bos(t), -1);
    size_t n;
    assert_memory_equal(ml_tokenizer_piece(t, 4, &n), "!", 1);
    assert_int_equal(n, 1);
    assert_null(ml_tokenizer_piece(t, 421, &n));
    assert_null(ml_tokenizer_piece(t, -1, &n));
    int32_t bad = 421;
    char *text;
    assert_fails(ml_tokenizer_decode(t, &bad, 1, false, &text, &n, &err), ML_EINVAL, "421");
    int32_t mixed[] = { 2, 4, 420, 3 };
    assert_ok(ml_tokenizer_decode(t, mixed, 4, true, &text, &n, &err));
    assert_string_equal(text, "!<note>");
    ml_free(text);
    ml_tokenizer_free(t);
}

/* Any bytes come back; invalid ones each as the token of the byte. */
static void any_bytes_round_trip(void **state)
{
    (void)state;
    ml_tokenizer *t = open_tokenizer(GOLDEN "tokenizer_small.json");
    ml_rng rng = ml_rng_make(1, 1);
    for (int k = 0; k < 3000; k++) {
        char bytes[256], *back;
        size_t n = k == 0 ? 256 : ml_rng_below(&rng, sizeof bytes), n_back;
        /* All bytes at first; then random ones, in which half are ASCII so that valid stretches occur. */
        for (size_t i = 0; i < n; i++) {
            uint32_t r = ml_rng_u32(&rng);
            bytes[i] = (char)(k == 0 ? i : r & 256 ? r & 127 : r & 255);
        }
        ml_ids ids = { 0 };
        assert_ok(ml_tokenizer_encode(t, bytes, n, k & 1, &ids, &err));
        assert_ok(ml_tokenizer_decode(t, ids.id, ids.n, false, &back, &n_back, &err));
        assert_int_equal(n_back, n);
        assert_memory_equal(back, bytes, n);
        ml_free(back);
        ml_ids_free(&ids);
    }
    ml_ids whole = { 0 }, parts = { 0 };
    assert_ok(ml_tokenizer_encode(t, "the\xFF\xE2\x82mill", 10, false, &whole, &err));
    assert_ok(ml_tokenizer_encode(t, "the", 3, false, &parts, &err));
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(ml_tokenizer_encode(t, &"\xFF\xE2\x82"[i], 1, false, &parts, &err), ML_OK);
    }
    assert_ok(ml_tokenizer_encode(t, "mill", 4, false, &parts, &err));
    assert_int_equal(whole.n, parts.n);
    assert_memory_equal(whole.id, parts.id, whole.n * sizeof *whole.id);
    ml_ids_free(&whole);
    ml_ids_free(&parts);
    ml_tokenizer_free(t);
}

static void streaming_holds_back_split_characters(void **state)
{
    (void)state;
    ml_tokenizer *t = open_tokenizer(GOLDEN "tokenizer_small.json");
    static const char text[] = "x \xF0\x9F\x9A\x80\xE6\xBC\xA2 \xC3\xA9";
    ml_ids ids = { 0 };
    assert_ok(ml_tokenizer_encode(t, text, sizeof text - 1, false, &ids, &err));
    assert_true(ids.n > 8); // the characters are split over tokens
    ml_detok d = { .replace_invalid = true };
    ml_chars out = { 0 };
    size_t n_pushes_with_output = 0;
    for (size_t i = 0; i < ids.n; i++) {
        size_t n_before = out.n;
        assert_ok(ml_detok_push(&d, t, ids.id[i], &out, &err));
        n_pushes_with_output += out.n > n_before;
        /* what is out so far ends in a whole character */
        assert_true(out.n == sizeof text - 1 || ((uint8_t)text[out.n] & 0xC0) != 0x80);
    }
    assert_true(n_pushes_with_output < ids.n);
    assert_ok(ml_detok_flush(&d, &out, &err));
    assert_int_equal(out.n, sizeof text - 1);
    assert_memory_equal(out.data, text, out.n);
    /* A sequence that breaks off is one U+FFFD, as in Python's errors="replace"; and raw bytes when asked. */
    static const char broken[] = "\xF0\x9F\x9A"
                                 "a\xE6\xE6\xBC\xFF\xC3",
                      replaced[] = "\xEF\xBF\xBD"
                                   "a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD";
    ids.n = 0;
    assert_ok(ml_tokenizer_encode(t, broken, sizeof broken - 1, false, &ids, &err));
    for (int replace = 0; replace < 2; replace++) {
        d = (ml_detok){ .replace_invalid = replace };
        out.n = 0;
        for (size_t i = 0; i < ids.n; i++) assert_ok(ml_detok_push(&d, t, ids.id[i], &out, &err));
        assert_ok(ml_detok_flush(&d, &out, &err));
        const char *wanted = replace ? replaced : broken;
        assert_int_equal(out.n, strlen(wanted));
        assert_memory_equal(out.data, wanted, out.n);
    }
    assert_fails(ml_detok_push(&d, t, 9999, &out, &err), ML_EINVAL, "9999");
    ml_chars_free(&out);
    ml_ids_free(&ids);
    ml_tokenizer_free(t);
}

/* Documents encoded together have the ids they have alone, however they are cut for threads. */
static void many_documents_equal_single_ones(void **state)
{
    (void)state;
    ml_tokenizer *t = open_tokenizer(GOLDEN "tokenizer_small.json");
    enum { N_DOCS = 40, LONG = 700 * 1024 };
    ml_text docs[N_DOCS];
    size_t offsets[N_DOCS + 1];
    char *text = ml_alloc(LONG);
    assert_non_null(text);
    ml_rng rng = ml_rng_make(2, 2);
    for (size_t i = 0; i < LONG; i++) text[i] = "abcxyz ABC012\n\n.,'\xC3\xA9"[ml_rng_below(&rng, 20)];
    for (size_t i = 0; i < N_DOCS; i++) {
        size_t n = i == 7 || i == N_DOCS - 1 ? LONG : ml_rng_below(&rng, 60000);
        if (i % 5 == 0) n = 0;
        docs[i] = (ml_text){ n ? text : NULL, n };
    }
    ml_ids many = { 0 }, one = { 0 };
    assert_ok(ml_ids_append(&many, (int32_t[]){ 5 }, 1, &err));
    ml_thread_set_count(3);
    assert_ok(ml_tokenizer_encode_many(t, docs, N_DOCS, false, &many, offsets, &err));
    ml_thread_set_count(0);
    assert_int_equal(many.id[0], 5);
    assert_int_equal(offsets[0], 1);
    for (size_t i = 0; i < N_DOCS; i++) {
        one.n = 0;
        assert_ok(ml_tokenizer_encode(t, docs[i].n_bytes ? docs[i].data : "", docs[i].n_bytes, false, &one, &err));
        assert_int_equal(offsets[i + 1] - offsets[i], one.n);
        if (one.n) assert_memory_equal(many.id + offsets[i], one.id, one.n * sizeof *one.id);
    }
    assert_int_equal(many.n, offsets[N_DOCS]);
    assert_ok(ml_tokenizer_encode_many(t, docs, 0, false, &many, offsets, &err));
    assert_int_equal(offsets[0], many.n);
    ml_ids_free(&many);
    ml_ids_free(&one);
    ml_free(text);
    ml_tokenizer_free(t);
}

/* A megabyte of one letter takes n log n, and gives what a short piece of it gives. */
static void a_long_piece_merges_like_a_short_one(void **state)
{
    (void)state;
    ml_tokenizer *t;
    assert_ok(ml_tokenizer_make("trained", &t, &err));
    for (int i = 0; i < 256; i++) assert_ok(ml_tokenizer_put_piece(t, i, &(uint8_t){ (uint8_t)i }, 1, 0, &err));
    assert_ok(ml_tokenizer_put_piece(t, 256, "aa", 2, 0, &err));
    assert_ok(ml_tokenizer_put_piece(t, 257, "aaaa", 4, 0, &err));
    assert_ok(ml_tokenizer_put_merge(t, 'a', 'a', 256, &err));
    assert_ok(ml_tokenizer_put_merge(t, 256, 256, 257, &err));
    assert_ok(ml_tokenizer_put_split(t, "gpt2", &err));
    assert_ok(ml_tokenizer_finish(t, &err));
    enum { N = 1 << 20 };
    char *text = ml_alloc(N);
    assert_non_null(text);
    memset(text, 'a', N);
    static const size_t sizes[] = { 1, 2, 3, 7, 47, 48, 49, 50, 51, 1000, 1003, N };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        ml_ids ids = { 0 };
        assert_ok(ml_tokenizer_encode(t, text, sizes[i], false, &ids, &err));
        size_t fours = sizes[i] / 4, k = 0; // leftmost first: fours, then maybe a two, then maybe a one
        for (; k < fours; k++) assert_int_equal(ids.id[k], 257);
        if (sizes[i] & 2) assert_int_equal(ids.id[k++], 256);
        if (sizes[i] & 1) assert_int_equal(ids.id[k++], 'a');
        assert_int_equal(ids.n, k);
        ml_ids_free(&ids);
    }
    ml_free(text);
    ml_tokenizer_free(t);
}

static void unknown_bytes(void **state)
{
    (void)state;
    ml_ids ids = { 0 };
    for (int fuse = 0; fuse < 2; fuse++) {
        ml_tokenizer *t;
        assert_ok(ml_tokenizer_make("trained", &t, &err));
        assert_ok(ml_tokenizer_put_piece(t, 0, "a", 1, 0, &err));
        assert_ok(ml_tokenizer_put_piece(t, 2, "?", 1, 0, &err));
        ml_tokenizer_set_fuse_unk(t, fuse);
        if (fuse) ml_tokenizer_set_role(t, ML_ROLE_UNK, 2);
        assert_ok(ml_tokenizer_finish(t, &err));
        if (!fuse) {
            assert_fails(ml_tokenizer_encode(t, "aab", 3, false, &ids, &err), ML_EINVAL, "0x62");
            assert_int_equal(ids.n, 0);
        } else {
            assert_ok(ml_tokenizer_encode(t, "abba", 4, false, &ids, &err));
            assert_int_equal(ids.n, 3);
            assert_int_equal(ids.id[1], 2);
        }
        size_t n;
        assert_null(ml_tokenizer_piece(t, 1, &n)); // a hole in the ids
        ml_tokenizer_free(t);
    }
    ml_ids_free(&ids);
}

/* Save, open again: the same vocabulary, roles, pattern and ids. */
static void check_saved(const ml_tokenizer *t, const char *text, size_t n)
{
    const char *folder = test_make_folder();
    assert_ok(ml_tokenizer_save(t, folder, &err));
    ml_tokenizer *again = open_tokenizer(folder);
    assert_string_equal(ml_tokenizer_fingerprint(t), ml_tokenizer_fingerprint(again));
    assert_string_equal(ml_tokenizer_pattern(t), ml_tokenizer_pattern(again));
    assert_int_equal(ml_tokenizer_bos(t), ml_tokenizer_bos(again));
    assert_int_equal(ml_tokenizer_eos(t), ml_tokenizer_eos(again));
    assert_int_equal(ml_tokenizer_unk(t), ml_tokenizer_unk(again));
    assert_int_equal(ml_tokenizer_pad(t), ml_tokenizer_pad(again));
    assert_int_equal(ml_tokenizer_merge_count(t), ml_tokenizer_merge_count(again));
    for (int32_t id = 0; id < ml_tokenizer_vocab_size(t); id++) {
        assert_int_equal(ml_tokenizer_is_special(t, id), ml_tokenizer_is_special(again, id));
    }
    ml_ids a = { 0 }, b = { 0 };
    assert_ok(ml_tokenizer_encode(t, text, n, true, &a, &err));
    assert_ok(ml_tokenizer_encode(again, text, n, true, &b, &err));
    assert_int_equal(a.n, b.n);
    assert_memory_equal(a.id, b.id, a.n * sizeof *a.id);
    ml_ids_free(&a);
    ml_ids_free(&b);
    ml_tokenizer_free(again);
    test_remove_folder(folder);
}

static void saved_tokenizer_is_the_same(void **state)
{
    (void)state;
    ml_tokenizer *t = open_tokenizer(GOLDEN "tokenizer_small.json");
    static const char text[] = "[BOS]the miller's stones<note>\n\n 42[EOS]";
    check_saved(t, text, sizeof text - 1);
    ml_tokenizer_free(t);
}

/* -- the real vocabularies ------------------------------------------------------------------------ */

static char *read_data(const char *name, size_t *n)
{
    char *text;
    assert_ok(ml_file_read(test_data_path(name), &text, n, &err));
    return text;
}

static size_t count_ids(const ml_tokenizer *t, const char *name)
{
    size_t n;
    char *text = read_data(name, &n);
    ml_ids ids = { 0 };
    assert_ok(ml_tokenizer_encode(t, text, n, false, &ids, &err));
    size_t n_ids = ids.n;
    ml_ids_free(&ids);
    ml_free(text);
    return n_ids;
}

static void check_golden_text(const ml_tokenizer *t, const char *name)
{
    json_t *root;
    assert_ok(ml_json_load(test_data_path(name), &root, &err));
    const char *text = json_string_value(json_object_get(root, "text"));
    check_ids(t, text, strlen(text), false, json_object_get(root, "ids"));
    json_decref(root);
}

/* Cases split by a line, ids one line each. */
static void gpt2_vectors(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("gpt2");
    ml_tokenizer *t = open_tokenizer(test_data_path("gpt2"));
    size_t n, n_cases = 0;
    char *input = read_data("tokvec/ggml-vocab-gpt-2.gguf.inp", &n),
         *ids_text = read_data("tokvec/ggml-vocab-gpt-2.gguf.out", &n);
    static const char separator[] = "\n__ggml_vocab_test__\n";
    char *line = ids_text;
    for (char *at = input, *end; at && *line; at = end ? end + sizeof separator - 1 : NULL) {
        end = strstr(at, separator);
        size_t n_text = end ? (size_t)(end - at) : strlen(at);
        json_t *ids = json_array();
        for (;; line++) {
            if (*line == '\n' || !*line) break;
            if (*line == ' ') continue;
            json_array_append_new(ids, json_integer(strtol(line, &line, 10)));
            line--;
        }
        if (*line) line++;
        check_ids(t, at, n_text, false, ids);
        json_decref(ids);
        n_cases++;
    }
    assert_int_equal(n_cases, 46);
    check_golden_text(t, "gpt2/chktxt_golden.json");
    assert_int_equal(count_ids(t, "text/tinyshakespeare.txt"), 338025);
    assert_int_equal(count_ids(t, "text/tinystories_2MiB.txt"), 523038);
    assert_int_equal(ml_tokenizer_find(t, "<|endoftext|>"), 50256);
    assert_int_equal(ml_tokenizer_eos(t), 50256);
    static const char special[] = "a<|endoftext|>b";
    check_saved(t, special, sizeof special - 1);
    ml_free(input);
    ml_free(ids_text);
    ml_tokenizer_free(t);
}

/* The ids of spec/moonlight-moe-130m: three turns behind the vocabulary. */
static void gpt2_with_added_turns(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("gpt2");
    static const char *const added[] = { "<|system|>", "<|user|>", "<|assistant|>" };
    ml_tokenizer *t;
    assert_ok(ml_tokenizer_open_with(test_data_path("gpt2/vocab.bpe"),
                                     &(ml_tokenizer_extra){ .added = added, .n_added = 3 }, &t, &err));
    assert_int_equal(ml_tokenizer_vocab_size(t), 50260);
    ml_ids ids = { 0 };
    assert_ok(ml_tokenizer_encode(t, "<|user|>Hi<|assistant|>", 23, true, &ids, &err));
    assert_int_equal(ids.n, 3);
    assert_int_equal(ids.id[0], 50258);
    assert_int_equal(ids.id[2], 50259);
    ids.n = 0;
    assert_ok(ml_tokenizer_encode(t, "<|user|>", 8, false, &ids, &err));
    assert_true(ids.n > 1);
    check_saved(t, "<|system|>x", 11);
    ml_ids_free(&ids);
    ml_tokenizer_free(t);
    assert_fails(ml_tokenizer_open_with(test_data_path("gpt2"), &(ml_tokenizer_extra){ .pattern = "gpt4" }, &t, &err),
                 ML_EINVAL, "gpt2");
}

static void moonlight_vectors(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("kimi");
    ml_tokenizer *t = open_tokenizer(test_data_path("kimi"));
    size_t n, n_cases = 0;
    char *lines = read_data("kimi/vectors.jsonl", &n);
    for (char *at = lines; *at;) {
        size_t length = strcspn(at, "\n");
        json_t *one;
        assert_ok(ml_json_parse(at, length, "vectors.jsonl", &one, &err));
        const json_t *text = json_object_get(one, "text");
        check_ids(t, json_string_value(text), json_string_length(text), false, json_object_get(one, "ids"));
        json_decref(one);
        at += length + (at[length] != 0);
        n_cases++;
    }
    assert_true(n_cases > 20);
    check_golden_text(t, "kimi/chktxt_golden.json");
    assert_int_equal(count_ids(t, "text/tinyshakespeare.txt"), 302215);
    assert_int_equal(count_ids(t, "text/tinystories_2MiB.txt"), 501387);
    assert_int_equal(ml_tokenizer_vocab_size(t), 163840);
    assert_int_equal(ml_tokenizer_bos(t), 163584);
    assert_int_equal(ml_tokenizer_eos(t), 163585);
    assert_int_equal(ml_tokenizer_unk(t), 163838);
    assert_int_equal(ml_tokenizer_pad(t), 163839);
    assert_int_equal(ml_tokenizer_find(t, "<|im_middle|>"), 163601);
    assert_int_equal(ml_tokenizer_find(t, "<|reserved_token_163837|>"), 163837);
    assert_true(ml_tokenizer_is_special(t, 163586));
    assert_false(ml_tokenizer_is_special(t, 163595)); // tool tokens are added, but shown
    assert_non_null(strstr(ml_tokenizer_chat_template(t), "<|im_middle|>"));
    static const char turn[] = "<|im_user|>user<|im_middle|>Is 123 a prime?<|im_end|>";
    ml_ids ids = { 0 };
    assert_ok(ml_tokenizer_encode(t, turn, sizeof turn - 1, true, &ids, &err));
    assert_int_equal(ids.id[0], 163587);
    assert_int_equal(ids.id[ids.n - 1], 163586);
    ids.n = 0;
    assert_ok(ml_tokenizer_encode(t, turn, sizeof turn - 1, false, &ids, &err));
    for (size_t i = 0; i < ids.n; i++) assert_true(ids.id[i] < 163584);
    ml_ids_free(&ids);
    check_saved(t, turn, sizeof turn - 1);
    ml_free(lines);
    ml_tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_equal_hugging_face),
        cmocka_unit_test(properties_of_the_small_tokenizer),
        cmocka_unit_test(any_bytes_round_trip),
        cmocka_unit_test(streaming_holds_back_split_characters),
        cmocka_unit_test(many_documents_equal_single_ones),
        cmocka_unit_test(a_long_piece_merges_like_a_short_one),
        cmocka_unit_test(unknown_bytes),
        cmocka_unit_test(saved_tokenizer_is_the_same),
        cmocka_unit_test(gpt2_vectors),
        cmocka_unit_test(gpt2_with_added_turns),
        cmocka_unit_test(moonlight_vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
