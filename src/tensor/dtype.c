#include "tensor/dtype.h"

#include <assert.h>

static const struct {
    const char *name;
    size_t size;
} dtypes[ML_N_DTYPE] = {
    [ML_F32] = { "f32", 4 },
    [ML_BF16] = { "bf16", 2 },
    [ML_F16] = { "f16", 2 },
    [ML_I32] = { "i32", 4 },
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
    return dtypes[dtype].size;
}

/* Both conversions scale by a power of two so that the hardware does the (sub)normal arithmetic. */
float ml_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t bits = (uint32_t)(h & 0x7fffu) << 13;
    float f;
    memcpy(&f, &bits, sizeof f);
    f *= 0x1p112f;
    memcpy(&bits, &f, sizeof bits);
    if ((h & 0x7c00u) == 0x7c00u) bits |= 0x7f800000u; /* infinity and NaN keep their mantissa */
    bits |= sign;
    memcpy(&f, &bits, sizeof f);
    return f;
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
    default: assert(!"a float type is expected");
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
    default: assert(!"a float type is expected");
    }
}
