/* JSON: positions in errors, typed getters, saving. */
#include "base/alloc.h"
#include "base/json.h"
#include "support/support.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static ml_error err;

static json_t *parse(const char *text)
{
    json_t *value = NULL;
    assert_ok(ml_json_parse(text, strlen(text), "t.json", &value, &err));
    return value;
}

static void test_errors_name_file_line_and_column(void **state)
{
    (void)state;
    json_t *value;
    const char *cut = "{\n  \"a\": 1,\n  \"b\": [1, 2";
    assert_fails(ml_json_parse(cut, strlen(cut), "t.json", &value, &err), ML_EFORMAT, "t.json:3:");
    assert_null(value);
    assert_fails(ml_json_parse("{\"a\":1,\"a\":2}", 13, "t.json", &value, &err), ML_EFORMAT, "duplicate object key");
    /* of one line, which may be that of a file with many, the byte says more */
    assert_fails(ml_json_parse("[1, x]", 6, "t.jsonl:7", &value, &err), ML_EFORMAT, "t.jsonl:7: byte 5: ");
    assert_fails(ml_json_parse("[1] x", 5, "t.json", &value, &err), ML_EFORMAT, "end of file expected");
    assert_fails(ml_json_parse("", 0, "t.json", &value, &err), ML_EFORMAT, "t.json: byte 0: ");
    assert_fails(ml_json_parse("\"\xff\"", 3, "t.json", &value, &err), ML_EFORMAT, "unable to decode byte 0xff");
    assert_fails(ml_json_load("/nonexistent/t.json", &value, &err), ML_EIO, "/nonexistent/t.json");
}

/* A parser that recurses must stop before the stack does. */
static void test_deep_nesting_is_an_error(void **state)
{
    (void)state;
    enum { DEPTH = 1000000 };
    char *text = ml_alloc(DEPTH);
    memset(text, '[', DEPTH);
    json_t *value;
    assert_fails(ml_json_parse(text, DEPTH, "deep.json", &value, &err), ML_EFORMAT, "depth");
    ml_free(text);
}

static void test_getters_return_values(void **state)
{
    (void)state;
    json_t *o = parse("{\"i\": 9007199254740993, \"r\": 0.5, \"t\": \"caf\\u00e9\", \"b\": true, \"n\": null,"
                      " \"a\": [1, 2], \"o\": {\"x\": 1}}");
    int64_t i;
    double r;
    bool b;
    const char *t;
    json_t *child;
    assert_ok(ml_json_int(o, "i", "t.json", &i, &err));
    assert_true(i == 9007199254740993);
    assert_ok(ml_json_int_or(o, "n", "t.json", -7, &i, &err));
    assert_true(i == -7);
    assert_ok(ml_json_real_or(o, "r", "t.json", 9, &r, &err));
    assert_true(r == 0.5);
    assert_ok(ml_json_real_or(o, "i", "t.json", 9, &r, &err));
    assert_true(r == 9007199254740992.0); /* the nearest double */
    assert_ok(ml_json_real_or(o, "absent", "t.json", 9, &r, &err));
    assert_true(r == 9);
    assert_ok(ml_json_bool_or(o, "b", "t.json", false, &b, &err));
    assert_true(b);
    assert_ok(ml_json_bool_or(o, "absent", "t.json", false, &b, &err));
    assert_false(b);
    assert_ok(ml_json_text(o, "t", "t.json", &t, &err));
    assert_string_equal(t, "caf\xc3\xa9");
    assert_ok(ml_json_text_or(o, "n", "t.json", NULL, &t, &err));
    assert_null(t);
    assert_ok(ml_json_array(o, "a", "t.json", &child, &err));
    assert_int_equal(json_array_size(child), 2);
    assert_ok(ml_json_object(o, "o", "t.json", &child, &err));
    assert_ok(ml_json_int(child, "x", "t.json: o", &i, &err));
    json_decref(o);
}

static void test_getters_name_file_and_key(void **state)
{
    (void)state;
    json_t *o = parse("{\"i\": 1, \"r\": 1.5, \"t\": \"x\", \"n\": null}");
    int64_t i;
    double r;
    bool b;
    const char *t;
    json_t *child;
    assert_fails(ml_json_int(o, "hidden_size", "config.json", &i, &err), ML_EFORMAT,
                 "config.json: key \"hidden_size\": expected an integer, found no such key");
    assert_fails(ml_json_int(o, "n", "t.json", &i, &err), ML_EFORMAT, "found null");
    assert_fails(ml_json_int(o, "r", "t.json", &i, &err), ML_EFORMAT, "found a real number");
    assert_fails(ml_json_int_or(o, "t", "t.json", 0, &i, &err), ML_EFORMAT, "expected an integer, found a string");
    assert_fails(ml_json_real_or(o, "t", "t.json", 0, &r, &err), ML_EFORMAT, "expected a number, found a string");
    assert_fails(ml_json_bool_or(o, "i", "t.json", 0, &b, &err), ML_EFORMAT, "expected true or false");
    assert_fails(ml_json_text(o, "i", "t.json", &t, &err), ML_EFORMAT, "expected a string, found an integer");
    assert_fails(ml_json_text_or(o, "i", "t.json", "", &t, &err), ML_EFORMAT, "expected a string");
    assert_fails(ml_json_array(o, "t", "t.json", &child, &err), ML_EFORMAT, "expected an array");
    assert_fails(ml_json_object(o, "t", "t.json", &child, &err), ML_EFORMAT, "expected an object");
    json_decref(o);
    o = parse("[1]");
    assert_fails(ml_json_int_or(o, "i", "t.json", 0, &i, &err), ML_EFORMAT,
                 "t.json: expected an object with the key \"i\", found an array");
    json_decref(o);
}

static void test_save_keeps_order_and_values(void **state)
{
    (void)state;
    char folder[ML_PATH_MAX], path[ML_PATH_MAX];
    strcpy(folder, test_make_folder());
    assert_ok(ml_path_join(path, folder, "out.json", &err));
    json_t *o = json_object();
    json_object_set_new(o, "zebra", json_integer(1));
    json_object_set_new(o, "apple", json_real(0.1));
    assert_ok(ml_json_save(o, path, &err));
    char *text;
    assert_ok(ml_file_read(path, &text, NULL, &err));
    assert_string_equal(text, "{\n  \"zebra\": 1,\n  \"apple\": 0.10000000000000001\n}\n");
    ml_free(text);
    json_t *back;
    assert_ok(ml_json_load(path, &back, &err));
    assert_true(json_equal(o, back));
    json_decref(back);
    json_decref(o);
    assert_ok(ml_path_join(path, folder, "none/out.json", &err));
    assert_fails(ml_json_save(json_null(), path, &err), ML_EIO, "none/out.json");
    test_remove_folder(folder);
}

/* RFC 8259 has no infinities and no NaN: what is printed must be read by any reader. */
static void test_numbers_are_always_json(void **state)
{
    (void)state;
    const double value[] = { 0.5, -0.0, DBL_MAX, (double)INFINITY, -(double)INFINITY, (double)NAN };
    json_t *list = json_array(), *again;
    for (size_t i = 0; i < sizeof value / sizeof *value; i++) {
        assert_int_equal(json_array_append_new(list, ml_json_number(value[i])), 0);
    }
    char *text = json_dumps(list, 0);
    assert_ok(ml_json_parse(text, strlen(text), "t.json", &again, &err));
    assert_int_equal(json_array_size(again), 6);
    for (size_t i = 0; i < 3; i++) assert_true(json_real_value(json_array_get(again, i)) == value[i]);
    for (size_t i = 3; i < 6; i++) assert_true(json_is_null(json_array_get(again, i)));
    free(text);
    json_decref(again);
    json_decref(list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers_are_always_json),   cmocka_unit_test(test_errors_name_file_line_and_column),
        cmocka_unit_test(test_deep_nesting_is_an_error),  cmocka_unit_test(test_getters_return_values),
        cmocka_unit_test(test_getters_name_file_and_key), cmocka_unit_test(test_save_keeps_order_and_values),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
