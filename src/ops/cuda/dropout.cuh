/* Which elements drop: the choice of ops/cpu/dropout.h, so a run may move between processor and GPU. */
#ifndef ML_OPS_CUDA_DROPOUT_CUH
#define ML_OPS_CUDA_DROPOUT_CUH

#include "ops/cuda/common.cuh"

/* As ml_rng_mix. */
static __host__ __device__ __forceinline__ uint64_t ml_mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static __device__ __forceinline__ bool ml_stays(float share, uint64_t seed, int64_t row, int64_t column)
{
    uint64_t key = ml_mix(seed + 0x9e3779b97f4a7c15u * (uint64_t)(row + 1));
    return ml_mix(key + (uint64_t)column) >> 32 >= (uint64_t)((double)share * 4294967296.0);
}

#endif
