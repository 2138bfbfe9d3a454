#include "reward/exact/form.h"

#include <assert.h>

enum { LIMB_BITS = 32 };

static ml_nat trimmed(const uint32_t *limb, uint32_t n)
{
    while (n && !limb[n - 1]) n--;
    return (ml_nat){ limb, n };
}

static uint32_t *take_limbs(ml_exact *x, uint32_t n)
{
    if (n > ML_NAT_MAX_LIMBS + 1) {
        ml_exact_stop(x);
        return NULL;
    }
    return ml_exact_take(x, n * sizeof(uint32_t));
}

ml_nat ml_nat_from(ml_exact *x, uint64_t v)
{
    uint32_t *limb = take_limbs(x, 2);
    if (!limb) return (ml_nat){ 0 };
    limb[0] = (uint32_t)v;
    limb[1] = (uint32_t)(v >> LIMB_BITS);
    return trimmed(limb, 2);
}

ml_nat ml_nat_from_digits(ml_exact *x, ml_span digits)
{
    while (digits.n && digits.at[0] == '0') digits = ml_span_skip(digits, 1);
    if (digits.n > ML_NAT_MAX_LIMBS * 9) {
        ml_exact_stop(x);
        return (ml_nat){ 0 };
    }
    /* A digit is less than 3.33 bits: one limb for nine of them is room enough. */
    uint32_t room = (uint32_t)digits.n / 9 + 2, n = 0;
    uint32_t *limb = take_limbs(x, room);
    if (!limb) return (ml_nat){ 0 };
    ml_exact_charge(x, (int64_t)digits.n * room);
    for (size_t i = 0; i < digits.n; i++) {
        uint64_t carry = (uint64_t)(digits.at[i] - '0');
        for (uint32_t k = 0; k < n; k++) {
            carry += (uint64_t)limb[k] * 10;
            limb[k] = (uint32_t)carry;
            carry >>= LIMB_BITS;
        }
        if (carry) limb[n++] = (uint32_t)carry;
    }
    return (ml_nat){ limb, n };
}

int ml_nat_compare(ml_nat a, ml_nat b)
{
    if (a.n != b.n) return a.n < b.n ? -1 : 1;
    for (uint32_t i = a.n; i-- > 0;) {
        if (a.limb[i] != b.limb[i]) return a.limb[i] < b.limb[i] ? -1 : 1;
    }
    return 0;
}

bool ml_nat_is_one(ml_nat a)
{
    return a.n == 1 && a.limb[0] == 1;
}

uint32_t ml_nat_bits(ml_nat a)
{
    return a.n ? a.n * LIMB_BITS - (uint32_t)__builtin_clz(a.limb[a.n - 1]) : 0;
}

bool ml_nat_to_u64(ml_nat a, uint64_t *v)
{
    if (a.n > 2) return false;
    *v = (a.n > 0 ? a.limb[0] : 0) | (a.n > 1 ? (uint64_t)a.limb[1] << LIMB_BITS : 0);
    return true;
}

ml_nat ml_nat_add(ml_exact *x, ml_nat a, ml_nat b)
{
    if (a.n < b.n) {
        ml_nat t = a;
        a = b;
        b = t;
    }
    uint32_t *limb = take_limbs(x, a.n + 1);
    if (!limb) return (ml_nat){ 0 };
    ml_exact_charge(x, a.n);
    uint64_t carry = 0;
    for (uint32_t i = 0; i < a.n; i++) {
        carry += (uint64_t)a.limb[i] + (i < b.n ? b.limb[i] : 0);
        limb[i] = (uint32_t)carry;
        carry >>= LIMB_BITS;
    }
    limb[a.n] = (uint32_t)carry;
    ml_nat sum = trimmed(limb, a.n + 1);
    if (sum.n > ML_NAT_MAX_LIMBS) ml_exact_stop(x);
    return x->stopped ? (ml_nat){ 0 } : sum;
}

ml_nat ml_nat_sub(ml_exact *x, ml_nat a, ml_nat b)
{
    uint32_t *limb = take_limbs(x, a.n);
    if (!limb) return (ml_nat){ 0 };
    ml_exact_charge(x, a.n);
    uint64_t borrow = 0;
    for (uint32_t i = 0; i < a.n; i++) {
        uint64_t d = (uint64_t)a.limb[i] - (i < b.n ? b.limb[i] : 0) - borrow;
        limb[i] = (uint32_t)d;
        borrow = d >> 63;
    }
    return trimmed(limb, a.n);
}

ml_nat ml_nat_mul(ml_exact *x, ml_nat a, ml_nat b)
{
    if (!a.n || !b.n) return (ml_nat){ 0 };
    if (ml_nat_is_one(a)) return b;
    if (ml_nat_is_one(b)) return a;
    if (ml_nat_bits(a) + ml_nat_bits(b) > ML_NAT_MAX_LIMBS * LIMB_BITS) ml_exact_stop(x);
    ml_exact_charge(x, (int64_t)a.n * b.n);
    uint32_t *limb = x->stopped ? NULL : take_limbs(x, a.n + b.n);
    if (!limb) return (ml_nat){ 0 };
    memset(limb, 0, (a.n + b.n) * sizeof *limb);
    for (uint32_t i = 0; i < a.n; i++) {
        uint64_t carry = 0;
        for (uint32_t k = 0; k < b.n; k++) {
            carry += (uint64_t)a.limb[i] * b.limb[k] + limb[i + k];
            limb[i + k] = (uint32_t)carry;
            carry >>= LIMB_BITS;
        }
        limb[i + b.n] = (uint32_t)carry;
    }
    return trimmed(limb, a.n + b.n);
}

/* u[0..n) modulo one limb, quotient into q where that is not NULL. */
static uint32_t divide_small(const uint32_t *u, uint32_t n, uint32_t v, uint32_t *q)
{
    uint64_t r = 0;
    for (uint32_t i = n; i-- > 0;) {
        r = r << LIMB_BITS | u[i];
        if (q) q[i] = (uint32_t)(r / v);
        r %= v;
    }
    return (uint32_t)r;
}

static void shift_left(uint32_t *out, const uint32_t *in, uint32_t n, int shift)
{
    for (uint32_t i = n; i-- > 0;) {
        uint32_t low = i && shift ? in[i - 1] >> (LIMB_BITS - shift) : 0;
        out[i] = in[i] << shift | low;
    }
}

/* One digit of the quotient (Knuth, TAOCP 4.3.1 algorithm D, steps D3 to D6): u[0..m] minus digit * v[0..m), v's top
 * bit set, m >= 2. */
static uint32_t divide_step(uint32_t *u, const uint32_t *v, uint32_t m)
{
    uint64_t top = (uint64_t)u[m] << LIMB_BITS | u[m - 1];
    uint64_t digit = top / v[m - 1], rest = top % v[m - 1];
    while (digit >> LIMB_BITS || digit * v[m - 2] > (rest << LIMB_BITS | u[m - 2])) {
        digit--;
        rest += v[m - 1];
        if (rest >> LIMB_BITS) break;
    }
    uint64_t carry = 0, borrow = 0;
    for (uint32_t i = 0; i < m; i++) {
        carry += digit * v[i];
        uint64_t d = (uint64_t)u[i] - (uint32_t)carry - borrow;
        u[i] = (uint32_t)d;
        borrow = d >> 63;
        carry >>= LIMB_BITS;
    }
    uint64_t d = (uint64_t)u[m] - carry - borrow;
    u[m] = (uint32_t)d;
    if (d >> 63) { /* one too large: add v back */
        digit--;
        carry = 0;
        for (uint32_t i = 0; i < m; i++) {
            carry += (uint64_t)u[i] + v[i];
            u[i] = (uint32_t)carry;
            carry >>= LIMB_BITS;
        }
        u[m] += (uint32_t)carry;
    }
    return (uint32_t)digit;
}

/* u[0..n) becomes u mod v; quotient of n - m + 1 limbs into q where that is not NULL.  u has room for n + 1 limbs,
 * n >= m >= 1.  Returns the limbs of the remainder. */
static uint32_t divide(uint32_t *u, uint32_t n, const uint32_t *v, uint32_t m, uint32_t *q)
{
    if (m == 1) {
        u[0] = divide_small(u, n, v[0], q);
        return u[0] != 0;
    }
    assert(m <= ML_NAT_MAX_LIMBS + 1);
    uint32_t w[ML_NAT_MAX_LIMBS + 1];
    int shift = __builtin_clz(v[m - 1]);
    shift_left(w, v, m, shift);
    u[n] = 0;
    shift_left(u, u, n + 1, shift);
    for (uint32_t k = n - m + 1; k-- > 0;) {
        uint32_t digit = divide_step(u + k, w, m);
        if (q) q[k] = digit;
    }
    for (uint32_t i = 0; i < m; i++) u[i] = u[i] >> shift | (shift ? u[i + 1] << (LIMB_BITS - shift) : 0);
    return trimmed(u, m).n;
}

ml_nat ml_nat_div(ml_exact *x, ml_nat a, ml_nat b, ml_nat *remainder)
{
    if (remainder) *remainder = a;
    if (!b.n) ml_exact_stop(x);
    if (x->stopped || a.n < b.n) return (ml_nat){ 0 };
    ml_exact_charge(x, (int64_t)(a.n - b.n + 1) * b.n);
    uint32_t *u = ml_exact_take(x, (a.n + 1) * sizeof *u), *q = ml_exact_take(x, (a.n - b.n + 1) * sizeof *q);
    if (!u || !q) return (ml_nat){ 0 };
    memcpy(u, a.limb, a.n * sizeof *u);
    uint32_t n = divide(u, a.n, b.limb, b.n, q);
    if (remainder) *remainder = (ml_nat){ u, n };
    return trimmed(q, a.n - b.n + 1);
}

static uint64_t gcd_small(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

ml_nat ml_nat_gcd(ml_exact *x, ml_nat a, ml_nat b)
{
    if (ml_nat_is_one(a)) return a;
    if (ml_nat_is_one(b)) return b;
    uint64_t p, q;
    if (ml_nat_to_u64(a, &p) && ml_nat_to_u64(b, &q)) {
        ml_exact_charge(x, 50);
        return ml_nat_from(x, gcd_small(p, q));
    }
    if (x->stopped || a.n > ML_NAT_MAX_LIMBS || b.n > ML_NAT_MAX_LIMBS) return (ml_nat){ 0 };
    uint32_t buffer[2][ML_NAT_MAX_LIMBS + 1], n[2] = { a.n, b.n };
    memcpy(buffer[0], a.limb, a.n * sizeof(uint32_t));
    memcpy(buffer[1], b.limb, b.n * sizeof(uint32_t));
    int large = a.n < b.n;
    while (n[!large] && !x->stopped) {
        if (n[large] >= n[!large]) {
            ml_exact_charge(x, 10 + 2 * (int64_t)(n[large] - n[!large] + 1) * n[!large]);
            n[large] = divide(buffer[large], n[large], buffer[!large], n[!large], NULL);
        }
        large = !large;
    }
    uint32_t *limb = take_limbs(x, n[large]);
    if (!limb) return (ml_nat){ 0 };
    memcpy(limb, buffer[large], n[large] * sizeof *limb);
    return (ml_nat){ limb, n[large] };
}

ml_nat ml_nat_pow(ml_exact *x, ml_nat a, uint64_t k)
{
    if (!a.n && k) return a;
    ml_nat power = ml_nat_from(x, 1);
    if (ml_nat_is_one(a)) return power;
    if (k > ML_NAT_MAX_LIMBS * LIMB_BITS) ml_exact_stop(x);
    for (ml_nat square = a; k && !x->stopped; k >>= 1) {
        if (k & 1) power = ml_nat_mul(x, power, square);
        if (k > 1) square = ml_nat_mul(x, square, square);
    }
    return power;
}

/* Newton's iteration from above: r <- ((k - 1) r + a / r^(k-1)) / k falls until it is the whole part. */
ml_nat ml_nat_root(ml_exact *x, ml_nat a, uint32_t k, bool *exact)
{
    *exact = a.n == 0 || ml_nat_is_one(a);
    if (*exact || k < 2) return a;
    uint32_t bits = (ml_nat_bits(a) + k - 1) / k; /* 2^bits >= the root */
    ml_nat r = ml_nat_pow(x, ml_nat_from(x, 2), bits), n_k = ml_nat_from(x, k), n_less = ml_nat_from(x, k - 1);
    while (!x->stopped) {
        ml_nat quotient = ml_nat_div(x, a, ml_nat_pow(x, r, k - 1), NULL);
        ml_nat sum = ml_nat_add(x, ml_nat_mul(x, r, n_less), quotient);
        ml_nat next = ml_nat_div(x, sum, n_k, NULL);
        if (ml_nat_compare(next, r) >= 0) break;
        r = next;
    }
    *exact = !x->stopped && ml_nat_compare(ml_nat_pow(x, r, k), a) == 0;
    return r;
}

uint32_t ml_nat_mod_small(ml_nat a, uint32_t m)
{
    return divide_small(a.limb, a.n, m, NULL);
}
