/* What every CUDA file begins with: the runtime, the library's C headers, launches and errors. */
#ifndef ML_TENSOR_CUDA_RUNTIME_CUH
#define ML_TENSOR_CUDA_RUNTIME_CUH

#include <cuda_runtime.h> /* or, in the emulated build of the tests, tests/emulate/cuda_runtime.h */

extern "C" {
#include "tensor/device.h"
}

/* What an operator on the device found wrong with its data: the first finding stays, and ml_device_wait tells. */
enum ml_fault_code {
    ML_FAULT_NONE,
    ML_FAULT_TOKEN_ID,  /* id, row of the batch */
    ML_FAULT_POSITION,  /* position, row */
    ML_FAULT_TARGET,    /* target, row */
    ML_FAULT_EXPERT_ID, /* expert, row */
    ML_FAULT_SEQUENCES, /* last offset, tokens */
    ML_FAULT_PAGE,      /* position, row */
    ML_FAULT_CACHE,     /* position, row: its keys or values do not fit the cache's type */
};

struct ml_fault {
    int code, value, where;
};

struct ml_device {
    int index;
    cudaStream_t stream;
    ml_fault *fault; /* in device memory */
    int major, n_sm; /* compute capability, multiprocessors */
    void *lt;        /* of ops/cuda/gemm_lt.cu, which also says how it is freed */
    void (*lt_free)(void *lt);
    cudaError_t error;
    char what[128]; /* was being done when `error` arose */
};

/* Remember a failed call of the runtime; the first one stays. */
void ml_device_note(ml_device *device, cudaError_t error, const char *what);

#ifdef ML_EMULATED
#define ML_LAUNCH(device, kernel, grid, block, shared_bytes, ...)                                                      \
    ((void)(device), ml_emulate_kernel((grid), (block), (shared_bytes), kernel, __VA_ARGS__))
#else
#define ML_LAUNCH(device, kernel, grid, block, shared_bytes, ...)                                                      \
    do {                                                                                                               \
        kernel<<<(grid), (block), (shared_bytes), (device)->stream>>>(__VA_ARGS__);                                    \
        ml_device_note((device), cudaGetLastError(), #kernel);                                                         \
    } while (0)
#endif

#endif
