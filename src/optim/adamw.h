/* AdamW's arithmetic: one range of elements on the calling thread, or a parameter on all threads.  The equations are in
 * optim/optimizer.h. */
#ifndef ML_OPTIM_ADAMW_H
#define ML_OPTIM_ADAMW_H

#include "optim/optimizer_internal.h"

typedef struct {
    float beta1, beta2, eps;
    float grad_scale;
    float decay;      /* 1 - lr * weight_decay */
    float correction; /* 1 / sqrt(1 - beta2^t) */
    float unbias;     /* 1 / (1 - beta1^t) */
    float lr;
} ml_adamw;

/* value, m, v [n] are updated from grad [n].  Returns the sum of squares of the update (without lr and decay).
 * The same bits from every instruction set: no fused operations, and 16 running sums in all of them. */
double ml_adamw_update(const ml_adamw *a, float *value, const float *grad, float *m, float *v, int64_t n);

/* The same for a whole parameter, in blocks on all threads.  block_squares [ml_optim_n_block(its elements)] is
 * scratch. */
double ml_adamw_update_param(const ml_adamw *a, const ml_param *param, const ml_optim_moments *moments,
                             double *block_squares);

/* The first function compiled for one instruction set. */
double ml_adamw_update_scalar(const ml_adamw *a, float *value, const float *grad, float *m, float *v, int64_t n);
double ml_adamw_update_avx2(const ml_adamw *a, float *value, const float *grad, float *m, float *v, int64_t n);
double ml_adamw_update_avx512(const ml_adamw *a, float *value, const float *grad, float *m, float *v, int64_t n);

#endif
