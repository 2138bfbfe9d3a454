/* The labels of real data sets: each is the same as itself in every common way of writing it, and different from its
 * neighbours. */
#include "base/json.h"
#include "reward/exact/exact.h"
#include "reward/normalise.h"
#include "reward/reward.h"
#include "support/support.h"

#include <stdlib.h>
#include <string.h>

static ml_error err;

static bool same(const char *given, const char *expected)
{
    bool result;
    assert_ok(ml_reward_same_answer(ml_span_of(given), ml_span_of(expected), &result, &err));
    return result;
}

static void check(const char *given, const char *expected, bool wanted)
{
    if (same(given, expected) != wanted)
        fail_msg("answer \"%s\" to label \"%s\": expected %s", given, expected, wanted ? "right" : "wrong");
}

static double score(ml_reward_kind kind, const char *format, const char *answer, const char *label)
{
    char response[4096];
    double reward;
    snprintf(response, sizeof response, format, answer);
    assert_ok(ml_reward_score(kind, ml_span_of(response), ml_span_of(label), &reward, &err));
    return reward;
}

/* Calls visit(answer of the row) for every line of a JSON-lines file; returns the number of lines. */
static int for_each(const char *path, const char *key, void (*visit)(const char *))
{
    char *text, *line, *rest;
    assert_ok(ml_file_read(path, &text, NULL, &err));
    int n = 0;
    for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest), n++) {
        json_t *row;
        const char *label;
        assert_ok(ml_json_parse(line, strlen(line), path, &row, &err));
        assert_ok(ml_json_text(row, key, path, &label, &err));
        visit(label);
        json_decref(row);
    }
    ml_free(text);
    return n;
}

/* s with every `from` replaced by `to`, in a static buffer. */
static const char *replaced(const char *s, const char *from, const char *to)
{
    static char out[4096];
    size_t n = 0, n_from = strlen(from), n_to = strlen(to);
    while (*s) {
        bool hit = strncmp(s, from, n_from) == 0;
        memcpy(out + n, hit ? to : s, hit ? n_to : 1);
        n += hit ? n_to : 1;
        s += hit ? n_from : 1;
    }
    out[n] = 0;
    return out;
}

static const char *wrapped(const char *format, const char *s)
{
    static char out[4096];
    snprintf(out, sizeof out, format, s);
    return out;
}

/* ---- whole numbers: GSM8K, AIME, dapo-math-17k ---- */

static void check_number(const char *label, const char *digits)
{
    long value = strtol(digits, NULL, 10);
    char other[64];
    static const char *const formats[] = { "\\boxed{%s}",         "\\boxed{$%s$}",          "\\boxed{\\$%s}",
                                           "\\boxed{%s.00}",      "\\boxed{%s\\%%}",        "\\boxed{ %s }",
                                           "\\boxed{%s dollars}", "\\boxed{\\text{%s}}",    "\\boxed{%s.}",
                                           "\\boxed{x = %s}",     "\\boxed{%s\\text{ cm}}", "\\boxed{%s^\\circ}" };
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        if (score(ML_REWARD_MATH, formats[i], digits, label) != 1)
            fail_msg("%s of %s to %s", formats[i], digits, label);
    }
    const long wrong[] = { value + 1, value - 1, -value - (value == 0), 10 * value + 5, value + 1000 };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        snprintf(other, sizeof other, "%ld", wrong[i]);
        if (score(ML_REWARD_MATH, "\\boxed{%s}", other, label) != 0) fail_msg("%s to %s is wrong", other, label);
        if (score(ML_REWARD_DAPO, "Answer: %s", other, label) != -1) fail_msg("%s to %s is wrong", other, label);
    }
    snprintf(other, sizeof other, "%ld.5", value);
    if (score(ML_REWARD_MATH, "\\boxed{%s}", other, label) != 0) fail_msg("%s to %s is wrong", other, label);
    assert_true(score(ML_REWARD_MATH, "%s", digits, label) == 0); /* no box */
    assert_true(score(ML_REWARD_MATH, "\\boxed{%s", digits, label) == 0);
    assert_true(score(ML_REWARD_DAPO, "Answer: %s", digits, label) == 1);
    assert_true(score(ML_REWARD_DAPO, "so\n**Answer:** \\boxed{%s}\n", digits, label) == 1);
}

static void check_gsm8k(const char *solution)
{
    const char *number = strstr(solution, "#### ");
    assert_non_null(number);
    char digits[64], commas[64], *d = digits;
    strcpy(commas, number + 5);
    for (const char *s = commas; *s; s++) {
        if (*s != ',') *d++ = *s;
    }
    *d = 0;
    check_number(solution, digits);
    if (score(ML_REWARD_MATH, "\\boxed{%s}", commas, solution) != 1) fail_msg("%s to itself", commas);
    if (strchr(commas, ',')) {
        if (score(ML_REWARD_MATH, "\\boxed{%s}", replaced(commas, ",", ",\\!"), solution) != 1) fail_msg("%s", commas);
        if (score(ML_REWARD_MATH, "\\boxed{%s}", replaced(commas, ",", "{,}"), solution) != 1) fail_msg("%s", commas);
    }
}

static void check_whole(const char *label)
{
    char digits[64];
    snprintf(digits, sizeof digits, "%ld", strtol(label, NULL, 10)); /* AIME's have leading zeros */
    check_number(label, digits);
    check(label, digits, true);
}

static void test_gsm8k(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("math");
    assert_int_equal(for_each(test_data_path("math/gsm8k_train.jsonl"), "answer", check_gsm8k), 7473);
    assert_int_equal(for_each(test_data_path("math/gsm8k_test.jsonl"), "answer", check_gsm8k), 1319);
}

static void test_competitions(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("math");
    assert_int_equal(for_each(test_data_path("math/aime24.jsonl"), "answer", check_whole), 30);
    assert_int_equal(for_each(test_data_path("math/dapo_math_17k_first27.jsonl"), "label", check_whole), 27);
}

/* ---- expressions: MATH-500 ---- */

static int n_valued, n_parts;

static ml_exact_result value_against(const char *a, const char *b)
{
    static char text_memory[64 * 1024], memory[ML_EXACT_SCRATCH];
    ml_scratch s = { .base = text_memory, .capacity = sizeof text_memory };
    ml_exact_space space = { .scratch = { .base = memory, .capacity = sizeof memory }, .work_left = ML_EXACT_WORK };
    ml_span p = ml_normalise_words(&s, ml_normalise_notation(&s, ml_span_of(a)));
    ml_span q = ml_normalise_words(&s, ml_normalise_notation(&s, ml_span_of(b)));
    return ml_exact_compare(&space, p, q);
}

/* Would writing every `from` in another way say something else here?  A space may end a command's name, and thousands
 * commas are no longer that with a space behind them. */
static bool changes_meaning(const char *label, const char *from)
{
    if (strcmp(from, " ") == 0) return strstr(label, "\\pi ") || strstr(label, "\\cot ") || strstr(label, "\\in ");
    if (strcmp(from, "\\!") == 0) return strstr(label, "\\! ");
    return strcmp(from, ",") == 0 && (strstr(label, "58,500") || strstr(label, ",\\!"));
}

static void check_rewritings(const char *label)
{
    static const char *const wraps[] = {
        "%s", " %s ", "$%s$", "\\(%s\\)", "%s.", "$%s$.", "\\displaystyle %s", "{%s}"
    };
    for (size_t i = 0; i < sizeof wraps / sizeof *wraps; i++) check(wrapped(wraps[i], label), label, true);
    static const char *const swaps[][2] = {
        { "\\frac", "\\dfrac" },
        { "\\frac", "\\tfrac" },
        { "\\dfrac", "\\frac" },
        { "\\left", "" },
        { "\\right", "" },
        { "(", "\\left(" },
        { ")", "\\right)" },
        { "\\left(", "\\bigl(" },
        { " ", "" },
        { " ", "\\," },
        { "+", " + " },
        { "-", " -" },
        { ",", " , " },
        { "=", " = " },
        { "\n", " " },
        { "\\!", "" },
        { "^\\circ", "^{\\circ}" },
        { "^\\circ", "" },
        { "\\$", "" },
        { "\\text{", "\\mbox{" },
        { "pmatrix", "bmatrix" },
        { "\\mbox{ cm}^2", "" },
        { "^2", "^{2}" },
        { "\\pi", "\xcf\x80" },
    };
    for (size_t i = 0; i < sizeof swaps / sizeof *swaps; i++) {
        const char *rewritten = replaced(label, swaps[i][0], swaps[i][1]);
        if (changes_meaning(label, swaps[i][0])) continue;
        check(rewritten, label, true);
    }
    if (!strstr(label, "\\text") && !strstr(label, "\\mbox")) {
        check(wrapped("\\text{%s}", label), label, true);
        bool quantity = strpbrk(label, "0123456789") && !strpbrk(label, "_,");
        if (quantity) check(wrapped("%s\\text{ square units}", label), label, true);
    }
}

/* A label with a value: other values, and the same written so that only the value tells. */
static void check_value(const char *label)
{
    if (value_against(label, label) != ML_EXACT_EQUAL) return;
    bool zero = value_against(label, "0") == ML_EXACT_EQUAL;
    bool unit = strstr(label, "\\text") || strstr(label, "\\mbox") || strstr(label, "\\$") || strchr(label, ',');
    n_valued++;
    if (unit || strlen(label) > 1000) return; /* inside brackets these do not mean the same */
    static const char *const wrong[] = { "(%s)+1", "%s+1", "1+%s", "(%s)-\\frac{1}{7}", "%s\\pi+1", "(%s)+10^{-9}" };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) check(wrapped(wrong[i], label), label, false);
    if (!zero) {
        check(wrapped("-(%s)", label), label, false);
        check(wrapped("2(%s)", label), label, false);
        check(wrapped("(%s)^{-1}+17", label), label, false);
        check(wrapped("\\frac{%s}{10}", label), label, false);
    }
    check(wrapped("(%s)+1-1", label), label, true);
    check(wrapped("-1\\cdot(-(%s))", label), label, true);
    check(wrapped("\\frac{2(%s)\\sqrt{3}}{\\sqrt{12}}", label), label, true);
}

/* A tuple, interval or list: one part changed, one part dropped, the brackets changed. */
static void check_parts(const char *label)
{
    const char *comma = strchr(label, ',');
    if (!comma || strstr(label, "\\!") || strstr(label, "58,500")) return;
    char other[1024];
    size_t head = (size_t)(comma - label);
    n_parts++;
    snprintf(other, sizeof other, "%.*s+1%s", (int)head, label, comma);
    check(other, label, false);
    snprintf(other, sizeof other, "%.*s,0%s", (int)head, label, comma);
    check(other, label, false);
    if (label[0] == '(') check(replaced(label, "(", "["), label, false);
    if (label[0] == '(') check(replaced(label, ",", ";"), label, false);
}

static void check_math(const char *label)
{
    check_rewritings(label);
    check_value(label);
    check_parts(label);
    check(wrapped("%s + z", label), label, false);
    check(wrapped("z + %s", label), label, false);
    check("", label, false);
    assert_true(score(ML_REWARD_MATH, "It is \\boxed{%s}.", label, label) == 1);
    assert_true(score(ML_REWARD_MATH, "\\boxed{9999991} or \\boxed{%s}", label, label) == 1);
    assert_true(score(ML_REWARD_MATH, "\\boxed{%s} or \\boxed{9999991}", label, label) == 0);
    char boxed[4096];
    snprintf(boxed, sizeof boxed, "Therefore \\[\\boxed{%s}.\\]", label);
    assert_true(score(ML_REWARD_MATH, "\\boxed{%s}", label, boxed) == 1);
}

/* The solutions of the same rows hold their answers in boxes. */
static void check_solution(const char *solution)
{
    ml_span answer;
    assert_ok(ml_reward_read_label(ml_span_of(solution), &answer, &err));
    double reward;
    assert_ok(ml_reward_score(ML_REWARD_MATH, ml_span_of(solution), ml_span_of(solution), &reward, &err));
    assert_true(reward == 1);
}

static void test_math500(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("math");
    n_valued = n_parts = 0;
    assert_int_equal(for_each(test_data_path("math/math500.jsonl"), "answer", check_math), 500);
    /* Tuples, lists, matrices, equations, words and numbers in other bases have no value of their own. */
    assert_true(n_valued >= 452);
    assert_true(n_parts >= 24);
    assert_int_equal(for_each(test_data_path("math/math500.jsonl"), "solution", check_solution), 500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gsm8k),
        cmocka_unit_test(test_competitions),
        cmocka_unit_test(test_math500),
    };
    return cmocka_run_group_tests_name("reward_labels", tests, NULL, NULL);
}
