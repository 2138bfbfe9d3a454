/* Operands of tests of operators: random numbers, and memory of a device. */
#ifndef ML_TESTS_OPERANDS_H
#define ML_TESTS_OPERANDS_H

#include "ops/ops.h"

/* n numbers around 0 of a standard deviation, given by (seed, stream); free() them. */
float *test_random_values(uint64_t seed, int64_t n, double std, uint64_t stream);
/* Memory of a device with these bytes; ml_device_release() it. */
void *test_put(ml_device *device, const void *from, size_t n_bytes);
/* A context in fast mode whose arena, of n_bytes on a device, is NaN: what is read without having been written shows.
 */
void test_make_ctx(ml_ctx *ctx, ml_device *device, size_t n_bytes, int64_t n_decode);

#endif
