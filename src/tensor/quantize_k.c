/* Writing the super-block types of 256 elements (layouts: tensor/blocks.h): a search per sub-block, then the found
 * scales and minima are rounded to integers under the super-block's own, and the codes made again for what is stored.
 */
#include "tensor/blocks_codec.h"
#include "tensor/quantize_search.h"

#include <math.h>
#include <string.h>

static float mean_square(const float *x)
{
    float sum = 0;
    for (int i = 0; i < 256; i++) sum += x[i] * x[i];
    return sum / 256;
}

/* The half nearest to v, and its inverse (0 for 0). */
static float to_half(float v, float *inverse)
{
    float h = ml_f16_to_f32(ml_f32_to_f16(v));
    *inverse = h == 0 ? 0 : 1 / h;
    return h;
}

typedef struct {
    float d, dmin;
    int scale[8], min[8];
    uint8_t q[256];
} affine_block;

/* q4_k and q5_k differ in n_level only: 15 and 31. */
static void quantize_affine(const float *x, const float *importance, int n_level, affine_block *out)
{
    float scale[8], min[8], max_scale = 0, max_min = 0, square = mean_square(x);
    for (int sub = 0; sub < 8; sub++) {
        const float *part = x + 32 * sub;
        float weight[32], m;
        ml_quantize_weights(32, part, importance ? importance + 32 * sub : NULL, square, weight);
        ml_quantize_search_affine(32, part, weight, n_level, 1, &scale[sub], &m);
        min[sub] = -m;
        if (scale[sub] > max_scale) max_scale = scale[sub];
        if (min[sub] > max_min) max_min = min[sub];
    }
    float inverse, inverse_min;
    out->d = to_half(max_scale / 63, &inverse);
    out->dmin = to_half(max_min / 63, &inverse_min);
    for (int sub = 0; sub < 8; sub++) {
        out->scale[sub] = (int)ml_quantize_clamp(ml_quantize_round(scale[sub] * inverse), 0, 63);
        out->min[sub] = (int)ml_quantize_clamp(ml_quantize_round(min[sub] * inverse_min), 0, 63);
        float s = out->d * (float)out->scale[sub], t = out->dmin * (float)out->min[sub];
        float to_code = s > 0 ? 1 / s : 0;
        for (int j = 32 * sub; j < 32 * sub + 32; j++) {
            out->q[j] = (uint8_t)ml_quantize_clamp(ml_quantize_round((x[j] + t) * to_code), 0, (float)n_level);
        }
    }
}

static void put_pairs(const affine_block *a, uint8_t *p)
{
    for (int i = 0; i < 4; i++) {
        p[i] = (uint8_t)(a->scale[i] | (a->scale[4 + i] >> 4) << 6);
        p[4 + i] = (uint8_t)(a->min[i] | (a->min[4 + i] >> 4) << 6);
        p[8 + i] = (uint8_t)((a->scale[4 + i] & 15) | (a->min[4 + i] & 15) << 4);
    }
}

static void put_nibbles(const uint8_t *q, uint8_t *codes)
{
    for (int i = 0; i < 128; i++) {
        const uint8_t *at = q + 64 * (i / 32) + i % 32;
        codes[i] = (uint8_t)((at[0] & 15) | (at[32] & 15) << 4);
    }
}

void ml_block_put_q4_k(const float *x, const float *importance, uint8_t *b)
{
    affine_block a;
    quantize_affine(x, importance, 15, &a);
    ml_block_put_half(b, a.d);
    ml_block_put_half(b + 2, a.dmin);
    put_pairs(&a, b + 4);
    put_nibbles(a.q, b + 16);
}

void ml_block_put_q5_k(const float *x, const float *importance, uint8_t *b)
{
    affine_block a;
    quantize_affine(x, importance, 31, &a);
    ml_block_put_half(b, a.d);
    ml_block_put_half(b + 2, a.dmin);
    put_pairs(&a, b + 4);
    memset(b + 16, 0, 32);
    for (int i = 0; i < 256; i++) b[16 + i % 32] = (uint8_t)(b[16 + i % 32] | (a.q[i] >> 4) << i / 32);
    put_nibbles(a.q, b + 48);
}

void ml_block_put_q6_k(const float *x, const float *importance, uint8_t *b)
{
    float scale[16], extreme = 0, square = mean_square(x), inverse;
    for (int sub = 0; sub < 16; sub++) {
        float weight[16];
        ml_quantize_weights(16, x + 16 * sub, importance ? importance + 16 * sub : NULL, square, weight);
        scale[sub] = ml_quantize_search_scale(16, x + 16 * sub, weight, 32);
        if (fabsf(scale[sub]) > fabsf(extreme)) extreme = scale[sub];
    }
    float d = to_half(extreme / -128, &inverse);
    memset(b, 0, 208);
    ml_block_put_half(b + 208, d);
    for (int sub = 0; sub < 16; sub++) {
        float s = ml_quantize_clamp(ml_quantize_round(scale[sub] * inverse), -128, 127);
        b[192 + sub] = (uint8_t)(int8_t)s;
        float to_code = d * s == 0 ? 0 : 1 / (d * s);
        for (int i = 16 * sub; i < 16 * sub + 16; i++) {
            int q = (int)ml_quantize_clamp(ml_quantize_round(x[i] * to_code), -32, 31) + 32;
            int half = i / 128, j = i % 128;
            uint8_t *low = b + 64 * half + j % 64, *high = b + 128 + 32 * half + j % 32;
            *low = (uint8_t)(*low | (q & 15) << 4 * (j / 64));
            *high = (uint8_t)(*high | (q >> 4) << 2 * (j / 32));
        }
    }
}
