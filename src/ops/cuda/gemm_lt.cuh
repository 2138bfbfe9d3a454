/* Dense bf16 products by cuBLASLt, where the machine has it. */
#ifndef ML_OPS_CUDA_GEMM_LT_CUH
#define ML_OPS_CUDA_GEMM_LT_CUH

#include "ops/cuda/product.cuh"

/* Queue it.  False, and nothing is queued: no library, or no product for it (gathered or grouped rows, sums that are
 * used otherwise, types it has no algorithm for); then ml_product_run has it.  MOONLIGHT_CUDA_DENSE=own in the
 * environment leaves all to that. */
bool ml_lt_run(ml_ctx *ctx, const ml_product *g);

#endif
