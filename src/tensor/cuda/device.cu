/* Devices through the CUDA runtime: one stream for each, in which everything is queued. */
#include "tensor/cuda/runtime.cuh"

#include <cstdio>
#include <cstdlib>
#include <new>

extern "C" {
#include "base/alloc.h"
}

struct ml_device_timer {
    ml_device *device;
    cudaEvent_t start, stop;
};

enum { OLDEST_MAJOR = 8 }; /* Ampere: kernels use its asynchronous copies and bf16 matrix instructions */

void ml_device_note(ml_device *device, cudaError_t error, const char *what)
{
    if (error == cudaSuccess || device->error != cudaSuccess) return;
    device->error = error;
    snprintf(device->what, sizeof device->what, "%s", what);
}

static ml_status fail_cuda(ml_error *err, cudaError_t error, const char *what)
{
    if (error == cudaErrorMemoryAllocation) {
        return ml_fail(err, ML_ENOMEM, "%s: the GPU's memory is full: use a smaller batch or another GPU", what);
    }
    if (error == cudaErrorInsufficientDriver) {
        int driver = 0, runtime = 0;
        (void)cudaDriverGetVersion(&driver);
        (void)cudaRuntimeGetVersion(&runtime);
        if (driver == 0)
            return ml_fail(err, ML_EINVAL, "%s: no NVIDIA driver is running here: give --device cpu", what);
        return ml_fail(
            err, ML_EINVAL,
            "%s: the NVIDIA driver supports CUDA %d.%d, this program needs %d.%d: install a newer driver, or "
            "give --device cpu",
            what, driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    }
    if (error == cudaErrorNoDevice) {
        return ml_fail(err, ML_EINVAL, "%s: there is no NVIDIA GPU here: give --device cpu", what);
    }
    return ml_fail(
        err, ML_EIO,
        "%s: CUDA says \"%s\": the GPU's work is lost: start again (training goes on from its last checkpoint "
        "with --resume), or give --device cpu",
        what, cudaGetErrorString(error));
}

static const char *find_fault(int code)
{
    switch (code) {
    case ML_FAULT_TOKEN_ID: return "embedding: token id %d of row %d is outside the table";
    case ML_FAULT_POSITION: return "rope: position %d of row %d is negative";
    case ML_FAULT_TARGET: return "logprob: target %d of row %d is outside the vocabulary";
    case ML_FAULT_EXPERT_ID: return "experts: expert %d of row %d is unknown or chosen twice";
    case ML_FAULT_PAGE: return "position %d of row %d has no page in the cache";
    case ML_FAULT_CACHE:
        return "the keys or values of position %d (row %d) are not finite or beyond 65504, the largest number of the "
               "cache's type: use --kv-cache-type bf16 or f32";
    default: return "sequence offsets end at %d instead of covering the %d tokens";
    }
}

extern "C" ml_status ml_device_open(int index, ml_device **out, ml_error *err)
{
    *out = NULL;
    char what[32];
    snprintf(what, sizeof what, "cuda:%d", index);
    int n = 0;
    cudaError_t error = cudaGetDeviceCount(&n);
    if (error == cudaSuccess && n == 0) error = cudaErrorNoDevice;
    if (error != cudaSuccess) return fail_cuda(err, error, what);
    if (index >= n) {
        return ml_fail(err, ML_EINVAL, "%s: there are %d GPUs here, numbered from 0: give a smaller number", what, n);
    }
    cudaDeviceProp prop;
    error = cudaGetDeviceProperties(&prop, index);
    if (error != cudaSuccess) return fail_cuda(err, error, what);
    if (prop.major < OLDEST_MAJOR) {
        return ml_fail(err, ML_EINVAL,
                       "%s: %.80s has compute capability %d.%d, the oldest supported is %d.0: give --device cpu", what,
                       prop.name, prop.major, prop.minor, OLDEST_MAJOR);
    }
    ml_device *device = (ml_device *)ml_calloc(1, sizeof *device);
    if (!device) return ml_fail_memory(err, sizeof *device, "a device");
    device->index = index;
    device->major = prop.major;
    device->n_sm = prop.multiProcessorCount;
    error = cudaSetDevice(index);
    if (error == cudaSuccess) error = cudaStreamCreate(&device->stream);
    if (error == cudaSuccess) error = cudaMalloc((void **)&device->fault, sizeof *device->fault);
    if (error == cudaSuccess) error = cudaMemsetAsync(device->fault, 0, sizeof *device->fault, device->stream);
    if (error != cudaSuccess) {
        ml_device_close(device);
        return fail_cuda(err, error, what);
    }
    *out = device;
    return ML_OK;
}

extern "C" void ml_device_close(ml_device *device)
{
    if (!device) return;
    if (device->lt) device->lt_free(device->lt);
    if (device->fault) (void)cudaFree(device->fault);
    if (device->stream) (void)cudaStreamDestroy(device->stream);
    ml_free(device);
}

extern "C" ml_device_info ml_device_get_info(ml_device *device)
{
    ml_device_info info;
    memset(&info, 0, sizeof info);
    info.index = device->index;
    cudaDeviceProp prop;
    if (cudaGetDeviceProperties(&prop, device->index) == cudaSuccess) {
        snprintf(info.name, sizeof info.name, "%.255s", prop.name);
        info.major = prop.major;
        info.minor = prop.minor;
        info.n_sm = prop.multiProcessorCount;
    }
    size_t available = 0, total = 0;
    if (cudaMemGetInfo(&available, &total) == cudaSuccess) {
        info.free_bytes = (int64_t)available;
        info.total_bytes = (int64_t)total;
    }
    return info;
}

extern "C" ml_status ml_device_alloc(ml_device *device, size_t n_bytes, const char *what, void **out, ml_error *err)
{
    *out = NULL;
    cudaError_t error = cudaMalloc(out, n_bytes ? n_bytes : 256);
    if (error == cudaSuccess) return ML_OK;
    (void)cudaGetLastError(); /* a failed allocation is no broken device */
    if (error != cudaErrorMemoryAllocation) return fail_cuda(err, error, what);
    ml_device_info info = ml_device_get_info(device);
    return ml_fail(err, ML_ENOMEM,
                   "%s: expected %.2f GiB on cuda:%d, found %.2f of %.2f GiB free: use a smaller batch, end other "
                   "programs on the GPU, or give --device cpu",
                   what, (double)n_bytes / 0x1p30, device->index, (double)info.free_bytes / 0x1p30,
                   (double)info.total_bytes / 0x1p30);
}

extern "C" void ml_device_release(ml_device *device, void *p)
{
    if (p) ml_device_note(device, cudaFree(p), "freeing memory");
}

extern "C" void ml_device_enter(ml_device *device)
{
    if (device) ml_device_note(device, cudaSetDevice(device->index), "choosing the GPU");
}

/* What is remembered of failed calls, and what kernels found: `fault` was read back. */
static ml_status tell(ml_device *device, ml_fault fault, ml_error *err)
{
    if (device->error != cudaSuccess) {
        char what[192];
        snprintf(what, sizeof what, "cuda:%d, %s", device->index, device->what);
        return fail_cuda(err, device->error, what);
    }
    if (fault.code == ML_FAULT_NONE) return ML_OK;
    ml_device_queue_zero(device, device->fault, sizeof fault);
    return ml_fail(err, ML_EINVAL, find_fault(fault.code), fault.value, fault.where);
}

extern "C" ml_status ml_device_wait(ml_device *device, ml_error *err)
{
    ml_fault fault = { 0, 0, 0 };
    ml_device_note(device, cudaMemcpyAsync(&fault, device->fault, sizeof fault, cudaMemcpyDeviceToHost, device->stream),
                   "reading back");
    ml_device_note(device, cudaStreamSynchronize(device->stream), "waiting for the GPU");
    return tell(device, fault, err);
}

extern "C" ml_status ml_device_upload(ml_device *device, void *dst, const void *src, size_t n_bytes, ml_error *err)
{
    /* Of pageable memory the runtime makes a copy of its own before it returns. */
    if (n_bytes == 0) return ML_OK;
    ml_device_note(device, cudaMemcpyAsync(dst, src, n_bytes, cudaMemcpyHostToDevice, device->stream), "upload");
    return device->error == cudaSuccess ? ML_OK : fail_cuda(err, device->error, device->what);
}

extern "C" ml_status ml_device_download(ml_device *device, void *dst, const void *src, size_t n_bytes, ml_error *err)
{
    if (n_bytes > 0) {
        ml_device_note(device, cudaMemcpyAsync(dst, src, n_bytes, cudaMemcpyDeviceToHost, device->stream), "download");
    }
    return ml_device_wait(device, err);
}

extern "C" void ml_device_queue_zero(ml_device *device, void *dst, size_t n_bytes)
{
    if (n_bytes > 0) ml_device_note(device, cudaMemsetAsync(dst, 0, n_bytes, device->stream), "clearing memory");
}

extern "C" void ml_device_queue_copy(ml_device *device, void *dst, const void *src, size_t n_bytes)
{
    if (n_bytes == 0) return;
    ml_device_note(device, cudaMemcpyAsync(dst, src, n_bytes, cudaMemcpyDeviceToDevice, device->stream), "copy");
}

/* ---- pinned memory and events ---- */

extern "C" ml_status ml_device_alloc_pinned(ml_device *device, size_t n_bytes, const char *what, void **out,
                                            ml_error *err)
{
    (void)device;
    *out = NULL;
    cudaError_t error = cudaHostAlloc(out, n_bytes ? n_bytes : 256, cudaHostAllocDefault);
    if (error == cudaSuccess) return ML_OK;
    (void)cudaGetLastError();
    if (error != cudaErrorMemoryAllocation) return fail_cuda(err, error, what);
    return ml_fail(
        err, ML_ENOMEM,
        "%s: this machine could not pin %.2f GiB of its memory for the GPU: end other programs, or keep less "
        "in host memory",
        what, (double)n_bytes / 0x1p30);
}

extern "C" void ml_device_release_pinned(ml_device *device, void *p)
{
    if (p) ml_device_note(device, cudaFreeHost(p), "freeing pinned memory");
}

extern "C" void ml_device_queue_read(ml_device *device, void *pinned, const void *src, size_t n_bytes)
{
    if (n_bytes == 0) return;
    ml_device_note(device, cudaMemcpyAsync(pinned, src, n_bytes, cudaMemcpyDeviceToHost, device->stream),
                   "reading back");
}

struct ml_device_event {
    ml_device *device;
    cudaEvent_t event;
    ml_fault *fault; /* pinned: what kernels had found by then */
};

extern "C" ml_status ml_device_event_make(ml_device *device, ml_device_event **out, ml_error *err)
{
    *out = NULL;
    ml_device_event *e = (ml_device_event *)ml_calloc(1, sizeof *e);
    if (!e) return ml_fail_memory(err, sizeof *e, "an event");
    e->device = device;
    void *fault = NULL;
    ml_status status = ml_device_alloc_pinned(device, sizeof *e->fault, "an event", &fault, err);
    e->fault = (ml_fault *)fault;
    if (status == ML_OK) {
        memset(fault, 0, sizeof *e->fault);
        cudaError_t error = cudaEventCreateWithFlags(&e->event, cudaEventDisableTiming);
        if (error != cudaSuccess) status = fail_cuda(err, error, "an event");
    }
    if (status != ML_OK) {
        ml_device_event_free(e);
        return status;
    }
    *out = e;
    return ML_OK;
}

extern "C" void ml_device_event_free(ml_device_event *e)
{
    if (!e) return;
    if (e->event) (void)cudaEventDestroy(e->event);
    ml_device_release_pinned(e->device, e->fault);
    ml_free(e);
}

extern "C" void ml_device_event_record(ml_device_event *e)
{
    ml_device_queue_read(e->device, e->fault, e->device->fault, sizeof *e->fault);
    ml_device_note(e->device, cudaEventRecord(e->event, e->device->stream), "marking a place in the queue");
}

extern "C" ml_status ml_device_event_wait(ml_device_event *e, ml_error *err)
{
    ml_device_note(e->device, cudaEventSynchronize(e->event), "waiting for the GPU");
    return tell(e->device, *e->fault, err);
}

/* ---- a clock ---- */

static void free_timer(ml_device_timer *timer)
{
    if (timer->start) (void)cudaEventDestroy(timer->start);
    if (timer->stop) (void)cudaEventDestroy(timer->stop);
    ml_free(timer);
}

extern "C" ml_status ml_device_timer_start(ml_device *device, ml_device_timer **out, ml_error *err)
{
    *out = NULL;
    ml_device_timer *timer = (ml_device_timer *)ml_calloc(1, sizeof *timer);
    if (!timer) return ml_fail_memory(err, sizeof *timer, "a timer");
    timer->device = device;
    cudaError_t error = cudaEventCreate(&timer->start);
    if (error == cudaSuccess) error = cudaEventCreate(&timer->stop);
    if (error == cudaSuccess) error = cudaEventRecord(timer->start, device->stream);
    if (error != cudaSuccess) {
        free_timer(timer);
        return fail_cuda(err, error, "device timer");
    }
    *out = timer;
    return ML_OK;
}

extern "C" ml_status ml_device_timer_stop(ml_device_timer *timer, double *seconds, ml_error *err)
{
    float ms = 0;
    *seconds = 0;
    cudaError_t error = cudaEventRecord(timer->stop, timer->device->stream);
    ml_status status = ml_device_wait(timer->device, err);
    if (error == cudaSuccess) error = cudaEventElapsedTime(&ms, timer->start, timer->stop);
    free_timer(timer);
    if (status != ML_OK) return status;
    if (error != cudaSuccess) return fail_cuda(err, error, "device timer");
    *seconds = (double)ms / 1000;
    return ML_OK;
}
