/* As much of the CUDA runtime and of CUDA C as src/ uses, on this machine's processor: the kernels' own source runs in
 * tests where no GPU is (CMake preset `cuda-emulated`).
 *
 * What it shows: index arithmetic, bounds (with the address sanitizer), which numbers come out, and missing barriers:
 * the threads of a block run one at a time from barrier to barrier, in an order that tests change, so a race gives
 * other bits.  Barriers that not all threads reach end the program.  Device memory cannot be read or written outside of
 * kernels and copies.  What it cannot show: anything about the speed, the compiler or the memory model of a real GPU.
 *
 * Streams made with cudaStreamNonBlocking do their copies at once or, when the order of threads is not as numbered, as
 * late as somebody waits for them: a missing wait for them gives other bits.
 *
 * Blocks run one after another; a warp's threads need not run in step except where they exchange values. */
#ifndef ML_TESTS_EMULATE_CUDA_RUNTIME_H
#define ML_TESTS_EMULATE_CUDA_RUNTIME_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>

#define ML_EMULATED 1

/* ---- the language ---- */

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct ml_emulated_thread {
    dim3 threadIdx;
    unsigned lane, warp; /* of the linear thread index */
    unsigned turn;       /* exchanges of values so far */
};
struct ml_emulated_block {
    dim3 blockIdx, blockDim, gridDim;
};
extern ml_emulated_thread *ml_emulated_now; /* the running thread */
extern ml_emulated_block ml_emulated_here;  /* its block */
extern void *ml_emulated_dynamic;           /* the block's dynamic shared memory */
#define threadIdx ml_emulated_now->threadIdx
#define blockIdx ml_emulated_here.blockIdx
#define blockDim ml_emulated_here.blockDim
#define gridDim ml_emulated_here.gridDim

void ml_emulate_launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> &thread);
template <typename T> struct ml_emulated_same {
    typedef T type;
};
/* A launch: arguments are what they are now, also in a graph. */
template <typename... P>
static inline void ml_emulate_kernel(dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(P...),
                                     typename ml_emulated_same<P>::type... argument)
{
    ml_emulate_launch(grid, block, shared_bytes, [=]() { kernel(argument...); });
}
void ml_emulated_block_barrier();
void ml_emulated_warp_barrier();
/* Let other threads go on: of a thread that waits for what they do. */
void ml_emulated_yield();
/* The running thread's number in its block, and the order that threads are run in (emulate.h). */
int ml_emulated_thread_id();
unsigned ml_emulated_order();
/* A place for each lane of the running warp where values are exchanged.  There are two, used in turn: once a barrier
 * has passed, values may be read until the next barrier, with no second one behind the reading. */
uint64_t (*ml_emulated_slots())[4];

#define __syncthreads() ml_emulated_block_barrier()
#define __syncwarp() ml_emulated_warp_barrier()

/* All lanes give `value`; lane `lane` gets that of lane `from`. */
template <typename T> static inline T ml_emulated_exchange(T value, unsigned from)
{
    static_assert(sizeof(T) <= 8, "wider than a slot");
    uint64_t(*slot)[4] = ml_emulated_slots();
    memcpy(slot[ml_emulated_now->lane], &value, sizeof value);
    ml_emulated_warp_barrier();
    T result;
    memcpy(&result, slot[from & 31], sizeof result);
    return result;
}

template <typename T> static inline T __shfl_sync(unsigned, T value, int from)
{
    return ml_emulated_exchange(value, (unsigned)from);
}

template <typename T> static inline T __shfl_xor_sync(unsigned, T value, int with)
{
    return ml_emulated_exchange(value, ml_emulated_now->lane ^ (unsigned)with);
}

template <typename T> static inline T __shfl_up_sync(unsigned, T value, unsigned by)
{
    unsigned lane = ml_emulated_now->lane;
    return ml_emulated_exchange(value, lane >= by ? lane - by : lane);
}

static inline unsigned __ballot_sync(unsigned, int predicate)
{
    uint64_t(*slot)[4] = ml_emulated_slots();
    unsigned all = 0;
    slot[ml_emulated_now->lane][0] = predicate != 0;
    ml_emulated_warp_barrier();
    for (unsigned i = 0; i < 32; i++) all |= (unsigned)slot[i][0] << i;
    return all;
}

static inline unsigned __match_any_sync(unsigned, int value)
{
    unsigned same = 0;
    for (unsigned i = 0; i < 32; i++) same |= (unsigned)(ml_emulated_exchange(value, i) == value ? 1 : 0) << i;
    return same;
}

static inline int __popc(unsigned bits)
{
    return __builtin_popcount(bits);
}

static inline int atomicCAS(int *at, int expected, int wanted)
{
    int old = *at;
    if (old == expected) *at = wanted;
    return old;
}

static inline unsigned __float_as_uint(float f)
{
    unsigned bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static inline float __uint_as_float(unsigned bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* ---- the matrix unit (src/ops/cuda/mma.cuh says which lane holds what) ---- */

static inline uint16_t ml_emulated_bf16(float v)
{
    unsigned bits = __float_as_uint(v);
    if (v != v) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void ml_emulated_mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2]);

static inline void ml_emulated_load_matrix(uint32_t to[4], const void *row, bool transposed)
{
    uint64_t(*slot)[4] = ml_emulated_slots();
    unsigned lane = ml_emulated_now->lane;
    slot[lane][0] = (uint64_t)(uintptr_t)row;
    ml_emulated_warp_barrier();
    for (unsigned j = 0; j < 4; j++) {
        uint16_t element[2];
        for (unsigned i = 0; i < 2; i++) {
            unsigned r = lane / 4, c = 2 * (lane % 4) + i;
            const uint16_t *from = (const uint16_t *)(uintptr_t)slot[j * 8 + (transposed ? c : r)][0];
            element[i] = from[transposed ? r : c];
        }
        to[j] = (uint32_t)element[0] | (uint32_t)element[1] << 16;
    }
}

/* ---- copies beside the computation (cp.async): done when a thread waits for them, or (one order) at once ---- */

void ml_emulated_copy_16(void *shared, const void *global, int n_valid);
void ml_emulated_copy_commit();
void ml_emulated_copy_wait(int n_open);
/* The thread arrives at a barrier of hopper.h once its copies so far are done: as late as somebody waits there. */
void ml_emulated_copy_arrive(uint64_t *barrier);
void ml_emulated_copy_finish(uint64_t *barrier);

struct float2 {
    float x, y;
};
struct float4 {
    float x, y, z, w;
};
struct uint4 {
    unsigned x, y, z, w;
};
struct uint2 {
    unsigned x, y;
};

/* ---- the runtime ---- */

typedef enum {
    cudaSuccess = 0,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorUnknown = 999
} cudaError_t;
typedef enum { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 } cudaMemcpyKind;
typedef struct ml_emulated_stream *cudaStream_t;
typedef struct ml_emulated_event *cudaEvent_t;
typedef enum { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 } cudaFuncAttribute;
enum { cudaHostAllocDefault = 0, cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };
typedef enum { cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 } cudaDeviceAttr;
struct cudaDeviceProp {
    char name[256];
    int major, minor, multiProcessorCount;
};

cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaMemGetInfo(size_t *available, size_t *total);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaMalloc(void **p, size_t n_bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n_bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *dst, int value, size_t n_bytes, cudaStream_t stream);
cudaError_t cudaHostAlloc(void **p, size_t n_bytes, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaStreamCreate(cudaStream_t *stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
/* Graphs: what is queued between begin and end is kept, arguments as they were, and done whenever the graph is
 * launched. While capturing, waiting and copies between this machine and the device end the program: CUDA refuses or
 * spoils them. */
typedef struct ml_emulated_graph *cudaGraph_t;
typedef struct ml_emulated_graph *cudaGraphExec_t;
typedef struct ml_emulated_graph_node *cudaGraphNode_t;
typedef enum { cudaStreamCaptureModeThreadLocal = 1 } cudaStreamCaptureMode;
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *n);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaEventCreate(cudaEvent_t *event);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t stop);
cudaError_t cudaGetLastError();
const char *cudaGetErrorString(cudaError_t error);
template <typename F> static inline cudaError_t cudaFuncSetAttribute(F *, cudaFuncAttribute, int)
{
    return cudaSuccess;
}

#endif
