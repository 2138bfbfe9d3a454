/* The optimizer's arithmetic on a device: the equations of optim/optimizer.h and the norm of optim/clip.h over
 * parameters whose values, gradients and moments lie there.  Everything is fp32, sums of squares are double and have
 * one order.  In a build without CUDA making one fails, and nothing else is then called. */
#ifndef ML_OPTIM_DEVICE_UPDATE_H
#define ML_OPTIM_DEVICE_UPDATE_H

#include "optim/adamw.h"
#include "optim/optimizer_internal.h"
#include "tensor/device.h"

typedef struct ml_device_update ml_device_update;

/* Scratch for these parameters (not copied).  ML_ENOMEM when the device has no room. */
ml_status ml_device_update_make(ml_device *device, const ml_optim_config *config, const ml_param *param,
                                int64_t n_param, ml_device_update **out, ml_error *err);
void ml_device_update_free(ml_device_update *u);

/* Euclidean norm over all gradients; waits.  ML_ENUMERIC names the first parameter whose gradient is not finite. */
ml_status ml_device_update_norm(ml_device_update *u, double *norm, ml_error *err);

/* Queue the update of parameter i.  The sum of squares of the update, lr, decay and Muon's factor apart, is kept for
 * ml_device_update_sums. */
void ml_device_update_adamw(ml_device_update *u, int64_t i, const ml_adamw *rule, const ml_optim_moments *moments);
/*   decay: 1 - lr * weight_decay;  rate: lr * rms_scale * sqrt(max(rows, cols)) */
void ml_device_update_muon(ml_device_update *u, int64_t i, float grad_scale, float decay, float rate,
                           const ml_optim_moments *moments);
/* sums [n_param] of the parameters updated since; waits. */
ml_status ml_device_update_sums(ml_device_update *u, double *sums, ml_error *err);

#endif
