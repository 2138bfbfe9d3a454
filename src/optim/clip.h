/* The global gradient norm and clipping by it.
 *
 * Clipping does not touch the gradients: its factor is the grad_scale of ml_optimizer_step. */
#ifndef ML_OPTIM_CLIP_H
#define ML_OPTIM_CLIP_H

#include "base/status.h"
#include "model/param.h"

/* Euclidean norm over all gradients, summed in double in an order that depends on the sizes alone, not on the number
 * of threads.  Allocates nothing.  ML_ENUMERIC names the first parameter whose gradient is not finite. */
ml_status ml_clip_compute_norm(const ml_param *param, int64_t n_param, double *norm, ml_error *err);

/* 1 when norm <= max_norm or max_norm is 0 (clipping off), else max_norm / norm. */
double ml_clip_get_factor(double norm, double max_norm);

#endif
