#include "reward/exact/form.h"

static ml_form opaque(ml_exact *x, ml_function f, ml_form arg)
{
    ml_generator g = { .kind = ML_GEN_FUNCTION, .function = f, .arg = arg };
    return x->stopped ? arg : ml_form_generator(x, &g);
}

static bool leads_negative(ml_form a)
{
    return a.num.n && a.num.terms[0].coef.negative;
}

/* ---- trigonometry ---- */

/* Is a = k * pi / 12? */
static bool twelfths_of_pi(ml_exact *x, ml_form a, int64_t *k)
{
    *k = 0;
    if (ml_form_is_zero(a)) return true;
    if (!ml_poly_is_one(a.den) || a.num.n != 1) return false;
    const ml_monomial *m = &x->monomials[a.num.terms[0].monomial];
    if (m->n != 1 || x->generators[m->factors[0].generator].kind != ML_GEN_PI ||
        m->factors[0].exponent != ML_EXPONENT_ONE)
        return false;
    ml_rational r = ml_rational_mul(x, a.num.terms[0].coef, ml_rational_from(x, 12));
    return ml_rational_to_int(r, k);
}

static ml_form root_of_int(ml_exact *x, int64_t v)
{
    return ml_form_root(x, ml_form_from(x, v), 2);
}

/* cos(k pi / 12) */
static ml_form cos_twelfth(ml_exact *x, int64_t k)
{
    k = (k % 24 + 24) % 24;
    if (k > 12) k = 24 - k;
    if (k > 6) return ml_form_neg(x, cos_twelfth(x, 12 - k));
    ml_form two = ml_form_from(x, 2), four = ml_form_from(x, 4);
    switch (k) {
    case 0: return ml_form_from(x, 1);
    case 1: return ml_form_div(x, ml_form_add(x, root_of_int(x, 6), root_of_int(x, 2)), four);
    case 2: return ml_form_div(x, root_of_int(x, 3), two);
    case 3: return ml_form_div(x, root_of_int(x, 2), two);
    case 4: return ml_form_div(x, ml_form_from(x, 1), two);
    case 5: return ml_form_div(x, ml_form_sub(x, root_of_int(x, 6), root_of_int(x, 2)), four);
    default: return ml_form_from(x, 0);
    }
}

static ml_form sine(ml_exact *x, ml_form a)
{
    int64_t k;
    if (twelfths_of_pi(x, a, &k)) return cos_twelfth(x, k - 6);
    if (leads_negative(a)) return ml_form_neg(x, opaque(x, ML_FUNCTION_SIN, ml_form_neg(x, a)));
    return opaque(x, ML_FUNCTION_SIN, a);
}

static ml_form cosine(ml_exact *x, ml_form a)
{
    int64_t k;
    if (twelfths_of_pi(x, a, &k)) return cos_twelfth(x, k);
    return opaque(x, ML_FUNCTION_COS, leads_negative(a) ? ml_form_neg(x, a) : a);
}

/* arcsin and arctan are odd. */
static ml_form inverse_of_odd(ml_exact *x, ml_function f, ml_form a)
{
    if (ml_form_is_zero(a)) return a;
    if (leads_negative(a)) return ml_form_neg(x, opaque(x, f, ml_form_neg(x, a)));
    return opaque(x, f, a);
}

/* ---- logarithms ---- */

static ml_form times_rational(ml_exact *x, ml_form a, ml_rational c)
{
    return (ml_form){ ml_poly_scale(x, a.num, c), a.den };
}

/* The sum of multiplicity * ln(prime). */
static ml_form ln_of_nat(ml_exact *x, ml_nat a)
{
    ml_prime_power primes[32];
    int n = ml_nat_factor(x, a, primes, 32);
    ml_form result = ml_form_from(x, 0);
    for (int i = 0; i < n && !x->stopped; i++) {
        ml_rational prime = { primes[i].prime, ml_nat_from(x, 1), false };
        ml_form ln = opaque(x, ML_FUNCTION_LN, ml_form_of(x, ml_poly_term(x, 0, prime)));
        ml_rational times = ml_rational_from(x, primes[i].multiplicity);
        result = ml_form_add(x, result, times_rational(x, ln, times));
    }
    return result;
}

/* ln(generator^exponent) of a positive generator. */
static ml_form ln_of_factor(ml_exact *x, ml_factor f)
{
    const ml_generator *g = &x->generators[f.generator];
    ml_form ln = ml_form_from(x, 1);
    if (g->kind == ML_GEN_PRIME) ln = ln_of_nat(x, g->prime);
    if (g->kind == ML_GEN_PI)
        ln = opaque(x, ML_FUNCTION_LN, ml_form_of(x, ml_poly_power_of(x, f.generator, ML_EXPONENT_ONE)));
    ml_rational times = ml_rational_make(x, ml_nat_from(x, (uint64_t)(f.exponent < 0 ? -f.exponent : f.exponent)),
                                         ml_nat_from(x, (uint64_t)ML_EXPONENT_ONE), f.exponent < 0);
    return times_rational(x, ln, times);
}

/* A product of positive numbers is taken apart; anything else is kept whole. */
static ml_form logarithm(ml_exact *x, ml_form a)
{
    ml_rational r;
    if (ml_form_is_zero(a) || (ml_form_to_rational(a, &r) && r.negative)) ml_exact_stop(x);
    if (x->stopped) return a;
    if (!ml_poly_is_one(a.den) || a.num.n != 1 || a.num.terms[0].coef.negative) return opaque(x, ML_FUNCTION_LN, a);
    const ml_monomial *m = &x->monomials[a.num.terms[0].monomial];
    for (int i = 0; i < m->n; i++) {
        if (!ml_exact_is_positive(x, m->factors[i].generator)) return opaque(x, ML_FUNCTION_LN, a);
    }
    ml_rational coef = a.num.terms[0].coef;
    ml_form sum = ml_form_sub(x, ln_of_nat(x, coef.num), ln_of_nat(x, coef.den));
    for (int i = 0; i < m->n && !x->stopped; i++) sum = ml_form_add(x, sum, ln_of_factor(x, m->factors[i]));
    return sum;
}

ml_form ml_form_log(ml_exact *x, ml_form base, ml_form arg)
{
    return ml_form_div(x, logarithm(x, arg), logarithm(x, base));
}

/* ---- whole numbers ---- */

static ml_form absolute(ml_exact *x, ml_form a)
{
    ml_rational r;
    if (ml_form_to_rational(a, &r)) return r.negative ? ml_form_neg(x, a) : a;
    return opaque(x, ML_FUNCTION_ABS, leads_negative(a) ? ml_form_neg(x, a) : a);
}

static ml_form round_towards(ml_exact *x, ml_form a, bool up)
{
    ml_rational r;
    ml_nat rest;
    if (!ml_form_to_rational(a, &r)) return opaque(x, up ? ML_FUNCTION_CEIL : ML_FUNCTION_FLOOR, a);
    ml_nat whole = ml_nat_div(x, r.num, r.den, &rest);
    if (rest.n && r.negative != up) whole = ml_nat_add(x, whole, ml_nat_from(x, 1)); /* away from zero */
    return ml_form_of(x, ml_poly_term(x, 0, ml_rational_make(x, whole, ml_nat_from(x, 1), r.negative)));
}

ml_form ml_form_factorial(ml_exact *x, ml_form a)
{
    ml_rational r;
    int64_t n;
    if (!ml_form_to_rational(a, &r) || !ml_rational_to_int(r, &n) || n < 0 || n > 300) ml_exact_stop(x);
    if (x->stopped) return a;
    ml_nat product = ml_nat_from(x, 1);
    for (int64_t k = 2; k <= n && !x->stopped; k++) product = ml_nat_mul(x, product, ml_nat_from(x, (uint64_t)k));
    return ml_form_of(x, ml_poly_term(x, 0, ml_rational_make(x, product, ml_nat_from(x, 1), false)));
}

ml_form ml_form_binomial(ml_exact *x, ml_form top, ml_form bottom)
{
    ml_rational r, s;
    int64_t n, k;
    if (!ml_form_to_rational(top, &r) || !ml_form_to_rational(bottom, &s) || !ml_rational_to_int(r, &n) ||
        !ml_rational_to_int(s, &k) || n < 0 || k < 0 || n > 1000)
        ml_exact_stop(x);
    if (x->stopped) return top;
    if (k > n) return ml_form_from(x, 0);
    if (k > n - k) k = n - k;
    ml_nat product = ml_nat_from(x, 1);
    for (int64_t i = 1; i <= k && !x->stopped; i++) { /* C(n, i) = C(n, i - 1) (n - i + 1) / i */
        product = ml_nat_mul(x, product, ml_nat_from(x, (uint64_t)(n - i + 1)));
        product = ml_nat_div(x, product, ml_nat_from(x, (uint64_t)i), NULL);
    }
    return ml_form_of(x, ml_poly_term(x, 0, ml_rational_make(x, product, ml_nat_from(x, 1), false)));
}

ml_form ml_form_apply(ml_exact *x, ml_function f, ml_form a)
{
    ml_form one = ml_form_from(x, 1);
    ml_generator e = { .kind = ML_GEN_E };
    if (x->stopped) return a;
    switch (f) {
    case ML_FUNCTION_SIN: return sine(x, a);
    case ML_FUNCTION_COS: return cosine(x, a);
    case ML_FUNCTION_TAN: return ml_form_div(x, sine(x, a), cosine(x, a));
    case ML_FUNCTION_COT: return ml_form_div(x, cosine(x, a), sine(x, a));
    case ML_FUNCTION_SEC: return ml_form_div(x, one, cosine(x, a));
    case ML_FUNCTION_CSC: return ml_form_div(x, one, sine(x, a));
    case ML_FUNCTION_ARCSIN:
    case ML_FUNCTION_ARCTAN: return inverse_of_odd(x, f, a);
    case ML_FUNCTION_LN: return logarithm(x, a);
    case ML_FUNCTION_LOG: return ml_form_log(x, ml_form_from(x, 10), a);
    case ML_FUNCTION_EXP: return ml_form_pow(x, ml_form_generator(x, &e), a);
    case ML_FUNCTION_ABS: return absolute(x, a);
    case ML_FUNCTION_FLOOR: return round_towards(x, a, false);
    case ML_FUNCTION_CEIL: return round_towards(x, a, true);
    default: return opaque(x, f, a);
    }
}
