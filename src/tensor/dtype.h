/* Element types and their conversion to and from fp32.
 *
 * Plain types store one number per element.  Block types store a row as blocks of 32 or 256 numbers that share
 * scales, bit-compatible with GGUF's types of the same names; tensor/blocks.h describes and converts them.  A row
 * of a block type holds a whole number of blocks. */
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
    ML_Q8_0, /* the first block type */
    ML_Q4_0,
    ML_Q4_1,
    ML_Q5_0,
    ML_Q5_1,
    ML_Q2_K,
    ML_Q3_K,
    ML_Q4_K,
    ML_Q5_K,
    ML_Q6_K,
    ML_IQ4_NL,
    ML_IQ4_XS,
    ML_N_DTYPE,
} ml_dtype;

/* How the rows of a matrix of a block type lie in memory: a property of where it is stored. */
typedef enum {
    ML_LAYOUT_ROWS,   /* one after another, as in a file */
    ML_LAYOUT_PANELS, /* interleaved for the products of inference: ops/cpu/qmatmul.h */
} ml_layout;

/* "f32", "bf16", "f16", "i32", and GGUF's names in lower case: "q8_0", ..., "q4_k", ..., "iq4_xs" */
const char *ml_dtype_name(ml_dtype dtype);
/* Inverse of ml_dtype_name; false when there is no such type. */
bool ml_dtype_parse(const char *name, ml_dtype *out);

/* Bytes of one element; of plain types only. */
size_t ml_dtype_size(ml_dtype dtype);
static inline bool ml_dtype_is_block(ml_dtype dtype)
{
    return dtype >= ML_Q8_0;
}
/* Elements that share one block (1 for plain types), and the bytes of a block (of an element). */
int64_t ml_dtype_block_length(ml_dtype dtype);
size_t ml_dtype_block_bytes(ml_dtype dtype);
/* Bytes of a row of n elements, for n from a file: false when n is negative, not a whole number of blocks, or
 * the size does not fit. */
bool ml_dtype_row_bytes_checked(ml_dtype dtype, int64_t n, size_t *out);
/* The same for an n that is known to be right. */
size_t ml_dtype_row_bytes(ml_dtype dtype, int64_t n);

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

/* A product with a power of two lets the hardware do the (sub)normal arithmetic. */
static inline float ml_f16_to_f32(uint16_t h)
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

/* Round to nearest even; beyond the largest half, infinity. */
uint16_t ml_f32_to_f16(float f);

/* n elements of a float type, or whole blocks of a block type, to fp32; and back, to float types only
 * (ml_quantize_rows writes blocks). */
void ml_convert_to_f32(ml_dtype dtype, const void *src, float *dst, int64_t n);
void ml_convert_from_f32(ml_dtype dtype, const float *src, void *dst, int64_t n);

#endif
