/* What stands for the device's arithmetic in a build without CUDA; of this only making one is ever called. */
#include "optim/device_update.h"

#ifndef MOONLIGHT_CUDA

static ml_status refuse(ml_error *err)
{
    return ml_fail(err, ML_EINVAL, "the optimizer on a GPU: this program was built without CUDA");
}

ml_status ml_device_update_make(ml_ctx *ctx, const ml_optim_config *config, const ml_optim_storage *storage,
                                const ml_param *param, int64_t n_param, ml_device_update **out, ml_error *err)
{
    (void)ctx;
    (void)config;
    (void)storage;
    (void)param;
    (void)n_param;
    *out = NULL;
    return refuse(err);
}

void ml_device_update_free(ml_device_update *u)
{
    (void)u;
}

ml_update_control *ml_device_update_get_control(ml_device_update *u)
{
    (void)u;
    return NULL;
}

const double *ml_device_update_queue_norm(ml_device_update *u)
{
    (void)u;
    return NULL;
}

void ml_device_update_queue_use(ml_device_update *u, double grad_scale)
{
    (void)u;
    (void)grad_scale;
}

void ml_device_update_queue_count(ml_device_update *u, int64_t step)
{
    (void)u;
    (void)step;
}

void ml_device_update_prefetch(ml_device_update *u)
{
    (void)u;
}

ml_status ml_device_update_queue(ml_device_update *u, double lr, const double **squares, ml_error *err)
{
    (void)u;
    (void)lr;
    *squares = NULL;
    return refuse(err);
}

ml_status ml_device_update_read(ml_device_update *u, int64_t i, int slot, int64_t first, int64_t n, float *out,
                                ml_error *err)
{
    (void)u;
    (void)i;
    (void)slot;
    (void)first;
    (void)n;
    (void)out;
    return refuse(err);
}

ml_status ml_device_update_write(ml_device_update *u, int64_t i, int slot, int64_t first, int64_t n, const float *from,
                                 ml_error *err)
{
    (void)u;
    (void)i;
    (void)slot;
    (void)first;
    (void)n;
    (void)from;
    return refuse(err);
}

#endif
