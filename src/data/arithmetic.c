#include "data/arithmetic.h"

#include "base/rng.h"
#include "data/stories.h"

#include <stdbool.h>
#include <stdio.h>

/* A number of one, two or three digits, each length as likely. */
static int draw_number(ml_rng *rng)
{
    static const int limit[] = { 10, 100, 1000 };
    return 1 + (int)ml_rng_below(rng, (uint64_t)limit[ml_rng_below(rng, 3)] - 1);
}

static int between(ml_rng *rng, int low, int high)
{
    return low + (int)ml_rng_below(rng, (uint64_t)(high - low + 1));
}

/* ---- worked lines: each ends in "= answer" ---- */

static void work_add(char out[192], int a, int b)
{
    int tens_a = a / 10 * 10, tens_b = b / 10 * 10, ones_a = a % 10, ones_b = b % 10;
    if (tens_a && tens_b && ones_a && ones_b) {
        snprintf(out, 192, "%d + %d = %d + %d + %d + %d = %d + %d = %d", a, b, tens_a, tens_b, ones_a, ones_b,
                 tens_a + tens_b, ones_a + ones_b, a + b);
    } else {
        snprintf(out, 192, "%d + %d = %d", a, b, a + b);
    }
}

static void work_subtract(char out[192], int a, int b)
{
    int tens = b / 10 * 10, ones = b % 10;
    if (tens && ones) {
        snprintf(out, 192, "%d - %d = %d - %d - %d = %d - %d = %d", a, b, a, tens, ones, a - tens, ones, a - b);
    } else {
        snprintf(out, 192, "%d - %d = %d", a, b, a - b);
    }
}

static void work_multiply(char out[192], int a, int b)
{
    int tens = b / 10 * 10, ones = b % 10;
    if (tens && ones) {
        snprintf(out, 192, "%d * %d = %d * %d + %d * %d = %d + %d = %d", a, b, a, tens, a, ones, a * tens, a * ones,
                 a * b);
    } else {
        snprintf(out, 192, "%d * %d = %d", a, b, a * b);
    }
}

/* ---- problems: each writes prompt and work and returns the answer ---- */

static int plain_sum(ml_rng *rng, ml_problem *p)
{
    static const char *const ask[][2] = {
        { "What is ", "?" }, { "", " = ?" }, { "Compute ", "." }, { "How much is ", "?" }
    };
    int a = draw_number(rng), b = draw_number(rng), answer;
    char sign = "+-*/"[ml_rng_below(rng, 4)];
    switch (sign) {
    case '+':
        work_add(p->work, a, b);
        answer = a + b;
        break;
    case '-':
        if (a < b) {
            int c = a;
            a = b;
            b = c;
        }
        work_subtract(p->work, a, b);
        answer = a - b;
        break;
    case '*':
        a = between(rng, 2, 12);
        b = between(rng, 2, 99);
        work_multiply(p->work, a, b);
        answer = a * b;
        break;
    default:
        b = between(rng, 2, 12);
        answer = between(rng, 1, 50);
        a = answer * b;
        snprintf(p->work, sizeof p->work, "%d * %d = %d, so %d / %d = %d", answer, b, a, a, b, answer);
    }
    uint64_t k = ml_rng_below(rng, sizeof ask / sizeof ask[0]);
    snprintf(p->prompt, sizeof p->prompt, "%s%d %c %d%s", ask[k][0], a, sign, b, ask[k][1]);
    return answer;
}

static int two_steps(ml_rng *rng, ml_problem *p)
{
    int a = draw_number(rng), b = draw_number(rng), c = between(rng, 1, a + b);
    snprintf(p->prompt, sizeof p->prompt, "What is %d + %d - %d?", a, b, c);
    snprintf(p->work, sizeof p->work, "%d + %d = %d, and %d - %d = %d", a, b, a + b, a + b, c, a + b - c);
    return a + b - c;
}

static int missing_part(ml_rng *rng, ml_problem *p)
{
    int a = draw_number(rng), b = draw_number(rng);
    snprintf(p->prompt, sizeof p->prompt, "What number makes %d + ? = %d true?", a, a + b);
    work_subtract(p->work, a + b, a);
    return b;
}

static int word_problem(ml_rng *rng, ml_problem *p)
{
    static const char *const things[] = { "apples",  "shells", "marbles", "books",   "cookies", "stones",
                                          "flowers", "coins",  "cards",   "pencils", "nuts",    "stamps" };
    bool she = ml_rng_u32(rng) & 1;
    ml_story_list list = she ? ML_STORY_NAME_SHE : ML_STORY_NAME_HE;
    const char *name = ml_story_list_word(list, ml_rng_below(rng, ml_story_list_size(list)));
    const char *thing = things[ml_rng_below(rng, sizeof things / sizeof things[0])], *he = she ? "she" : "he";
    int a = between(rng, 2, 99), b = between(rng, 2, 99), c = between(rng, 2, 12);
    switch (ml_rng_below(rng, 5)) {
    case 0:
        snprintf(p->prompt, sizeof p->prompt, "%s has %d %s and finds %d more. How many %s does %s have now?", name, a,
                 thing, b, thing, he);
        work_add(p->work, a, b);
        return a + b;
    case 1:
        snprintf(p->prompt, sizeof p->prompt, "%s had %d %s and gave away %d. How many %s are left?", name, a + b,
                 thing, b, thing);
        work_subtract(p->work, a + b, b);
        return a;
    case 2:
        snprintf(p->prompt, sizeof p->prompt, "%s has %d boxes with %d %s in each. How many %s is that in all?", name,
                 c, a, thing, thing);
        work_multiply(p->work, c, a);
        return c * a;
    case 3:
        snprintf(p->prompt, sizeof p->prompt, "%s shares %d %s among %d friends. How many %s does each friend get?",
                 name, c * b, thing, c, thing);
        snprintf(p->work, sizeof p->work, "%d * %d = %d, so %d / %d = %d", b, c, c * b, c * b, c, b);
        return b;
    default:
        c = between(rng, 1, a + b - 1);
        snprintf(p->prompt, sizeof p->prompt, "%s had %d %s, found %d more, and lost %d. How many %s does %s have now?",
                 name, a, thing, b, c, thing, he);
        snprintf(p->work, sizeof p->work, "%d + %d = %d, and %d - %d = %d", a, b, a + b, a + b, c, a + b - c);
        return a + b - c;
    }
}

void ml_arithmetic_draw(uint64_t seed, uint64_t index, ml_problem *problem)
{
    ml_rng rng = ml_rng_make(ml_rng_mix(seed + 0x9e3779b97f4a7c15u) ^ ml_rng_mix(index + 1), 2);
    int answer;
    switch (ml_rng_below(&rng, 8)) {
    case 0: answer = two_steps(&rng, problem); break;
    case 1: answer = missing_part(&rng, problem); break;
    case 2:
    case 3:
    case 4: answer = word_problem(&rng, problem); break;
    default: answer = plain_sum(&rng, problem);
    }
    snprintf(problem->label, sizeof problem->label, "%d", answer);
}
