/* Rewards: where answers are found, and every rule by which two answers are the same, case by case. */
#include "base/alloc.h"
#include "reward/reward.h"
#include "support/support.h"

#include <string.h>

static ml_error err;

typedef struct {
    const char *given, *expected;
    bool same;
} pair;

static void check_pairs(const pair *pairs, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        bool same;
        assert_ok(ml_reward_same_answer(ml_span_of(pairs[i].given), ml_span_of(pairs[i].expected), &same, &err));
        if (same != pairs[i].same) {
            fail_msg("answer \"%s\" to label \"%s\": expected %s", pairs[i].given, pairs[i].expected,
                     pairs[i].same ? "right" : "wrong");
        }
    }
}

#define CHECK(...)                                                                                                     \
    do {                                                                                                               \
        static const pair pairs[] = { __VA_ARGS__ };                                                                   \
        check_pairs(pairs, sizeof pairs / sizeof *pairs);                                                              \
    } while (0)

/* ---- pass 1 ---- */

static void test_notation(void **state)
{
    (void)state;
    CHECK({ "\\text{Evelyn}", "Evelyn", true }, { "\\textbf{(C)}", "\\text{(C)}", true }, { "Eve", "Evelyn", false },
          { "3\n4", "3 4", true }, { "10,\\!080", "10080", true }, { "x\\!y", "xy", true },
          { "\\left(3,\\frac{\\pi}{2}\\right)", "(3,\\frac{\\pi}{2})", true }, { "\\left. 5 \\right|", "5|", true },
          { "\\bigl(1,2\\bigr)", "(1,2)", true }, { "90^\\circ", "90", true }, { "90^{\\circ}", "90", true },
          { "90\xc2\xb0", "90^\\circ", true }, { "90\\degree", "90", true }, { "91^\\circ", "90", false },
          { "\\$18.90", "18.90", true }, { "$\\$36$", "36", true }, { "50\\%", "50", true }, { "50%", "50\\%", true },
          { "\\tfrac{1}{2}", "\\frac{1}{2}", true }, { "\\dfrac{17}{50}", "\\frac{17}{50}", true },
          { "15\\mbox{ cm}^2", "15", true }, { "15 \\text{ cm}^{2}", "15\\mbox{ cm}^2", true },
          { "864 \\mbox{ inches}^2", "864", true }, { "5.4 \\text{ cents}", "5.4", true },
          { "\\frac{270}7\\text{ degrees}", "\\frac{270}{7}", true }, { "7\\,\\mathrm{km/h}", "7", true },
          { "12\\text{ feet}\\text{ wide}", "12", true }, { "2\\text{ feet}", "3", false });
    CHECK({ ".5", "0.5", true }, { "(.5,-.25)", "(0.5,-0.25)", true }, { "\\frac{.5}{x}", "\\frac{0.5}{x}", true },
          { "x=5", "5", true }, { "x = 5", "x=5", true }, { "\\theta=5", "5", true }, { "f(x)=2x+1", "2x+1", true },
          { "(x,y)=(1,2)", "(1,2)", true }, { "x\\in[-2,7]", "[-2,7]", true }, { "AB=5", "5", true },
          { "y=5", "x=5", false }, { "x_1=5", "x_2=5", false }, { "2x=5", "5", false }, { "x=5=y", "5", false },
          { "\\sqrt3", "\\sqrt{3}", true }, { "11\\sqrt2", "11\\sqrt{2}", true }, { "\\sqrt 3", "\\sqrt{3}", true },
          { "\\sqrt[3]2", "\\sqrt[3]{2}", true }, { "\\sqrt[3]2", "\\sqrt{2}", false },
          { "\\frac12", "\\frac{1}{2}", true }, { "\\frac 59", "\\frac{5}{9}", true },
          { "\\frac1{10}", "\\frac{1}{10}", true }, { "\\frac9{19}", "9/19", true }, { "\\frac{11}2", "11/2", true },
          { "\\frac{\\frac12}3", "\\frac{1}{6}", true }, { "0.5", "\\frac{1}{2}", true }, { "-0.5", "-\\frac12", true },
          { "1/2", "\\frac{1}{2}", true }, { "-7/3", "-\\frac{7}{3}", true },
          { "\\frac{-7}{3}", "-\\frac{7}{3}", true }, { "7/3", "3/7", false }, { "42.", "42", true },
          { "\\text{42.}", "42", true }, { "\\(42\\)", "42", true }, { "\\[42\\]", "42", true },
          { "$42$.", "42", true },
          { "\xe2\x88\x92"
            "3\xcf\x80",
            "-3\\pi", true },
          { "+3", "3", true }, { "", "", false }, { "$ $", "$$", false }, { "5", "", false });
}

/* What looks like a unit but changes the value is not cut. */
static void test_units_that_are_not(void **state)
{
    (void)state;
    CHECK({ "2+3\\mathrm{i}", "2", false }, { "2+3\\mathrm{i}", "2+3i", true }, { "5 \\text{ million}", "5", false },
          { "5 \\text{ million dollars}", "5,000,000", true }, { "3:00 \\text{ p.m.}", "3:00 \\text{ a.m.}", false },
          { "x\\text{-axis}", "x\\text{-intercept}", false }, { "x \\text{ is even}", "x \\text{ is odd}", false },
          { "52_{\\text{eight}}", "52", false }, { "1\\text{ or }2", "1", false },
          { "\\text{minutes}", "minutes", true }, { "\\text{minutes}", "\\text{hours}", false }, { "2cm", "2", true },
          { "2c", "2", false });
}

/* ---- pass 2 ---- */

static void test_words(void **state)
{
    (void)state;
    CHECK({ "5 cm", "5", true }, { "5 square inches", "5", true }, { "60 miles/hour", "60", true },
          { "60 miles per hour", "60", true }, { "18 dollars", "\\$18", true }, { "30 degrees", "30^\\circ", true },
          { "3 hours", "4 hours", false }, { "5 cm^2", "5", true }, { "5 cm^{3}", "5", true }, { "7 Units", "7", true },
          { "3 million", "3,000,000", true }, { "3 million", "3", false }, { "1.5 billion", "1500000000", true },
          { "\\$2 thousand", "2000", true }, { "12 trillion", "12000000000000", true },
          { "12.5 percent", "12.5\\%", true }, { "12.5 percent", "\\frac{1}{8}", true },
          { "1\\frac{4}{5}", "\\frac{9}{5}", true }, { "137 \\frac{1}{2}", "137.5", true }, { "1 1/2", "1.5", true },
          { "-2\\frac{1}{3}", "-\\frac{7}{3}", true }, { "1 1/2", "11/2", false }, { "1\\frac{2}{4}", "1.5", false },
          { "x^2\\frac{1}{2}", "\\frac{x^2}{2}", true }, { "2\\frac{x}{3}", "\\frac{2x}{3}", true });
    CHECK({ "58,500", "58500", true }, { "11,\\! 111,\\! 111,\\! 100", "11111111100", true },
          { "10{,}080", "10080", true }, { "1,234,567.5", "1234567.5", true }, { "10\\,000", "10000", true },
          { "10 000", "10000", true }, { "1,23", "123", false }, { "1,234,5", "12345", false },
          { "0,123", "123", false }, { "(1,234)", "1234", false }, { "(1,234)", "(1, 234)", true },
          { "(10,000,3)", "(10000, 3)", true }, { "\\frac{1,000}{3}", "\\frac{1000}{3}", true },
          { "3,5,100", "3, 100, 5", true }, { "EAST", "\\text{east}", true }, { "3R^2", "3r^2", true },
          { "\\Delta", "\\delta", false }, { "52_{8}", "52_8", true }, { "52_8", "42", false },
          { "4210_5", "4210_{5}", true }, { "4210_5", "4210_6", false }, { "HHT", "HTH", false },
          { "even", "neve", false }, { "{5}", "5", true }, { "025", "25", true }, { "(C)", "C", true },
          { "\\text{(C)}", "\\text{(D)}", false });
}

/* ---- parts ---- */

static void test_parts(void **state)
{
    (void)state;
    CHECK({ "(1,2)", "(1,2]", false }, { "(1,2)", "[1,2)", false }, { "(1,2)", "1,2", false },
          { "(1,2)", "(1,2,3)", false }, { "(2,1)", "(1,2)", false },
          { "(\\sqrt{4},\\frac{6}{4}+0)", "(2, 1.5)", true }, { "(2, 6/4)", "(2,\\frac{3}{2})", false },
          { "(-\\infty, 2.50]", "\\left(-\\infty,\\frac{5}{2}\\right]", true },
          { "(-\\infty,0)", "(\\infty,0)", false },
          { "(3, \\infty)\\cup(-\\infty, 2)", "(-\\infty, 2) \\cup (3, \\infty)", true },
          { "(0,9)", "(0,9)\\cup(9,36)", false }, { "(0,9)\\cup[9,36)", "(0,9)\\cup(9,36)", false },
          { "((1,2),(3,4))", "((1.0,2),(3,4))", true }, { "((1,2),(4,3))", "((1,2),(3,4))", false },
          { "-2, 1", "1,-2", true }, { "-2, 2", "1,-2", false }, { "1,1,2", "1,2,2", false }, { "1,2", "1,2,2", false },
          { "x=1 \\text{ or } x=-2", "-2, 1", true }, { "1 and -2", "1,-2", true }, { "x=1,y=2", "y=2,x=1", true },
          { "x=1,y=2", "x=2,y=1", false }, { "\\{2, 1\\}", "\\{1,2\\}", true }, { "\\{2,1\\}", "(2,1)", false },
          { "\\{1\\}", "1", false }, { "1+\\sqrt{19}, 1-\\sqrt{19}", "1 \\pm \\sqrt{19}", true },
          { "1+\\sqrt{19}", "1 \\pm \\sqrt{19}", false }, { "\\pm 3", "-3, 3", true }, { "x=\\pm3", "3,-3", true },
          { "\\{-2, 1-\\sqrt5, 1+\\sqrt5\\}", "\\{1\\pm\\sqrt{5},-2\\}", true }, { "\\pm 1 \\pm 2", "3,-3", false },
          { "5\\pm1", "1\\pm5", false });
    CHECK({ "\\begin{bmatrix} -\\frac13 \\\\ \\frac{2}{3} \\end{bmatrix}",
            "\\begin{pmatrix} -1/3 \\\\ 2/3 \\end{pmatrix}", true },
          { "\\begin{array}{cc} 1 & 2 \\end{array}", "\\begin{pmatrix} 1 & 2 \\end{pmatrix}", true },
          { "\\begin{pmatrix} 1 & 2 \\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", false },
          { "\\begin{pmatrix} 1 \\\\ 2 \\\\ \\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", true },
          { "\\begin{vmatrix} 1 \\end{vmatrix}", "\\begin{pmatrix} 1.0 \\end{pmatrix}", false },
          { "\\begin{pmatrix} 1 \\\\ 3 \\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", false },
          { "(1,2)", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", false });
}

/* Two fractions need equal strings, an unreduced one is wrong whatever the label; other values are compared exactly. */
static void test_values(void **state)
{
    (void)state;
    CHECK({ "\\frac{2}{4}", "\\frac{1}{2}", false }, { "2/4", "0.5", false }, { "\\frac{4}{2}", "2", false },
          { "\\frac{2}{1}", "2", false }, { "\\frac{0}{3}", "0", false }, { "\\frac{2}{4}", "\\frac{2}{4}", true },
          { "\\frac{1}{2}", "\\frac{2}{4}", false }, { "2", "\\frac{4}{2}", true },
          { "\\frac{01}{2}", "\\frac12", true }, { "0.25", "\\frac{1}{4}", true }, { "0.250", "\\frac{1}{4}", true },
          { "0.333", "\\frac{1}{3}", false }, { "0.33333333333333333333", "\\frac{1}{3}", false },
          { "0.\\overline{3}", "\\frac{1}{3}", true }, { "1.4142135623730951", "\\sqrt{2}", false },
          { "3.14159265358979", "\\pi", false }, { "\\frac{2\\sqrt{3}}{4}", "\\frac{\\sqrt{3}}{2}", true },
          { "\\frac{1}{\\sqrt2}", "\\frac{\\sqrt{2}}{2}", true }, { "12\\pi", "12 \\cdot \\pi", true },
          { "4.0", "4", true }, { "\\sqrt{16}", "4", true }, { "2^3", "8", true }, { "50\\%", "0.5", true },
          { "0.5\\%", "0.5", true }, { "5\\%", "0.5", false }, { "30^\\circ", "\\frac{\\pi}{6}", true },
          { "\\sin 30^\\circ", "\\frac{1}{2}", true }, { "(a+5)(b+2)", "ab+2a+5b+10", true },
          { "x(x+1)", "x^2+1", false }, { "5r^5", "r^5 \\cdot 5", true }, { "-13x+3", "3-13x", true },
          { "6-5i", "6+5i", false }, { "-0", "0", true }, { "9^9^9^9", "9^{9^{9^9}}", false },
          { "9^9^9^9", "9^9^9^9", true }, { "1/0", "1/0", true }, { "1/0", "2/0", false });
    CHECK({ "y=2x+3", "y = 3+2x", true }, { "2x-y+3=0", "y = 2x + 3", true }, { "y=2x-3", "y = 2x + 3", false },
          { "5x - 7y = -11z - 4", "5x - 7y + 11z + 4 = 0", true }, { "-5x+7y-11z-4=0", "5x - 7y + 11z + 4 = 0", true },
          { "10x-14y+22z+8=0", "5x - 7y + 11z + 4 = 0", false },
          { "5x - 7y + 11z + 4", "5x - 7y + 11z + 4 = 0", false });
}

/* Texts above the limit are compared as they are. */
static void test_long_answers(void **state)
{
    (void)state;
    enum { N = 3 * ML_ANSWER_MAX };
    static char long_one[N + 1], spaced[N + 1], deep[ML_ANSWER_MAX + 1];
    memset(long_one, '7', N);
    memcpy(spaced, long_one, N);
    spaced[N / 2] = ' ';
    memset(deep, '(', ML_ANSWER_MAX);
    const pair pairs[] = { { long_one, long_one, true }, { spaced, long_one, false }, { deep, "1", false } };
    check_pairs(pairs, 3);
    static char wide[ML_ANSWER_MAX + 1];
    for (int i = 0; i < ML_ANSWER_MAX; i++) wide[i] = i % 2 ? ',' : '1'; /* more parts than are compared one by one */
    check_pairs((pair[]){ { wide, wide, true }, { wide, "1,1", false } }, 2);
    /* As many parts as are compared one by one, nearly as long as an answer may be: in order; and some in reverse. */
    for (int reverse = 0; reverse < 2; reverse++) {
        char forth[ML_ANSWER_MAX + 64], back[ML_ANSWER_MAX + 64];
        int n = reverse ? 12 : 64;
        strcpy(forth, reverse ? "" : "(");
        strcpy(back, forth);
        for (int i = 0; i < n; i++) {
            int k = reverse ? n - 1 - i : i;
            const char *comma = i ? "," : "";
            sprintf(forth + strlen(forth), "%sx^{%d}+\\sqrt{%d}-\\frac{y}{%d}", comma, i, i + 2, i + 3);
            sprintf(back + strlen(back), "%sx^{%d}-\\frac{y}{%d}+\\sqrt{%d}", comma, k, k + 3, k + 2);
        }
        if (!reverse) strcat(forth, ")");
        if (!reverse) strcat(back, ")");
        assert_true(reverse || (strlen(forth) <= ML_ANSWER_MAX && strlen(forth) > ML_ANSWER_MAX - 300));
        check_pairs((pair[]){ { forth, back, true }, { forth, forth + 1, false } }, 2);
    }
}

/* ---- where answers are ---- */

static void check_found(ml_reward_kind kind, const char *response, const char *wanted)
{
    ml_span answer;
    bool found = ml_reward_find_answer(kind, ml_span_of(response), &answer);
    if (found != (wanted != NULL)) fail_msg("\"%s\": %s", response, found ? "found an answer" : "found none");
    if (wanted && !ml_span_is(answer, wanted))
        fail_msg("\"%s\": expected \"%s\", found \"%.*s\"", response, wanted, (int)answer.n, answer.at);
}

static void test_boxes(void **state)
{
    (void)state;
    check_found(ML_REWARD_MATH, "so \\boxed{42}.", "42");
    check_found(ML_REWARD_MATH, "\\boxed{1} no, \\boxed{2}", "2");
    check_found(ML_REWARD_MATH, "\\boxed{\\frac{1}{2}} is {it}", "\\frac{1}{2}");
    check_found(ML_REWARD_MATH, "\\boxed{\\boxed{5}}", "5");
    check_found(ML_REWARD_MATH, "\\boxed {\n7 }", "7");
    check_found(ML_REWARD_MATH, "\\boxed{\\{1,2\\}}", "\\{1,2\\}");
    check_found(ML_REWARD_MATH, "\\boxed{\\left\\{x\\right.}", "\\left\\{x\\right.");
    check_found(ML_REWARD_MATH, "\\boxed{a\\\\{b}}", "a\\\\{b}");
    check_found(ML_REWARD_MATH, "\\boxed{}", "");
    check_found(ML_REWARD_MATH, "42", NULL);
    check_found(ML_REWARD_MATH, "", NULL);
    check_found(ML_REWARD_MATH, "\\boxed", NULL);
    check_found(ML_REWARD_MATH, "\\boxed{42", NULL);
    check_found(ML_REWARD_MATH, "\\boxed{1} \\boxed{\\frac{1}{2}", NULL); /* the last is not closed */
    check_found(ML_REWARD_MATH, "\\boxedx{42}", NULL);
    check_found(ML_REWARD_MATH, "\\boxed{42\\}", NULL);
}

static void test_answer_lines(void **state)
{
    (void)state;
    check_found(ML_REWARD_DAPO, "so\nAnswer: 42", "42");
    check_found(ML_REWARD_DAPO, "Answer: 1\nAnswer: $2$\nthat is it", "$2$");
    check_found(ML_REWARD_DAPO, "**Answer:** 34", "34");
    check_found(ML_REWARD_DAPO, "Answer: **34**\n", "34");
    check_found(ML_REWARD_DAPO, "ANSWER : 34", "34");
    check_found(ML_REWARD_DAPO, "Answer:\n\n34\nmore", "34");
    check_found(ML_REWARD_DAPO, "Answer: \\boxed{34}.", "34");
    check_found(ML_REWARD_DAPO, "Answer: \\boxed{34", NULL);
    check_found(ML_REWARD_DAPO, "Answer:", NULL);
    check_found(ML_REWARD_DAPO, "The answer is 34", NULL);
    check_found(ML_REWARD_DAPO, "\\boxed{34}", NULL);
    check_found(ML_REWARD_DAPO, "", NULL);
    /* 300 characters, counted as characters: 289 of two bytes are in, with one more the mark is cut. */
    char text[1024];
    for (int n = 290; n <= 291; n++) {
        strcpy(text, "Answer: 34");
        for (int i = 0; i < n; i++) strcat(text, i ? "\xc3\xa9" : "\n");
        check_found(ML_REWARD_DAPO, text, n == 290 ? "34" : NULL);
    }
}

static void check_label(const char *label, const char *wanted)
{
    ml_span answer;
    assert_ok(ml_reward_read_label(ml_span_of(label), &answer, &err));
    if (!ml_span_is(answer, wanted)) fail_msg("\"%s\": found \"%.*s\"", label, (int)answer.n, answer.at);
}

static void test_labels(void **state)
{
    (void)state;
    ml_span answer;
    check_label("42", "42");
    check_label(" \\frac{1}{2} ", "\\frac{1}{2}");
    check_label("the area is \\boxed{12\\pi}.", "12\\pi");
    check_label("3 + 4 = <<3+4=7>>7\n#### 7", "7");
    check_label("####1,080\n", "1,080");
    assert_fails(ml_reward_read_label(ml_span_of(""), &answer, &err), ML_EINVAL, "expected an answer");
    assert_fails(ml_reward_read_label(ml_span_of(" \n"), &answer, &err), ML_EINVAL, "nothing");
    assert_fails(ml_reward_read_label(ml_span_of("7\n#### "), &answer, &err), ML_EINVAL, "nothing");
    assert_fails(ml_reward_read_label(ml_span_of("\\boxed{7"), &answer, &err), ML_EINVAL, "closing brace");
    assert_fails(ml_reward_read_label((ml_span){ NULL, 0 }, &answer, &err), ML_EINVAL, "nothing");
}

static double score(ml_reward_kind kind, const char *response, const char *label)
{
    double reward;
    assert_ok(ml_reward_score(kind, ml_span_of(response), ml_span_of(label), &reward, &err));
    return reward;
}

static void test_scores(void **state)
{
    (void)state;
    assert_true(score(ML_REWARD_MATH, "\\boxed{0.5}", "\\boxed{\\frac12}") == 1);
    assert_true(score(ML_REWARD_MATH, "\\boxed{\\$1080}", "so\n#### 1,080") == 1);
    assert_true(score(ML_REWARD_MATH, "\\boxed{1081}", "so\n#### 1,080") == 0);
    assert_true(score(ML_REWARD_MATH, "\\boxed{}", "7") == 0);
    assert_true(score(ML_REWARD_MATH, "#### 7", "7") == 0);
    assert_true(score(ML_REWARD_DAPO, "Answer: 7", "7") == 1);
    assert_true(score(ML_REWARD_DAPO, "Answer: 8", "7") == -1);
    assert_true(score(ML_REWARD_DAPO, "7", "7") == -1);
    double reward;
    assert_fails(ml_reward_score(ML_REWARD_MATH, ml_span_of("\\boxed{}"), ml_span_of(""), &reward, &err), ML_EINVAL,
                 "label");
}

static void test_names(void **state)
{
    (void)state;
    ml_reward_kind kind;
    for (int i = 0; i < ML_N_REWARD; i++) {
        assert_ok(ml_reward_find(ml_reward_name((ml_reward_kind)i), &kind, &err));
        assert_int_equal(kind, i);
    }
    assert_fails(ml_reward_find("maths", &kind, &err), ML_EINVAL, "math, dapo");
}

static void test_memory_failure(void **state)
{
    (void)state;
    bool same;
    for (int n = 0; n < 2; n++) { /* for the strings, then for the value */
        ml_alloc_fail_after(n);
        ml_status status = ml_reward_same_answer(ml_span_of("1"), ml_span_of("1.0"), &same, &err);
        ml_alloc_fail_after(-1);
        assert_int_equal(status, ML_ENOMEM);
    }
    int64_t live = ml_alloc_get_stats().n_live;
    assert_ok(ml_reward_same_answer(ml_span_of("1"), ml_span_of("1.0"), &same, &err));
    assert_int_equal(ml_alloc_get_stats().n_live, live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_notation), cmocka_unit_test(test_units_that_are_not),
        cmocka_unit_test(test_words),    cmocka_unit_test(test_parts),
        cmocka_unit_test(test_values),   cmocka_unit_test(test_long_answers),
        cmocka_unit_test(test_boxes),    cmocka_unit_test(test_answer_lines),
        cmocka_unit_test(test_labels),   cmocka_unit_test(test_scores),
        cmocka_unit_test(test_names),    cmocka_unit_test(test_memory_failure),
    };
    return cmocka_run_group_tests_name("reward", tests, NULL, NULL);
}
