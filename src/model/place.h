/* A trainable model on a device: its tensors, and the values and gradients of its parameters, lie there and the forward
 * pass computes there, while `weight`, which files are read into and written from, stays in this machine's memory.
 *
 *   this machine   values (fp32)           written by loading, brought up to date by ml_model_pull before saving
 *   the device     values, gradients       at the same offsets as here; norms, biases and the router always so
 *                  half                    beside values: bf16 copies of the matrices, read by bf16 products; or
 *                  half + rest             instead of the matrices' values (tensor/half.h): the same numbers in as many
 *                                          bytes, but none is stored twice, and `rest`, which only the optimizer reads,
 *                                          may lie in pinned memory of this machine */
#ifndef ML_MODEL_PLACE_H
#define ML_MODEL_PLACE_H

#include "model/model.h"

typedef enum {
    ML_PLACE_F32,        /* values */
    ML_PLACE_HALF,       /* values and half */
    ML_PLACE_SPLIT,      /* half and rest */
    ML_PLACE_SPLIT_HOST, /* half; rest in pinned memory here */
} ml_placing;

/* Give a trainable model with weights of its own memory a place on a device and compute there from now on; the weights
 * go there too, gradients are zero.  ML_ENOMEM with the remedy; the model is then as it was. */
ml_status ml_model_place(ml_model *m, ml_device *device, ml_placing placing, ml_error *err);
/* Give the place up; the weights here are what was pulled last.  Nothing without a place. */
void ml_model_leave_place(ml_model *m);
/* Compute there, or with the weights here; contents stay as they are.  Nothing without a place. */
void ml_model_use_place(ml_model *m, bool there);
/* All weights from here to there; back; gradients back.  Nothing without a place. */
ml_status ml_model_push(ml_model *m, ml_error *err);
ml_status ml_model_pull(ml_model *m, ml_error *err);
ml_status ml_model_pull_grads(ml_model *m, ml_error *err);

/* Bytes that a place takes on the device, gradients included, and in pinned memory of this machine; for the plan. */
typedef struct {
    int64_t weights, gradients, pinned;
} ml_place_bytes;
ml_place_bytes ml_model_plan_place(const ml_config *config, ml_placing placing);

#endif
