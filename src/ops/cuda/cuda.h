/* The CUDA implementations, one file per operator: ml_cuda_<name>_forward and ml_cuda_<name>_backward, agreeing with
 * ops/cpu within ops.def's tolerances.  Slots are as there.  Calls queue their work on the context's device and return;
 * temporary memory is ml_ctx_scratch_data, which the next operator in the queue may use again. */
#ifndef ML_OPS_CUDA_CUDA_H
#define ML_OPS_CUDA_CUDA_H

#include "ops/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

#define ML_CUDA_OP(name)                                                                                               \
    ml_status ml_cuda_##name##_forward(ml_ctx *ctx, const ml_op_args *args);                                           \
    ml_status ml_cuda_##name##_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads);
#include "ops/cuda/cuda.def"
#undef ML_CUDA_OP

#ifdef __cplusplus
}
#endif

#endif
