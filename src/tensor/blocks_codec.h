/* What the files of the block codecs share. */
#ifndef ML_TENSOR_BLOCKS_CODEC_H
#define ML_TENSOR_BLOCKS_CODEC_H

#include "tensor/blocks.h"

enum { ML_BLOCK = 32, ML_SUPER_BLOCK = 256 };

static inline uint16_t ml_block_get_u16(const uint8_t *b)
{
    return (uint16_t)(b[0] | b[1] << 8);
}

static inline uint32_t ml_block_get_u32(const uint8_t *b)
{
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static inline float ml_block_get_half(const uint8_t *b)
{
    return ml_f16_to_f32(ml_block_get_u16(b));
}

static inline void ml_block_put_half(uint8_t *b, float value)
{
    uint16_t h = ml_f32_to_f16(value);
    b[0] = (uint8_t)h;
    b[1] = (uint8_t)(h >> 8);
}

/* n_block blocks, one after the other, to fp32. */
typedef void (*ml_block_read_fn)(const uint8_t *b, int64_t n_block, float *x);
/* For the instruction set in use; NULL for types that are no blocks. */
ml_block_read_fn ml_block_read_get(ml_dtype dtype);

extern const ml_block_read_fn ml_block_read_scalar[ML_N_DTYPE], ml_block_read_avx2[ML_N_DTYPE],
    ml_block_read_avx512[ML_N_DTYPE];

/* One block from fp32; importance of its elements or NULL. */
void ml_block_put_q8_0(const float *x, const float *importance, uint8_t *b);
void ml_block_put_q4_0(const float *x, const float *importance, uint8_t *b);
void ml_block_put_q5_0(const float *x, const float *importance, uint8_t *b);
void ml_block_put_q5_1(const float *x, const float *importance, uint8_t *b);
void ml_block_put_q4_k(const float *x, const float *importance, uint8_t *b);
void ml_block_put_q5_k(const float *x, const float *importance, uint8_t *b);
void ml_block_put_q6_k(const float *x, const float *importance, uint8_t *b);

#endif
