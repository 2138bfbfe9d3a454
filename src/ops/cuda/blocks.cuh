/* Single elements of the types of tensor/dtype.h and tensor/blocks.h, computed in fp32 in the order said there. */
#ifndef ML_OPS_CUDA_BLOCKS_CUH
#define ML_OPS_CUDA_BLOCKS_CUH

#include "ops/cuda/common.cuh"

static __host__ __device__ __forceinline__ float ml_bits_to_float(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* As ml_f16_to_f32. */
static __host__ __device__ __forceinline__ float ml_half_to_float(const uint8_t *b)
{
    uint32_t h = (uint32_t)b[0] | (uint32_t)b[1] << 8, bits = (h & 0x7fffu) << 13;
    float f = ml_bits_to_float(bits) * 5.192296858534828e33f; /* 2^112 */
    memcpy(&bits, &f, sizeof bits);
    if ((h & 0x7c00u) == 0x7c00u) bits |= 0x7f800000u;
    return ml_bits_to_float(bits | (h & 0x8000u) << 16);
}

static __host__ __device__ __forceinline__ float ml_bfloat_to_float(const uint8_t *b)
{
    return ml_bits_to_float((uint32_t)b[0] << 16 | (uint32_t)b[1] << 24);
}

/* Products and sums are rounded one by one, as on the CPU. */
static __host__ __device__ __forceinline__ float ml_round_product(float a, float b)
{
#ifdef __CUDA_ARCH__
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}

/* Element i of a super-block of q4_k. */
static __host__ __device__ __forceinline__ float ml_q4_k_element(const uint8_t *b, int64_t i)
{
    const uint8_t *p = b + 4;
    int sub = (int)(i / 32), scale, min;
    if (sub < 4) {
        scale = p[sub] & 63;
        min = p[4 + sub] & 63;
    } else {
        scale = (p[4 + sub] & 15) | p[sub - 4] >> 6 << 4;
        min = p[4 + sub] >> 4 | p[sub] >> 6 << 4;
    }
    float s = ml_round_product(ml_half_to_float(b), (float)scale);
    float t = ml_round_product(ml_half_to_float(b + 2), (float)min);
    int q = b[16 + 32 * (sub / 2) + i % 32] >> 4 * (sub % 2) & 15;
    return ml_round_product(s, (float)q) - t;
}

/* Element i of a super-block of q6_k: sub-block i / 16 of 16 elements. */
static __host__ __device__ __forceinline__ float ml_q6_k_element(const uint8_t *b, int64_t i)
{
    int sub = (int)(i / 16), j = (int)(i % 16);
    int low = b[sub / 8 * 64 + sub % 4 * 16 + j] >> 4 * (sub / 4 % 2) & 15;
    int high = b[128 + sub / 8 * 32 + sub % 2 * 16 + j] >> 2 * (sub / 2 % 4) & 3;
    float s = ml_round_product(ml_half_to_float(b + 208), (float)(int8_t)b[192 + sub]);
    return ml_round_product(s, (float)((low | high << 4) - 32));
}

/* Element i of a row that begins at `row`. */
static __host__ __device__ __forceinline__ float ml_block_element(ml_dtype dtype, const uint8_t *row, int64_t i)
{
    switch (dtype) {
    case ML_BF16: return ml_bfloat_to_float(row + 2 * i);
    case ML_F16: return ml_half_to_float(row + 2 * i);
    case ML_Q8_0: {
        const uint8_t *b = row + i / 32 * 34;
        return ml_round_product(ml_half_to_float(b), (float)(int8_t)b[2 + i % 32]);
    }
    case ML_Q6_K: return ml_q6_k_element(row + i / 256 * 210, i % 256);
    case ML_Q4_K: return ml_q4_k_element(row + i / 256 * 144, i % 256);
    default:
        return ml_bits_to_float((uint32_t)row[4 * i] | (uint32_t)row[4 * i + 1] << 8 | (uint32_t)row[4 * i + 2] << 16 |
                                (uint32_t)row[4 * i + 3] << 24);
    }
}

#endif
