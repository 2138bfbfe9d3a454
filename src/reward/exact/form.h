/* The forms that the exact evaluator computes with, innermost first:
 *
 *   ml_nat       a natural number                        limbs of 32 bits
 *   ml_rational  +- nat / nat, in lowest terms
 *   monomial     product of generators^exponent          interned: an index into ml_exact.monomials; 0 is the empty one
 *   ml_poly      sum of rational * monomial              terms ascend by monomial, no coefficient is zero
 *   ml_form      poly / poly                             most denominators are the constant 1
 *
 * A generator is a variable, pi, e, i, a prime under a root, or an expression that is kept whole.  Exponents count in
 * units of 1/720720, so that every root up to the sixteenth is a whole number of units.  Powers that have a value are
 * taken out at once: the exponent of a prime or of a root stays in [0, 1), that of i is 0 or 1; a variable's may be
 * negative.  So equal sums have equal terms.
 *
 * Everything is immutable and lies in the scratch memory of one ml_exact.  Running out of memory, of a limit or of
 * work sets `stopped`, after which results are meaningless but safe to compute with; it is checked once, at the end. */
#ifndef ML_REWARD_EXACT_FORM_H
#define ML_REWARD_EXACT_FORM_H

#include "reward/scratch.h"

#include <stdint.h>

enum {
    ML_NAT_MAX_LIMBS = 64,
    ML_POLY_MAX_TERMS = 128,
    ML_POLY_MAX_PAIRS = 2500, /* products of terms in one multiplication */
    ML_EXACT_MAX_MONOMIALS = 512,
    ML_EXACT_MAX_GENERATORS = 48,
    ML_EXACT_HASH = 1024,
    ML_EXACT_MAX_DEPTH = 8, /* roots under roots that multiply out */
};

#define ML_EXPONENT_ONE ((int64_t)720720)
#define ML_EXPONENT_MAX (ML_EXPONENT_ONE << 24)

typedef struct {
    const uint32_t *limb; /* least significant first, the last is not 0 */
    uint32_t n;           /* 0 for zero */
} ml_nat;

typedef struct {
    ml_nat num, den; /* den is never zero; zero is 0/1 */
    bool negative;
} ml_rational;

typedef struct {
    int generator;
    int64_t exponent;
} ml_factor;

typedef struct {
    const ml_factor *factors; /* ascending by generator, no exponent is 0 */
    int n;
} ml_monomial;

typedef struct {
    int monomial;
    ml_rational coef;
} ml_term;

typedef struct {
    const ml_term *terms;
    int n; /* 0 for zero */
} ml_poly;

typedef struct {
    ml_poly num, den; /* den is never zero unless stopped */
} ml_form;

typedef enum {
    ML_GEN_SYMBOL, /* name */
    ML_GEN_PI,     /* positive, as are e and primes: roots may be taken of them factor by factor */
    ML_GEN_E,
    ML_GEN_PRIME,    /* nat: a prime, or a number without known factors; exponent in [0, 1) */
    ML_GEN_I,        /* i*i = -1 */
    ML_GEN_ROOT,     /* arg.num under a root; exponent in [0, 1) */
    ML_GEN_POWER,    /* arg to the power of expo, a monomial */
    ML_GEN_FUNCTION, /* function(arg) */
} ml_generator_kind;

typedef enum {
    ML_FUNCTION_NONE,
    ML_FUNCTION_SIN,
    ML_FUNCTION_COS,
    ML_FUNCTION_TAN,
    ML_FUNCTION_COT,
    ML_FUNCTION_SEC,
    ML_FUNCTION_CSC,
    ML_FUNCTION_ARCSIN,
    ML_FUNCTION_ARCCOS,
    ML_FUNCTION_ARCTAN,
    ML_FUNCTION_LN,
    ML_FUNCTION_LOG, /* base 10 unless an index says otherwise */
    ML_FUNCTION_EXP,
    ML_FUNCTION_ABS,
    ML_FUNCTION_FLOOR,
    ML_FUNCTION_CEIL,
    ML_FUNCTION_ROOT, /* of a quotient; arg is the quotient, expo the index */
} ml_function;

typedef struct {
    ml_generator_kind kind;
    ml_function function;
    ml_span name;
    ml_nat prime;
    ml_form arg, expo;
} ml_generator;

typedef struct {
    ml_scratch *scratch;
    int64_t work_left;
    bool stopped;
    int depth; /* of multiplications inside multiplications */
    int n_generator, n_monomial;
    ml_generator generators[ML_EXACT_MAX_GENERATORS];
    ml_monomial monomials[ML_EXACT_MAX_MONOMIALS];
    int16_t slots[ML_EXACT_HASH]; /* monomial + 1 by hash, open addressing */
} ml_exact;

/* A context in scratch memory; NULL when that is too small. */
ml_exact *ml_exact_begin(ml_scratch *scratch);
void ml_exact_stop(ml_exact *x);
void ml_exact_charge(ml_exact *x, int64_t steps);
void *ml_exact_take(ml_exact *x, size_t n_bytes); /* NULL: stopped */

/* ---- natural numbers (nat.c) ---- */

ml_nat ml_nat_from(ml_exact *x, uint64_t v);
ml_nat ml_nat_from_digits(ml_exact *x, ml_span digits);
int ml_nat_compare(ml_nat a, ml_nat b);
bool ml_nat_is_one(ml_nat a);
uint32_t ml_nat_bits(ml_nat a);
/* False when a does not fit. */
bool ml_nat_to_u64(ml_nat a, uint64_t *v);
ml_nat ml_nat_add(ml_exact *x, ml_nat a, ml_nat b);
ml_nat ml_nat_sub(ml_exact *x, ml_nat a, ml_nat b); /* a >= b */
ml_nat ml_nat_mul(ml_exact *x, ml_nat a, ml_nat b);
ml_nat ml_nat_div(ml_exact *x, ml_nat a, ml_nat b, ml_nat *remainder); /* b > 0; remainder may be NULL */
ml_nat ml_nat_gcd(ml_exact *x, ml_nat a, ml_nat b);
ml_nat ml_nat_pow(ml_exact *x, ml_nat a, uint64_t k);
/* The whole part of the k-th root; *exact says whether it is the root. */
ml_nat ml_nat_root(ml_exact *x, ml_nat a, uint32_t k, bool *exact);
uint32_t ml_nat_mod_small(ml_nat a, uint32_t m);

/* ---- rational numbers (rational.c) ---- */

ml_rational ml_rational_from(ml_exact *x, int64_t v);
ml_rational ml_rational_make(ml_exact *x, ml_nat num, ml_nat den, bool negative); /* stops on den = 0 */
static inline bool ml_rational_is_zero(ml_rational a)
{
    return a.num.n == 0;
}
bool ml_rational_is_integer(ml_rational a);
bool ml_rational_equal(ml_rational a, ml_rational b);
ml_rational ml_rational_neg(ml_rational a);
ml_rational ml_rational_add(ml_exact *x, ml_rational a, ml_rational b);
ml_rational ml_rational_mul(ml_exact *x, ml_rational a, ml_rational b);
ml_rational ml_rational_inverse(ml_exact *x, ml_rational a); /* stops on zero */
ml_rational ml_rational_pow(ml_exact *x, ml_rational a, int64_t k);
/* The integer k, when a is one of at most 40 bits. */
bool ml_rational_to_int(ml_rational a, int64_t *k);
/* a in units of 1/720720, when it is a whole number of them within +-ML_EXPONENT_MAX. */
bool ml_rational_to_exponent(ml_exact *x, ml_rational a, int64_t *exponent);

/* ---- monomials and polynomials (poly.c) ---- */

int ml_exact_add_generator(ml_exact *x, const ml_generator *g); /* finds an equal one first; 0 when stopped */
bool ml_exact_is_positive(const ml_exact *x, int generator);
/* The monomial of factors that ascend by generator and have exponents as promised above; 0 when stopped. */
int ml_exact_intern(ml_exact *x, const ml_factor *factors, int n);

ml_poly ml_poly_term(ml_exact *x, int monomial, ml_rational coef);
ml_poly ml_poly_from(ml_exact *x, int64_t v);
bool ml_poly_is_constant(ml_poly a); /* a rational number */
bool ml_poly_is_one(ml_poly a);
bool ml_poly_equal(ml_poly a, ml_poly b);
ml_poly ml_poly_neg(ml_exact *x, ml_poly a);
ml_poly ml_poly_add(ml_exact *x, ml_poly a, ml_poly b);
ml_poly ml_poly_mul(ml_exact *x, ml_poly a, ml_poly b);
ml_poly ml_poly_scale(ml_exact *x, ml_poly a, ml_rational c);
/* generator^exponent with its value taken out. */
ml_poly ml_poly_power_of(ml_exact *x, int generator, int64_t exponent);
/* The one-term polynomial 1/a, for one term whose generators may stand in a denominator; else false. */
bool ml_poly_invert(ml_exact *x, ml_poly a, ml_poly *inverse);
/* The greatest rational that leaves integer coefficients without a common factor; positive. */
ml_rational ml_poly_content(ml_exact *x, ml_poly a);

/* ---- quotients (quotient.c) ---- */

ml_form ml_form_of(ml_exact *x, ml_poly num);
ml_form ml_form_from(ml_exact *x, int64_t v);
ml_form ml_form_generator(ml_exact *x, const ml_generator *g);
bool ml_form_is_zero(ml_form a);
bool ml_form_equal(ml_exact *x, ml_form a, ml_form b);
ml_form ml_form_neg(ml_exact *x, ml_form a);
ml_form ml_form_add(ml_exact *x, ml_form a, ml_form b);
ml_form ml_form_sub(ml_exact *x, ml_form a, ml_form b);
ml_form ml_form_mul(ml_exact *x, ml_form a, ml_form b);
ml_form ml_form_div(ml_exact *x, ml_form a, ml_form b); /* stops on b = 0 */
ml_form ml_form_pow_int(ml_exact *x, ml_form a, int64_t k);
/* The rational number that a is. */
bool ml_form_to_rational(ml_form a, ml_rational *out);

/* ---- roots and powers (root.c) ---- */

/* Principal square root; real root for an odd index.  Stops where neither exists (even roots above 2 of negatives). */
ml_form ml_form_root(ml_exact *x, ml_form a, int64_t index);
ml_form ml_form_pow(ml_exact *x, ml_form base, ml_form exponent);
/* The primes of a, ascending, with their multiplicity, at most `capacity`; a cofactor without small factors counts as
 * a prime.  Returns their number; stops beyond. */
typedef struct {
    ml_nat prime;
    int64_t multiplicity;
} ml_prime_power;
int ml_nat_factor(ml_exact *x, ml_nat a, ml_prime_power *out, int capacity);

/* ---- functions (function.c) ---- */

ml_form ml_form_apply(ml_exact *x, ml_function f, ml_form arg);
ml_form ml_form_log(ml_exact *x, ml_form base, ml_form arg);
ml_form ml_form_factorial(ml_exact *x, ml_form a);
ml_form ml_form_binomial(ml_exact *x, ml_form n, ml_form k);

/* ---- text (parse.c) ---- */

/* The whole text as a form; stops when any of it cannot be read. */
ml_form ml_form_parse(ml_exact *x, ml_span text);

#endif
