/* Writing the block types of 32 elements (layouts: tensor/blocks.h). */
#include "tensor/blocks_codec.h"
#include "tensor/quantize_k.h"

#include <math.h>
#include <string.h>

static float mean_square(int n, const float *x)
{
    float sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] * x[i];
    return sum / (float)n;
}

/* The element of the largest magnitude, the first of several. */
static float find_extreme(const float *x)
{
    float extreme = 0;
    for (int j = 0; j < 32; j++) {
        if (fabsf(x[j]) > fabsf(extreme)) extreme = x[j];
    }
    return extreme;
}

/* 1 / d, or 0 where the half that stores d is 0: the block is then zero. */
static float invert(float d)
{
    return ml_f16_to_f32(ml_f32_to_f16(d)) == 0 ? 0 : 1 / d;
}

void ml_block_put_q8_0(const float *x, const float *importance, uint8_t *b)
{
    (void)importance; /* the error of 8 bits has no structure worth a search */
    float d = fabsf(find_extreme(x)) / 127, inverse = invert(d);
    ml_block_put_half(b, d);
    for (int j = 0; j < 32; j++) b[2 + j] = (uint8_t)(int8_t)roundf(x[j] * inverse);
}

/* One block as the first of groups side by side, whose other lanes are not used, and how much each element counts. */
typedef struct {
    float x[ML_BLOCK * ML_QUANTIZE_LANES], weight[ML_BLOCK * ML_QUANTIZE_LANES];
} lone_group;

static void set_up_group(const float *x, const float *importance, lone_group *g)
{
    float twice = 2 * mean_square(32, x);
    memset(g, 0, sizeof *g);
    for (int i = 0; i < 32; i++) {
        g->x[i * ML_QUANTIZE_LANES] = x[i];
        g->weight[i * ML_QUANTIZE_LANES] = importance[i] * sqrtf(twice + x[i] * x[i]);
    }
}

/* Codes of the symmetric types, in [0, 2 n_level). */
static float symmetric_codes(const float *x, const float *importance, int n_level, uint8_t *q)
{
    float d, offset = (float)n_level + 0.5f;
    if (importance) {
        lone_group g;
        float scale[ML_QUANTIZE_LANES];
        set_up_group(x, importance, &g);
        ml_quantize_k_get()->search_scale(ML_QUANTIZE_LANES, 32, g.x, g.weight, n_level, scale);
        d = ml_f16_to_f32(ml_f32_to_f16(scale[0]));
    } else {
        d = find_extreme(x) / (float)-n_level;
    }
    float inverse = invert(d);
    for (int j = 0; j < 32; j++)
        q[j] = (uint8_t)ml_quantize_clamp(x[j] * inverse + offset, 0, (float)(2 * n_level - 1));
    return d;
}

static void put_nibbles(const uint8_t *q, uint8_t *b)
{
    for (int j = 0; j < 16; j++) b[j] = (uint8_t)((q[j] & 15) | (q[16 + j] & 15) << 4);
}

static void put_fifth_bits(const uint8_t *q, uint8_t *b)
{
    for (int j = 0; j < 4; j++) b[j] = 0;
    for (int j = 0; j < 32; j++) b[j / 8] = (uint8_t)(b[j / 8] | (q[j] >> 4) << j % 8);
}

void ml_block_put_q4_0(const float *x, const float *importance, uint8_t *b)
{
    uint8_t q[32];
    ml_block_put_half(b, symmetric_codes(x, importance, 8, q));
    put_nibbles(q, b + 2);
}

void ml_block_put_q5_0(const float *x, const float *importance, uint8_t *b)
{
    uint8_t q[32];
    ml_block_put_half(b, symmetric_codes(x, importance, 16, q));
    put_fifth_bits(q, b + 2);
    put_nibbles(q, b + 6);
}

void ml_block_put_q5_1(const float *x, const float *importance, uint8_t *b)
{
    uint8_t q[32];
    float low = x[0], high = x[0], d;
    if (importance) {
        lone_group g;
        float scale[ML_QUANTIZE_LANES], min[ML_QUANTIZE_LANES];
        set_up_group(x, importance, &g);
        ml_quantize_k_get()->search_affine(ML_QUANTIZE_LANES, 32, g.x, g.weight, 31, false, scale, min);
        d = ml_f16_to_f32(ml_f32_to_f16(scale[0]));
        low = ml_f16_to_f32(ml_f32_to_f16(ml_quantize_clamp(min[0], -65504, 65504)));
    } else {
        for (int j = 1; j < 32; j++) {
            low = x[j] < low ? x[j] : low;
            high = x[j] > high ? x[j] : high;
        }
        d = (high - low) / 31;
    }
    float inverse = invert(d);
    for (int j = 0; j < 32; j++) q[j] = (uint8_t)ml_quantize_clamp((x[j] - low) * inverse + 0.5f, 0, 31);
    ml_block_put_half(b, d);
    ml_block_put_half(b + 2, low);
    put_fifth_bits(q, b + 4);
    put_nibbles(q, b + 8);
}
