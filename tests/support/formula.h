/* Weights that both sides of a golden file compute from a formula (tests/golden/README.md). */
#ifndef ML_TESTS_FORMULA_H
#define ML_TESTS_FORMULA_H

#include "model/model.h"

/* Fill every weight of an fp32 model; the formula's name of a tensor is `prefix` and its own. */
void test_fill_by_formula(ml_model *m, const char *prefix);

/* n values of the tensor of that name. */
void test_formula(const char *name, double base, double std, int64_t n, float *out);

#endif
