/* The optimizer's arithmetic on a device: the equations of optim/optimizer.h and the norm of optim/clip.h over
 * parameters whose values and gradients lie there.  Everything is fp32 but Newton-Schulz, whose products are of the
 * context's precision, and moments where they are kept in bf16; sums of squares are double.  All sums have one order.
 * Nothing waits for the device but what says so.
 *
 * The work of a step is cut into batches, each of matrices of one shape (Muon) or of pieces of parameters (AdamW). What
 * a batch needs that lies in this machine's pinned memory (moments; `rest` of the values) comes to the device while the
 * batch before it is computed, and goes back while the next one is:
 *
 *     to the device      | 0 | 1 | 2 |   | 3 |   ...        three slots of device memory, used in turn
 *     computed               | 0 | 1 | 2 |   | 3 | ...
 *     back                       | 0 | 1 | 2 |   | 3 | ...
 *
 * The batches, and with them all bits, are the same wherever the moments lie.
 *
 * In a build without CUDA making one fails, and nothing else is then called. */
#ifndef ML_OPTIM_DEVICE_UPDATE_H
#define ML_OPTIM_DEVICE_UPDATE_H

#include "optim/optimizer_internal.h"
#include "tensor/tensor.h"

typedef struct ml_device_update ml_device_update;

/* Floats of scratch that a batch of Newton-Schulz takes at most, unless one matrix needs more; elements of AdamW's
 * batches. */
#define ML_UPDATE_MUON_FLOATS ((int64_t)256 << 20)
#define ML_UPDATE_ADAMW_ELEMENTS ((int64_t)64 << 20)

/* Moments (zero) and lists for these parameters, which are not copied, nor is config.  Products use ctx, whose device
 * it is, and its arena as scratch: ml_optim_plan_device says how much.  ML_ENOMEM says where there is no room. */
ml_status ml_device_update_make(ml_ctx *ctx, const ml_optim_config *config, const ml_optim_storage *storage,
                                const ml_param *param, int64_t n_param, ml_device_update **out, ml_error *err);
void ml_device_update_free(ml_device_update *u);

/* What all updates of a step obey; in device memory. */
ml_update_control *ml_device_update_get_control(ml_device_update *u);
/* Queue: the sum of squares of all gradients, in device memory. */
const double *ml_device_update_queue_norm(ml_device_update *u);
/* Queue: use the gradients times grad_scale; the count of updates goes up. */
void ml_device_update_queue_use(ml_device_update *u, double grad_scale);
/* Queue: the count of updates made. */
void ml_device_update_queue_count(ml_device_update *u, int64_t step);
/* Queue: the first batches' moments come to the device, while other work goes on. */
void ml_device_update_prefetch(ml_device_update *u);
/* Queue: all updates, as the control says.  -> [ML_N_OPTIM_GROUP], in device memory: sums of squares of the updates,
 * lr and decay apart.  ML_ENOMEM when ctx has no room. */
ml_status ml_device_update_queue(ml_device_update *u, double lr, const double **squares, ml_error *err);

/* Elements [first, first + n) of moment `slot` (0: momentum or the first, 1: the second) of parameter i, as fp32; wait.
 */
ml_status ml_device_update_read(ml_device_update *u, int64_t i, int slot, int64_t first, int64_t n, float *out,
                                ml_error *err);
ml_status ml_device_update_write(ml_device_update *u, int64_t i, int slot, int64_t first, int64_t n, const float *from,
                                 ml_error *err);

#endif
