/* Rewards that need no model: is the answer in a response the one that the label gives?
 *
 *   math   1 or 0.   The answer is in the last \boxed{...} of the response; without one, or when it is not closed, 0.
 *   dapo   +1 or -1. The answer is the line behind the last "Answer:" in the last 300 characters; a box there is
 * opened.
 *
 * A label is the answer itself, a solution whose last \boxed{...} holds it, or a GSM8K solution that ends "#### 42".
 *
 * Two answers are the same when one of these says so, in this order:
 *   1. their strings in one notation: \dfrac12, \frac{1}{2}, 1/2, .5 and 0.5 are one; spaces, \left, \right, $, %,
 *      degrees, trailing units in \text and "x =" are nothing                                        (pass 1)
 *   2. their strings after words: "3 million", "5 or 7", unit words, thousands commas, lower case      (pass 2)
 *   3. part by part: tuples, intervals and matrices in order and with the same brackets; lists, sets, unions and
 *      a \pm b in any order; the numbers of parts agree. Two fractions of whole numbers need equal strings, and an
 *      unreduced fraction is wrong; otherwise the values are equal by exact arithmetic (exact/exact.h), with
 *      and without the meaning of % and degrees. What cannot be evaluated is a string: 204_5, "ellipse", \infty.
 *
 * Nothing is ever compared by floating point.  Every comparison is bounded: answers above ML_ANSWER_MAX bytes are
 * compared byte by byte, the exact evaluator stops at its limits.  Functions keep no state: any number of threads.
 * Texts are bytes with a length, no 0 behind them needed, and need not be valid UTF-8. */
#ifndef ML_REWARD_REWARD_H
#define ML_REWARD_REWARD_H

#include "base/status.h"
#include "reward/scratch.h"

typedef enum { ML_REWARD_MATH, ML_REWARD_DAPO, ML_N_REWARD } ml_reward_kind;

enum { ML_ANSWER_MAX = 2048 };

/* "math", "dapo". */
const char *ml_reward_name(ml_reward_kind kind);
/* The kind of that name; ML_EINVAL naming those there are. */
ml_status ml_reward_find(const char *name, ml_reward_kind *kind, ml_error *err);

/* The reward of a response: 0 or 1 (math), -1 or 1 (dapo).  ML_EINVAL when the label holds no answer (checked before
 * the response is looked at, so a data set can be checked once), ML_ENOMEM. */
ml_status ml_reward_score(ml_reward_kind kind, ml_span response, ml_span label, double *reward, ml_error *err);

/* The answer in a response as the kind looks for it, trimmed; false when there is none.  *answer points into it. */
bool ml_reward_find_answer(ml_reward_kind kind, ml_span response, ml_span *answer);
/* The answer in a label; ML_EINVAL when it is empty or its box is not closed. */
ml_status ml_reward_read_label(ml_span label, ml_span *answer, ml_error *err);
/* Are two answers the same?  `given` is judged by `expected`: it alone has to be reduced.  ML_ENOMEM. */
ml_status ml_reward_same_answer(ml_span given, ml_span expected, bool *same, ml_error *err);

#endif
