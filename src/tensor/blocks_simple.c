/* Reading the block types of 32 elements (layouts: tensor/blocks.h). */
#include "tensor/blocks_codec.h"

const int8_t ml_iq4_values[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };

void ml_block_get_q8_0(const uint8_t *b, float *x)
{
    float d = ml_block_get_half(b);
    for (int j = 0; j < 32; j++) x[j] = d * (float)(int8_t)b[2 + j];
}

void ml_block_get_q4_0(const uint8_t *b, float *x)
{
    float d = ml_block_get_half(b);
    for (int j = 0; j < 16; j++) {
        x[j] = d * (float)((b[2 + j] & 15) - 8);
        x[16 + j] = d * (float)((b[2 + j] >> 4) - 8);
    }
}

void ml_block_get_q4_1(const uint8_t *b, float *x)
{
    float d = ml_block_get_half(b), m = ml_block_get_half(b + 2);
    for (int j = 0; j < 16; j++) {
        x[j] = d * (float)(b[4 + j] & 15) + m;
        x[16 + j] = d * (float)(b[4 + j] >> 4) + m;
    }
}

void ml_block_get_q5_0(const uint8_t *b, float *x)
{
    float d = ml_block_get_half(b);
    uint32_t high = ml_block_get_u32(b + 2);
    for (int j = 0; j < 16; j++) {
        x[j] = d * (float)((b[6 + j] & 15) + 16 * (int)(high >> j & 1) - 16);
        x[16 + j] = d * (float)((b[6 + j] >> 4) + 16 * (int)(high >> (16 + j) & 1) - 16);
    }
}

void ml_block_get_q5_1(const uint8_t *b, float *x)
{
    float d = ml_block_get_half(b), m = ml_block_get_half(b + 2);
    uint32_t high = ml_block_get_u32(b + 4);
    for (int j = 0; j < 16; j++) {
        x[j] = d * (float)((b[8 + j] & 15) + 16 * (int)(high >> j & 1)) + m;
        x[16 + j] = d * (float)((b[8 + j] >> 4) + 16 * (int)(high >> (16 + j) & 1)) + m;
    }
}

void ml_block_get_iq4_nl(const uint8_t *b, float *x)
{
    float d = ml_block_get_half(b);
    for (int j = 0; j < 16; j++) {
        x[j] = d * (float)ml_iq4_values[b[2 + j] & 15];
        x[16 + j] = d * (float)ml_iq4_values[b[2 + j] >> 4];
    }
}
