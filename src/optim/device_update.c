/* What stands for the device's arithmetic in a build without CUDA. */
#include "optim/device_update.h"

#ifndef MOONLIGHT_CUDA

ml_status ml_device_update_make(ml_device *device, const ml_optim_config *config, const ml_param *param,
                                int64_t n_param, ml_device_update **out, ml_error *err)
{
    (void)device;
    (void)config;
    (void)param;
    (void)n_param;
    *out = NULL;
    return ml_fail(err, ML_EINVAL, "the optimizer on a GPU: this program was built without CUDA");
}

void ml_device_update_free(ml_device_update *u)
{
    (void)u;
}

ml_status ml_device_update_norm(ml_device_update *u, double *norm, ml_error *err)
{
    (void)u;
    *norm = 0;
    return ml_fail(err, ML_EINVAL, "the optimizer on a GPU: this program was built without CUDA");
}

void ml_device_update_adamw(ml_device_update *u, int64_t i, const ml_adamw *rule, const ml_optim_moments *moments)
{
    (void)u;
    (void)i;
    (void)rule;
    (void)moments;
}

void ml_device_update_muon(ml_device_update *u, int64_t i, float grad_scale, float decay, float rate,
                           const ml_optim_moments *moments)
{
    (void)u;
    (void)i;
    (void)grad_scale;
    (void)decay;
    (void)rate;
    (void)moments;
}

ml_status ml_device_update_sums(ml_device_update *u, double *sums, ml_error *err)
{
    (void)u;
    (void)sums;
    return ml_fail(err, ML_EINVAL, "the optimizer on a GPU: this program was built without CUDA");
}

#endif
