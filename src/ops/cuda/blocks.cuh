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

/* Element i of a super-block of q4_k, or (with fifth bits) q5_k. */
static __host__ __device__ __forceinline__ float ml_q4_k_element(const uint8_t *b, const uint8_t *fifth,
                                                                 const uint8_t *codes, int64_t i)
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
    int q = codes[32 * (sub / 2) + i % 32] >> 4 * (sub % 2) & 15;
    if (fifth) q |= (fifth[i % 32] >> sub & 1) << 4;
    return ml_round_product(s, (float)q) - t;
}

/* Two bits of element i of 256, of which 64 bytes hold each half in 32. */
static __host__ __device__ __forceinline__ int ml_two_bits(const uint8_t *codes, int64_t i)
{
    return codes[i / 128 * 32 + i % 32] >> 2 * (i / 32 % 4) & 3;
}

static __host__ __device__ __forceinline__ float ml_q2_k_element(const uint8_t *b, int64_t i)
{
    uint8_t pair = b[i / 16];
    float s = ml_round_product(ml_half_to_float(b + 80), (float)(pair & 15));
    float t = ml_round_product(ml_half_to_float(b + 82), (float)(pair >> 4));
    return ml_round_product(s, (float)ml_two_bits(b + 16, i)) - t;
}

static __host__ __device__ __forceinline__ float ml_q3_k_element(const uint8_t *b, int64_t i)
{
    const uint8_t *scales = b + 96;
    int sub = (int)(i / 16), low = scales[sub % 8] >> 4 * (sub / 8) & 15;
    int scale = (low | (scales[8 + sub % 4] >> 2 * (sub / 4) & 3) << 4) - 32;
    int q = ml_two_bits(b + 32, i) | (b[i % 32] >> i / 32 & 1) << 2;
    return ml_round_product(ml_round_product(ml_half_to_float(b + 108), (float)scale), (float)(q - 4));
}

/* The values of iq4_nl and iq4_xs, a byte each, in order. */
static __host__ __device__ __forceinline__ int ml_iq4_value(int q)
{
    const uint64_t low = 0xf6eaddcfbfad9881ull, high = 0x7159453526190d01ull;
    return (int8_t)((q < 8 ? low : high) >> 8 * (q % 8));
}

static __host__ __device__ __forceinline__ float ml_iq4_xs_element(const uint8_t *b, int64_t i)
{
    int sub = (int)(i / 32), j = (int)(i % 32);
    int high = b[2] | b[3] << 8, scale = (b[4 + sub / 2] >> 4 * (sub % 2) & 15) | (high >> 2 * sub & 3) << 4;
    int q = b[8 + 16 * sub + j % 16] >> 4 * (j / 16) & 15;
    return ml_round_product(ml_round_product(ml_half_to_float(b), (float)(scale - 32)), (float)ml_iq4_value(q));
}

/* Nibble j of a block of 32, `codes` its 16 bytes. */
static __host__ __device__ __forceinline__ int ml_nibble(const uint8_t *codes, int64_t j)
{
    return codes[j % 16] >> 4 * (j / 16) & 15;
}

/* With the fifth bits before them. */
static __host__ __device__ __forceinline__ int ml_five_bits(const uint8_t *b, int64_t j)
{
    return ml_nibble(b + 4, j) | (b[j / 8] >> j % 8 & 1) << 4;
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
    case ML_Q4_0: {
        const uint8_t *b = row + i / 32 * 18;
        return ml_round_product(ml_half_to_float(b), (float)(ml_nibble(b + 2, i % 32) - 8));
    }
    case ML_Q4_1: {
        const uint8_t *b = row + i / 32 * 20;
        return ml_round_product(ml_half_to_float(b), (float)ml_nibble(b + 4, i % 32)) + ml_half_to_float(b + 2);
    }
    case ML_Q5_0: {
        const uint8_t *b = row + i / 32 * 22;
        return ml_round_product(ml_half_to_float(b), (float)(ml_five_bits(b + 2, i % 32) - 16));
    }
    case ML_Q5_1: {
        const uint8_t *b = row + i / 32 * 24;
        return ml_round_product(ml_half_to_float(b), (float)ml_five_bits(b + 4, i % 32)) + ml_half_to_float(b + 2);
    }
    case ML_IQ4_NL: {
        const uint8_t *b = row + i / 32 * 18;
        return ml_round_product(ml_half_to_float(b), (float)ml_iq4_value(ml_nibble(b + 2, i % 32)));
    }
    case ML_Q6_K: return ml_q6_k_element(row + i / 256 * 210, i % 256);
    case ML_Q4_K: {
        const uint8_t *b = row + i / 256 * 144;
        return ml_q4_k_element(b, NULL, b + 16, i % 256);
    }
    case ML_Q5_K: {
        const uint8_t *b = row + i / 256 * 176;
        return ml_q4_k_element(b, b + 16, b + 48, i % 256);
    }
    case ML_Q2_K: return ml_q2_k_element(row + i / 256 * 84, i % 256);
    case ML_Q3_K: return ml_q3_k_element(row + i / 256 * 110, i % 256);
    case ML_IQ4_XS: return ml_iq4_xs_element(row + i / 256 * 136, i % 256);
    default:
        return ml_bits_to_float((uint32_t)row[4 * i] | (uint32_t)row[4 * i + 1] << 8 | (uint32_t)row[4 * i + 2] << 16 |
                                (uint32_t)row[4 * i + 3] << 24);
    }
}

#endif
