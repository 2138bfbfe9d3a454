/* Experts of tokens that are being generated: their weights are read where they are, once for all tokens. */
#ifndef ML_OPS_CUDA_EXPERTS_DECODE_CUH
#define ML_OPS_CUDA_EXPERTS_DECODE_CUH

#include "ops/cuda/common.cuh"

/* Whether the weights lie so that ml_cuda_experts_decode can: not in parts of several types. */
bool ml_cuda_experts_can_decode(const ml_op_args *args);
/* ml_cuda_experts_forward of these tokens; save is not written. */
ml_status ml_cuda_experts_decode(ml_ctx *ctx, const ml_op_args *args);

#endif
