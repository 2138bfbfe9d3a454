/* Text in columns: where lines are broken. */
#include "base/columns.h"
#include "support/support.h"

#include <stdio.h>
#include <string.h>

static void check(const char *text, int at, int indent, int n_columns, const char *wanted)
{
    char found[512] = "";
    FILE *out = fmemopen(found, sizeof found, "w");
    assert_non_null(out);
    ml_columns_print(out, text, at, indent, n_columns);
    fclose(out);
    assert_string_equal(found, wanted);
}

static void test_lines_are_broken_between_words(void **state)
{
    (void)state;
    check("", 0, 4, 10, "\n");
    check("one two three", 0, 2, 80, "one two three\n");
    check("one two three", 0, 2, 13, "one two three\n"); /* it just fits */
    check("one two three", 0, 2, 12, "one two\n  three\n");
    check("one two three", 6, 6, 13, "one two\n      three\n"); /* behind a name */
    check("a|bb|ccc|dddd", 0, 1, 6, "a|bb|\n ccc|\n dddd\n");
}

static void test_words_are_never_cut(void **state)
{
    (void)state;
    check("unbreakable", 0, 2, 4, "unbreakable\n");
    check("a unbreakable b", 0, 2, 4, "a\n  unbreakable\n  b\n");
}

/* What counts is characters: "é" is two bytes, "…" three. */
static void test_columns_are_characters(void **state)
{
    (void)state;
    check("\xc3\xa9\xc3\xa9\xc3\xa9 \xe2\x80\xa6\xe2\x80\xa6", 0, 0, 6,
          "\xc3\xa9\xc3\xa9\xc3\xa9 \xe2\x80\xa6\xe2\x80\xa6\n");
    check("\xc3\xa9\xc3\xa9\xc3\xa9 \xe2\x80\xa6\xe2\x80\xa6", 0, 0, 5,
          "\xc3\xa9\xc3\xa9\xc3\xa9\n\xe2\x80\xa6\xe2\x80\xa6\n");
}

static void test_a_file_has_eighty(void **state)
{
    (void)state;
    FILE *file = tmpfile();
    assert_non_null(file);
    assert_int_equal(ml_columns_of(file), 80);
    fclose(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines_are_broken_between_words),
        cmocka_unit_test(test_words_are_never_cut),
        cmocka_unit_test(test_columns_are_characters),
        cmocka_unit_test(test_a_file_has_eighty),
    };
    return cmocka_run_group_tests_name("columns", tests, NULL, NULL);
}
