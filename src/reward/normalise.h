/* Bringing an answer into the one way of writing that answers are compared in.
 *
 * Pass 1 is about notation: spacing commands, math delimiters, \left and \right, dollar signs, \dfrac, text fonts,
 * trailing units in \text, ".5", \sqrt3, \frac12.  Pass 2 is about words and numbers: "or" and "and", million, unit
 * words, thousands commas.  Both keep single spaces, case, and the marks % and \degree, which the exact evaluator
 * can read; a key drops all four, and is what strings are compared by:
 *
 *   raw                          pass 1                   pass 2            key
 *   $\left(3,\dfrac\pi2\right)$  (3,\frac{\pi}{2})        same              (3,\frac{\pi}{2})
 *   15\mbox{ cm}^2               15                       15                15
 *   \text{ 1,200 Meters }        1,200 Meters             1200              1200
 *   0.5                          0.5                      0.5               \frac{1}{2}
 *   -7/3                         -7/3                     -7/3              -\frac{7}{3}
 *   30^\circ                     30\degree                30\degree         30
 *
 * Results lie in the scratch memory (or in the argument).  Nothing fails: what is not understood is kept. */
#ifndef ML_REWARD_NORMALISE_H
#define ML_REWARD_NORMALISE_H

#include "reward/tex.h"

ml_span ml_normalise_notation(ml_scratch *scratch, ml_span raw);   /* pass 1: notation.c */
ml_span ml_normalise_words(ml_scratch *scratch, ml_span notation); /* pass 2: words.c */
/* The string to compare; lower: letters outside commands in lower case. */
ml_span ml_normalise_key(ml_scratch *scratch, ml_span text, bool lower);
/* text without % and \degree; *dropped says whether there were any. */
ml_span ml_normalise_drop_marks(ml_scratch *scratch, ml_span text, bool *dropped);

/* Is a key a fraction of two whole numbers, perhaps behind a whole number: -1\frac{2}{3}?  Its parts are digits; whole
 * may be empty. */
typedef struct {
    bool negative;
    ml_span whole, num, den;
} ml_key_fraction;
bool ml_normalise_read_fraction(ml_span key, ml_key_fraction *out);

#endif
