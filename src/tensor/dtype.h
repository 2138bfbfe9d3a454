/* Element types and their conversion to and from fp32. */
#ifndef ML_TENSOR_DTYPE_H
#define ML_TENSOR_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum {
    ML_F32 = 0,
    ML_BF16,
    ML_F16,
    ML_I32,
    ML_N_DTYPE,
} ml_dtype;

/* "f32", "bf16", "f16", "i32" */
const char *ml_dtype_name(ml_dtype dtype);
/* Inverse of ml_dtype_name; false when there is no such type. */
bool ml_dtype_parse(const char *name, ml_dtype *out);
size_t ml_dtype_size(ml_dtype dtype);

static inline float ml_bf16_to_f32(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Round to nearest even; NaN stays NaN. */
static inline uint16_t ml_f32_to_bf16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

float ml_f16_to_f32(uint16_t h);
uint16_t ml_f32_to_f16(float f);

/* n elements of a float type to / from fp32. */
void ml_convert_to_f32(ml_dtype dtype, const void *src, float *dst, int64_t n);
void ml_convert_from_f32(ml_dtype dtype, const float *src, void *dst, int64_t n);

#endif
