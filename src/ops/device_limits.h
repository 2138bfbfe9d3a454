/* What a device can do at most, measured now: the yardstick of benchmarks on it (ops/cpu/limits.h is the processor's).
 */
#ifndef ML_OPS_DEVICE_LIMITS_H
#define ML_OPS_DEVICE_LIMITS_H

#include "tensor/device.h"

typedef struct {
    double read_bytes; /* per second, from its memory */
    double bf16_macs;  /* multiply-adds per second of a large product of bf16 matrices: cuBLASLt where it is */
} ml_device_limits;

/* Medians of several rounds by the device's own clock.  Takes under a second and some 640 MB of its memory. */
ml_status ml_device_limits_measure(ml_device *device, ml_device_limits *out, ml_error *err);

#endif
