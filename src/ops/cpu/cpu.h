/* The CPU implementations, one file per operator: ml_cpu_<name>_forward and ml_cpu_<name>_backward.
 * Slots of args->in, args->out follow the order of inputs and outputs in ops.def; args->save as in ops.h.
 * Failures go through ml_ctx_fail.  Temporary memory is ml_ctx_scratch, released by the caller. */
#ifndef ML_OPS_CPU_CPU_H
#define ML_OPS_CPU_CPU_H

#include "ops/ops.h"

#define ML_OP(name, ...)                                                                                               \
    ml_status ml_cpu_##name##_forward(ml_ctx *ctx, const ml_op_args *args);                                            \
    ml_status ml_cpu_##name##_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads);
#include "ops/ops.def"
#undef ML_OP

#endif
