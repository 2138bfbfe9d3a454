/* Experts of tokens that are being generated: their weights are read where they are, once for all tokens. */
#ifndef ML_OPS_CUDA_EXPERTS_DECODE_CUH
#define ML_OPS_CUDA_EXPERTS_DECODE_CUH

#include "ops/cuda/token_terms.cuh"

/* ml_cuda_experts_forward of these tokens; save is not written.  terms: NULL, or of gate, up and down. */
ml_status ml_cuda_experts_decode(ml_ctx *ctx, const ml_op_args *args, const ml_token_terms terms[3]);

#endif
