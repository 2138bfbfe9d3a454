/* Values out of JSON: what RFC 8259 says, and jansson on real data.  (tests/fuzz/fuzz_value.c compares any bytes.) */
#include "data/value.h"
#include "support/support.h"

#include <stdlib.h>
#include <string.h>

static ml_error err;
static ml_arena arena;

static ml_status parse(const char *text, const ml_value **out)
{
    ml_arena_release(&arena, 0);
    return ml_value_parse(&arena, text, strlen(text), out, &err);
}

static const ml_value *parsed(const char *text)
{
    const ml_value *v;
    assert_ok(parse(text, &v));
    return v;
}

static void expect_text(const ml_value *v, const char *want)
{
    assert_non_null(v);
    assert_int_equal(v->kind, ML_VALUE_TEXT);
    if (!ml_value_is(v, want)) fail_msg("expected \"%s\", found \"%.*s\"", want, (int)v->n, v->text);
}

static void test_kinds(void **state)
{
    (void)state;
    assert_int_equal(parsed(" null ")->kind, ML_VALUE_NULL);
    assert_true(parsed("true")->truth);
    assert_false(parsed("false")->truth);
    assert_int_equal(parsed("0")->integer, 0);
    assert_int_equal(parsed("-0")->integer, 0);
    assert_int_equal(parsed("-9223372036854775808")->integer, INT64_MIN);
    assert_int_equal(parsed("9223372036854775807")->integer, INT64_MAX);
    assert_int_equal(parsed("9223372036854775808")->kind, ML_VALUE_REAL);
    assert_true(parsed("9223372036854775808")->real == 0x1p63);
    assert_true(parsed("-0.25e+1")->real == -2.5);
    assert_true(parsed("1E-2")->real == 0.01);
    const ml_value *v = parsed(" { \"a\" : [ ] , \"b\" : { } , \"\" : [1,\"x\"] } ");
    assert_int_equal(v->n, 3);
    assert_int_equal(ml_value_find(v, "a")->n, 0);
    assert_null(ml_value_find(v, "a")->child);
    assert_int_equal(ml_value_find(v, "b")->kind, ML_VALUE_OBJECT);
    assert_int_equal(ml_value_find(v, "")->child->integer, 1);
    expect_text(ml_value_find(v, "")->child->next, "x");
    assert_null(ml_value_find(v, "c"));
    assert_null(ml_value_find(ml_value_find(v, "c"), "d"));
    assert_string_equal(ml_value_kind_name(ml_value_find(v, "c")), "nothing");
    assert_string_equal(ml_value_kind_name(v), "an object");
    assert_int_equal(ml_value_find(parsed("{\"k\":1,\"k\":2}"), "k")->integer, 2);
}

static void test_strings(void **state)
{
    (void)state;
    const char *source = "\"plain\"";
    const ml_value *v;
    ml_arena_release(&arena, 0);
    assert_ok(ml_value_parse(&arena, source, strlen(source), &v, &err));
    assert_ptr_equal(v->text, source + 1); /* not copied */
    expect_text(parsed("\"\""), "");
    expect_text(parsed("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""), "\"\\/\b\f\n\r\t");
    expect_text(parsed("\"\\u0041\\u00e9\\u6708\\uD83C\\udf19.\""), "A\xc3\xa9\xe6\x9c\x88\xf0\x9f\x8c\x99.");
    expect_text(parsed("\"\xc3\xa9\xe6\x9c\x88\xf0\x9f\x8c\x99 and more than eight\""),
                "\xc3\xa9\xe6\x9c\x88\xf0\x9f\x8c\x99 and more than eight");
    v = parsed("\"a\\u0000b\"");
    assert_int_equal(v->n, 3);
    assert_memory_equal(v->text, "a\0b", 3);
    expect_text(ml_value_find(parsed("{\"\\u0061\": \"found\"}"), "a"), "found");
    /* the character that ends the plain run at each place of the eight bytes looked at together */
    for (int at = 0; at < 20; at++) {
        char text[64];
        snprintf(text, sizeof text, "\"%.*s\\n%.*s\"", at, "aaaaaaaaaaaaaaaaaaaa", 19 - at, "bbbbbbbbbbbbbbbbbbbb");
        v = parsed(text);
        assert_int_equal(v->n, 20);
        assert_int_equal(v->text[at], '\n');
    }
}

static void test_what_is_not_json(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } bad[] = {
        { "", "byte 1: expected a value, found the end" },
        { "  ", "byte 3: expected a value, found the end" },
        { "nul", "byte 1: expected a value, found 'n'" },
        { "1 2", "byte 3: expected nothing behind the value, found '2'" },
        { "01", "byte 2: expected no digit behind a leading 0" },
        { "-", "byte 2: expected a digit, found the end" },
        { "1.", "expected a digit" },
        { ".5", "byte 1: expected a value, found '.'" },
        { "1e", "expected a digit" },
        { "+1", "expected a value" },
        { "1e400", "is too large" },
        { "NaN", "expected a value" },
        { "[1,]", "byte 4: expected a value, found ']'" },
        { "[1", "byte 3: expected ',' or ']' behind an element, found the end" },
        { "[1}", "byte 3: expected ',' or ']' behind an element, found '}'" },
        { "{\"a\":1,}", "byte 8: expected a key in quotes" },
        { "{a:1}", "byte 2: expected a key in quotes" },
        { "{\"a\" 1}", "expected ':' behind a key" },
        { "{\"a\":1", "expected ',' or '}' behind a member, found the end" },
        { "\"a", "byte 3: expected the end of a string" },
        { "\"a\nb\"", "byte 3: expected no control character within a string, found byte 10" },
        { "\"\\x\"", "behind a backslash, found 'x'" },
        { "\"\\", "behind a backslash" },
        { "\"\\u12g4\"", "four hexadecimal digits" },
        { "\"\\ud800\"", "surrogate" },
        { "\"\\udc00\\ud800\"", "surrogate" },
        { "\"\\ud800\\u0041\"", "surrogate" },
        { "\"\xc3\"", "byte 2: expected UTF-8, found byte 195" },
        { "\"\xed\xa0\x80\"", "expected UTF-8" },
        { "\"\xc0\x80\"", "expected UTF-8" },
        { "'a'", "expected a value" },
        { "// x\n1", "expected a value" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const ml_value *v;
        ml_json_member m;
        assert_fails(parse(bad[i].text, &v), ML_EFORMAT, bad[i].message);
        assert_fails(ml_json_find_member(bad[i].text, strlen(bad[i].text), "a", &m, &err), ML_EFORMAT, bad[i].message);
    }
}

static void test_limits(void **state)
{
    (void)state;
    char text[2 * ML_VALUE_MAX_DEPTH + 3];
    const ml_value *v;
    for (int depth = ML_VALUE_MAX_DEPTH; depth <= ML_VALUE_MAX_DEPTH + 1; depth++) {
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        text[2 * depth] = 0;
        if (depth == ML_VALUE_MAX_DEPTH)
            assert_ok(parse(text, &v));
        else
            assert_fails(parse(text, &v), ML_EFORMAT, "byte 129: expected less depth");
    }
    ml_arena small;
    assert_ok(ml_arena_init(&small, 256, &err));
    assert_fails(ml_value_parse(&small, "[1,2,3,4,5,6,7,8]", 17, &v, &err), ML_ENOMEM, "too large");
    ml_arena_free(&small);
}

static void test_one_member(void **state)
{
    (void)state;
    ml_json_member m;
    const char *line = "{\"id\": {\"text\": 1}, \"text\": \"a\\n\", \"n\": [1, 2], \"t\\u0065xt\": \"b\"}";
    assert_ok(ml_json_find_member(line, strlen(line), "text", &m, &err));
    assert_true(m.is_object && m.is_text && !m.has_escape);
    assert_int_equal(m.n_bytes, 1);
    assert_int_equal(m.member[0], 'b'); /* the last one counts */
    assert_ok(ml_json_find_member(line, strlen(line), "n", &m, &err));
    assert_true(m.is_object && !m.is_text);
    assert_int_equal(m.n_bytes, 6);
    assert_memory_equal(m.member, "[1, 2]", 6);
    assert_ok(ml_json_find_member(line, strlen(line), "none", &m, &err));
    assert_true(m.is_object && !m.member);
    assert_ok(ml_json_find_member("[1]", 3, "none", &m, &err));
    assert_false(m.is_object);
    char out[8];
    assert_ok(ml_json_find_member("{\"a\":\"x\\ty\"}", 12, "a", &m, &err));
    assert_true(m.has_escape);
    assert_int_equal(ml_json_unescape(m.member, m.n_bytes, out), 3);
    assert_memory_equal(out, "x\ty", 3);
}

static void expect_janssons(const char *name)
{
    ml_map map;
    size_t at = 0, n_line = 0;
    assert_ok(ml_map_open(test_data_path(name), &map, &err));
    while (at < map.size) {
        const char *line = (const char *)map.data + at, *end = memchr(line, '\n', map.size - at);
        size_t n = end ? (size_t)(end - line) : map.size - at;
        const ml_value *v;
        ml_arena_release(&arena, 0);
        assert_ok(ml_value_parse(&arena, line, n, &v, &err));
        json_t *found = ml_value_to_json(v), *want = json_loadb(line, n, JSON_DECODE_ANY, NULL);
        assert_true(json_equal(found, want));
        json_decref(found);
        json_decref(want);
        at += n + 1;
        n_line++;
    }
    assert_true(n_line > 20);
    ml_map_close(&map);
}

static void test_real_data(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("chat/v1_sft_demo.jsonl");
    expect_janssons("chat/nanochat_identity_conversations.jsonl");
    expect_janssons("chat/v1_sft_demo.jsonl");
    expect_janssons("math/gsm8k_test.jsonl");
    expect_janssons("math/math500.jsonl");
    expect_janssons("math/dapo_math_17k_first27.jsonl");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds),  cmocka_unit_test(test_strings),    cmocka_unit_test(test_what_is_not_json),
        cmocka_unit_test(test_limits), cmocka_unit_test(test_one_member), cmocka_unit_test(test_real_data),
    };
    if (ml_arena_init(&arena, 1 << 28, &err) != ML_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ml_arena_free(&arena);
    return failed;
}
