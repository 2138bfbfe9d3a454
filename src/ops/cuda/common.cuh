/* What the operators' CUDA files share: sums over warps and blocks in a fixed order, launch sizes, faults. */
#ifndef ML_OPS_CUDA_COMMON_CUH
#define ML_OPS_CUDA_COMMON_CUH

#include "tensor/cuda/runtime.cuh"

extern "C" {
#include "ops/cuda/cuda.h"
}

enum { WARP = 32, MAX_GRID_Y = 65535 };
static const unsigned ALL_LANES = 0xffffffffu;

/* Blocks that cover n with `each` in one; 0 has none, and then nothing is to be launched. */
static inline int64_t ml_n_blocks(int64_t n, int64_t each)
{
    return (n + each - 1) / each;
}

/* A weight that gets a gradient: fp32, or the upper halves of one that its owner keeps split (tensor/half.h). */
static inline bool ml_is_trainable(const ml_tensor *w)
{
    return !w->part && (w->dtype == ML_F32 || (w->dtype == ML_BF16 && w->half == w->data));
}

/* Dynamic shared memory of a kernel, as an array of `type`. */
#ifdef ML_EMULATED
#define ML_DYNAMIC_SHARED(type, name) type *name = (type *)ml_emulated_dynamic
#else
#define ML_DYNAMIC_SHARED(type, name)                                                                                  \
    extern __shared__ __align__(16) unsigned char ml_dynamic_shared[];                                                 \
    type *name = (type *)(void *)ml_dynamic_shared
#endif

/* Every lane gets the sum, added pairwise: one order. */
template <typename T> static __device__ __forceinline__ T ml_warp_sum(T v)
{
    for (int with = WARP / 2; with > 0; with /= 2) v += __shfl_xor_sync(ALL_LANES, v, with);
    return v;
}

static __device__ __forceinline__ float ml_warp_max(float v)
{
    for (int with = WARP / 2; with > 0; with /= 2) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, with));
    return v;
}

/* Sum over a block of blockDim.x threads (whole warps): every thread gets it.  `shared` has a place for each warp. */
template <typename T> static __device__ __forceinline__ T ml_block_sum(T v, T *shared)
{
    v = ml_warp_sum(v);
    __syncthreads(); /* the places may still be read from the call before */
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = v;
    __syncthreads();
    T sum = shared[0];
    for (unsigned w = 1; w < blockDim.x / WARP; w++) sum += shared[w];
    return sum;
}

static __device__ __forceinline__ float ml_block_max(float v, float *shared)
{
    v = ml_warp_max(v);
    __syncthreads();
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = v;
    __syncthreads();
    float most = shared[0];
    for (unsigned w = 1; w < blockDim.x / WARP; w++) most = fmaxf(most, shared[w]);
    return most;
}

static __device__ __forceinline__ float ml_sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* Of experts: SiLU, or ReLU. */
static __device__ __forceinline__ float ml_activate(bool is_relu, float gate)
{
    return is_relu ? fmaxf(0.0f, gate) : gate * ml_sigmoid(gate);
}

static __device__ __forceinline__ void ml_report(ml_fault *fault, int code, int value, int64_t where)
{
    if (atomicCAS(&fault->code, ML_FAULT_NONE, code) != ML_FAULT_NONE) return;
    fault->value = value;
    fault->where = (int)where;
}

/* The launches of an operator went into the queue, or the device remembers why not: ml_device_wait tells. */
static inline ml_status ml_queued(const ml_ctx *ctx)
{
    return ctx->error.code;
}

#endif
