/* Builds without CUDA have no device to measure. */
#include "ops/device_limits.h"

#ifndef MOONLIGHT_CUDA

ml_status ml_device_limits_measure(ml_device *device, ml_device_limits *out, ml_error *err)
{
    (void)device;
    *out = (ml_device_limits){ 0 };
    return ml_fail(err, ML_EINVAL, "this program was built without CUDA");
}

#endif
