/* Sums in a fixed order, larger than a warp. */
#ifndef ML_OPS_CUDA_SUMS_CUH
#define ML_OPS_CUDA_SUMS_CUH

#include "ops/cuda/rows.cuh"

/* sum [x.n_col] += the sum of x's n_row rows: 32 sums of every 32nd row each, then these in order. */
void ml_cuda_add_column_sums(ml_ctx *ctx, ml_rows x, int64_t n_row, float *sum);

#endif
