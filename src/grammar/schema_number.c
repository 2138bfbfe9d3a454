/* Numbers between bounds, digit by digit.
 *
 * A magnitude has up to 15 digits before the point and so many behind it that it has 15 in all, which doubles tell
 * apart.  A bound is written with the same digits.  While the digits so far are those of a bound, the next one must not
 * be beyond the bound's; once they differ, any may come.  Of the digits so far the remainder by multipleOf is known. */
#include "grammar/schema_internal.h"

#include "base/alloc.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

const char *const ml_schema_number_keywords[] = {
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "format", NULL
};

enum { WHOLE = ML_SCHEMA_DIGITS, ALL = 2 * ML_SCHEMA_DIGITS, MOST_MULTIPLE = 100 };

/* digit[0..WHOLE) before the point, the rest behind it */
typedef struct {
    uint8_t digit[ALL];
    bool negative, exclusive, set;
} bound;

typedef struct {
    ml_compiler *c;
    const bound *low, *high; /* magnitudes */
    int64_t n_fraction;      /* digits behind the point at most, with what is before it */
    int64_t n_whole;         /* digits before the point of what is being made */
    int64_t multiple;
    int32_t *rule; /* [ALL + 1, 4, multiple] -1: not yet */
} range;

/* ---- bounds ---- */

static bool is_zero(const bound *b, int from)
{
    for (int i = from; i < ALL; i++) {
        if (b->digit[i]) return false;
    }
    return true;
}

/* -1, 0, 1 by magnitude */
static int compare_magnitudes(const bound *a, const bound *b)
{
    int order = memcmp(a->digit, b->digit, ALL);
    return (order > 0) - (order < 0);
}

static int compare_bounds(const bound *a, const bound *b)
{
    if (a->negative != b->negative) return a->negative ? -1 : 1;
    return a->negative ? -compare_magnitudes(a, b) : compare_magnitudes(a, b);
}

static void set_largest(bound *b, bool negative)
{
    *b = (bound){ .negative = negative };
    memset(b->digit, 9, WHOLE);
}

/* The digits of a number.  *beyond: it is larger than any that is made. */
static ml_status read_digits(const ml_compiler *c, const char *key, double x, bound *out, bool *beyond)
{
    char text[64];
    *out = (bound){ .negative = x < 0, .set = true };
    *beyond = fabs(x) >= 1e15;
    if (*beyond) return ML_OK;
    /* The 15 digits that a double certainly has, and behind the point as many as are left. */
    snprintf(text, sizeof text, "%.*e", ML_SCHEMA_DIGITS - 1, fabs(x));
    double same = strtod(text, NULL);
    int exponent = (int)strtol(strchr(text, 'e') + 1, NULL, 10), at = WHOLE - 1 - exponent;
    if (same != fabs(x)) return ml_schema_refuse(c, key, "has more than 15 digits");
    for (const char *p = text; *p != 'e'; p++) {
        if (*p == '.') continue;
        if (at >= 0 && at < ALL) out->digit[at] = (uint8_t)(*p - '0');
        if (at >= ALL && *p != '0') return ml_schema_refuse(c, key, "has more than 15 digits behind the point");
        at++;
    }
    if (is_zero(out, 0)) out->negative = false;
    return ML_OK;
}

/* Take a bound into account; `sign` 1: lower ones, -1: upper ones. */
static ml_status read_bound(const ml_compiler *c, const json_t *schema, const char *key, bool exclusive, int sign,
                            bound *out, bool *none)
{
    const json_t *v = json_object_get(schema, key);
    bound b;
    bool beyond;
    if (!v) return ML_OK;
    if (!json_is_number(v)) return ml_schema_refuse(c, key, "is no number");
    ML_TRY(read_digits(c, key, json_number_value(v), &b, &beyond));
    if (beyond) {
        *none = *none || b.negative == (sign < 0);
        return ML_OK;
    }
    b.exclusive = exclusive;
    int order = sign * compare_bounds(&b, out);
    if (order > 0 || (order == 0 && exclusive)) *out = b;
    return ML_OK;
}

/* ---- digits ---- */

static ml_status make_digits(range *r, int64_t at, bool on_low, bool on_high, int64_t remainder, ml_symbol *out);

/* Whether the magnitude may end before digit `at`. */
static bool may_end(const range *r, int64_t at, bool on_low, bool on_high, int64_t remainder)
{
    if (remainder != 0) return false;
    if (on_low && (r->low->exclusive || !is_zero(r->low, (int)at))) return false;
    return !on_high || !r->high->exclusive || !is_zero(r->high, (int)at);
}

/* One more digit, then the rest; digits that lead to the same place are one alternative. */
static ml_status add_digits(range *r, int64_t at, bool on_low, bool on_high, int64_t remainder, int32_t rule,
                            bool after_point)
{
    ml_compiler *c = r->c;
    int from = on_low ? r->low->digit[at] : 0, to = on_high ? r->high->digit[at] : 9;
    if (at == WHOLE - r->n_whole && r->n_whole > 1 && from < 1) from = 1; /* no leading zero */
    for (int d = from; d <= to; d++) {
        bool low = on_low && d == r->low->digit[at], high = on_high && d == r->high->digit[at];
        int last = d;
        while (r->multiple == 1 && !low && !high && last < to && !(on_high && last + 1 == r->high->digit[at])) last++;
        ml_symbol digit, rest;
        const char ends[2] = { (char)('0' + d), (char)('0' + last) };
        ML_TRY(ml_grammar_class(c->g, ends, 1, &digit, c->err));
        ML_TRY(make_digits(r, at + 1, low, high, (remainder * 10 + d) % r->multiple, &rest));
        if (after_point) {
            ML_TRY(ADD(c, rule, c->point, digit, rest));
        } else {
            ML_TRY(ADD(c, rule, digit, rest));
        }
        d = last;
    }
    return ML_OK;
}

/* Digits from `at` on. */
static ml_status make_digits(range *r, int64_t at, bool on_low, bool on_high, int64_t remainder, ml_symbol *out)
{
    ml_compiler *c = r->c;
    int32_t *known = &r->rule[(at * 4 + on_low * 2 + on_high) * r->multiple + remainder];
    *out = *known;
    if (*known >= 0) return ML_OK;
    ML_TRY(RULE(c, out));
    *known = *out;
    bool whole = at < WHOLE;
    if (!whole && may_end(r, at, on_low, on_high, remainder)) ML_TRY(ml_schema_add_empty(c, *out));
    if (!whole && at >= WHOLE + r->n_fraction) return ML_OK;
    return add_digits(r, at, on_low, on_high, remainder, *out, at == WHOLE);
}

/* Magnitudes of n digits before the point: none, or one more alternative of `rule`, behind `sign` (0: no sign). */
static ml_status add_length(range *r, int64_t n, ml_symbol sign, int64_t most_fraction, int32_t rule)
{
    ml_compiler *c = r->c;
    int first = (int)(WHOLE - n);
    bool above_low = n > 1 && !r->low->digit[first], below_high = false;
    ml_symbol digits;
    for (int i = 0; i < first; i++) {
        if (r->low->digit[i]) return ML_OK; /* all are too small */
        below_high = below_high || r->high->digit[i];
    }
    r->n_whole = n;
    r->n_fraction = most_fraction < ML_SCHEMA_DIGITS - n ? most_fraction : ML_SCHEMA_DIGITS - n;
    for (int64_t i = 0; i < (ALL + 1) * 4 * r->multiple; i++) r->rule[i] = -1;
    ML_TRY(make_digits(r, first, !above_low, !below_high, 0, &digits));
    return sign ? ADD(c, rule, sign, digits) : ADD(c, rule, digits);
}

static ml_status add_magnitudes(ml_compiler *c, const bound *low, const bound *high, ml_symbol sign, int64_t fraction,
                                int64_t multiple, int32_t rule)
{
    range r = { .c = c, .low = low, .high = high, .multiple = multiple };
    size_t n = (size_t)((ALL + 1) * 4 * multiple);
    r.rule = ml_calloc(n, sizeof *r.rule);
    if (!r.rule) return ml_fail_memory(c->err, n * sizeof *r.rule, "a grammar");
    ml_status status = ML_OK;
    for (int64_t i = 1; i <= WHOLE && status == ML_OK; i++) status = add_length(&r, i, sign, fraction, rule);
    ml_free(r.rule);
    return status;
}

/* ---- the type ---- */

/* multipleOf: a small whole number, or 0.1, 0.01, ..., which bounds the digits behind the point. */
static ml_status read_multiple(const ml_compiler *c, const json_t *schema, int64_t *multiple, int64_t *fraction)
{
    const json_t *v = json_object_get(schema, "multipleOf");
    double x = json_number_value(v), power = 1;
    *multiple = 1;
    if (!v) return ML_OK;
    for (int64_t digits = 0; digits < ML_SCHEMA_DIGITS && json_is_real(v); digits++, power *= 10) {
        if (x != 1 / power) continue;
        if (digits < *fraction) *fraction = digits;
        return ML_OK;
    }
    bool whole = json_is_number(v) && x >= 1 && x <= MOST_MULTIPLE && x == floor(x);
    if (!whole) {
        return ml_schema_refuse(c, "multipleOf",
                                "cannot be honoured: expected a whole number up to 100, or 0.1, 0.01, ...");
    }
    *multiple = (int64_t)x;
    *fraction = 0;
    return ML_OK;
}

/* OpenAPI's formats of numbers: int32 has bounds, the others hold for all that is made. */
static ml_status read_format(const ml_compiler *c, const json_t *schema, bool *int32)
{
    static const char *const wide[] = { "int64", "float", "double", NULL };
    const json_t *v = json_object_get(schema, "format");
    const char *name = json_string_value(v);
    *int32 = name && !strcmp(name, "int32");
    if (!v || *int32 || (name && ml_schema_is_one_of(name, wide))) return ML_OK;
    return ml_schema_refuse(c, "format", "cannot be honoured of a number: expected int32, int64, float or double");
}

static ml_status read_bounds(const ml_compiler *c, const json_t *schema, bool int32, bound *low, bound *high,
                             bool *none)
{
    json_t *of_int32 =
        int32 ? json_pack("{s:I, s:I}", "minimum", (json_int_t)INT32_MIN, "maximum", (json_int_t)INT32_MAX) : NULL;
    ml_status status;
    set_largest(low, true);
    set_largest(high, false);
    ML_TRY_GOTO(read_bound(c, schema, "minimum", false, 1, low, none));
    ML_TRY_GOTO(read_bound(c, schema, "exclusiveMinimum", true, 1, low, none));
    ML_TRY_GOTO(read_bound(c, schema, "maximum", false, -1, high, none));
    ML_TRY_GOTO(read_bound(c, schema, "exclusiveMaximum", true, -1, high, none));
    if (of_int32) ML_TRY_GOTO(read_bound(c, of_int32, "minimum", false, 1, low, none));
    if (of_int32) ML_TRY_GOTO(read_bound(c, of_int32, "maximum", false, -1, high, none));
done:
    json_decref(of_int32);
    return status;
}

ml_status ml_schema_compile_number(ml_compiler *c, const json_t *schema, bool integer, ml_symbol *out)
{
    bound low, high, zero = { .set = true }, above_zero = { .set = true, .exclusive = true };
    bool none = false, int32, any = true;
    int64_t multiple, fraction = integer ? 0 : ML_SCHEMA_DIGITS;
    for (size_t i = 0; ml_schema_number_keywords[i]; i++) {
        any = any && !json_object_get(schema, ml_schema_number_keywords[i]);
    }
    *out = integer ? c->integer : c->number;
    if (any) return ML_OK;
    ML_TRY(read_format(c, schema, &int32));
    ML_TRY(read_multiple(c, schema, &multiple, &fraction));
    ML_TRY(read_bounds(c, schema, int32, &low, &high, &none));
    ML_TRY(RULE(c, out));
    int order = compare_bounds(&low, &high);
    if (none || order > 0) return ML_OK; /* nothing is between them */
    if (!high.negative) {
        ML_TRY(add_magnitudes(c, low.negative ? &zero : &low, &high, 0, fraction, multiple, *out));
    }
    if (!low.negative) return ML_OK;
    /* -0 is not made: it is a zero, which has been. */
    return add_magnitudes(c, high.negative ? &high : &above_zero, &low, c->minus, fraction, multiple, *out);
}
