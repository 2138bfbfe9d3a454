/* Tokenizers inside GGUF files: SentencePiece BPE and byte-level BPE, read, used and written. */
#include "base/alloc.h"
#include "format/gguf_tokenizer.h"
#include "support/support.h"
#include "token/build.h"

#include <stdlib.h>
#include <string.h>

static ml_error err;

static void expect_ids(const ml_tokenizer *t, const char *text, bool special, const int32_t *id, size_t n)
{
    ml_ids ids = { 0 };
    assert_ok(ml_tokenizer_encode(t, text, strlen(text), special, &ids, &err));
    if (ids.n != n) fail_msg("\"%s\" has %zu ids, expected %zu", text, ids.n, n);
    for (size_t i = 0; i < n; i++) {
        if (ids.id[i] != id[i]) fail_msg("\"%s\": id %zu is %d, expected %d", text, i, ids.id[i], id[i]);
    }
    char *back;
    size_t n_back;
    assert_ok(ml_tokenizer_decode(t, ids.id, ids.n, false, &back, &n_back, &err));
    assert_int_equal(n_back, strlen(text));
    assert_memory_equal(back, text, n_back);
    ml_free(back);
    ml_ids_free(&ids);
}

#define EXPECT(t, text, special, ...)                                                                                  \
    do {                                                                                                               \
        const int32_t expected[] = { __VA_ARGS__ };                                                                    \
        expect_ids(t, text, special, expected, sizeof expected / sizeof *expected);                                    \
    } while (0)

/* A vocabulary small enough to join by hand.  Ids 3 .. 258 are the bytes. */
enum { BYTE0 = 3, PIECE0 = 259, N_PIECE = 10, N_SCORED = PIECE0 + N_PIECE };
static const struct {
    const char *text;
    float score;
} pieces[N_PIECE] = { { "\xE2\x96\x81", -1 },
                      { "a", -2 },
                      { "b", -3 },
                      { "c", -4 },
                      { "ab", -6 },
                      { "bc", -5 },
                      { "abc", -9 },
                      { "\xE2\x96\x81"
                        "a",
                        -7 },
                      { "aa", -5 },
                      { "\xE2\x96\x81\xE2\x96\x81", -8 } };

static void put_scored_vocabulary(ml_gguf_writer *w, const char *scores_key)
{
    float scores[N_SCORED] = { 0 };
    int32_t types[N_SCORED];
    assert_ok(ml_gguf_writer_set_text(w, "tokenizer.ggml.model", "llama", &err));
    assert_ok(ml_gguf_writer_set_texts(w, "tokenizer.ggml.tokens", N_SCORED, &err));
    for (int id = 0; id < N_SCORED; id++) {
        static const char *const special[BYTE0] = { "<unk>", "<s>", "</s>" };
        char byte[16];
        snprintf(byte, sizeof byte, "<0x%02X>", (unsigned)(id - BYTE0) & 0xff);
        const char *text = id < BYTE0 ? special[id] : id < PIECE0 ? byte : pieces[id - PIECE0].text;
        assert_ok(ml_gguf_writer_add_text(w, text, strlen(text), &err));
        types[id] = id == 0 ? 2 : id < BYTE0 ? 3 : id < PIECE0 ? 6 : 1;
        if (id >= PIECE0) scores[id] = pieces[id - PIECE0].score;
    }
    assert_ok(ml_gguf_writer_set_array(w, scores_key, ML_GGUF_F32, scores, N_SCORED, &err));
    assert_ok(ml_gguf_writer_set_array(w, "tokenizer.ggml.token_type", ML_GGUF_I32, types, N_SCORED, &err));
    assert_ok(ml_gguf_writer_set_u32(w, "tokenizer.ggml.unknown_token_id", 0, &err));
    assert_ok(ml_gguf_writer_set_u32(w, "tokenizer.ggml.bos_token_id", 1, &err));
    assert_ok(ml_gguf_writer_set_u32(w, "tokenizer.ggml.eos_token_id", 2, &err));
    assert_ok(ml_gguf_writer_set_u32(w, "tokenizer.ggml.padding_token_id", UINT32_MAX, &err));
}

typedef void (*fill_fn)(ml_gguf_writer *w);

/* What `fill` writes, opened as a tokenizer; its bytes too when image is not NULL (free with ml_free). */
static ml_status open_written(fill_fn fill, ml_tokenizer **out, char **image, size_t *n)
{
    char folder[ML_PATH_MAX], path[ML_PATH_MAX];
    ml_gguf_writer *w;
    strcpy(folder, test_make_folder());
    assert_ok(ml_path_join(path, folder, "t.gguf", &err));
    assert_ok(ml_gguf_writer_begin(&w, path, &err));
    fill(w);
    assert_ok(ml_gguf_writer_start(w, &err));
    assert_ok(ml_gguf_writer_end(w, &err));
    ml_gguf_writer_free(w);
    if (image) assert_ok(ml_file_read(path, image, n, &err));
    ml_status status = ml_gguf_tokenizer_open(path, out, &err);
    test_remove_folder(folder);
    return status;
}

static void fill_scored(ml_gguf_writer *w)
{
    put_scored_vocabulary(w, "tokenizer.ggml.scores");
    assert_ok(ml_gguf_writer_set_text(w, "tokenizer.chat_template", "{{ x }}", &err));
}

static void fill_scored_bare(ml_gguf_writer *w)
{
    put_scored_vocabulary(w, "tokenizer.ggml.scores");
    assert_ok(ml_gguf_writer_set_bool(w, "tokenizer.ggml.add_space_prefix", false, &err));
    assert_ok(ml_gguf_writer_set_bool(w, "tokenizer.ggml.add_bos_token", false, &err));
}

static void test_scored_by_hand(void **state)
{
    (void)state;
    enum { SPACE = PIECE0, A, B, C, AB, BC, ABC, SPACE_A, AA, SPACE2 };
    ml_tokenizer *t;
    assert_ok(open_written(fill_scored, &t, NULL, NULL));
    assert_string_equal(ml_tokenizer_kind(t), "sentencepiece");
    assert_true(ml_tokenizer_bos(t) == 1 && ml_tokenizer_eos(t) == 2 && ml_tokenizer_unk(t) == 0);
    assert_true(ml_tokenizer_pad(t) == -1 && ml_tokenizer_add_bos(t) && ml_tokenizer_space_prefix(t));
    assert_true(ml_tokenizer_vocab_size(t) == N_SCORED && ml_tokenizer_is_special(t, 1));
    assert_string_equal(ml_tokenizer_chat_template(t), "{{ x }}");
    expect_ids(t, "", true, NULL, 0);
    EXPECT(t, "b", false, SPACE, B);
    EXPECT(t, "abc", false, SPACE_A, BC);  /* bc (-5) before ab (-6); then " a" (-7) before a + bc (-9) */
    EXPECT(t, "aaa", false, SPACE, AA, A); /* of two equal pairs the left, which leaves " a" apart */
    EXPECT(t, "ba", false, SPACE, B, A);   /* "ba" is no piece */
    EXPECT(t, " b", false, SPACE2, B);     /* the prefix and the text's own */
    EXPECT(t, "  b", false, SPACE2, SPACE, B);
    EXPECT(t, "d\n", false, SPACE, BYTE0 + 'd', BYTE0 + '\n');
    EXPECT(t, "\xC3\xA9", false, SPACE, BYTE0 + 0xC3, BYTE0 + 0xA9);
    EXPECT(t,
           "\xFF"
           "b",
           false, SPACE, BYTE0 + 0xFF, B);
    EXPECT(t, "<s>b", true, 1, SPACE, B); /* a prefix behind each special token */
    EXPECT(t, "b<s>b", true, SPACE, B, 1, SPACE, B);
    EXPECT(t, "<s>", false, SPACE, BYTE0 + '<', BYTE0 + 's', BYTE0 + '>'); /* text forges no control token */
    ml_tokenizer_free(t);

    assert_ok(open_written(fill_scored_bare, &t, NULL, NULL));
    assert_false(ml_tokenizer_add_bos(t) || ml_tokenizer_space_prefix(t));
    EXPECT(t, "abc", false, ABC);
    EXPECT(t, " a", false, SPACE_A);
    ml_detok d = { 0 };
    ml_chars out = { 0 };
    const int32_t euro[] = { SPACE_A, BYTE0 + 0xE2, BYTE0 + 0x82, BYTE0 + 0xAC };
    for (int i = 0; i < 4; i++) {
        assert_ok(ml_detok_push(&d, t, euro[i], &out, &err));
        assert_int_equal(out.n, i < 3 ? 2 : 5);
    }
    assert_memory_equal(out.data, " a\xE2\x82\xAC", 5);
    ml_chars_free(&out);
    ml_tokenizer_free(t);
}

static void expect_same(const ml_tokenizer *a, const ml_tokenizer *b, const char *text)
{
    ml_ids x = { 0 }, y = { 0 };
    assert_ok(ml_tokenizer_encode(a, text, strlen(text), true, &x, &err));
    assert_ok(ml_tokenizer_encode(b, text, strlen(text), true, &y, &err));
    assert_int_equal(x.n, y.n);
    assert_memory_equal(x.id, y.id, x.n * sizeof *x.id);
    ml_ids_free(&x);
    ml_ids_free(&y);
}

/* Ids from llama2.c's greedy algorithm, written anew in Python over tok512.bin, the same vocabulary in its own format.
 */
static void test_scored_published(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("models/stories260K.gguf");
    ml_tokenizer *t;
    char *text;
    size_t n;
    assert_ok(ml_gguf_tokenizer_open(test_data_path("models/stories260K.gguf"), &t, &err));
    assert_int_equal(ml_tokenizer_vocab_size(t), 512);
    EXPECT(t, "Once upon a time, there was a little girl named Lily.", false, 403, 407, 261, 378, 432, 383, 286, 261,
           376, 298, 315, 421, 395, 317, 426);
    EXPECT(t, "  two  spaces\n\ttab", false, 410, 410, 259, 424, 414, 410, 262, 427, 412, 331, 419, 13, 12, 413, 412,
           430);
    EXPECT(t, "Zo\xC3\xAB's caf\xC3\xA9 \xE2\x80\x93 20\xE2\x82\xAC \xF0\x9F\x98\x80", false, 410, 469, 414, 198, 174,
           439, 419, 280, 412, 431, 485, 410, 476, 410, 479, 477, 503, 410, 243, 162, 155, 131);
    EXPECT(t, "aaaaaaaaab", false, 261, 412, 412, 412, 412, 412, 412, 412, 412, 430);
    EXPECT(t, "<s>", false, 410, 504, 419, 505);
    EXPECT(t, "hello", false, 281, 306, 414);
    assert_ok(ml_file_read(test_data_path("models/stories260K_greedy200.txt"), &text, &n, &err));
    ml_ids ids = { 0 };
    assert_ok(ml_tokenizer_encode(t, text, n, false, &ids, &err));
    assert_int_equal(ids.n, 201); /* the model's 200 and the file's last line feed */
    int64_t sum = 0;
    for (size_t i = 0; i < ids.n; i++) sum += (int64_t)(i + 1) * ids.id[i];
    assert_int_equal(sum, 7146048);
    char *back;
    size_t n_back;
    assert_ok(ml_tokenizer_decode(t, ids.id, ids.n, true, &back, &n_back, &err));
    assert_int_equal(n_back, n);
    assert_memory_equal(back, text, n);
    ml_free(back);
    ml_free(text);
    ml_ids_free(&ids);
    ml_tokenizer *other;
    assert_ok(ml_tokenizer_open(test_data_path("models/tok512.bin"), &other, &err));
    assert_string_equal(ml_tokenizer_kind(other), "llama2.c");
    assert_string_equal(ml_tokenizer_fingerprint(other), ml_tokenizer_fingerprint(t));
    for (int32_t id = 0; id < 512; id++) {
        assert_true(ml_tokenizer_score(other, id) == ml_tokenizer_score(t, id));
        assert_int_equal(ml_tokenizer_is_special(other, id), ml_tokenizer_is_special(t, id));
        assert_int_equal(ml_tokenizer_byte(other, id), ml_tokenizer_byte(t, id));
    }
    expect_same(t, other, "Once upon a time<s> caf\xC3\xA9");
    ml_tokenizer_free(other);
    ml_tokenizer_free(t);
}

/* llama2.c's own file, put together here: a longest length, then score, length and bytes of each token. */
static void test_llama2_file(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX], path[ML_PATH_MAX];
    uint8_t file[4096] = { 3 };
    size_t n = 4;
    for (int id = 0; id < N_SCORED; id++) {
        const float score = id < PIECE0 ? 0 : pieces[id - PIECE0].score;
        static const char *const plain[N_PIECE] = { " ", "a", "b", "c", "ab", "bc", "abc", " a", "aa", "  " };
        const char *text = id < PIECE0 ? "x" : plain[id - PIECE0];
        memcpy(file + n, &score, 4);
        file[n + 4] = (uint8_t)strlen(text);
        memcpy(file + n + 8, text, strlen(text));
        n += 8 + strlen(text);
    }
    strcpy(folder, test_make_folder());
    assert_ok(ml_path_join(path, folder, "tokenizer.bin", &err));
    ml_tokenizer *a, *b;
    assert_ok(ml_file_replace(path, file, n, &err));
    assert_ok(ml_tokenizer_open(path, &a, &err));
    assert_ok(open_written(fill_scored, &b, NULL, NULL));
    assert_string_equal(ml_tokenizer_fingerprint(a), ml_tokenizer_fingerprint(b));
    expect_same(a, b, "abc aa  b<s>\xFF ba");
    assert_fails(ml_tokenizer_save(a, folder, &err), ML_EINVAL, "another token has the same score"); /* aa, bc */
    const ml_tokenizer_extra extra = { .pattern = "gpt2" };
    ml_tokenizer *none = NULL;
    assert_fails(ml_tokenizer_open_with(path, &extra, &none, &err), ML_EINVAL, "its text is not split");
    ml_tokenizer_free(a);
    ml_tokenizer_free(b);
    assert_ok(ml_file_replace(path, file, n - 1, &err));
    assert_fails(ml_tokenizer_open(path, &a, &err), ML_EFORMAT, "token 268, offset");
    assert_ok(ml_file_replace(path, file, 4 + 9 * 3, &err));
    assert_fails(ml_tokenizer_open(path, &a, &err), ML_EFORMAT, "expected more than 259 tokens, found 3");
    test_remove_folder(folder);
}

/* Joining takes no quadratic time, and gives the text back, whatever the text. */
static void test_scored_long(void **state)
{
    (void)state;
    enum { N = 1 << 18 };
    ml_tokenizer *t;
    ml_ids ids = { 0 };
    char *text = ml_alloc(N), *back;
    size_t n_back;
    uint32_t x = 1;
    for (size_t i = 0; i < N; i++) {
        x = x * 1664525u + 1013904223u;
        text[i] = i < N / 2 ? 'a' : "abc \xE2\x82"[(x >> 16) % 6];
    }
    assert_ok(open_written(fill_scored, &t, NULL, NULL));
    assert_ok(ml_tokenizer_encode(t, text, N, false, &ids, &err));
    assert_int_equal(ids.id[1], PIECE0 + 8); /* aa */
    assert_ok(ml_tokenizer_decode(t, ids.id, ids.n, false, &back, &n_back, &err));
    assert_int_equal(n_back, N);
    assert_memory_equal(back, text, N);
    ml_free(back);
    ml_free(text);
    ml_ids_free(&ids);
    ml_tokenizer_free(t);
}

static const ml_tokenizer *source; /* of fill_copy */

static void fill_copy(ml_gguf_writer *w)
{
    assert_ok(ml_gguf_put_tokenizer(w, source, ml_tokenizer_vocab_size(source) + 3, &err));
}

static const char mixed_text[] =
    "The cat's 12345 caf\xC3\xA9s  cost\n\n\t\xE4\xBD\xA0\xE5\xA5\xBD<|im_end|><|endoftext|> 1+1=2, don't!";

static void check_copy(const char *path)
{
    ml_tokenizer *from, *to;
    assert_ok(ml_tokenizer_open(path, &from, &err));
    source = from;
    assert_ok(open_written(fill_copy, &to, NULL, NULL));
    assert_int_equal(ml_tokenizer_vocab_size(to), ml_tokenizer_vocab_size(from) + 3);
    assert_int_equal(ml_tokenizer_bos(to), ml_tokenizer_bos(from));
    assert_int_equal(ml_tokenizer_eos(to), ml_tokenizer_eos(from));
    assert_int_equal(ml_tokenizer_merge_count(to), ml_tokenizer_merge_count(from));
    for (int32_t id = 0; id < ml_tokenizer_vocab_size(from); id++) {
        size_t n, m;
        const char *p = ml_tokenizer_piece(from, id, &n), *q = ml_tokenizer_piece(to, id, &m);
        if (!p) continue;
        assert_int_equal(n, m);
        assert_memory_equal(p, q, n);
        assert_int_equal(ml_tokenizer_is_special(from, id), ml_tokenizer_is_special(to, id));
        assert_int_equal(ml_tokenizer_is_added(from, id), ml_tokenizer_is_added(to, id));
    }
    expect_same(from, to, mixed_text);
    ml_tokenizer_free(from);
    ml_tokenizer_free(to);
}

static void test_bpe_copies(void **state)
{
    (void)state;
    check_copy(MOONLIGHT_SOURCE_DIR "/tests/fixtures/byte_tokenizer");
    SKIP_WITHOUT_DATA("gpt2/encoder.json");
    check_copy(test_data_path("gpt2"));
    check_copy(test_data_path("kimi"));
}

static void test_scored_copies(void **state)
{
    (void)state;
    ml_tokenizer *from, *to;
    assert_ok(open_written(fill_scored, &from, NULL, NULL));
    source = from;
    assert_ok(open_written(fill_copy, &to, NULL, NULL));
    expect_same(from, to, "abc  aa d<s>\xC3\xA9 ba");
    assert_true(ml_tokenizer_score(to, PIECE0 + 5) == -5 && ml_tokenizer_unk(to) == 0);
    ml_tokenizer_free(from);
    ml_tokenizer_free(to);
}

/* Llama's vocabulary scores its runs of spaces alike, below all else: a run grows from its left end.  The expected ids
 * follow from that rule, and hold for the scores, for the merges written instead, and for scores made of those. */
static void fill_runs(ml_gguf_writer *w)
{
    static const char *const texts[] = { "<unk>",
                                         "<s>",
                                         "\xE2\x96\x81",
                                         "a",
                                         "\xE2\x96\x81\xE2\x96\x81",
                                         "\xE2\x96\x81\xE2\x96\x81\xE2\x96\x81",
                                         "\xE2\x96\x81\xE2\x96\x81\xE2\x96\x81\xE2\x96\x81\xE2\x96\x81",
                                         "\xE2\x96\x81"
                                         "a",
                                         "aa",
                                         "\xE2\x96\x81\xE2\x96\x81\xE2\x96\x81\xE2\x96\x81" };
    enum { N = sizeof texts / sizeof texts[0] };
    const float scores[N] = { 0, 0, -20, -21, -1e9f, -1e9f, -1e9f, -2, -1, -1e9f };
    const int32_t types[N] = { 2, 3, 1, 1, 1, 1, 1, 1, 1, 1 };
    assert_ok(ml_gguf_writer_set_text(w, "tokenizer.ggml.model", "llama", &err));
    assert_ok(ml_gguf_writer_set_texts(w, "tokenizer.ggml.tokens", N, &err));
    for (int i = 0; i < N; i++) assert_ok(ml_gguf_writer_add_text(w, texts[i], strlen(texts[i]), &err));
    assert_ok(ml_gguf_writer_set_array(w, "tokenizer.ggml.scores", ML_GGUF_F32, scores, N, &err));
    assert_ok(ml_gguf_writer_set_array(w, "tokenizer.ggml.token_type", ML_GGUF_I32, types, N, &err));
    assert_ok(ml_gguf_writer_set_u32(w, "tokenizer.ggml.unknown_token_id", 0, &err));
    assert_ok(ml_gguf_writer_set_u32(w, "tokenizer.ggml.bos_token_id", 1, &err));
    assert_ok(ml_gguf_writer_set_bool(w, "tokenizer.ggml.add_space_prefix", false, &err));
}

static void check_runs(const ml_tokenizer *t)
{
    enum { SPACE = 2, A, SPACE2, SPACE3, SPACE5, SPACE_A, AA, SPACE4 };
    assert_true(ml_tokenizer_is_scored(t));
    EXPECT(t, "  ", false, SPACE2);
    EXPECT(t, "    ", false, SPACE4);
    EXPECT(t, "      ", false, SPACE5, SPACE);
    EXPECT(t, "        ", false, SPACE5, SPACE3);
    EXPECT(t, "   a", false, SPACE2, SPACE_A);
    EXPECT(t, "  aaa  aa", false, SPACE2, AA, A, SPACE2, AA);
    EXPECT(t, "a             a", false, A, SPACE5, SPACE5, SPACE2, SPACE_A);
}

static void test_runs_of_equal_score(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX];
    ml_tokenizer *scored, *merged, *again;
    assert_ok(open_written(fill_runs, &scored, NULL, NULL));
    check_runs(scored);
    strcpy(folder, test_make_folder());
    assert_ok(ml_tokenizer_save(scored, folder, &err));
    assert_ok(ml_tokenizer_open(folder, &merged, &err));
    assert_true(ml_tokenizer_merge_count(merged) > 0);
    check_runs(merged);
    source = merged;
    assert_ok(open_written(fill_copy, &again, NULL, NULL));
    assert_int_equal(ml_tokenizer_merge_count(again), 0);
    check_runs(again);
    ml_tokenizer_free(scored);
    ml_tokenizer_free(merged);
    ml_tokenizer_free(again);
    test_remove_folder(folder);
}

/* What stands around texts, ends an answer, and tells of the chat. */
static void fill_ends(ml_gguf_writer *w)
{
    put_scored_vocabulary(w, "tokenizer.ggml.scores");
    assert_ok(ml_gguf_writer_set_bool(w, "tokenizer.ggml.add_eos_token", true, &err));
    assert_ok(ml_gguf_writer_set_u32(w, "tokenizer.ggml.eot_token_id", PIECE0, &err));
    assert_ok(ml_gguf_writer_set_u32(w, "tokenizer.ggml.eom_token_id", PIECE0 + 1, &err));
    assert_ok(ml_gguf_writer_set_text(w, "moonlight.chat_format", "chatml", &err));
}

static void test_ends(void **state)
{
    (void)state;
    ml_tokenizer *t, *copy;
    assert_ok(open_written(fill_ends, &t, NULL, NULL));
    source = t;
    assert_ok(open_written(fill_copy, &copy, NULL, NULL));
    for (int k = 0; k < 2; k++) {
        const ml_tokenizer *one = k ? copy : t;
        ml_ids ids = { 0 };
        size_t n;
        assert_ok(ml_tokenizer_append_prefix(one, &ids, &err));
        assert_ok(ml_tokenizer_append_suffix(one, &ids, &err));
        assert_int_equal(ids.n, 2);
        assert_true(ids.id[0] == 1 && ids.id[1] == 2);
        const int32_t *ends = ml_tokenizer_ends(one, &n);
        assert_int_equal(n, 2);
        assert_true(ends[0] == PIECE0 && ends[1] == PIECE0 + 1);
        assert_string_equal(ml_tokenizer_chat_format(one), "chatml");
        ml_ids_free(&ids);
    }
    ml_tokenizer_free(copy);
    ml_tokenizer_free(t);
}

/* U+2581 in a text is the space that models write it for. */
static void test_wide_space(void **state)
{
    (void)state;
    ml_tokenizer *t;
    ml_ids ids = { 0 };
    assert_ok(open_written(fill_scored_bare, &t, NULL, NULL));
    assert_ok(ml_tokenizer_encode(t, "b\xE2\x96\x81\xE2\x96\x81\xE2\x96\x81 a\xE2\x96", 14, false, &ids, &err));
    const int32_t wanted[] = { PIECE0 + 2, PIECE0 + 9, PIECE0, PIECE0 + 7, BYTE0 + 0xE2, BYTE0 + 0x96 };
    assert_int_equal(ids.n, 6);
    assert_memory_equal(ids.id, wanted, sizeof wanted);
    ml_ids_free(&ids);
    ml_tokenizer_free(t);
}

/* Byte-level: 256 bytes in mapped characters, two merges, pre-tokenizer by name. */
static const char *pre_name, *model_name = "gpt2", *merge_text = "t h";

static void fill_bpe(ml_gguf_writer *w)
{
    assert_ok(ml_gguf_writer_set_text(w, "tokenizer.ggml.model", model_name, &err));
    if (pre_name) assert_ok(ml_gguf_writer_set_text(w, "tokenizer.ggml.pre", pre_name, &err));
    assert_ok(ml_gguf_writer_set_texts(w, "tokenizer.ggml.tokens", 256 + 4, &err));
    for (int c = 0, other = 256; c < 256; c++) {
        /* GPT-2's bytes_to_unicode */
        bool printable = (c >= 33 && c <= 126) || (c >= 161 && c <= 172) || c >= 174;
        int u = printable ? c : other++;
        char text[2] = { (char)u, 0 };
        if (u >= 128) text[0] = (char)(0xC0 | u >> 6), text[1] = (char)(0x80 | (u & 63));
        assert_ok(ml_gguf_writer_add_text(w, text, u >= 128 ? 2 : 1, &err));
    }
    assert_ok(ml_gguf_writer_add_text(w, "th", 2, &err));
    assert_ok(ml_gguf_writer_add_text(w, "\xC4\xA0th", 4, &err)); /* " th" */
    assert_ok(ml_gguf_writer_add_text(w, "<end>", 5, &err));
    assert_ok(ml_gguf_writer_add_text(w, "12", 2, &err));
    int32_t types[260];
    for (int i = 0; i < 260; i++) types[i] = i == 258 ? 3 : 1;
    assert_ok(ml_gguf_writer_set_array(w, "tokenizer.ggml.token_type", ML_GGUF_I32, types, 260, &err));
    assert_ok(ml_gguf_writer_set_texts(w, "tokenizer.ggml.merges", 3, &err));
    assert_ok(ml_gguf_writer_add_text(w, merge_text, strlen(merge_text), &err));
    assert_ok(ml_gguf_writer_add_text(w, "\xC4\xA0 th", 5, &err));
    assert_ok(ml_gguf_writer_add_text(w, "1 2", 3, &err));
    assert_ok(ml_gguf_writer_set_u32(w, "tokenizer.ggml.bos_token_id", 258, &err));
    assert_ok(ml_gguf_writer_set_u32(w, "tokenizer.ggml.eos_token_id", 258, &err));
}

static void test_bpe_by_hand(void **state)
{
    (void)state;
    ml_tokenizer *t;
    pre_name = "gpt-2";
    assert_ok(open_written(fill_bpe, &t, NULL, NULL));
    EXPECT(t, "th the<end>12", true, 256, 257, 'e', 258, 259);
    EXPECT(t, "\xC3\xA9", false, 0xC3, 0xA9);
    assert_true(ml_tokenizer_eos(t) == 258 && !ml_tokenizer_add_bos(t));
    assert_string_equal(ml_tokenizer_pattern(t), "gpt2");
    ml_tokenizer_free(t);
    static const struct {
        const char *name;
        bool joins_digits, add_bos;
    } known[] = { { "llama-bpe", true, true },
                  { "llama3", true, true },
                  { "qwen2", false, false },
                  { "kimi-k2", true, false },
                  { "deepseek-v3", true, false } };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        pre_name = known[i].name;
        assert_ok(open_written(fill_bpe, &t, NULL, NULL));
        assert_int_equal(ml_tokenizer_add_bos(t), known[i].add_bos);
        if (known[i].joins_digits) {
            EXPECT(t, "th12", false, 256, 259);
        } else {
            EXPECT(t, "th12", false, 256, '1', '2'); /* digits stand alone */
        }
        ml_tokenizer *copy;
        source = t;
        assert_ok(open_written(fill_copy, &copy, NULL, NULL));
        expect_same(t, copy, "th12 1212<end>\xE4\xBD\xA0 don't");
        for (size_t k = 0; k < 4; k++) {
            const char *stage = ml_tokenizer_split_stage(t, k);
            assert_string_equal(stage ? stage : "none", stage ? ml_tokenizer_split_stage(copy, k) : "none");
        }
        ml_tokenizer_free(copy);
        ml_tokenizer_free(t);
    }
    pre_name = "deepseek-v3"; /* three digits, then the rest: the second pair is cut */
    assert_ok(open_written(fill_bpe, &t, NULL, NULL));
    EXPECT(t, "1212", false, 259, '1', '2');
    EXPECT(t, "0012th", false, '0', '0', '1', '2', 256);
    ml_tokenizer_free(t);
}

static void fill_no_scores(ml_gguf_writer *w)
{
    put_scored_vocabulary(w, "tokenizer.ggml.points");
}

static void fill_wrong_type(ml_gguf_writer *w)
{
    const uint32_t scores[2] = { 0 };
    assert_ok(ml_gguf_writer_set_text(w, "tokenizer.ggml.model", "llama", &err));
    assert_ok(ml_gguf_writer_set_array(w, "tokenizer.ggml.tokens", ML_GGUF_U32, scores, 2, &err));
}

static void fill_short_scores(ml_gguf_writer *w)
{
    const float scores[2] = { 0 };
    assert_ok(ml_gguf_writer_set_text(w, "tokenizer.ggml.model", "llama", &err));
    assert_ok(ml_gguf_writer_set_texts(w, "tokenizer.ggml.tokens", 1, &err));
    assert_ok(ml_gguf_writer_add_text(w, "a", 1, &err));
    assert_ok(ml_gguf_writer_set_array(w, "tokenizer.ggml.scores", ML_GGUF_F32, scores, 2, &err));
}

static void test_refusals(void **state)
{
    (void)state;
    ml_tokenizer *t;
    pre_name = NULL;
    assert_fails(open_written(fill_bpe, &t, NULL, NULL), ML_EFORMAT, "key tokenizer.ggml.pre: expected a text");
    pre_name = "deepseek-llm-9";
    assert_fails(open_written(fill_bpe, &t, NULL, NULL), ML_EINVAL,
                 "the split pattern of \"deepseek-llm-9\" is not known");
    pre_name = "gpt-2";
    merge_text = "t";
    assert_fails(open_written(fill_bpe, &t, NULL, NULL), ML_EFORMAT, "merge 0: expected two tokens");
    merge_text = "t x";
    assert_fails(open_written(fill_bpe, &t, NULL, NULL), ML_EFORMAT, "merge 0: \"t x\" names a text");
    merge_text = "t h";
    model_name = "bert";
    assert_fails(open_written(fill_bpe, &t, NULL, NULL), ML_EINVAL, "expected gpt2 or llama, found \"bert\"");
    model_name = "gpt2";
    assert_fails(open_written(fill_no_scores, &t, NULL, NULL), ML_EFORMAT,
                 "key tokenizer.ggml.scores: expected an array");
    assert_fails(open_written(fill_wrong_type, &t, NULL, NULL), ML_EFORMAT,
                 "expected an array of text, found an array of u32");
    assert_fails(open_written(fill_short_scores, &t, NULL, NULL), ML_EFORMAT,
                 "expected 1 values, one for each token, found 2");
    assert_null(t);
}

/* Whether it opened; if so, encode with it. */
static bool try_bytes(const uint8_t *bytes, size_t n)
{
    ml_gguf *g;
    ml_tokenizer *t;
    uint8_t *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, n);
    ml_status status = ml_gguf_open_memory(&g, copy, n, "bytes", &err);
    if (status == ML_OK) {
        status = ml_gguf_tokenizer(g, &t, &err);
        ml_gguf_close(g);
    }
    free(copy);
    if (status != ML_OK) {
        assert_true(status == ML_EFORMAT || status == ML_EINVAL);
        return false;
    }
    ml_ids ids = { 0 };
    (void)ml_tokenizer_encode(t, " abc th12\n<s>", 13, true, &ids, &err);
    ml_ids_free(&ids);
    ml_tokenizer_free(t);
    return true;
}

static void check_damage(fill_fn fill)
{
    ml_tokenizer *t;
    char *image;
    size_t n;
    assert_ok(open_written(fill, &t, &image, &n));
    ml_tokenizer_free(t);
    uint8_t *bytes = (uint8_t *)image;
    ml_alloc_stats before = ml_alloc_get_stats();
    for (size_t k = 0; k < n; k += 3) assert_false(try_bytes(bytes, k));
    assert_true(try_bytes(bytes, n));
    for (size_t i = 0; i < n; i++) {
        uint8_t old = bytes[i];
        const uint8_t changes[4] = { 0, 0xff, (uint8_t)~old, (uint8_t)(old + 1) };
        for (int j = 0; j < 4; j++) {
            bytes[i] = changes[j];
            (void)try_bytes(bytes, n);
        }
        bytes[i] = old;
    }
    assert_int_equal(ml_alloc_get_stats().n_live, before.n_live);
    ml_free(image);
}

static void fill_tiny_scored(ml_gguf_writer *w)
{
    static const char *const texts[] = { "<unk>", "<0x0A>", "\xE2\x96\x81", "a", "b", "ab" };
    const float scores[6] = { 0, 0, -1, -2, -3, -4 };
    const int32_t types[6] = { 2, 6, 1, 1, 1, 1 };
    assert_ok(ml_gguf_writer_set_text(w, "tokenizer.ggml.model", "llama", &err));
    assert_ok(ml_gguf_writer_set_texts(w, "tokenizer.ggml.tokens", 6, &err));
    for (int i = 0; i < 6; i++) assert_ok(ml_gguf_writer_add_text(w, texts[i], strlen(texts[i]), &err));
    assert_ok(ml_gguf_writer_set_array(w, "tokenizer.ggml.scores", ML_GGUF_F32, scores, 6, &err));
    assert_ok(ml_gguf_writer_set_array(w, "tokenizer.ggml.token_type", ML_GGUF_I32, types, 6, &err));
    assert_ok(ml_gguf_writer_set_u32(w, "tokenizer.ggml.unknown_token_id", 0, &err));
}

static void fill_tiny_bpe(ml_gguf_writer *w)
{
    static const char *const texts[] = { "t", "h", "a", "th", "<s>" };
    const int32_t types[5] = { 1, 1, 1, 1, 3 };
    assert_ok(ml_gguf_writer_set_text(w, "tokenizer.ggml.model", "gpt2", &err));
    assert_ok(ml_gguf_writer_set_text(w, "tokenizer.ggml.pre", "gpt-2", &err));
    assert_ok(ml_gguf_writer_set_texts(w, "tokenizer.ggml.tokens", 5, &err));
    for (int i = 0; i < 5; i++) assert_ok(ml_gguf_writer_add_text(w, texts[i], strlen(texts[i]), &err));
    assert_ok(ml_gguf_writer_set_texts(w, "tokenizer.ggml.merges", 1, &err));
    assert_ok(ml_gguf_writer_add_text(w, "t h", 3, &err));
    assert_ok(ml_gguf_writer_set_array(w, "tokenizer.ggml.token_type", ML_GGUF_I32, types, 5, &err));
    assert_ok(ml_gguf_writer_set_u32(w, "tokenizer.ggml.unknown_token_id", 4, &err));
}

static void fill_bad_byte(ml_gguf_writer *w)
{
    const float scores[2] = { 0, 0 };
    const int32_t types[2] = { 2, 6 };
    assert_ok(ml_gguf_writer_set_text(w, "tokenizer.ggml.model", "llama", &err));
    assert_ok(ml_gguf_writer_set_texts(w, "tokenizer.ggml.tokens", 2, &err));
    assert_ok(ml_gguf_writer_add_text(w, "<unk>", 5, &err));
    assert_ok(ml_gguf_writer_add_text(w, "<0xZZ>", 6, &err));
    assert_ok(ml_gguf_writer_set_array(w, "tokenizer.ggml.scores", ML_GGUF_F32, scores, 2, &err));
    assert_ok(ml_gguf_writer_set_array(w, "tokenizer.ggml.token_type", ML_GGUF_I32, types, 2, &err));
}

/* The file and the key are named once. */
static void test_bad_byte(void **state)
{
    (void)state;
    ml_tokenizer *t;
    char *image = NULL;
    size_t size;
    assert_fails(open_written(fill_bad_byte, &t, &image, &size), ML_EFORMAT,
                 "key tokenizer.ggml.tokens: token 1: is of type byte");
    const char *first = strstr(err.message, "key tokenizer.ggml.tokens");
    assert_null(strstr(first + 1, "key tokenizer.ggml.tokens"));
    ml_free(image);
}

static void test_survives_damage(void **state)
{
    (void)state;
    check_damage(fill_tiny_scored);
    check_damage(fill_tiny_bpe);
}

static void test_survives_lack_of_memory(void **state)
{
    (void)state;
    static const fill_fn fills[] = { fill_tiny_scored, fill_tiny_bpe };
    for (int k = 0; k < 2; k++) {
        ml_tokenizer *t;
        char *image;
        size_t size;
        assert_ok(open_written(fills[k], &t, &image, &size));
        ml_tokenizer_free(t);
        ml_alloc_stats before = ml_alloc_get_stats();
        ml_status status = ML_ENOMEM;
        int64_t n = 0;
        for (; status != ML_OK && n < 10000; n++) {
            ml_gguf *g;
            ml_ids ids = { 0 };
            ml_alloc_fail_after(n);
            status = ml_gguf_open_memory(&g, image, size, "image", &err);
            if (status == ML_OK) {
                status = ml_gguf_tokenizer(g, &t, &err);
                ml_gguf_close(g);
                if (status == ML_OK) {
                    status = ml_tokenizer_encode(t, "ab that", 7, true, &ids, &err);
                    ml_tokenizer_free(t);
                }
            }
            ml_alloc_fail_after(-1);
            ml_ids_free(&ids);
            assert_true(status == ML_OK || status == ML_ENOMEM);
        }
        assert_true(n > 10 && status == ML_OK);
        assert_int_equal(ml_alloc_get_stats().n_live, before.n_live);
        ml_free(image);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scored_by_hand),
        cmocka_unit_test(test_scored_published),
        cmocka_unit_test(test_llama2_file),
        cmocka_unit_test(test_scored_long),
        cmocka_unit_test(test_bpe_copies),
        cmocka_unit_test(test_scored_copies),
        cmocka_unit_test(test_runs_of_equal_score),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_wide_space),
        cmocka_unit_test(test_bpe_by_hand),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_bad_byte),
        cmocka_unit_test(test_survives_damage),
        cmocka_unit_test(test_survives_lack_of_memory),
    };
    return cmocka_run_group_tests_name("gguf_tokenizer", tests, NULL, NULL);
}
