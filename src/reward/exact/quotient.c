#include "reward/exact/form.h"

ml_form ml_form_of(ml_exact *x, ml_poly num)
{
    return (ml_form){ num, ml_poly_from(x, 1) };
}

ml_form ml_form_from(ml_exact *x, int64_t v)
{
    return ml_form_of(x, ml_poly_from(x, v));
}

ml_form ml_form_generator(ml_exact *x, const ml_generator *g)
{
    return ml_form_of(x, ml_poly_power_of(x, ml_exact_add_generator(x, g), ML_EXPONENT_ONE));
}

bool ml_form_is_zero(ml_form a)
{
    return a.num.n == 0;
}

bool ml_form_equal(ml_exact *x, ml_form a, ml_form b)
{
    if (ml_poly_equal(a.den, b.den)) return ml_poly_equal(a.num, b.num);
    return ml_poly_equal(ml_poly_mul(x, a.num, b.den), ml_poly_mul(x, b.num, a.den)) && !x->stopped;
}

bool ml_form_to_rational(ml_form a, ml_rational *out)
{
    if (!ml_poly_is_one(a.den) || !ml_poly_is_constant(a.num)) return false;
    *out = a.num.n ? a.num.terms[0].coef : (ml_rational){ { 0 }, a.den.terms[0].coef.den, false };
    return true;
}

/* a with the sign of its second term turned: (p + q)(p - q) = p^2 - q^2. */
static ml_poly conjugate(ml_exact *x, ml_poly a)
{
    ml_term *terms = ml_exact_take(x, 2 * sizeof *terms);
    if (!terms) return (ml_poly){ 0 };
    terms[0] = a.terms[0];
    terms[1] = (ml_term){ a.terms[1].monomial, ml_rational_neg(a.terms[1].coef) };
    return (ml_poly){ terms, 2 };
}

/* num / den with a denominator of 1 where that is easy: one term, or two terms whose conjugate makes it one
 * (1 + sqrt 2, 3 - 2i); otherwise with the denominator's first coefficient 1. */
static ml_form make(ml_exact *x, ml_poly num, ml_poly den)
{
    if (!den.n) ml_exact_stop(x);
    if (x->stopped) return ml_form_from(x, 0);
    ml_poly inverse;
    if (ml_poly_is_one(den)) return (ml_form){ num, den };
    if (ml_poly_invert(x, den, &inverse)) return ml_form_of(x, ml_poly_mul(x, num, inverse));
    if (den.n == 2) {
        ml_poly other = conjugate(x, den), norm = ml_poly_mul(x, den, other);
        if (norm.n == 1 && ml_poly_invert(x, norm, &inverse))
            return ml_form_of(x, ml_poly_mul(x, ml_poly_mul(x, num, other), inverse));
    }
    if (x->stopped) return ml_form_from(x, 0);
    ml_rational lead = ml_rational_inverse(x, den.terms[0].coef);
    return (ml_form){ ml_poly_scale(x, num, lead), ml_poly_scale(x, den, lead) };
}

ml_form ml_form_neg(ml_exact *x, ml_form a)
{
    return (ml_form){ ml_poly_neg(x, a.num), a.den };
}

ml_form ml_form_add(ml_exact *x, ml_form a, ml_form b)
{
    if (ml_poly_equal(a.den, b.den)) return make(x, ml_poly_add(x, a.num, b.num), a.den);
    ml_poly p = ml_poly_mul(x, a.num, b.den), q = ml_poly_mul(x, b.num, a.den);
    return make(x, ml_poly_add(x, p, q), ml_poly_mul(x, a.den, b.den));
}

ml_form ml_form_sub(ml_exact *x, ml_form a, ml_form b)
{
    return ml_form_add(x, a, ml_form_neg(x, b));
}

ml_form ml_form_mul(ml_exact *x, ml_form a, ml_form b)
{
    return make(x, ml_poly_mul(x, a.num, b.num), ml_poly_mul(x, a.den, b.den));
}

ml_form ml_form_div(ml_exact *x, ml_form a, ml_form b)
{
    return make(x, ml_poly_mul(x, a.num, b.den), ml_poly_mul(x, a.den, b.num));
}

/* Does a sum raised to a power k have at least k + 1 terms: has it a generator that no power turns into a number? */
static bool grows_with_power(const ml_exact *x, ml_poly a)
{
    if (a.n < 2) return false;
    for (int i = 0; i < a.n; i++) {
        const ml_monomial *m = &x->monomials[a.terms[i].monomial];
        for (int k = 0; k < m->n; k++) {
            ml_generator_kind kind = x->generators[m->factors[k].generator].kind;
            if (kind != ML_GEN_PRIME && kind != ML_GEN_I && kind != ML_GEN_ROOT) return true;
        }
    }
    return false;
}

/* The power of one term whose generators may have any exponent, in one step. */
static bool pow_of_term(ml_exact *x, ml_poly a, int64_t k, ml_poly *out)
{
    const ml_monomial *m = &x->monomials[a.terms[0].monomial];
    ml_poly power = ml_poly_term(x, 0, ml_rational_pow(x, a.terms[0].coef, k));
    for (int i = 0; i < m->n; i++) {
        int64_t exponent;
        if (x->generators[m->factors[i].generator].kind == ML_GEN_ROOT) return false;
        if (__builtin_mul_overflow(m->factors[i].exponent, k, &exponent)) ml_exact_stop(x);
        if (x->stopped) return false;
        power = ml_poly_mul(x, power, ml_poly_power_of(x, m->factors[i].generator, exponent));
    }
    *out = power;
    return true;
}

ml_form ml_form_pow_int(ml_exact *x, ml_form a, int64_t k)
{
    if (k < 0) {
        a = ml_form_div(x, ml_form_from(x, 1), a);
        k = -k;
    }
    if (k == 0 && ml_form_is_zero(a)) ml_exact_stop(x); /* 0^0 */
    bool large = grows_with_power(x, a.num) || grows_with_power(x, a.den);
    if (large && k >= ML_POLY_MAX_TERMS) ml_exact_stop(x);
    if (x->stopped) return ml_form_from(x, 0);
    if (a.num.n == 1 && ml_poly_is_one(a.den)) {
        ml_poly power;
        if (pow_of_term(x, a.num, k, &power)) return ml_form_of(x, power);
    }
    ml_form power = ml_form_from(x, 1);
    for (; k && !x->stopped; k >>= 1) {
        if (k & 1) power = ml_form_mul(x, power, a);
        if (k > 1) a = ml_form_mul(x, a, a);
    }
    return power;
}
