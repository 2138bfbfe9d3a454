#include "reward/exact/form.h"

static const uint32_t one_limb[1] = { 1 };
static const ml_nat one = { one_limb, 1 };

ml_rational ml_rational_from(ml_exact *x, int64_t v)
{
    uint64_t size = v < 0 ? -(uint64_t)v : (uint64_t)v;
    return (ml_rational){ size == 1 ? one : ml_nat_from(x, size), one, v < 0 };
}

ml_rational ml_rational_make(ml_exact *x, ml_nat num, ml_nat den, bool negative)
{
    if (!den.n) ml_exact_stop(x);
    if (x->stopped || !num.n) return (ml_rational){ { 0 }, one, false };
    if (!ml_nat_is_one(den)) {
        ml_nat common = ml_nat_gcd(x, num, den);
        if (!ml_nat_is_one(common)) {
            num = ml_nat_div(x, num, common, NULL);
            den = ml_nat_div(x, den, common, NULL);
        }
    }
    if (x->stopped || !den.n) return (ml_rational){ { 0 }, one, false };
    return (ml_rational){ num, den, negative };
}

bool ml_rational_is_integer(ml_rational a)
{
    return ml_nat_is_one(a.den);
}

bool ml_rational_equal(ml_rational a, ml_rational b)
{
    return a.negative == b.negative && ml_nat_compare(a.num, b.num) == 0 && ml_nat_compare(a.den, b.den) == 0;
}

ml_rational ml_rational_neg(ml_rational a)
{
    a.negative = a.num.n && !a.negative;
    return a;
}

ml_rational ml_rational_add(ml_exact *x, ml_rational a, ml_rational b)
{
    if (!a.num.n) return b;
    if (!b.num.n) return a;
    ml_nat p = a.num, q = b.num, den = a.den;
    if (ml_nat_compare(a.den, b.den) != 0) {
        p = ml_nat_mul(x, a.num, b.den);
        q = ml_nat_mul(x, b.num, a.den);
        den = ml_nat_mul(x, a.den, b.den);
    }
    if (a.negative == b.negative) return ml_rational_make(x, ml_nat_add(x, p, q), den, a.negative);
    bool swap = ml_nat_compare(p, q) < 0;
    ml_nat difference = swap ? ml_nat_sub(x, q, p) : ml_nat_sub(x, p, q);
    return ml_rational_make(x, difference, den, swap ? b.negative : a.negative);
}

ml_rational ml_rational_mul(ml_exact *x, ml_rational a, ml_rational b)
{
    return ml_rational_make(x, ml_nat_mul(x, a.num, b.num), ml_nat_mul(x, a.den, b.den), a.negative != b.negative);
}

ml_rational ml_rational_inverse(ml_exact *x, ml_rational a)
{
    if (!a.num.n) ml_exact_stop(x);
    if (x->stopped) return (ml_rational){ { 0 }, one, false };
    return (ml_rational){ a.den, a.num, a.negative };
}

ml_rational ml_rational_pow(ml_exact *x, ml_rational a, int64_t k)
{
    if (k < 0) a = ml_rational_inverse(x, a);
    uint64_t size = k < 0 ? -(uint64_t)k : (uint64_t)k;
    ml_nat num = ml_nat_pow(x, a.num, size), den = ml_nat_pow(x, a.den, size);
    if (x->stopped || !num.n) return (ml_rational){ { 0 }, one, false };
    return (ml_rational){ num, den, a.negative && (size & 1) }; /* powers of lowest terms are in lowest terms */
}

bool ml_rational_to_int(ml_rational a, int64_t *k)
{
    uint64_t v;
    if (!ml_rational_is_integer(a) || !ml_nat_to_u64(a.num, &v) || v >> 40) return false;
    *k = a.negative ? -(int64_t)v : (int64_t)v;
    return true;
}

bool ml_rational_to_exponent(ml_exact *x, ml_rational a, int64_t *exponent)
{
    ml_rational units = ml_rational_mul(x, a, ml_rational_from(x, ML_EXPONENT_ONE));
    return !x->stopped && ml_rational_to_int(units, exponent) && *exponent <= ML_EXPONENT_MAX &&
           *exponent >= -ML_EXPONENT_MAX;
}
