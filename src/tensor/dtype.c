#include "tensor/dtype.h"

#include "base/alloc.h"
#include "tensor/blocks.h"

#include <assert.h>

static const struct {
    const char *name;
    int length;   /* elements per block */
    size_t bytes; /* per block */
} dtypes[ML_N_DTYPE] = {
    [ML_F32] = { "f32", 1, 4 },           [ML_BF16] = { "bf16", 1, 2 },     [ML_F16] = { "f16", 1, 2 },
    [ML_I32] = { "i32", 1, 4 },           [ML_Q8_0] = { "q8_0", 32, 34 },   [ML_Q4_0] = { "q4_0", 32, 18 },
    [ML_Q4_1] = { "q4_1", 32, 20 },       [ML_Q5_0] = { "q5_0", 32, 22 },   [ML_Q5_1] = { "q5_1", 32, 24 },
    [ML_Q2_K] = { "q2_k", 256, 84 },      [ML_Q3_K] = { "q3_k", 256, 110 }, [ML_Q4_K] = { "q4_k", 256, 144 },
    [ML_Q5_K] = { "q5_k", 256, 176 },     [ML_Q6_K] = { "q6_k", 256, 210 }, [ML_IQ4_NL] = { "iq4_nl", 32, 18 },
    [ML_IQ4_XS] = { "iq4_xs", 256, 136 },
};

const char *ml_dtype_name(ml_dtype dtype)
{
    return dtypes[dtype].name;
}

bool ml_dtype_parse(const char *name, ml_dtype *out)
{
    for (int i = 0; i < ML_N_DTYPE; i++) {
        if (strcmp(name, dtypes[i].name)) continue;
        *out = (ml_dtype)i;
        return true;
    }
    return false;
}

size_t ml_dtype_size(ml_dtype dtype)
{
    assert(!ml_dtype_is_block(dtype));
    return dtypes[dtype].bytes;
}

int64_t ml_dtype_block_length(ml_dtype dtype)
{
    return dtypes[dtype].length;
}

size_t ml_dtype_block_bytes(ml_dtype dtype)
{
    return dtypes[dtype].bytes;
}

bool ml_dtype_row_bytes_checked(ml_dtype dtype, int64_t n, size_t *out)
{
    if (n < 0 || n % dtypes[dtype].length) return false;
    return ml_size_mul((size_t)(n / dtypes[dtype].length), dtypes[dtype].bytes, out);
}

size_t ml_dtype_row_bytes(ml_dtype dtype, int64_t n)
{
    size_t n_bytes = 0;
    bool fits = ml_dtype_row_bytes_checked(dtype, n, &n_bytes);
    assert(fits);
    (void)fits;
    return n_bytes;
}

uint16_t ml_f32_to_f16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (bits >= 0x47800000u) return (uint16_t)(sign | 0x7c00u); /* >= 65536 */
    if (bits < 0x38800000u) {
        /* Below the smallest normal half: adding 0.5 makes the fp32 adder round at the right bit. */
        float magnitude;
        memcpy(&magnitude, &bits, sizeof magnitude);
        magnitude += 0.5f;
        memcpy(&bits, &magnitude, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3f000000u));
    }
    bits += 0xfffu + (bits >> 13 & 1u);
    return (uint16_t)(sign | (bits - 0x38000000u) >> 13);
}

void ml_convert_to_f32(ml_dtype dtype, const void *src, float *dst, int64_t n)
{
    const uint16_t *half = src;
    switch (dtype) {
    case ML_F32: memcpy(dst, src, (size_t)n * sizeof *dst); break;
    case ML_BF16:
        for (int64_t i = 0; i < n; i++) dst[i] = ml_bf16_to_f32(half[i]);
        break;
    case ML_F16:
        for (int64_t i = 0; i < n; i++) dst[i] = ml_f16_to_f32(half[i]);
        break;
    default: ml_dequantize(dtype, src, dst, n);
    }
}

void ml_convert_from_f32(ml_dtype dtype, const float *src, void *dst, int64_t n)
{
    uint16_t *half = dst;
    switch (dtype) {
    case ML_F32: memcpy(dst, src, (size_t)n * sizeof *src); break;
    case ML_BF16:
        for (int64_t i = 0; i < n; i++) half[i] = ml_f32_to_bf16(src[i]);
        break;
    case ML_F16:
        for (int64_t i = 0; i < n; i++) half[i] = ml_f32_to_f16(src[i]);
        break;
    default: assert(0 && "a float type is expected");
    }
}
