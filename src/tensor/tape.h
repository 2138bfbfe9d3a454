/* The tape: what ran forward, remembered so that it can be run backward.
 *
 * While ctx->recording, each operator leaves a node behind with its operands and what its backward needs.
 * ml_tape_backward walks the nodes newest first; every node's backward adds into the gradients of its
 * inputs.  Gradients of activations are made (zeroed) in the gradient arena when first needed; gradients of
 * parameters belong to the model and are accumulated over micro-steps.
 *
 * A segment is a part of the forward pass from one tensor to one tensor of the same shape (a transformer
 * layer).  When the backward pass leaves a segment, all its activations and activation gradients are
 * released, so the gradient arena holds one segment at a time.  With `recompute`, the segment's activations
 * are not kept at all: it runs forward unrecorded, and once more, recorded, when the backward pass needs it.
 *
 *     activations   [ x0 | segment 1 ... x1 | segment 2 ... x2 | head ]      grows forward, shrinks backward
 *     gradients     [ dx2 | dx1 | segment 2's ]  ->  [ dx1 | dx0 | segment 1's ]
 */
#ifndef ML_TENSOR_TAPE_H
#define ML_TENSOR_TAPE_H

#include "tensor/tensor.h"

enum { ML_OP_MAX_IN = 18, ML_OP_MAX_OUT = 4, ML_OP_MAX_SAVE = 6 };

/* What an operator works on; meanings of the slots are in ops/ops.h.  Optional inputs may be NULL. */
typedef struct {
    ml_tensor *in[ML_OP_MAX_IN];
    ml_tensor *out[ML_OP_MAX_OUT];
    ml_tensor *save[ML_OP_MAX_SAVE]; /* made by the forward for the backward */
    const void *param;
    /* 0, or the input whose gradient is all of out[0]'s as the backward leaves it there: where nothing has arrived at
     * that input before, it takes out[0]'s memory over, and grads.in[heir] is grads.out[0]. */
    int heir;
} ml_op_args;

/* Gradients, laid out (strided) as the tensors they belong to.  out[i] NULL: no gradient arrived there; nobody reads it
 * after the backward.  in[i] NULL: not wanted; otherwise the backward adds to it (but see heir). */
typedef struct {
    float *out[ML_OP_MAX_OUT];
    float *in[ML_OP_MAX_IN];
} ml_op_grads;

typedef ml_status (*ml_forward_fn)(ml_ctx *ctx, const ml_op_args *args);
typedef ml_status (*ml_backward_fn)(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads);

/* Remember one operator (only while recording and when some input needs a gradient; otherwise nothing).
 * `param` is copied.  `self_seeding`: the backward runs even when no gradient arrives at its outputs (a loss
 * that carries its own coefficient).  Marks the outputs as needing gradients. */
void ml_tape_record(ml_ctx *ctx, ml_backward_fn backward, const ml_op_args *args, size_t param_bytes,
                    bool self_seeding);

typedef ml_tensor *(*ml_segment_fn)(ml_ctx *ctx, ml_tensor *x, const void *arg);
/* y = fn(x, arg).  y has the shape of x.  arg (arg_bytes, copied) must hold all that fn depends on beside x.
 * Not recording: the same, and nothing but y stays in the arena. */
ml_tensor *ml_tape_segment(ml_ctx *ctx, ml_segment_fn fn, ml_tensor *x, const void *arg, size_t arg_bytes,
                           bool recompute);

/* The gradient of t, made and zeroed if there is none yet.  Seeds of the backward pass are written here.
 * NULL when the gradient arena is full (error in ctx). */
float *ml_tape_grad(ml_ctx *ctx, ml_tensor *t);

/* Run every recorded node backward and stop recording.  The arenas keep what was allocated before the first
 * segment. */
ml_status ml_tape_backward(ml_ctx *ctx, ml_error *err);

#endif
