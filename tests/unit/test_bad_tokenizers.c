/* Damaged tokenizer files, exhaustively: every truncation, and every byte set to 00, FF, its complement and one more.
 * Each is refused with a message or is a tokenizer still, one that encodes and decodes.  A sanitizer build watches the
 * reads.  Those in GGUF files are in test_bad_models.c. */
#include "base/alloc.h"
#include "base/memory.h"
#include "support/support.h"
#include "token/tokenizer.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static ml_error err;
static char folder[512];

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { STEP = 7, WATCHED = 0 };
#else
enum { STEP = 1, WATCHED = 1 };
#endif

static const char *path_of(const char *name)
{
    static char path[ML_PATH_MAX];
    assert_ok(ml_path_join(path, folder, name, &err));
    return path;
}

/* Without waiting for the disk. */
static void write_bytes(const char *name, const void *data, size_t n)
{
    FILE *file = fopen(path_of(name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

typedef struct {
    const char *what;
    const char *open; /* the file that is opened; NULL: the folder */
    const char *pattern;
    int64_t n_tokenizer, n_refused;
} target;

static void try(target *t)
{
    static const char text[] = "ab Abc  12\n\xC3\xA9<end>";
    ml_tokenizer *tokenizer = NULL;
    ml_ids ids = { 0 };
    ml_chars back = { 0 };
    ml_detok detok = { 0 };
    ml_tokenizer_extra extra = { .pattern = t->pattern };
    if (ml_tokenizer_open_with(t->open ? path_of(t->open) : folder, &extra, &tokenizer, &err) != ML_OK) {
        t->n_refused++;
        if (!*err.message || (err.code != ML_EFORMAT && err.code != ML_EINVAL)) {
            fail_msg("%s: code %d, message \"%s\"", t->what, err.code, err.message);
        }
        assert_null(tokenizer);
        return;
    }
    t->n_tokenizer++;
    /* A vocabulary that has lost a byte cannot encode it, and says so. */
    if (ml_tokenizer_encode(tokenizer, text, sizeof text - 1, true, &ids, &err) == ML_OK) {
        for (size_t i = 0; i < ids.n; i++) assert_ok(ml_detok_push(&detok, tokenizer, ids.id[i], &back, &err));
        assert_ok(ml_detok_flush(&detok, &back, &err));
    } else {
        assert_true(*err.message);
    }
    ml_ids_free(&ids);
    ml_chars_free(&back);
    ml_tokenizer_free(tokenizer);
}

static void put_at(int fd, const char *data, size_t n, size_t at)
{
    assert_int_equal(pwrite(fd, data, n, (off_t)at), n);
}

/* The other files of the folder are there already.  The file stays open and is changed in place: written anew each
 * time, a file system may wait for the disk each time. */
static void damage(target *t, const char *name, const char *data, size_t n)
{
    int fd = open(path_of(name), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    put_at(fd, data, n, 0);
    try(t);
    assert_int_equal(t->n_tokenizer, 1); /* whole, it is one */
    for (size_t i = 0; i < n; i += STEP) {
        const char old = data[i], forms[4] = { 0, (char)0xff, (char)~old, (char)(old + 1) };
        for (int k = 0; k < 4; k++) {
            put_at(fd, &forms[k], 1, i);
            if (forms[k] != old) try(t);
        }
        put_at(fd, &old, 1, i);
        assert_int_equal(ftruncate(fd, (off_t)i), 0);
        try(t);
        put_at(fd, data + i, n - i, i);
    }
    close(fd);
    print_message("%s: %lld refused, %lld still a tokenizer\n", t->what, (long long)t->n_refused,
                  (long long)t->n_tokenizer);
    assert_true(t->n_refused > 0);
}

static void test_tokenizer_json(void **state)
{
    (void)state;
    target t = { .what = "tokenizer.json" };
    char *text;
    size_t n;
    assert_ok(ml_file_read(MOONLIGHT_SOURCE_DIR "/tests/fixtures/byte_tokenizer/tokenizer.json", &text, &n, &err));
    damage(&t, "tokenizer.json", text, n);
    ml_free(text);
}

/* Beside a tokenizer.json, whose tokens it names. */
static void test_tokenizer_config(void **state)
{
    (void)state;
    static const char config[] = "{\"eos_token\": \"<|endoftext|>\", \"add_eos_token\": false}";
    target t = { .what = "tokenizer_config.json" };
    char *text;
    size_t n;
    assert_ok(ml_file_read(MOONLIGHT_SOURCE_DIR "/tests/fixtures/byte_tokenizer/tokenizer.json", &text, &n, &err));
    write_bytes("tokenizer.json", text, n);
    damage(&t, "tokenizer_config.json", config, sizeof config - 1);
    ml_free(text);
}

/* Every byte a token: base64, space, rank. */
static size_t put_ranks(char *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t n = 0;
    for (int b = 0; b < 256; b++) n += (size_t)sprintf(out + n, "%c%c== %d\n", digits[b >> 2], digits[(b & 3) << 4], b);
    return n;
}

/* Ranks, and the file beside them that has the added tokens. */
static void test_tiktoken(void **state)
{
    (void)state;
    static const char config[] =
        "{\"add_bos_token\": true, \"eos_token\": {\"content\": \"<end>\", \"special\": true}, \"bos_token\": \"a\", "
        "\"added_tokens_decoder\": {\"258\": {\"content\": \"<end>\", \"special\": true}}}";
    target ranked = { .what = "tiktoken", .open = "x.tiktoken", .pattern = "gpt2" };
    target configured = { .what = "added tokens", .open = "x.tiktoken", .pattern = "gpt2" };
    char ranks[8192];
    size_t n = put_ranks(ranks);
    n += (size_t)sprintf(ranks + n, "YWI= 256\nYWJhYg== 257\n");
    damage(&ranked, "x.tiktoken", ranks, n);
    damage(&configured, "tokenizer_config.json", config, sizeof config - 1);
}

/* Cut at the end of a line, ranks are ranks still: the ids of the added tokens say that some are missing. */
static void test_cut_ranks(void **state)
{
    (void)state;
    static const struct {
        const char *class;
        int n_rank, first;
        const char *refusal; /* NULL: none */
    } cases[] = {
        { "PreTrainedTokenizer", 258, 258, NULL },
        { "PreTrainedTokenizer", 258, 259, NULL }, /* cl100k_base leaves one id out */
        { "PreTrainedTokenizer", 258, 257, "is given twice" },
        { "PreTrainedTokenizer", 258, 260, "ranks end at 258 but the first added token is 260" },
        { "PreTrainedTokenizer", 257, 300, "ranks end at 257 but the first added token is 300" },
        { "tokenization_moonshot.TikTokenTokenizer", 258, 258, NULL },
        { "tokenization_moonshot.TikTokenTokenizer", 257, 258, "ranks end at 257 but the first added token is 258" },
    };
    char ranks[8192], config[512];
    size_t n = put_ranks(ranks);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const ml_tokenizer_extra extra = { .pattern = strstr(cases[i].class, "moonshot") ? NULL : "gpt2" };
        ml_tokenizer *t = NULL;
        size_t n_more = (size_t)sprintf(ranks + n, "YWI= 256\nYWJhYg== 257\n");
        if (cases[i].n_rank == 257) n_more = strlen("YWI= 256\n");
        write_bytes("tiktoken.model", ranks, n + n_more);
        int size = snprintf(config, sizeof config,
                            "{\"auto_map\": {\"AutoTokenizer\": [\"%s\", null]}, \"added_tokens_decoder\": "
                            "{\"%d\": {\"content\": \"<last>\"}, \"%d\": {\"content\": \"<end>\"}}}",
                            cases[i].class, cases[i].first + 2, cases[i].first);
        write_bytes("tokenizer_config.json", config, (size_t)size);
        if (cases[i].refusal) {
            assert_fails(ml_tokenizer_open_with(folder, &extra, &t, &err), ML_EFORMAT, cases[i].refusal);
        } else {
            assert_ok(ml_tokenizer_open_with(folder, &extra, &t, &err));
            assert_int_equal(ml_tokenizer_find(t, "<end>"), cases[i].first);
        }
        ml_tokenizer_free(t);
    }
}

static void test_cut_kimi(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("kimi/tiktoken.model");
    char *text;
    size_t n, at = 0;
    ml_tokenizer *t = NULL;
    assert_ok(ml_file_read(test_data_path("kimi/tokenizer_config.json"), &text, &n, &err));
    write_bytes("tokenizer_config.json", text, n);
    ml_free(text);
    assert_ok(ml_file_read(test_data_path("kimi/tiktoken.model"), &text, &n, &err));
    for (int line = 0; line < 80000; line++) at += strcspn(text + at, "\n") + 1;
    write_bytes("tiktoken.model", text, at);
    assert_fails(ml_tokenizer_open_with(folder, &(ml_tokenizer_extra){ 0 }, &t, &err), ML_EFORMAT,
                 "ranks end at 80000 but the first added token is 163584");
    assert_null(t);
    ml_free(text);
}

static void test_gpt2_files(void **state)
{
    (void)state;
    static const char vocab[] = "{\"a\": 0, \"b\": 1, \"ab\": 2, \"\\u0120\": 3, \"c\": 4, \"abc\": 5, \"<end>\": 6}";
    static const char merges[] = "#version: 0.2\na b\nab c\n";
    target v = { .what = "encoder.json" }, m = { .what = "vocab.bpe" };
    write_bytes("vocab.bpe", merges, sizeof merges - 1);
    damage(&v, "encoder.json", vocab, sizeof vocab - 1);
    damage(&m, "vocab.bpe", merges, sizeof merges - 1);
}

static void test_memory(void **state)
{
    (void)state;
    int64_t peak = ml_memory_peak();
    if (WATCHED && peak) assert_true(peak < (int64_t)72 << 20); /* files of some kilobytes, and 64 MiB */
    assert_int_equal(ml_alloc_get_stats().n_live, 0);
}

static int set_up(void **state)
{
    (void)state;
    strcpy(folder, test_make_folder());
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    test_remove_folder(folder);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_tokenizer_json, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_tokenizer_config, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_tiktoken, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cut_ranks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_gpt2_files, set_up, tear_down),
        cmocka_unit_test(test_memory),
        cmocka_unit_test_setup_teardown(test_cut_kimi, set_up, tear_down), /* a large file: not in that memory */
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
