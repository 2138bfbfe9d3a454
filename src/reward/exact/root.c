#include "reward/exact/form.h"

enum { TRIAL_LIMIT = 1009, MAX_PRIMES = 48 };

static void add_prime(ml_exact *x, ml_prime_power *out, int *n, int capacity, ml_nat prime, int64_t multiplicity)
{
    if (*n == capacity) {
        ml_exact_stop(x);
    } else {
        out[(*n)++] = (ml_prime_power){ prime, multiplicity };
    }
}

/* What trial division left: a prime when below the square of the limit; else perhaps a power. */
static void add_cofactor(ml_exact *x, ml_prime_power *out, int *n, int capacity, ml_nat a)
{
    static const uint32_t powers[] = { 2, 3, 5, 7 };
    int64_t multiplicity = 1;
    uint64_t v;
    if (ml_nat_is_one(a)) return;
    for (size_t i = 0; i < sizeof powers / sizeof *powers && !x->stopped; i++) {
        bool exact = !(ml_nat_to_u64(a, &v) && v < (uint64_t)TRIAL_LIMIT * TRIAL_LIMIT);
        while (exact && !x->stopped) {
            ml_nat root = ml_nat_root(x, a, powers[i], &exact);
            if (!exact) break;
            a = root;
            multiplicity *= powers[i];
        }
    }
    add_prime(x, out, n, capacity, a, multiplicity);
}

int ml_nat_factor(ml_exact *x, ml_nat a, ml_prime_power *out, int capacity)
{
    int n = 0;
    for (uint32_t p = 2; p < TRIAL_LIMIT && !x->stopped && !ml_nat_is_one(a); p += 1 + (p & 1)) {
        uint64_t v;
        if (ml_nat_to_u64(a, &v) && v < (uint64_t)p * p) break;
        ml_exact_charge(x, 2 + 3 * (int64_t)a.n);
        int64_t multiplicity = 0;
        while (a.n && ml_nat_mod_small(a, p) == 0 && !x->stopped) {
            a = ml_nat_div(x, a, ml_nat_from(x, p), NULL);
            multiplicity++;
        }
        if (multiplicity) add_prime(x, out, &n, capacity, ml_nat_from(x, p), multiplicity);
    }
    if (!x->stopped && a.n) add_cofactor(x, out, &n, capacity, a);
    return x->stopped ? 0 : n;
}

/* prime^(multiplicity / index) for every prime of a, negated exponents for a denominator. */
static ml_poly root_of_nat(ml_exact *x, ml_nat a, int64_t index, int sign)
{
    ml_prime_power primes[MAX_PRIMES];
    int n = ml_nat_factor(x, a, primes, MAX_PRIMES);
    ml_poly root = ml_poly_from(x, 1);
    for (int i = 0; i < n && !x->stopped; i++) {
        int64_t exponent = sign * primes[i].multiplicity * (ML_EXPONENT_ONE / index);
        if (primes[i].multiplicity % index == 0) { /* comes out: needs no generator */
            ml_rational base = { primes[i].prime, ml_nat_from(x, 1), false };
            root = ml_poly_scale(x, root, ml_rational_pow(x, base, sign * primes[i].multiplicity / index));
            continue;
        }
        ml_generator g = { .kind = ML_GEN_PRIME, .prime = primes[i].prime };
        root = ml_poly_mul(x, root, ml_poly_power_of(x, ml_exact_add_generator(x, &g), exponent));
    }
    return root;
}

/* The root of a positive rational number. */
static ml_poly root_of_rational(ml_exact *x, ml_rational a, int64_t index)
{
    return ml_poly_mul(x, root_of_nat(x, a.num, index, 1), root_of_nat(x, a.den, index, -1));
}

/* An expression under a root that cannot be taken apart: arg^(1/index), as a generator. */
static ml_poly opaque_root(ml_exact *x, ml_poly arg, int64_t index)
{
    ml_generator g = { .kind = ML_GEN_ROOT, .arg = ml_form_of(x, arg) };
    return ml_poly_power_of(x, ml_exact_add_generator(x, &g), ML_EXPONENT_ONE / index);
}

/* Does the principal root of z^exponent halve the exponent (or divide it by the index)?  For 0 < exponent <= 1 it does,
 * unless z is a power with an imaginary exponent. */
static bool root_divides_exponent(const ml_exact *x, ml_factor f, int64_t index)
{
    const ml_generator *g = &x->generators[f.generator];
    if (g->kind == ML_GEN_I || f.exponent <= 0 || f.exponent > ML_EXPONENT_ONE || f.exponent % index) return false;
    if (g->kind != ML_GEN_POWER) return true;
    for (int i = 0; i < g->expo.num.n; i++) {
        const ml_monomial *m = &x->monomials[g->expo.num.terms[i].monomial];
        for (int k = 0; k < m->n; k++) {
            if (x->generators[m->factors[k].generator].kind == ML_GEN_I) return false;
        }
    }
    return true;
}

/* The root of coef * monomial.  Positive generators (and a positive coefficient) come out factor by factor; one other
 * factor z^a with 0 < a <= 1 becomes z^(a / index), which holds for principal values; more than that stays under the
 * root. */
static ml_poly root_of_term(ml_exact *x, ml_term t, int64_t index)
{
    const ml_monomial *m = &x->monomials[t.monomial];
    ml_factor rest[ML_EXACT_MAX_GENERATORS];
    int n_rest = 0;
    ml_poly root = ml_poly_from(x, 1);
    for (int i = 0; i < m->n && !x->stopped; i++) {
        ml_factor f = m->factors[i];
        if (!ml_exact_is_positive(x, f.generator)) {
            rest[n_rest++] = f;
            continue;
        }
        if (f.exponent % index) ml_exact_stop(x);
        root = ml_poly_mul(x, root, ml_poly_power_of(x, f.generator, f.exponent / index));
    }
    bool negative = t.coef.negative;
    t.coef.negative = false;
    root = ml_poly_mul(x, root, root_of_rational(x, t.coef, index));
    if (negative && index & 1) {
        root = ml_poly_neg(x, root);
    } else if (negative && !n_rest) {
        if (index != 2) ml_exact_stop(x);
        ml_generator i = { .kind = ML_GEN_I };
        return ml_poly_mul(x, root, ml_poly_power_of(x, ml_exact_add_generator(x, &i), ML_EXPONENT_ONE));
    }
    if (!n_rest || x->stopped) return root;
    if (n_rest == 1 && root_divides_exponent(x, rest[0], index) && (!negative || index & 1))
        return ml_poly_mul(x, root, ml_poly_power_of(x, rest[0].generator, rest[0].exponent / index));
    bool sign_stays = negative && !(index & 1);
    ml_poly arg = ml_poly_term(x, ml_exact_intern(x, rest, n_rest), ml_rational_from(x, sign_stays ? -1 : 1));
    return ml_poly_mul(x, root, opaque_root(x, arg, index));
}

/* Is m the square root of a whole number (*square = that number) or i (*square = -1)? */
static bool is_quadratic(ml_exact *x, const ml_monomial *m, ml_rational *square)
{
    *square = ml_rational_from(x, 1);
    if (m->n == 1 && x->generators[m->factors[0].generator].kind == ML_GEN_I) {
        *square = ml_rational_from(x, -1);
        return true;
    }
    for (int i = 0; i < m->n; i++) {
        const ml_generator *g = &x->generators[m->factors[i].generator];
        if (g->kind != ML_GEN_PRIME || m->factors[i].exponent != ML_EXPONENT_ONE / 2) return false;
        *square = ml_rational_mul(x, *square, (ml_rational){ g->prime, ml_nat_from(x, 1), false });
    }
    return true;
}

static bool rational_square_root(ml_exact *x, ml_rational a, ml_rational *root)
{
    bool num_exact, den_exact;
    ml_nat num = ml_nat_root(x, a.num, 2, &num_exact), den = ml_nat_root(x, a.den, 2, &den_exact);
    if (a.negative || !num_exact || !den_exact) return false;
    *root = ml_rational_make(x, num, den, false);
    return true;
}

/* sqrt(a + b m), m^2 = c:  with d = sqrt(a^2 - b^2 c) rational it is  sqrt((a + d)/2) + sign(b) sqrt((a - d)/2);
 * for c > 0 this needs a > 0, for m = i the second root is imaginary and it is the principal value. */
static bool denest(ml_exact *x, ml_poly p, ml_poly *root)
{
    ml_rational c, d;
    if (p.n != 2 || p.terms[0].monomial != 0) return false;
    ml_rational a = p.terms[0].coef, b = p.terms[1].coef;
    if (!is_quadratic(x, &x->monomials[p.terms[1].monomial], &c) || (a.negative && !c.negative)) return false;
    ml_rational b2c = ml_rational_mul(x, ml_rational_mul(x, b, b), c);
    ml_rational d2 = ml_rational_add(x, ml_rational_mul(x, a, a), ml_rational_neg(b2c));
    if (!rational_square_root(x, d2, &d)) return false;
    ml_rational half = ml_rational_make(x, ml_nat_from(x, 1), ml_nat_from(x, 2), false);
    ml_rational s = ml_rational_mul(x, ml_rational_add(x, a, d), half);
    ml_rational t = ml_rational_mul(x, ml_rational_add(x, a, ml_rational_neg(d)), half);
    if (ml_rational_is_zero(s) || ml_rational_is_zero(t)) return false;
    ml_poly first = root_of_term(x, (ml_term){ 0, s }, 2), second = root_of_term(x, (ml_term){ 0, t }, 2);
    *root = ml_poly_add(x, first, b.negative ? ml_poly_neg(x, second) : second);
    return true;
}

static ml_poly root_of_poly(ml_exact *x, ml_poly a, int64_t index)
{
    ml_poly root;
    if (a.n == 1) return root_of_term(x, a.terms[0], index);
    if (index == 2 && denest(x, a, &root)) return root;
    ml_rational content = ml_poly_content(x, a);
    ml_poly rest = ml_poly_scale(x, a, ml_rational_inverse(x, content));
    if (x->stopped) return (ml_poly){ 0 };
    return ml_poly_mul(x, root_of_rational(x, content, index), opaque_root(x, rest, index));
}

ml_form ml_form_root(ml_exact *x, ml_form a, int64_t index)
{
    if (index < 1 || ML_EXPONENT_ONE % index) ml_exact_stop(x);
    if (x->stopped || index == 1 || ml_form_is_zero(a)) return a;
    if (ml_poly_is_one(a.den)) return ml_form_of(x, root_of_poly(x, a.num, index));
    ml_rational content = ml_poly_content(x, a.num);
    ml_form rest = { ml_poly_scale(x, a.num, ml_rational_inverse(x, content)), a.den };
    ml_generator g = {
        .kind = ML_GEN_FUNCTION, .function = ML_FUNCTION_ROOT, .arg = rest, .expo = ml_form_from(x, index)
    };
    if (x->stopped) return a;
    ml_form outside = ml_form_of(x, root_of_rational(x, content, index));
    return ml_form_mul(x, outside, ml_form_generator(x, &g));
}

static ml_form pow_rational(ml_exact *x, ml_form base, ml_rational r)
{
    int64_t index, k;
    ml_rational whole = r, den = { r.den, ml_nat_from(x, 1), false };
    whole.den = den.den;
    if (!ml_rational_to_int(den, &index) || !ml_rational_to_int(whole, &k)) ml_exact_stop(x);
    /* Of a negative number the principal value and the real root differ. */
    if (!x->stopped && base.num.n == 1 && base.num.terms[0].coef.negative && index > 2) ml_exact_stop(x);
    if (x->stopped) return base;
    return ml_form_pow_int(x, ml_form_root(x, base, index), k);
}

/* base^expo kept whole, to an integer or rational power of it. */
static ml_form whole_power(ml_exact *x, ml_form base, ml_form expo, ml_rational times)
{
    ml_generator g = { .kind = ML_GEN_POWER, .arg = base, .expo = expo };
    int64_t exponent;
    if (!ml_rational_to_exponent(x, times, &exponent)) ml_exact_stop(x);
    int generator = x->stopped ? 0 : ml_exact_add_generator(x, &g);
    if (x->stopped) return base;
    return ml_form_of(x, ml_poly_power_of(x, generator, exponent));
}

/* The same where base is a natural number: prime by prime, so that 4^n is (2^n)^2. */
static ml_form whole_power_of_nat(ml_exact *x, ml_nat base, ml_form expo, ml_rational times)
{
    ml_prime_power primes[MAX_PRIMES];
    int n = ml_nat_factor(x, base, primes, MAX_PRIMES);
    ml_form result = ml_form_from(x, 1);
    for (int i = 0; i < n && !x->stopped; i++) {
        ml_rational prime = { primes[i].prime, ml_nat_from(x, 1), false };
        ml_rational k = ml_rational_mul(x, times, ml_rational_from(x, primes[i].multiplicity));
        ml_form power = whole_power(x, ml_form_of(x, ml_poly_term(x, 0, prime)), expo, k);
        result = ml_form_mul(x, result, power);
    }
    return result;
}

/* base^(c m) where base is a product of positive numbers: (p q)^z = p^z q^z and (p^z)^c = p^(c z). */
static ml_form power_of_positive(ml_exact *x, ml_term base, ml_form expo, ml_rational c)
{
    const ml_monomial *m = &x->monomials[base.monomial];
    ml_form result = ml_form_mul(x, whole_power_of_nat(x, base.coef.num, expo, c),
                                 whole_power_of_nat(x, base.coef.den, expo, ml_rational_neg(c)));
    for (int i = 0; i < m->n && !x->stopped; i++) {
        ml_factor f = m->factors[i];
        ml_nat units = ml_nat_from(x, (uint64_t)(f.exponent < 0 ? -f.exponent : f.exponent));
        ml_rational k = ml_rational_make(x, units, ml_nat_from(x, (uint64_t)ML_EXPONENT_ONE), f.exponent < 0);
        k = ml_rational_mul(x, k, c);
        const ml_generator *g = &x->generators[f.generator];
        if (g->kind == ML_GEN_PRIME) {
            result = ml_form_mul(x, result, whole_power_of_nat(x, g->prime, expo, k));
        } else {
            ml_form p = ml_form_of(x, ml_poly_power_of(x, f.generator, ML_EXPONENT_ONE));
            result = ml_form_mul(x, result, whole_power(x, p, expo, k));
        }
    }
    return result;
}

static bool is_positive_term(const ml_exact *x, ml_form a)
{
    if (!ml_poly_is_one(a.den) || a.num.n != 1 || a.num.terms[0].coef.negative) return false;
    const ml_monomial *m = &x->monomials[a.num.terms[0].monomial];
    for (int i = 0; i < m->n; i++) {
        if (!ml_exact_is_positive(x, m->factors[i].generator)) return false;
    }
    return true;
}

/* base^(c m) for one term of an exponent. */
static ml_form pow_term(ml_exact *x, ml_form base, ml_term t)
{
    if (t.monomial == 0) return pow_rational(x, base, t.coef);
    ml_rational one = ml_rational_from(x, 1);
    ml_form monomial = ml_form_of(x, ml_poly_term(x, t.monomial, one));
    if (is_positive_term(x, base)) return power_of_positive(x, base.num.terms[0], monomial, t.coef);
    if (ml_rational_is_integer(t.coef)) return whole_power(x, base, monomial, t.coef);
    return whole_power(x, base, ml_form_of(x, ml_poly_term(x, t.monomial, t.coef)), one);
}

ml_form ml_form_pow(ml_exact *x, ml_form base, ml_form exponent)
{
    ml_rational r;
    int64_t k;
    if (ml_form_to_rational(exponent, &r)) {
        if (ml_rational_to_int(r, &k)) return ml_form_pow_int(x, base, k);
        if (ml_rational_is_integer(r)) ml_exact_stop(x);
        return x->stopped ? base : pow_rational(x, base, r);
    }
    if (ml_form_is_zero(base)) ml_exact_stop(x);
    if (x->stopped) return base;
    if (!ml_poly_is_one(exponent.den)) return whole_power(x, base, exponent, ml_rational_from(x, 1));
    ml_form result = ml_form_from(x, 1);
    for (int i = 0; i < exponent.num.n && !x->stopped; i++)
        result = ml_form_mul(x, result, pow_term(x, base, exponent.num.terms[i]));
    return result;
}
