/* The exact evaluator: against sympy (tests/golden/make_reward.py), what it must not read, and its limits. */
#include "base/json.h"
#include "reward/exact/exact.h"
#include "reward/normalise.h"
#include "reward/reward.h"
#include "support/support.h"

#include <string.h>

static ml_error err;
static char text_memory[96 * 1024], memory[ML_EXACT_SCRATCH];

static ml_span normal(ml_scratch *scratch, const char *text)
{
    return ml_normalise_words(scratch, ml_normalise_notation(scratch, ml_span_of(text)));
}

static ml_exact_space make_space(size_t bytes)
{
    return (ml_exact_space){ .scratch = { .base = memory, .capacity = bytes }, .work_left = 2 * ML_EXACT_WORK };
}

/* In both orders, which must agree; the memory comes back, and no more work is done than there may be. */
static ml_exact_result compare(const char *a, const char *b)
{
    ml_scratch scratch = { .base = text_memory, .capacity = sizeof text_memory };
    ml_exact_space space = make_space(sizeof memory);
    ml_span p = normal(&scratch, a), q = normal(&scratch, b);
    ml_exact_result forth = ml_exact_compare(&space, p, q), back = ml_exact_compare(&space, q, p);
    assert_int_equal(space.scratch.used, 0);
    assert_false(space.scratch.full);
    assert_in_range(space.work_left + ML_EXACT_WORK, 0, 3 * ML_EXACT_WORK);
    if (forth != back) fail_msg("%s and %s: %d in one order, %d in the other", a, b, (int)forth, (int)back);
    return forth;
}

static void check(const char *a, const char *b, ml_exact_result wanted)
{
    static const char *const names[] = { "equal", "different", "unknown" };
    ml_exact_result found = compare(a, b);
    if (found != wanted) fail_msg("%s and %s: expected %s, found %s", a, b, names[wanted], names[found]);
}

static void check_answer(const char *a, const char *b, bool wanted)
{
    bool same;
    assert_ok(ml_reward_same_answer(ml_span_of(a), ml_span_of(b), &same, &err));
    if (same != wanted) fail_msg("answer %s to %s: expected %s", a, b, wanted ? "right" : "wrong");
}

static void test_sympy(void **state)
{
    (void)state;
    json_t *rows, *row;
    size_t i;
    assert_ok(ml_json_load(MOONLIGHT_SOURCE_DIR "/tests/golden/reward_pairs.json", &rows, &err));
    assert_true(json_array_size(rows) > 700);
    json_array_foreach(rows, i, row)
    {
        const char *kind = json_string_value(json_array_get(row, 0)), *a = json_string_value(json_array_get(row, 1));
        const char *b = json_string_value(json_array_get(row, 2));
        bool equal = json_is_true(json_array_get(row, 3));
        if (strcmp(kind, "answer") == 0) {
            check_answer(a, b, equal);
        } else {
            check(a, b, equal ? ML_EXACT_EQUAL : ML_EXACT_DIFFERENT);
            check(a, a, ML_EXACT_EQUAL);
        }
    }
    json_decref(rows);
}

/* Text that means nothing, or could mean two things, has no value, not even its own. */
static void test_not_read(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        "2 3",
        "x2",
        "\\sqrt{2}3",
        "f(2)",
        "even",
        "52_8",
        "4210_{5}",
        "\\infty",
        "-\\infty",
        "1 \\pm x",
        "1,2",
        "x = 2",
        "3:2",
        "1/0",
        "\\frac{1}{x-x}",
        "0^0",
        "\\ln 0",
        "\\ln(-1)",
        "(-8)^{1/3}",
        "\\sqrt[4]{-16}",
        "\\sqrt[17]{2}",
        "5!!",
        "(-3)!",
        "2.5!",
        "\\sin^{-1} x",
        "\\sin(x)^2",
        "1.2.3",
        "2\\frac{3}{2}",
        "(1",
        "1)",
        "[1)",
        "\\frac{1}",
        "\\sqrt",
        "2^",
        "+",
        "-",
        "|x",
        "\\overline{AB}",
        "x?",
        "\\binom{n}{2}",
        "\\frac{}{2}",
        "\\{1\\}",
        "\xff\xfe",
        "\\",
        "\\text",
        "3 4/5/6 7",
        "1 2/0",
        ".",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) check(texts[i], texts[i], ML_EXACT_UNKNOWN);
}

/* The work is bounded before it is done: every one of these would fill a computer. */
static void test_limits(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "9^9^9^9",
        "9^{9^{9^{9}}}",
        "(x+1)^{100000}",
        "(x+y+z+w)^{40}",
        "(1+\\sqrt{2})^{100000}",
        "((((x+1)^9+y)^9+z)^9+w)^9",
        "2^{2^{20}}",
        "10^{10^{10}}",
        "2^{-99999999999}",
        "x^{99999999999999999999}",
        "1000000!",
        "\\binom{1000000}{500000}",
        "((\\sqrt{2}+\\sqrt{3}+\\sqrt{5}+\\sqrt{7}+\\sqrt{11}+\\sqrt{13}+\\sqrt{17})^{20}+x)^{20}",
        "\\sqrt{2+\\sqrt{2+\\sqrt{2+\\sqrt{2+\\sqrt{2+\\sqrt{2+\\sqrt{2}}}}}}}^{100}+1",
        "((((((((((((((((((((((((((((((((((((((((((((1))))))))))))))))))))))))))))))))))))))))))))",
        "1e999999999",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (compare(texts[i], texts[i]) == ML_EXACT_DIFFERENT) fail_msg("%s differs from itself", texts[i]);
        if (compare(texts[i], "1") == ML_EXACT_EQUAL) fail_msg("%s is not 1", texts[i]);
    }
    check("9^9^9^9", "9^9^9^9", ML_EXACT_UNKNOWN);
    check("(x+1)^{100000}", "(x+1)^{100000}", ML_EXACT_UNKNOWN);
    check("x^{100000}", "x^{99999} x", ML_EXACT_EQUAL); /* large, but not much work */
}

/* Text of any length over a small alphabet: nothing but a result may come out of it. */
static void test_nonsense(void **state)
{
    (void)state;
    static const char *const pieces[] = { "\\frac", "\\sqrt", "{", "}", "(", ")", "^", "_",
                                          "x",      "7",      "-", "+", "!", "|", " ", "." };
    uint32_t seed = 1;
    for (int round = 0; round < 3000; round++) {
        char text[400] = "";
        for (int i = 0; i < 40; i++) {
            seed = seed * 1664525u + 1013904223u;
            strcat(text, pieces[seed >> 28]);
        }
        if (compare(text, text) == ML_EXACT_DIFFERENT) fail_msg("%s differs from itself", text);
    }
}

/* With less scratch memory the result is unknown, never wrong, and the memory is not left marked as full. */
static void test_little_memory(void **state)
{
    (void)state;
    const char *a = "(x+y)^9", *b = "(y+x)^8 (x+y)";
    bool found = false;
    for (size_t bytes = 0; bytes < sizeof memory; bytes += 509) {
        ml_exact_space space = make_space(bytes);
        ml_exact_result result = ml_exact_compare(&space, ml_span_of(a), ml_span_of(b));
        assert_int_not_equal(result, ML_EXACT_DIFFERENT);
        assert_int_equal(space.scratch.used, 0);
        assert_false(space.scratch.full);
        if (found) assert_int_equal(result, ML_EXACT_EQUAL);
        found = result == ML_EXACT_EQUAL;
    }
    assert_true(found);
}

/* Comparisons in one space share its work: after enough of them nothing is known any more. */
static void test_shared_work(void **state)
{
    (void)state;
    ml_exact_space space = make_space(sizeof memory);
    ml_span a = ml_span_of("(x+y)^9"), b = ml_span_of("(y+x)^8 (x+y)");
    int n_known = 0;
    while (ml_exact_compare(&space, a, b) == ML_EXACT_EQUAL) n_known++;
    assert_in_range(n_known, 2, 10000);
    assert_true(space.work_left <= ML_EXACT_WORK);
    space.work_left = ML_EXACT_WORK;
    assert_int_equal(ml_exact_compare(&space, a, b), ML_EXACT_EQUAL);
}

static void test_reduced(void **state)
{
    (void)state;
    static const struct {
        const char *num, *den;
        bool reduced;
    } cases[] = {
        { "1", "2", true },
        { "2", "4", false },
        { "3", "1", false },
        { "0", "5", false },
        { "7", "12", true },
        { "340282366920938463463374607431768211456", "3", true }, /* 2^128 / 3 */
        { "340282366920938463463374607431768211456", "6", false },
        { "5", "0", false },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ml_exact_space space = make_space(sizeof memory);
        bool reduced = ml_exact_is_reduced(&space, ml_span_of(cases[i].num), ml_span_of(cases[i].den));
        if (reduced != cases[i].reduced) fail_msg("%s/%s", cases[i].num, cases[i].den);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sympy),    cmocka_unit_test(test_not_read),      cmocka_unit_test(test_limits),
        cmocka_unit_test(test_nonsense), cmocka_unit_test(test_little_memory), cmocka_unit_test(test_shared_work),
        cmocka_unit_test(test_reduced),
    };
    return cmocka_run_group_tests_name("reward_exact", tests, NULL, NULL);
}
