#include "reward/exact/form.h"

#include <assert.h>

/* ---- generators ---- */

static bool same_generator(ml_exact *x, const ml_generator *a, const ml_generator *b)
{
    if (a->kind != b->kind) return false;
    switch (a->kind) {
    case ML_GEN_SYMBOL: return ml_span_equal(a->name, b->name);
    case ML_GEN_PRIME: return ml_nat_compare(a->prime, b->prime) == 0;
    case ML_GEN_ROOT: return ml_poly_equal(a->arg.num, b->arg.num);
    case ML_GEN_POWER: return ml_form_equal(x, a->arg, b->arg) && ml_form_equal(x, a->expo, b->expo);
    case ML_GEN_FUNCTION:
        return a->function == b->function && ml_form_equal(x, a->arg, b->arg) &&
               (a->function != ML_FUNCTION_ROOT || ml_form_equal(x, a->expo, b->expo));
    default: return true;
    }
}

int ml_exact_add_generator(ml_exact *x, const ml_generator *g)
{
    for (int i = 0; i < x->n_generator && !x->stopped; i++) {
        if (same_generator(x, &x->generators[i], g)) return i;
    }
    if (x->n_generator == ML_EXACT_MAX_GENERATORS) ml_exact_stop(x);
    if (x->stopped) return 0;
    x->generators[x->n_generator] = *g;
    return x->n_generator++;
}

bool ml_exact_is_positive(const ml_exact *x, int generator)
{
    ml_generator_kind kind = x->generators[generator].kind;
    return kind == ML_GEN_PI || kind == ML_GEN_E || kind == ML_GEN_PRIME;
}

/* ---- monomials ---- */

static uint32_t hash_factors(const ml_factor *factors, int n)
{
    uint64_t h = 0x9e3779b97f4a7c15u;
    for (int i = 0; i < n; i++) {
        h = (h ^ (uint64_t)factors[i].generator) * 0xff51afd7ed558ccdu;
        h = (h ^ (uint64_t)factors[i].exponent) * 0xc4ceb9fe1a85ec53u;
        h ^= h >> 32;
    }
    return (uint32_t)h;
}

static bool same_factors(const ml_monomial *m, const ml_factor *factors, int n)
{
    if (m->n != n) return false;
    for (int i = 0; i < n; i++) {
        if (m->factors[i].generator != factors[i].generator || m->factors[i].exponent != factors[i].exponent)
            return false;
    }
    return true;
}

int ml_exact_intern(ml_exact *x, const ml_factor *factors, int n)
{
    if (!n) return 0;
    ml_exact_charge(x, 10 + 5 * n);
    uint32_t slot = hash_factors(factors, n) % ML_EXACT_HASH;
    for (; x->slots[slot]; slot = (slot + 1) % ML_EXACT_HASH) {
        int found = x->slots[slot] - 1;
        if (same_factors(&x->monomials[found], factors, n)) return found;
    }
    if (x->n_monomial == ML_EXACT_MAX_MONOMIALS) ml_exact_stop(x);
    ml_factor *copy = x->stopped ? NULL : ml_exact_take(x, (size_t)n * sizeof *copy);
    if (!copy) return 0;
    memcpy(copy, factors, (size_t)n * sizeof *copy);
    x->monomials[x->n_monomial] = (ml_monomial){ copy, n };
    x->slots[slot] = (int16_t)(x->n_monomial + 1);
    return x->n_monomial++;
}

/* A product of generators on its way to a monomial: what has a value moves into coef, what multiplies by a polynomial
 * (a root to its index) is noted in `pending`. */
typedef struct {
    ml_factor factors[ML_EXACT_MAX_GENERATORS];
    int n;
    ml_rational coef;
    ml_factor pending[ML_EXACT_MAX_GENERATORS]; /* exponent: how many times */
    int n_pending;
} product;

static int64_t floor_units(int64_t exponent)
{
    int64_t q = exponent / ML_EXPONENT_ONE;
    return exponent % ML_EXPONENT_ONE < 0 ? q - 1 : q;
}

static void settle_factor(ml_exact *x, product *p, ml_factor f)
{
    const ml_generator *g = &x->generators[f.generator];
    int64_t whole = floor_units(f.exponent);
    switch (g->kind) {
    case ML_GEN_PRIME:
        if (whole) {
            ml_rational base = { g->prime, ml_nat_from(x, 1), false };
            p->coef = ml_rational_mul(x, p->coef, ml_rational_pow(x, base, whole));
        }
        f.exponent -= whole * ML_EXPONENT_ONE;
        break;
    case ML_GEN_I:
        if (f.exponent % ML_EXPONENT_ONE) ml_exact_stop(x);
        if (whole & 2) p->coef = ml_rational_neg(p->coef);
        f.exponent = (whole & 1) * ML_EXPONENT_ONE;
        break;
    case ML_GEN_ROOT:
        if (whole < 0) ml_exact_stop(x);
        if (whole > 0) p->pending[p->n_pending++] = (ml_factor){ f.generator, whole };
        f.exponent -= whole * ML_EXPONENT_ONE;
        break;
    default: break;
    }
    if (f.exponent > ML_EXPONENT_MAX || f.exponent < -ML_EXPONENT_MAX) ml_exact_stop(x);
    if (f.exponent) p->factors[p->n++] = f;
}

static void multiply_factors(ml_exact *x, product *p, const ml_factor *a, int n_a, const ml_factor *b, int n_b)
{
    int i = 0, k = 0;
    while (i < n_a || k < n_b) {
        ml_factor f;
        if (k == n_b || (i < n_a && a[i].generator < b[k].generator)) {
            f = a[i++];
        } else if (i == n_a || b[k].generator < a[i].generator) {
            f = b[k++];
        } else {
            f = a[i++];
            f.exponent += b[k++].exponent;
        }
        settle_factor(x, p, f);
    }
}

/* ---- polynomials ---- */

/* A polynomial being summed up; index[m] is the place of monomial m in terms + 1. */
typedef struct {
    ml_term terms[ML_POLY_MAX_TERMS];
    int n;
    int16_t index[ML_EXACT_MAX_MONOMIALS];
} sum;

static void sum_begin(sum *s)
{
    s->n = 0;
    memset(s->index, 0, sizeof s->index);
}

static void sum_add(ml_exact *x, sum *s, int monomial, ml_rational coef)
{
    int at = s->index[monomial];
    if (at) {
        s->terms[at - 1].coef = ml_rational_add(x, s->terms[at - 1].coef, coef);
    } else if (s->n == ML_POLY_MAX_TERMS) {
        ml_exact_stop(x);
    } else {
        s->terms[s->n++] = (ml_term){ monomial, coef };
        s->index[monomial] = (int16_t)s->n;
    }
}

static ml_poly sum_end(ml_exact *x, const sum *s)
{
    ml_term *terms = ml_exact_take(x, (size_t)s->n * sizeof *terms);
    if (!terms) return (ml_poly){ 0 };
    ml_exact_charge(x, x->n_monomial);
    int n = 0;
    for (int m = 0; m < x->n_monomial; m++) {
        int at = s->index[m];
        if (at && !ml_rational_is_zero(s->terms[at - 1].coef)) terms[n++] = s->terms[at - 1];
    }
    return (ml_poly){ terms, n };
}

ml_poly ml_poly_term(ml_exact *x, int monomial, ml_rational coef)
{
    ml_term *term = ml_rational_is_zero(coef) ? NULL : ml_exact_take(x, sizeof *term);
    if (!term) return (ml_poly){ 0 };
    *term = (ml_term){ monomial, coef };
    return (ml_poly){ term, 1 };
}

ml_poly ml_poly_from(ml_exact *x, int64_t v)
{
    return ml_poly_term(x, 0, ml_rational_from(x, v));
}

bool ml_poly_is_constant(ml_poly a)
{
    return a.n == 0 || (a.n == 1 && a.terms[0].monomial == 0);
}

bool ml_poly_is_one(ml_poly a)
{
    return a.n == 1 && a.terms[0].monomial == 0 && !a.terms[0].coef.negative && ml_nat_is_one(a.terms[0].coef.num) &&
           ml_nat_is_one(a.terms[0].coef.den);
}

bool ml_poly_equal(ml_poly a, ml_poly b)
{
    if (a.n != b.n) return false;
    for (int i = 0; i < a.n; i++) {
        if (a.terms[i].monomial != b.terms[i].monomial || !ml_rational_equal(a.terms[i].coef, b.terms[i].coef))
            return false;
    }
    return true;
}

ml_poly ml_poly_neg(ml_exact *x, ml_poly a)
{
    return ml_poly_scale(x, a, ml_rational_from(x, -1));
}

ml_poly ml_poly_add(ml_exact *x, ml_poly a, ml_poly b)
{
    if (!a.n) return b;
    if (!b.n) return a;
    if (a.n + b.n > 2 * ML_POLY_MAX_TERMS) ml_exact_stop(x);
    ml_term *terms = ml_exact_take(x, (size_t)(a.n + b.n) * sizeof *terms);
    if (!terms) return (ml_poly){ 0 };
    ml_exact_charge(x, 5 * (a.n + b.n));
    int n = 0, i = 0, k = 0;
    while (i < a.n || k < b.n) {
        if (k == b.n || (i < a.n && a.terms[i].monomial < b.terms[k].monomial)) {
            terms[n++] = a.terms[i++];
        } else if (i == a.n || b.terms[k].monomial < a.terms[i].monomial) {
            terms[n++] = b.terms[k++];
        } else {
            ml_rational c = ml_rational_add(x, a.terms[i].coef, b.terms[k].coef);
            if (!ml_rational_is_zero(c)) terms[n++] = (ml_term){ a.terms[i].monomial, c };
            i++;
            k++;
        }
    }
    if (n > ML_POLY_MAX_TERMS) ml_exact_stop(x);
    return (ml_poly){ terms, n };
}

ml_poly ml_poly_scale(ml_exact *x, ml_poly a, ml_rational c)
{
    if (ml_rational_is_zero(c)) return (ml_poly){ 0 };
    ml_term *terms = ml_exact_take(x, (size_t)a.n * sizeof *terms);
    if (!terms) return (ml_poly){ 0 };
    for (int i = 0; i < a.n; i++) terms[i] = (ml_term){ a.terms[i].monomial, ml_rational_mul(x, a.terms[i].coef, c) };
    return x->stopped ? (ml_poly){ 0 } : (ml_poly){ terms, a.n };
}

/* A product whose pending polynomials are multiplied in. */
static ml_poly finish_product(ml_exact *x, product *p)
{
    ml_poly result = ml_poly_term(x, ml_exact_intern(x, p->factors, p->n), p->coef);
    for (int i = 0; i < p->n_pending && !x->stopped; i++) {
        ml_poly arg = x->generators[p->pending[i].generator].arg.num;
        for (int64_t k = 0; k < p->pending[i].exponent && !x->stopped; k++) {
            ml_exact_charge(x, 20);
            result = ml_poly_mul(x, result, arg);
        }
    }
    return result;
}

static void add_product(ml_exact *x, sum *s, const ml_term *a, const ml_term *b)
{
    product p;
    p.n = p.n_pending = 0;
    p.coef = ml_rational_mul(x, a->coef, b->coef);
    const ml_monomial *m = &x->monomials[a->monomial], *l = &x->monomials[b->monomial];
    multiply_factors(x, &p, m->factors, m->n, l->factors, l->n);
    if (x->stopped) return;
    if (!p.n_pending) {
        sum_add(x, s, ml_exact_intern(x, p.factors, p.n), p.coef);
        return;
    }
    ml_poly q = finish_product(x, &p);
    for (int i = 0; i < q.n && !x->stopped; i++) sum_add(x, s, q.terms[i].monomial, q.terms[i].coef);
}

/* Recursion goes from a root to what is under it, which was made before the root: it ends, and every level costs work;
 * `depth` guards the stack against a tower of roots. */
ml_poly ml_poly_mul(ml_exact *x, ml_poly a, ml_poly b)
{
    if (x->stopped || !a.n || !b.n) return (ml_poly){ 0 };
    if (ml_poly_is_one(a)) return b;
    if (ml_poly_is_one(b)) return a;
    if (ml_poly_is_constant(a)) return ml_poly_scale(x, b, a.terms[0].coef);
    if (ml_poly_is_constant(b)) return ml_poly_scale(x, a, b.terms[0].coef);
    if (a.n * b.n > ML_POLY_MAX_PAIRS || x->depth == ML_EXACT_MAX_DEPTH) {
        ml_exact_stop(x);
        return (ml_poly){ 0 };
    }
    x->depth++;
    sum s;
    sum_begin(&s);
    ml_exact_charge(x, 40);
    for (int i = 0; i < a.n && !x->stopped; i++) {
        for (int k = 0; k < b.n && !x->stopped; k++) add_product(x, &s, &a.terms[i], &b.terms[k]);
    }
    x->depth--;
    return x->stopped ? (ml_poly){ 0 } : sum_end(x, &s);
}

ml_poly ml_poly_power_of(ml_exact *x, int generator, int64_t exponent)
{
    product p;
    p.n = p.n_pending = 0;
    p.coef = ml_rational_from(x, 1);
    settle_factor(x, &p, (ml_factor){ generator, exponent });
    return x->stopped ? (ml_poly){ 0 } : finish_product(x, &p);
}

bool ml_poly_invert(ml_exact *x, ml_poly a, ml_poly *inverse)
{
    if (a.n != 1) return false;
    const ml_monomial *m = &x->monomials[a.terms[0].monomial];
    product p;
    p.n = p.n_pending = 0;
    p.coef = ml_rational_inverse(x, a.terms[0].coef);
    for (int i = 0; i < m->n; i++) {
        if (x->generators[m->factors[i].generator].kind == ML_GEN_ROOT) return false;
        settle_factor(x, &p, (ml_factor){ m->factors[i].generator, -m->factors[i].exponent });
    }
    if (x->stopped) return false;
    *inverse = finish_product(x, &p);
    return true;
}

ml_rational ml_poly_content(ml_exact *x, ml_poly a)
{
    if (!a.n) return ml_rational_from(x, 1);
    ml_nat num = a.terms[0].coef.num, den = a.terms[0].coef.den;
    for (int i = 1; i < a.n && !x->stopped; i++) {
        num = ml_nat_gcd(x, num, a.terms[i].coef.num);
        ml_nat common = ml_nat_gcd(x, den, a.terms[i].coef.den);
        den = ml_nat_mul(x, den, ml_nat_div(x, a.terms[i].coef.den, common, NULL)); /* least common multiple */
    }
    return ml_rational_make(x, num, den, false);
}
