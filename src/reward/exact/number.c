/* Numbers as they are written. */
#include "reward/exact/parser.h"

static ml_span take_digits(ml_parser *p)
{
    ml_span digits = p->rest;
    digits.n = ml_tex_digits(p->rest);
    advance(p, digits.n);
    return digits;
}

static ml_rational whole(ml_exact *x, ml_nat n)
{
    return ml_rational_make(x, n, ml_nat_from(x, 1), false);
}

/* digits / 10^places */
static ml_rational scaled_down(ml_exact *x, ml_span digits, size_t places)
{
    ml_nat ten = ml_nat_from(x, 10);
    return ml_rational_make(x, ml_nat_from_digits(x, digits), ml_nat_pow(x, ten, places), false);
}

/* \overline{ddd} behind `places` decimals: ddd / ((10^n - 1) 10^places). */
static ml_rational repeating(ml_parser *p, size_t places)
{
    ml_exact *x = p->x;
    if (!accept(p, '{')) ml_exact_stop(x);
    ml_span digits = take_digits(p);
    if (!digits.n || !accept(p, '}')) ml_exact_stop(x);
    if (x->stopped) return ml_rational_from(x, 0);
    ml_nat ten = ml_nat_from(x, 10), power = ml_nat_pow(x, ten, digits.n);
    if (x->stopped) return ml_rational_from(x, 0);
    ml_nat nines = ml_nat_sub(x, power, ml_nat_from(x, 1));
    ml_nat den = ml_nat_mul(x, nines, ml_nat_pow(x, ten, places));
    return ml_rational_make(x, ml_nat_from_digits(x, digits), den, false);
}

/* The digits of {123} or of a single digit, as \frac takes them; empty when something else comes. */
static ml_span take_digit_argument(ml_parser *p)
{
    if (accept(p, '{')) {
        ml_span digits = take_digits(p);
        return accept(p, '}') ? digits : (ml_span){ 0 };
    }
    ml_span digit = { p->rest.at, ml_tex_is_digit(peek(p)) };
    advance(p, digit.n);
    return digit;
}

/* The fraction of a mixed number, \frac{1}{2} or (behind a space) 1/2; false when there is none. */
static bool parse_mixed_fraction(ml_parser *p, ml_rational *out)
{
    ml_parser before = *p;
    bool space = peek(p) == ' ';
    skip_spaces(p);
    ml_span num, den;
    if (accept_command(p, "frac")) {
        num = take_digit_argument(p);
        den = take_digit_argument(p);
        if (!num.n || !den.n) {
            *p = before;
            return false;
        }
    } else {
        num = take_digits(p);
        if (!num.n) {
            *p = before;
            return false;
        }
        bool slash = accept(p, '/');
        den = take_digits(p);
        if (!space || !slash || !den.n) ml_exact_stop(p->x);
    }
    ml_exact *x = p->x;
    *out = ml_rational_make(x, ml_nat_from_digits(x, num), ml_nat_from_digits(x, den), false);
    if (ml_nat_compare(out->num, out->den) >= 0) ml_exact_stop(x); /* 2 3/2 is not how anyone writes a number */
    return true;
}

ml_form ml_form_parse_number(ml_parser *p, bool may_mix)
{
    ml_exact *x = p->x;
    ml_span digits = take_digits(p);
    ml_rational value = whole(x, ml_nat_from_digits(x, digits)), more;
    bool is_whole = true;
    if (peek(p) == '.') {
        advance(p, 1);
        ml_span decimals = take_digits(p);
        is_whole = false;
        value = ml_rational_add(x, value, scaled_down(x, decimals, decimals.n));
        if (accept_command(p, "overline")) {
            value = ml_rational_add(x, value, repeating(p, decimals.n));
        } else if (!decimals.n) {
            ml_exact_stop(x);
        }
    }
    if (is_whole && may_mix && parse_mixed_fraction(p, &more)) value = ml_rational_add(x, value, more);
    if (peek(p) == '_' || peek(p) == '.') ml_exact_stop(x); /* a base, or 1.2.3 */
    return ml_form_of(x, ml_poly_term(x, 0, value));
}
