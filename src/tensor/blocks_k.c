/* Reading the super-block types of 256 elements (layouts: tensor/blocks.h). */
#include "tensor/blocks_codec.h"

void ml_block_get_q2_k(const uint8_t *b, float *x)
{
    const uint8_t *codes = b + 16;
    float d = ml_block_get_half(b + 80), dmin = ml_block_get_half(b + 82);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, pair = i / 32 % 4, scale = b[i / 16];
        int q = codes[32 * half + i % 32] >> 2 * pair & 3;
        x[i] = d * (float)(scale & 15) * (float)q - dmin * (float)(scale >> 4);
    }
}

/* The six-bit scale of sub-block i of a q3_k block, less 32. */
static int q3_k_scale(const uint8_t *scales, int i)
{
    int low = scales[i % 8] >> 4 * (i / 8) & 15;
    return (low | (scales[8 + i % 4] >> 2 * (i / 4) & 3) << 4) - 32;
}

void ml_block_get_q3_k(const uint8_t *b, float *x)
{
    const uint8_t *codes = b + 32, *scales = b + 96;
    float d = ml_block_get_half(b + 108);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, pair = i / 32 % 4;
        int q = (codes[32 * half + i % 32] >> 2 * pair & 3) | (b[i % 32] >> (i / 32) & 1) << 2;
        x[i] = d * (float)q3_k_scale(scales, i / 16) * (float)(q - 4);
    }
}

/* The pair (scale, minimum) of sub-block i from the twelve bytes of q4_k and q5_k. */
static void get_pair(const uint8_t *p, int i, int *scale, int *min)
{
    if (i < 4) {
        *scale = p[i] & 63;
        *min = p[4 + i] & 63;
    } else {
        *scale = (p[4 + i] & 15) | p[i - 4] >> 6 << 4;
        *min = p[4 + i] >> 4 | p[i] >> 6 << 4;
    }
}

static void get_q4_q5(const uint8_t *b, const uint8_t *high, const uint8_t *codes, float *x)
{
    float d = ml_block_get_half(b), dmin = ml_block_get_half(b + 2);
    for (int sub = 0; sub < 8; sub++) {
        int scale, min;
        get_pair(b + 4, sub, &scale, &min);
        float s = d * (float)scale, t = dmin * (float)min;
        for (int j = 0; j < 32; j++) {
            int q = codes[32 * (sub / 2) + j] >> 4 * (sub % 2) & 15;
            if (high) q |= (high[j] >> sub & 1) << 4;
            x[32 * sub + j] = s * (float)q - t;
        }
    }
}

void ml_block_get_q4_k(const uint8_t *b, float *x)
{
    get_q4_q5(b, NULL, b + 16, x);
}

void ml_block_get_q5_k(const uint8_t *b, float *x)
{
    get_q4_q5(b, b + 16, b + 48, x);
}

void ml_block_get_q6_k(const uint8_t *b, float *x)
{
    const uint8_t *high = b + 128, *scales = b + 192;
    float d = ml_block_get_half(b + 208);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, j = i % 128, pair = j / 32;
        int low = b[64 * half + j % 64] >> 4 * (j / 64) & 15;
        int q = low | (high[32 * half + j % 32] >> 2 * pair & 3) << 4;
        x[i] = d * (float)(int8_t)scales[i / 16] * (float)(q - 32);
    }
}

void ml_block_get_iq4_xs(const uint8_t *b, float *x)
{
    float d = ml_block_get_half(b);
    uint16_t high = ml_block_get_u16(b + 2);
    for (int sub = 0; sub < 8; sub++) {
        int scale = (b[4 + sub / 2] >> 4 * (sub % 2) & 15) | (high >> 2 * sub & 3) << 4;
        float s = d * (float)(scale - 32);
        const uint8_t *codes = b + 8 + 16 * sub;
        for (int j = 0; j < 16; j++) {
            x[32 * sub + j] = s * (float)ml_iq4_values[codes[j] & 15];
            x[32 * sub + 16 + j] = s * (float)ml_iq4_values[codes[j] >> 4];
        }
    }
}
