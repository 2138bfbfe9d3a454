/* Split patterns: pieces of Oniguruma (tests/golden/make_tokenizer.py), and the scanners against PCRE2. */
#include "support/support.h"

#include "base/alloc.h"
#include "base/json.h"
#include "base/rng.h"
#include "token/split.h"

#include <string.h>

static ml_error err;

static ml_pattern *make_split(const char *pattern)
{
    ml_pattern *split = NULL;
    assert_ok(ml_pattern_add(&split, pattern, &err));
    return split;
}

/* Ends of all pieces, asked for `capacity` at a time. */
static size_t cut(const ml_pattern *split, const char *text, size_t n, size_t *ends, size_t capacity)
{
    ml_pattern_cursor *cursor;
    assert_ok(ml_pattern_cursor_make(split, &cursor, &err));
    ml_pattern_cursor_start(cursor, (const uint8_t *)text, n);
    size_t k = 0, more;
    do {
        assert_ok(ml_pattern_cursor_next(cursor, ends + k, capacity, &more, &err));
        k += more;
    } while (more);
    ml_pattern_cursor_free(cursor);
    return k;
}

static void check_pieces(const ml_pattern *split, const char *text, const json_t *pieces)
{
    size_t ends[1024], n = strlen(text), begin = 0;
    assert_true(n < 1024);
    size_t n_ends = cut(split, text, n, ends, 7);
    for (size_t i = 0; i < n_ends; i++) {
        const char *piece = json_string_value(json_array_get(pieces, i));
        if (!piece || strlen(piece) != ends[i] - begin || memcmp(piece, text + begin, ends[i] - begin) != 0) {
            fail_msg("text \"%s\", piece %zu: expected \"%s\", found \"%.*s\"", text, i, piece ? piece : "nothing",
                     (int)(ends[i] - begin), text + begin);
        }
        begin = ends[i];
    }
    assert_int_equal(n_ends, json_array_size(pieces));
    assert_int_equal(begin, n);
}

static void pieces_equal_oniguruma(void **state)
{
    (void)state;
    json_t *root, *splits, *cases;
    assert_ok(ml_json_load(MOONLIGHT_SOURCE_DIR "/tests/golden/tokenizer_splits.json", &root, &err));
    assert_ok(ml_json_object(root, "splits", "golden", &splits, &err));
    const char *name;
    size_t n_checked = 0;
    json_object_foreach(splits, name, cases)
    {
        const char *regex = json_string_value(json_object_get(json_object_get(root, "regex"), name));
        ml_pattern *split = make_split(name);
        assert_string_equal(ml_pattern_stage_regex(split, 0), regex);
        for (int scanner = 0; scanner < 2; scanner++) {
            ml_pattern_use_scanner(split, scanner);
            for (size_t i = 0; i < json_array_size(cases); i++) {
                const json_t *one = json_array_get(cases, i);
                check_pieces(split, json_string_value(json_array_get(one, 0)), json_array_get(one, 1));
                n_checked++;
            }
        }
        ml_pattern_free(split);
        split = make_split(regex);
        assert_string_equal(ml_pattern_name(split), name);
        ml_pattern_free(split);
    }
    assert_true(n_checked > 100);
    json_decref(root);
}

/* Text made of what the patterns tell apart. */
static size_t random_text(ml_rng *rng, char *text, size_t capacity)
{
    static const char *const atoms[] = {
        "a",
        "b",
        "s",
        "t",
        "re",
        "ve",
        "ll",
        "d",
        "m",
        "A",
        "S",
        "T",
        "RE",
        "Z",
        "0",
        "1",
        "23",
        "'",
        "'",
        "'s",
        "'LL",
        " ",
        " ",
        "  ",
        "\n",
        "\r",
        "\r\n",
        "\t",
        "\v",
        "\x1f",
        ".",
        "!?",
        "_",
        "-",
        "\xC5\xBF",
        "\xC3\xA9",
        "\xC3\x89",
        "\xE6\xBC\xA2",
        "\xE4\xB8\xAD",     // a second Han letter
        "\xE2\xBA\x80",     // Han, a symbol
        "\xE3\x80\x87",     // Han, a number
        "\xE3\x80\x85",     // Han, a modifier letter
        "\xF0\x96\xBF\xB0", // Han, a mark
        "\xF0\x9D\x90\x80", // an upper-case letter of four bytes
        "\xC7\x85",         // title case
        "\xCA\xB0",         // a modifier letter
        "\xE0\xB8\x81",     // a letter without case
        "\xE0\xA4\x83",     // a spacing mark
        "\xC2\x85",         // next line: white space, a control
        "\xE3\x80\x80",
        "\xE3\x80\x81",
        "\xC2\xA0",
        "\xE2\x80\xA8",
        "\xE1\xA0\x8E",
        "\xCC\x81",
        "\xD9\xA3",
        "\xF0\x9F\x9A\x80",
    };
    size_t n = 0, wanted = 1 + ml_rng_below(rng, capacity - 8);
    /* Half the texts are ASCII alone: most real text is. */
    size_t n_atoms = ml_rng_below(rng, 2) ? 34 : sizeof atoms / sizeof atoms[0];
    while (n < wanted) {
        const char *atom = atoms[ml_rng_below(rng, n_atoms)];
        memcpy(text + n, atom, strlen(atom));
        n += strlen(atom);
    }
    return n;
}

static void scanners_equal_pcre2(void **state)
{
    (void)state;
    static const char *const names[] = { "gpt2", "gpt4", "moonlight" };
    enum { TEXTS = 60000, SIZE = 48 };
    for (size_t i = 0; i < 3; i++) {
        ml_pattern *split = make_split(names[i]);
        ml_rng rng = ml_rng_make(7, i);
        for (int k = 0; k < TEXTS; k++) {
            char text[SIZE];
            size_t a[SIZE], b[SIZE], n = random_text(&rng, text, SIZE);
            ml_pattern_use_scanner(split, true);
            size_t n_a = cut(split, text, n, a, SIZE);
            ml_pattern_use_scanner(split, false);
            size_t n_b = cut(split, text, n, b, SIZE);
            if (n_a != n_b || memcmp(a, b, n_a * sizeof a[0]) != 0) {
                fail_msg("%s cuts \"%.*s\" differently from PCRE2", names[i], (int)n, text);
            }
        }
        ml_pattern_free(split);
    }
}

static size_t put_utf8(uint32_t c, char *p)
{
    if (c < 0x80) {
        p[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6) p[i] = (char)(0x80 | (c & 0x3F));
    p[0] = (char)((0xF00 >> n) | c);
    return n;
}

/* Every character, behind and before what shows its class. */
static void scanners_know_every_character(void **state)
{
    (void)state;
    enum { STEP = 0x1000, ENDS = 16 * STEP };
    static const char *const names[] = { "gpt2", "gpt4", "moonlight" };
    static const char *const around[][2] = { { "a", "B" }, { "B", "b" }, { " ", "1" }, { "!", " " }, { " ", "\n" } };
    enum { N_AROUND = sizeof around / sizeof around[0] };
    static char text[STEP * 8 * N_AROUND];
    static size_t a[ENDS], b[ENDS];
    for (size_t i = 0; i < 3; i++) {
        ml_pattern *split = make_split(names[i]);
        for (uint32_t first = 0; first < 0x110000; first += STEP) {
            size_t n = 0;
            for (uint32_t c = first; c < first + STEP; c++) {
                if (c >= 0xD800 && c <= 0xDFFF) continue;
                for (size_t k = 0; k < N_AROUND; k++) {
                    n += put_utf8((unsigned char)around[k][0][0], text + n);
                    n += put_utf8(c, text + n);
                    n += put_utf8((unsigned char)around[k][1][0], text + n);
                }
            }
            ml_pattern_use_scanner(split, true);
            size_t n_a = cut(split, text, n, a, ENDS);
            ml_pattern_use_scanner(split, false);
            size_t n_b = cut(split, text, n, b, ENDS);
            size_t k = 0;
            while (k < n_a && k < n_b && a[k] == b[k]) k++;
            if (k < n_a || k < n_b) {
                size_t begin = k ? a[k - 1] : 0;
                fail_msg("%s: from U+%04X on, the piece at \"%.*s\" is not PCRE2's", names[i], first,
                         (int)(n - begin < 16 ? n - begin : 16), text + begin);
            }
        }
        ml_pattern_free(split);
    }
}

static void lines_can_be_cut(void **state)
{
    (void)state;
    static const char *const names[] = { "gpt2", "gpt4", "moonlight" };
    enum { TEXTS = 5000, SIZE = 32 };
    for (size_t i = 0; i < 3; i++) {
        ml_pattern *split = make_split(names[i]);
        assert_true(ml_pattern_can_cut_lines(split));
        ml_rng rng = ml_rng_make(8, i);
        for (int k = 0; k < TEXTS; k++) {
            char text[2 * SIZE + 8];
            size_t whole[2 * SIZE + 8], parts[2 * SIZE + 8], n = random_text(&rng, text, SIZE);
            memcpy(text + n, "x\n1", 3);
            size_t at = n + 2;
            n += 3;
            n += random_text(&rng, text + n, SIZE);
            size_t n_whole = cut(split, text, n, whole, SIZE);
            size_t n_parts = cut(split, text, at, parts, SIZE), n_left = n_parts;
            n_parts += cut(split, text + at, n - at, parts + n_parts, SIZE);
            for (size_t j = n_left; j < n_parts; j++) parts[j] += at;
            assert_int_equal(n_whole, n_parts);
            assert_memory_equal(whole, parts, n_whole * sizeof whole[0]);
        }
        ml_pattern_free(split);
    }
    ml_pattern *split = make_split("[a-z\n]+");
    assert_false(ml_pattern_can_cut_lines(split));
    ml_pattern_free(split);
}

static void stages_cut_pieces_of_stages(void **state)
{
    (void)state;
    ml_pattern *split = make_split("\\p{N}");
    assert_ok(ml_pattern_add(&split, "gpt2", &err));
    size_t ends[16];
    /* digits first: "ab " "1" "2" " cd", then words: the space before a digit stays alone */
    assert_int_equal(cut(split, "ab 12 cd", 8, ends, 2), 5);
    static const size_t wanted[] = { 2, 3, 4, 5, 8 };
    assert_memory_equal(ends, wanted, sizeof wanted);
    assert_null(ml_pattern_name(split));
    ml_pattern_free(split);
}

static void gaps_are_pieces(void **state)
{
    (void)state;
    ml_pattern *split = make_split("b+");
    size_t ends[16];
    assert_int_equal(cut(split, "aabbcbaa", 8, ends, 16), 5);
    static const size_t wanted[] = { 2, 4, 5, 6, 8 };
    assert_memory_equal(ends, wanted, sizeof wanted);
    ml_pattern_free(split);
    split = make_split("x*"); // empty matches cut nothing
    assert_int_equal(cut(split, "abxxc", 5, ends, 16), 3);
    ml_pattern_free(split);
}

static void a_long_run_needs_no_deep_stack(void **state)
{
    (void)state;
    enum { N = 1 << 20 };
    char *text = ml_alloc(3 * N);
    size_t ends[4];
    assert_non_null(text);
    for (size_t i = 0; i < N; i++) memcpy(text + 3 * i, "\xE0\xB8\x81", 3); // Thai: letters without case
    static const char *const names[] = { "gpt2", "gpt4", "moonlight" };
    for (size_t i = 0; i < 3; i++) {
        ml_pattern *split = make_split(names[i]);
        assert_int_equal(cut(split, text, 3 * N, ends, 4), 1);
        ml_pattern_free(split);
    }
    ml_free(text);
}

static void what_engines_read_differently_is_refused(void **state)
{
    (void)state;
    static const char *const refused[] = { "\\w+",         "a\\b",    "^a",        "a$",        "[a&&b]", "[a[b]]",
                                           "\\p{N}{1,3}+", "\\h",     "(?m:a)",    "(*ACCEPT)", "[]a]",   "a\\",
                                           "\\p{L",        "(a)\\1",  "\\p{Nope}", "(a",        "[a",     "",
                                           "\\v",          "(?<n>a)", "[a--b]" };
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        ml_pattern *split = NULL;
        assert_fails(ml_pattern_add(&split, refused[i], &err), ML_EINVAL, "split pattern");
        assert_null(split);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_equal_oniguruma),         cmocka_unit_test(scanners_equal_pcre2),
        cmocka_unit_test(scanners_know_every_character),  cmocka_unit_test(lines_can_be_cut),
        cmocka_unit_test(stages_cut_pieces_of_stages),    cmocka_unit_test(gaps_are_pieces),
        cmocka_unit_test(a_long_run_needs_no_deep_stack), cmocka_unit_test(what_engines_read_differently_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
