/* Are two expressions the same number or the same function?  Decided by exact arithmetic only.
 *
 * An expression is LaTeX or plain text: integers, decimals (also 0.\overline{3}), mixed numbers, + - * / ^ !, \frac,
 * \sqrt[n], \binom, |x|, floor and ceiling, percent, degrees, pi, e, i, variables (a letter or a Greek name, with an
 * index), ln, log, exp, and trigonometric functions.  It becomes a quotient of two polynomials: rational coefficients,
 * monomials in variables, pi, e, i, roots of primes, and whatever else is kept whole (sin x, 2^n, the root of a
 * sum).  Two are equal when the difference of their cross products has no term left.
 *
 *   EQUAL      proved: never by rounding
 *   DIFFERENT  the forms differ.  For rational numbers, sums of roots of rationals, pi, polynomials and quotients of
 *              these that is proof (monomials are linearly independent: Besicovitch 1940 for the roots); for
 *              functions and nested roots it may only mean that nothing showed them equal
 *   UNKNOWN    one of them could not be read, has no value (1/0), or is too large: the caller compares text
 *
 * Work is bounded whatever the text says: numbers of 2048 bits, 128 terms, 512 monomials, 48 generators, roots whose
 * index divides 720720, ML_EXACT_WORK steps of about a nanosecond for each comparison.  9^9^9^9 is UNKNOWN at once. */
#ifndef ML_REWARD_EXACT_EXACT_H
#define ML_REWARD_EXACT_EXACT_H

#include "reward/scratch.h"

#include <stdint.h>

typedef enum { ML_EXACT_EQUAL, ML_EXACT_DIFFERENT, ML_EXACT_UNKNOWN } ml_exact_result;

/* Scratch memory that suffices for most comparisons; with less, more of them are UNKNOWN. */
enum { ML_EXACT_SCRATCH = 160 * 1024, ML_EXACT_WORK = 300000 };

/* What comparisons work in, one after the other: each gives the memory back, and takes what it did off work_left. */
typedef struct {
    ml_scratch scratch;
    int64_t work_left; /* steps, for all comparisons together */
} ml_exact_space;

ml_exact_result ml_exact_compare(ml_exact_space *space, ml_span a, ml_span b);
/* The same for two equations "left = right": whether left - right agrees, up to its sign. */
ml_exact_result ml_exact_compare_equations(ml_exact_space *space, ml_span left_a, ml_span right_a, ml_span left_b,
                                           ml_span right_b);
/* Is the fraction of two strings of digits in lowest terms, with a denominator above 1?  True also when they are too
 * long to say. */
bool ml_exact_is_reduced(ml_exact_space *space, ml_span numerator, ml_span denominator);

#endif
