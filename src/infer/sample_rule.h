/* How the next token is drawn, defined so that every processor and device comes to the same one: weights are whole
 * numbers, whose sums have no order, made by operations that IEEE 754 rounds in one way.
 *
 *   weight   exp((logit - largest) / temperature) * one, to the nearest whole number.  The likeliest weighs `one`, a
 *            power of two so small that all n of a vocabulary add up to less than 2^62: with 163840 ids 2^43, so that
 *            what is left out as 0 is less than 2^-44 of the likeliest.
 *   order    descending logits, ties (-0 is 0) by ascending id
 *   kept     the ids from min-p's floor up; of these the first top_k; of these the fewest first ones that weigh at
 *            least top_p of what there is
 *   drawn    with w the weight of what is kept and 64 random bits r, the first whose weight, with that of all before
 *            it, is more than floor(r w / 2^64); where neither top-k nor top-p cuts, "before" goes by id
 * One number r is used up for each token.  NaN is never kept.  With a largest logit of NaN or -infinity the choice is
 * the greedy one: the lowest id of the largest logit, and 0 when id 0 has NaN.
 *
 * For C and CUDA; no product here may be fused with a sum. */
#ifndef ML_INFER_SAMPLE_RULE_H
#define ML_INFER_SAMPLE_RULE_H

#include <stdint.h>
#include <string.h>

#if defined(__CUDACC__) && !defined(ML_EMULATED)
#define ML_RULE static __device__ __forceinline__
#define ML_RULE_ADD(a, b) __dadd_rn((a), (b))
#define ML_RULE_MUL(a, b) __dmul_rn((a), (b))
#else
#define ML_RULE static inline
#define ML_RULE_ADD(a, b) ((a) + (b))
#define ML_RULE_MUL(a, b) ((a) * (b))
#endif

typedef struct {
    double inverse; /* 1 / temperature; 0: greedy */
    double floor;   /* min-p: temperature * log(min_p), at most 0, on the largest logit; has_floor */
    double top_p, one;
    int64_t top_k; /* 0: all */
    int32_t has_floor;
    int32_t unused;
} ml_sample_rule;

ML_RULE uint64_t ml_rule_bits(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

ML_RULE double ml_rule_double(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* exp(x) for x <= 0, to some 1e-15; below exp(-64) that, for NaN too.  exp(x) = 2^k exp(r), |r| <= log(2) / 2, and
 * Taylor's series of r. */
ML_RULE double ml_rule_exp(double x)
{
    const double round = 6755399441055744.0; /* 1.5 * 2^52: what is added to it becomes whole */
    x = x > -64.0 ? x : -64.0;
    double shifted = ML_RULE_ADD(ML_RULE_MUL(x, 1.4426950408889634), round), k = ML_RULE_ADD(shifted, -round);
    double r = ML_RULE_ADD(ML_RULE_ADD(x, ML_RULE_MUL(k, -0x1.62e42feep-1)), ML_RULE_MUL(k, -0x1.a39ef35793c76p-33));
    double y = 1.0 / 6227020800.0;
    y = ML_RULE_ADD(ML_RULE_MUL(y, r), 1.0 / 479001600.0);
    y = ML_RULE_ADD(ML_RULE_MUL(y, r), 1.0 / 39916800.0);
    y = ML_RULE_ADD(ML_RULE_MUL(y, r), 1.0 / 3628800.0);
    y = ML_RULE_ADD(ML_RULE_MUL(y, r), 1.0 / 362880.0);
    y = ML_RULE_ADD(ML_RULE_MUL(y, r), 1.0 / 40320.0);
    y = ML_RULE_ADD(ML_RULE_MUL(y, r), 1.0 / 5040.0);
    y = ML_RULE_ADD(ML_RULE_MUL(y, r), 1.0 / 720.0);
    y = ML_RULE_ADD(ML_RULE_MUL(y, r), 1.0 / 120.0);
    y = ML_RULE_ADD(ML_RULE_MUL(y, r), 1.0 / 24.0);
    y = ML_RULE_ADD(ML_RULE_MUL(y, r), 1.0 / 6.0);
    y = ML_RULE_ADD(ML_RULE_MUL(y, r), 0.5);
    y = ML_RULE_ADD(ML_RULE_MUL(y, r), 1.0);
    y = ML_RULE_ADD(ML_RULE_MUL(y, r), 1.0);
    return ML_RULE_MUL(y, ml_rule_double((ml_rule_bits(shifted) + 1023) << 52)); /* k in its low bits, as exponent */
}

/* The weight of a logit; `largest` is a number or +infinity. */
ML_RULE uint64_t ml_rule_weight(const ml_sample_rule *rule, float logit, float largest)
{
    double x = logit == largest ? 0.0 : ML_RULE_MUL(ML_RULE_ADD((double)logit, -(double)largest), rule->inverse);
    /* In 2^52 .. 2^53 a double's last bit is 1. */
    double whole = ML_RULE_ADD(ML_RULE_MUL(ml_rule_exp(x), rule->one), 0x1p52);
    return ml_rule_bits(whole) - 0x4330000000000000u;
}

/* Whether min-p lets it pass. */
ML_RULE int ml_rule_passes(const ml_sample_rule *rule, float logit, float largest)
{
    if (!(logit <= largest)) return 0; /* NaN */
    return !rule->has_floor || logit == largest || (double)logit >= ML_RULE_ADD((double)largest, rule->floor);
}

/* How much of `total` is to be kept at least. */
ML_RULE uint64_t ml_rule_goal(const ml_sample_rule *rule, uint64_t total)
{
    if (rule->top_p >= 1.0) return total;
    uint64_t goal = (uint64_t)ML_RULE_MUL(rule->top_p, (double)total);
    return goal < 1 ? 1 : goal > total ? total : goal;
}

/* floor(a b / 2^64) */
ML_RULE uint64_t ml_rule_high_product(uint64_t a, uint64_t b)
{
    uint64_t al = a & 0xffffffffu, ah = a >> 32, bl = b & 0xffffffffu, bh = b >> 32;
    uint64_t middle = ah * bl + (al * bl >> 32), other = al * bh + (middle & 0xffffffffu);
    return ah * bh + (middle >> 32) + (other >> 32);
}

/* A logit lowered because its token came lately. */
ML_RULE float ml_rule_penalise(float logit, float penalty)
{
    return logit > 0 ? logit / penalty : logit * penalty;
}

#endif
