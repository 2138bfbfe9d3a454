/* Devices that hold tensors and compute on them beside this machine's own processor: NVIDIA GPUs, through CUDA.
 *
 * NULL stands for this machine's own memory wherever an ml_device * is taken, so callers are written once.
 *
 * Work on a device is queued in one order (a stream) and the calls return before it is done; only ml_device_download
 * and ml_device_wait wait.  What goes wrong in between (a lost device, a kernel that could not start, data that an
 * operator on the device refuses) is remembered and reported by the next of those two.  Memory is plain device memory
 * (never managed memory), so touching it from here is a crash and not a slow path. */
#ifndef ML_TENSOR_DEVICE_H
#define ML_TENSOR_DEVICE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct ml_device ml_device;

typedef struct {
    char name[256];
    int index;
    int major, minor; /* compute capability */
    int n_sm;         /* multiprocessors */
    int64_t total_bytes, free_bytes;
} ml_device_info;

/* What `auto`, `cpu`, `cuda` or `cuda:N` means here.  *out is NULL for the processor.
 *   choice: what was chosen and why, for the user, e.g. "cpu (no GPU: ...)"
 * auto never fails for want of a device; cuda and cuda:N do, with the remedy.  ML_EINVAL for other words. */
ml_status ml_device_choose(const char *wanted, ml_device **out, char choice[256], ml_error *err);

/* Device `index`, of those that CUDA shows.  Fails without CUDA in this build, without a device or a driver that is
 * new enough, and with a device older than the oldest that kernels were built for. */
ml_status ml_device_open(int index, ml_device **out, ml_error *err);
void ml_device_close(ml_device *device);
ml_device_info ml_device_get_info(ml_device *device);

/* Uninitialised, aligned to 256 bytes.  ML_ENOMEM says how much there is. */
ml_status ml_device_alloc(ml_device *device, size_t n_bytes, const char *what, void **out, ml_error *err);
void ml_device_release(ml_device *device, void *p);

/* From this machine's memory, which may be changed as soon as the call returns. */
ml_status ml_device_upload(ml_device *device, void *dst, const void *src, size_t n_bytes, ml_error *err);
/* To this machine's memory, when all that was queued before is done. */
ml_status ml_device_download(ml_device *device, void *dst, const void *src, size_t n_bytes, ml_error *err);
/* The calling thread is going to queue work of this device: once before it does, in every thread.  NULL: nothing. */
void ml_device_enter(ml_device *device);
/* Until everything queued is done. */
ml_status ml_device_wait(ml_device *device, ml_error *err);

/* Memory of this machine that a device copies from and to while it computes; it stays where it is, so take no more than
 * that needs. */
ml_status ml_device_alloc_pinned(ml_device *device, size_t n_bytes, const char *what, void **out, ml_error *err);
void ml_device_release_pinned(ml_device *device, void *p);
/* To pinned memory, when all that was queued before is done; the call does not wait. */
void ml_device_queue_read(ml_device *device, void *pinned, const void *src, size_t n_bytes);

/* A place in the device's queue, to be waited for while later work goes on. */
typedef struct ml_device_event ml_device_event;
ml_status ml_device_event_make(ml_device *device, ml_device_event **out, ml_error *err);
void ml_device_event_free(ml_device_event *event);
/* The event now stands for what is queued so far. */
void ml_device_event_record(ml_device_event *event);
/* Until that is done; what went wrong before is told as by ml_device_wait. */
ml_status ml_device_event_wait(ml_device_event *event, ml_error *err);

/* Within a device's memory; regions do not overlap. */
void ml_device_queue_zero(ml_device *device, void *dst, size_t n_bytes);
void ml_device_queue_copy(ml_device *device, void *dst, const void *src, size_t n_bytes);

static inline void ml_device_zero(ml_device *device, void *dst, size_t n_bytes)
{
    if (device) {
        ml_device_queue_zero(device, dst, n_bytes);
    } else {
        memset(dst, 0, n_bytes);
    }
}

static inline void ml_device_copy(ml_device *device, void *dst, const void *src, size_t n_bytes)
{
    if (device) {
        ml_device_queue_copy(device, dst, src, n_bytes);
    } else {
        memcpy(dst, src, n_bytes);
    }
}

/* Queued work that is kept and can be queued again as one: what is queued between begin and end is not done then, and
 * nothing may be read, written or waited for from here meanwhile.  Addresses and arguments stay as they were. */
typedef struct ml_device_graph ml_device_graph;
ml_status ml_device_capture_begin(ml_device *device, ml_error *err);
ml_status ml_device_capture_end(ml_device *device, ml_device_graph **out, ml_error *err);
void ml_device_queue_graph(ml_device *device, ml_device_graph *graph);
/* Launches and copies in it. */
int64_t ml_device_graph_count(const ml_device_graph *graph);
void ml_device_graph_free(ml_device_graph *graph);

/* A clock of the device: seconds between two marks in its queue, by its own events. */
typedef struct ml_device_timer ml_device_timer;
ml_status ml_device_timer_start(ml_device *device, ml_device_timer **out, ml_error *err);
/* Waits; frees the timer, also on failure. */
ml_status ml_device_timer_stop(ml_device_timer *timer, double *seconds, ml_error *err);

#endif
