/* Small sums and word problems with one worked line and a final answer: a targeted set for a model's weakest spot.
 *
 *   What is 47 + 38?                                    prompt
 *   47 + 38 = 40 + 30 + 7 + 8 = 70 + 15 = 85            work
 *   Answer: 85                                          label
 *
 * All numbers are whole and not negative.  Problem `index` of `seed` is always the same. */
#ifndef ML_DATA_ARITHMETIC_H
#define ML_DATA_ARITHMETIC_H

#include <stdint.h>

typedef struct {
    char prompt[192];
    char work[192];
    char label[24];
} ml_problem;

void ml_arithmetic_draw(uint64_t seed, uint64_t index, ml_problem *problem);

#endif
