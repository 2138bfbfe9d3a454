/* What the benchmarks on a GPU share: medians of the device's own timings, random numbers, what the machine can do. */
#ifndef ML_BENCH_GPU_TIMING_H
#define ML_BENCH_GPU_TIMING_H

#include "base/alloc.h"
#include "ops/ops.h"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_REPEAT = 100 };

static inline void give_up(const ml_error *err)
{
    fprintf(stderr, "%s\n", err->message);
    exit(1);
}

static inline int compare_seconds(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline double find_median(double *seconds, int n)
{
    qsort(seconds, (size_t)n, sizeof *seconds, compare_seconds);
    return seconds[n / 2];
}

/* n numbers about zero, of standard deviation 1: sums of four uniform ones. */
static inline void fill_random(float *to, int64_t n)
{
    static uint64_t state = 0x9e3779b97f4a7c15u;
    for (int64_t i = 0; i < n; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        float sum = 0;
        for (int part = 0; part < 4; part++) sum += (float)(state >> 16 * part & 0xffff);
        to[i] = (sum / 65536 - 2) * 1.7320508f;
    }
}

/* n floats that lie where ctx's data does. */
static inline void set_random(ml_ctx *ctx, float *data, int64_t n)
{
    ml_error err;
    float *values = ml_alloc((size_t)n * sizeof *values + 1);
    if (!values) {
        ml_fail_memory(&err, (size_t)n * sizeof *values, "random numbers");
        give_up(&err);
    }
    fill_random(values, n);
    ml_ctx_write(ctx, data, values, n);
    ml_free(values);
}

static inline void check_ctx(const ml_ctx *ctx)
{
    ml_error err;
    if (ml_ctx_status(ctx, &err) != ML_OK) give_up(&err);
}

static inline ml_device_timer *start_timer(ml_device *device)
{
    ml_error err;
    ml_device_timer *timer;
    if (ml_device_timer_start(device, &timer, &err) != ML_OK) give_up(&err);
    return timer;
}

static inline double stop_timer(ml_device_timer *timer)
{
    ml_error err;
    double seconds;
    if (ml_device_timer_stop(timer, &seconds, &err) != ML_OK) give_up(&err);
    return seconds;
}

/* Bytes read and written by a large copy, per second. */
static inline double measure_copy_rate(ml_device *device, size_t n_bytes, int n_repeat)
{
    double seconds[MAX_REPEAT];
    ml_error err;
    void *from, *to;
    if (ml_device_alloc(device, n_bytes, "a copy", &from, &err) != ML_OK) give_up(&err);
    if (ml_device_alloc(device, n_bytes, "a copy", &to, &err) != ML_OK) give_up(&err);
    ml_device_queue_zero(device, from, n_bytes);
    for (int i = -2; i < n_repeat; i++) { /* two to warm up */
        ml_device_timer *timer = start_timer(device);
        ml_device_queue_copy(device, to, from, n_bytes);
        double taken = stop_timer(timer);
        if (i >= 0) seconds[i] = taken;
    }
    ml_device_release(device, from);
    ml_device_release(device, to);
    return 2 * (double)n_bytes / find_median(seconds, n_repeat);
}

/* Operations per second of ml_linear in ML_PRECISION_BF16 with a bf16 weight: x [m, k], w [n, k]. */
static inline double measure_matrix_rate(ml_ctx *ctx, int64_t m, int64_t n, int64_t k, int n_repeat)
{
    double seconds[MAX_REPEAT];
    ml_ctx_mark mark = ml_ctx_get_mark(ctx);
    ml_tensor *x = ml_tensor_new_2d(ctx, ML_F32, m, k), *w = ml_tensor_new_2d(ctx, ML_F32, n, k);
    ml_tensor *half = ml_tensor_new_2d(ctx, ML_BF16, n, k);
    check_ctx(ctx);
    set_random(ctx, ml_f32(x), m * k);
    float *values = ml_alloc((size_t)(n * k) * sizeof *values);
    uint16_t *rounded = ml_alloc((size_t)(n * k) * sizeof *rounded);
    if (!values || !rounded) exit(1);
    fill_random(values, n * k);
    ml_convert_from_f32(ML_BF16, values, rounded, n * k);
    ml_tensor_write(ctx, w, values);
    ml_tensor_write(ctx, half, rounded);
    ml_free(values);
    ml_free(rounded);
    w->half = half->data;
    ml_precision before = ctx->precision;
    ctx->precision = ML_PRECISION_BF16;
    for (int i = -2; i < n_repeat; i++) {
        ml_ctx_mark result = ml_ctx_get_mark(ctx);
        ml_device_timer *timer = start_timer(ctx->device);
        ml_linear(ctx, x, w, NULL);
        double taken = stop_timer(timer);
        check_ctx(ctx);
        ml_ctx_release(ctx, result);
        if (i >= 0) seconds[i] = taken;
    }
    ctx->precision = before;
    ml_ctx_release(ctx, mark);
    return 2 * (double)m * (double)n * (double)k / find_median(seconds, n_repeat);
}

#endif
