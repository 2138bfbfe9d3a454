/* Choosing a device, and what stands for devices in a build without CUDA. */
#include "tensor/device.h"

#include <stdio.h>
#include <stdlib.h>

static ml_status parse_index(const char *text, int *index)
{
    char *end;
    long n = strtol(text, &end, 10);
    if (end == text || *end || n < 0 || n > 1023) return ML_EINVAL;
    *index = (int)n;
    return ML_OK;
}

static void say_device(ml_device *device, char choice[256])
{
    ml_device_info info = ml_device_get_info(device);
    snprintf(choice, 256, "cuda:%d (%.120s, %.1f of %.1f GiB free)", info.index, info.name,
             (double)info.free_bytes / 0x1p30, (double)info.total_bytes / 0x1p30);
}

ml_status ml_device_choose(const char *wanted, ml_device **out, char choice[256], ml_error *err)
{
    *out = NULL;
    int index = 0;
    bool is_auto = !strcmp(wanted, "auto");
    if (!strcmp(wanted, "cpu")) {
        snprintf(choice, 256, "cpu (as asked)");
        return ML_OK;
    }
    bool named = !strncmp(wanted, "cuda:", 5);
    if (!is_auto && strcmp(wanted, "cuda") && (!named || parse_index(wanted + 5, &index) != ML_OK)) {
        return ml_fail(err, ML_EINVAL, "device: expected auto, cpu, cuda or cuda:N, found \"%.40s\"", wanted);
    }
    ml_error why;
    ml_status status = ml_device_open(index, out, is_auto ? &why : err);
    if (status == ML_OK) {
        say_device(*out, choice);
        return ML_OK;
    }
    if (!is_auto) return status;
    snprintf(choice, 256, "cpu (%.200s)", why.message);
    return ML_OK;
}

#ifndef MOONLIGHT_CUDA

ml_status ml_device_open(int index, ml_device **out, ml_error *err)
{
    *out = NULL;
    return ml_fail(err, ML_EINVAL,
                   "cuda:%d: this program was built without CUDA: configure with -DMOONLIGHT_CUDA=ON where nvcc is, or "
                   "give --device cpu",
                   index);
}

/* Nothing was ever opened, so nothing of this is called with a device. */
void ml_device_close(ml_device *device)
{
    (void)device;
}

ml_device_info ml_device_get_info(ml_device *device)
{
    (void)device;
    return (ml_device_info){ .index = -1 };
}

ml_status ml_device_alloc(ml_device *device, size_t n_bytes, const char *what, void **out, ml_error *err)
{
    (void)device;
    *out = NULL;
    return ml_fail_memory(err, n_bytes, what);
}

void ml_device_release(ml_device *device, void *p)
{
    (void)device;
    (void)p;
}

ml_status ml_device_upload(ml_device *device, void *dst, const void *src, size_t n_bytes, ml_error *err)
{
    (void)err;
    ml_device_copy(device, dst, src, n_bytes);
    return ML_OK;
}

ml_status ml_device_download(ml_device *device, void *dst, const void *src, size_t n_bytes, ml_error *err)
{
    (void)err;
    ml_device_copy(device, dst, src, n_bytes);
    return ML_OK;
}

void ml_device_enter(ml_device *device)
{
    (void)device;
}

ml_status ml_device_wait(ml_device *device, ml_error *err)
{
    (void)device;
    (void)err;
    return ML_OK;
}

ml_status ml_device_alloc_pinned(ml_device *device, size_t n_bytes, const char *what, void **out, ml_error *err)
{
    return ml_device_alloc(device, n_bytes, what, out, err);
}

void ml_device_release_pinned(ml_device *device, void *p)
{
    ml_device_release(device, p);
}

void ml_device_queue_read(ml_device *device, void *pinned, const void *src, size_t n_bytes)
{
    ml_device_queue_copy(device, pinned, src, n_bytes);
}

ml_status ml_device_event_make(ml_device *device, ml_device_event **out, ml_error *err)
{
    (void)device;
    *out = NULL;
    return ml_fail(err, ML_EINVAL, "device event: this program was built without CUDA");
}

void ml_device_event_free(ml_device_event *event)
{
    (void)event;
}

void ml_device_event_record(ml_device_event *event)
{
    (void)event;
}

ml_status ml_device_event_wait(ml_device_event *event, ml_error *err)
{
    (void)event;
    (void)err;
    return ML_OK;
}

void ml_device_queue_zero(ml_device *device, void *dst, size_t n_bytes)
{
    (void)device;
    memset(dst, 0, n_bytes);
}

void ml_device_queue_copy(ml_device *device, void *dst, const void *src, size_t n_bytes)
{
    (void)device;
    memcpy(dst, src, n_bytes);
}

ml_status ml_device_capture_begin(ml_device *device, ml_error *err)
{
    (void)device;
    return ml_fail(err, ML_EINVAL, "device graph: this program was built without CUDA");
}

ml_status ml_device_capture_end(ml_device *device, ml_device_graph **out, ml_error *err)
{
    (void)device;
    *out = NULL;
    return ml_fail(err, ML_EINVAL, "device graph: this program was built without CUDA");
}

void ml_device_queue_graph(ml_device *device, ml_device_graph *graph)
{
    (void)device;
    (void)graph;
}

int64_t ml_device_graph_count(const ml_device_graph *graph)
{
    (void)graph;
    return 0;
}

void ml_device_graph_free(ml_device_graph *graph)
{
    (void)graph;
}

ml_status ml_device_timer_start(ml_device *device, ml_device_timer **out, ml_error *err)
{
    *out = NULL;
    (void)device;
    return ml_fail(err, ML_EINVAL, "device timer: this program was built without CUDA");
}

ml_status ml_device_timer_stop(ml_device_timer *timer, double *seconds, ml_error *err)
{
    (void)timer;
    *seconds = 0;
    return ml_fail(err, ML_EINVAL, "device timer: this program was built without CUDA");
}

#endif
