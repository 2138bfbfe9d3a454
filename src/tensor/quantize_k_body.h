/* Writing the super-block types of 256 elements (layouts: tensor/blocks.h): a search per sub-block, then the found
 * scales and minima are rounded to integers under the super-block's own, and the codes made again for what is stored.
 *
 * Included by quantize_k.c and, for wider vectors, quantize_k_avx2.c.  Sub-blocks are searched side by side, each in
 * a lane of its own: element i of group g is at x[i * n_group + g].  A lane's sums run in the order of its elements,
 * so that the result does not depend on how wide the vectors are. */
#include "tensor/blocks_codec.h"
#include "tensor/quantize_k.h"

#include <float.h>
#include <math.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
enum { LANES = 8 };
typedef __m256 vq;
#define VQ_MIN _mm256_min_ps
#define VQ_MAX _mm256_max_ps
#else
enum { LANES = 4 };
typedef float vq __attribute__((vector_size(16), may_alias));
#define VQ_MIN(a, b) vq_select((a) < (b), a, b)
#define VQ_MAX(a, b) vq_select((a) > (b), a, b)
#endif
typedef int32_t vq_mask __attribute__((vector_size(LANES * 4), may_alias));
typedef float vq_unaligned __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
#define VQ_INLINE static inline __attribute__((always_inline, unused))

VQ_INLINE vq vq_load(const float *p)
{
    return (vq) * (const vq_unaligned *)p;
}

VQ_INLINE void vq_store(float *p, vq v)
{
    *(vq_unaligned *)p = (vq_unaligned)v;
}

VQ_INLINE vq vq_all(float x)
{
    return (vq){ 0 } + x;
}

VQ_INLINE vq vq_select(vq_mask m, vq a, vq b)
{
    return (vq)((m & (vq_mask)a) | (~m & (vq_mask)b));
}

VQ_INLINE vq vq_abs(vq a)
{
    return (vq)((vq_mask)a & 0x7fffffff);
}

/* Nearest integers between low and high. */
VQ_INLINE vq vq_code(vq v, vq low, vq high)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: its sum with v has no fraction bits */
    return VQ_MIN(VQ_MAX((v + magic) - magic, low), high);
}

/* Sums over candidate codes q of one group of lanes. */
typedef struct {
    vq wq, wqq, wxq;
} code_sums;

/* x ~ scale q + min, q in [0, n_level], of `n` elements in each of LANES groups. */
VQ_INLINE void search_affine_lanes(int n_group, int n, const float *x, const float *w, int n_level, bool min_negative,
                                   float *scale, float *min)
{
    vq q[ML_QUANTIZE_MAX_N], low = vq_load(x), high = low, w1 = { 0 }, wx = { 0 }, zero = { 0 };
    for (int i = 0; i < n; i++) {
        vq v = vq_load(x + i * n_group), weight = vq_load(w + i * n_group);
        low = VQ_MIN(low, v);
        high = VQ_MAX(high, v);
        w1 += weight;
        wx += weight * v;
    }
    if (min_negative) low = VQ_MIN(low, zero);
    vq range = high - low, top = vq_all((float)n_level);
    vq_mask spread = range > 1e-30f;
    vq best = vq_all(INFINITY), best_scale = vq_select(spread, range / top, zero), best_min = low;
    vq divisor = vq_select(spread, range, vq_all(1)), step_mask = vq_select(spread, vq_all(1), zero);
    for (int step = 0; step <= 20; step++) {
        vq inverse = step_mask * ((float)n_level - 1 + 0.1f * (float)step) / divisor;
        code_sums s = { zero, zero, zero };
        for (int i = 0; i < n; i++) {
            vq v = vq_load(x + i * n_group);
            q[i] = vq_code(inverse * (v - low), zero, top);
            vq weighted = vq_load(w + i * n_group) * q[i];
            s.wq += weighted;
            s.wqq += weighted * q[i];
            s.wxq += weighted * v;
        }
        vq det = w1 * s.wqq - s.wq * s.wq, error = zero;
        vq try = (w1 * s.wxq - wx * s.wq) / det, try_min = (s.wqq * wx - s.wq * s.wxq) / det;
        if (min_negative) {
            vq_mask above = try_min > zero;
            try = vq_select(above, s.wxq / s.wqq, try);
            try_min = vq_select(above, zero, try_min);
        }
        for (int i = 0; i < n; i++) {
            vq d = try * q[i] + try_min - vq_load(x + i * n_group);
            error += vq_load(w + i * n_group) * d * d;
        }
        vq_mask better = (det > zero) & (try > zero) & (try <= FLT_MAX) & (vq_abs(try_min) <= FLT_MAX) & (error < best);
        best = vq_select(better, error, best);
        best_scale = vq_select(better, try, best_scale);
        best_min = vq_select(better, try_min, best_min);
    }
    vq_store(scale, best_scale);
    vq_store(min, best_min);
}

static void search_affine(int n_group, int n, const float *x, const float *weight, int n_level, bool min_negative,
                          float *scale, float *min)
{
    for (int g = 0; g < n_group; g += LANES) {
        search_affine_lanes(n_group, n, x + g, weight + g, n_level, min_negative, scale + g, min + g);
    }
}

/* x ~ scale q, q in [-n_level, n_level - 1], of LANES groups. */
VQ_INLINE void search_scale_lanes(int n_group, int n, const float *x, const float *w, int n_level, float *scale)
{
    vq zero = { 0 }, extreme = zero, low = vq_all((float)-n_level), high = vq_all((float)(n_level - 1));
    for (int i = 0; i < n; i++) {
        vq v = vq_load(x + i * n_group);
        extreme = vq_select(vq_abs(v) > vq_abs(extreme), v, extreme);
    }
    vq_mask any = vq_abs(extreme) >= 1e-30f;
    vq divisor = vq_select(any, extreme, vq_all(1)), best = vq_all(-1), best_scale = zero;
    for (int step = -9; step <= 9; step++) {
        vq inverse = -((float)n_level + 0.1f * (float)step) / divisor, xq = zero, qq = zero;
        for (int i = 0; i < n; i++) {
            vq v = vq_load(x + i * n_group), q = vq_code(inverse * v, low, high);
            vq weighted = vq_load(w + i * n_group) * q;
            xq += weighted * v;
            qq += weighted * q;
        }
        vq try = xq / qq, gain = xq * try; /* the error is sum w x^2 - xq^2 / qq */
        vq_mask better = (qq > zero) & (gain > best);
        best = vq_select(better, gain, best);
        best_scale = vq_select(better, try, best_scale);
    }
    /* All weights zero: nothing to choose by. */
    vq_mask found = (best >= zero) & (best_scale != zero);
    vq_store(scale, vq_select(any, vq_select(found, best_scale, extreme / low), zero));
}

static void search_scale(int n_group, int n, const float *x, const float *weight, int n_level, float *scale)
{
    for (int g = 0; g < n_group; g += LANES) search_scale_lanes(n_group, n, x + g, weight + g, n_level, scale + g);
}

static float mean_square(const float *x)
{
    float sum[8] = { 0 };
    for (int i = 0; i < 256; i += 8) {
        for (int l = 0; l < 8; l++) sum[l] += x[i + l] * x[i + l];
    }
    return (((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]))) / 256;
}

/* The half nearest to v, and its inverse (0 for 0). */
static float to_half(float v, float *inverse)
{
    float h = ml_f16_to_f32(ml_f32_to_f16(v));
    *inverse = h == 0 ? 0 : 1 / h;
    return h;
}

/* 256 elements as n_group groups side by side, and how much each counts (quantize_k.h). */
static void set_up_groups(const float *x, const float *importance, int n_group, float *side, float *weight)
{
    int n = 256 / n_group;
    for (int i = 0; i < n; i++) {
        for (int g = 0; g < n_group; g++) side[i * n_group + g] = x[g * n + i];
    }
    if (importance) {
        float twice = 2 * mean_square(x);
        for (int i = 0; i < n; i++) {
            for (int g = 0; g < n_group; g++) {
                float v = side[i * n_group + g];
                weight[i * n_group + g] = importance[g * n + i] * sqrtf(twice + v * v);
            }
        }
        return;
    }
    float root[16] = { 0 };
    for (int i = 0; i < n; i++) {
        for (int g = 0; g < n_group; g++) root[g] += side[i * n_group + g] * side[i * n_group + g];
    }
    for (int g = 0; g < n_group; g++) root[g] = sqrtf(root[g] / (float)n);
    for (int i = 0; i < n; i++) {
        for (int g = 0; g < n_group; g++) weight[i * n_group + g] = root[g] + fabsf(side[i * n_group + g]);
    }
}

typedef struct {
    float d, dmin;
    int scale[8], min[8];
    uint8_t q[256];
} affine_block;

/* q4_k and q5_k differ in n_level only: 15 and 31. */
static void quantize_affine(const float *x, const float *importance, int n_level, affine_block *out)
{
    float side[256], weight[256], scale[8], min[8], max_scale = 0, max_min = 0;
    set_up_groups(x, importance, 8, side, weight);
    search_affine(8, 32, side, weight, n_level, true, scale, min);
    for (int sub = 0; sub < 8; sub++) {
        if (scale[sub] > max_scale) max_scale = scale[sub];
        if (-min[sub] > max_min) max_min = -min[sub];
    }
    float inverse, inverse_min;
    out->d = to_half(max_scale / 63, &inverse);
    out->dmin = to_half(max_min / 63, &inverse_min);
    for (int sub = 0; sub < 8; sub++) {
        out->scale[sub] = (int)ml_quantize_clamp(ml_quantize_round(scale[sub] * inverse), 0, 63);
        out->min[sub] = (int)ml_quantize_clamp(ml_quantize_round(-min[sub] * inverse_min), 0, 63);
        float s = out->d * (float)out->scale[sub], t = out->dmin * (float)out->min[sub];
        float to_code = s > 0 ? 1 / s : 0;
        for (int j = 32 * sub; j < 32 * sub + 32; j++) {
            out->q[j] = (uint8_t)(int)ml_quantize_clamp(ml_quantize_round((x[j] + t) * to_code), 0, (float)n_level);
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
    for (int part = 0; part < 4; part++) {
        const uint8_t *at = q + 64 * part;
        for (int i = 0; i < 32; i++) codes[32 * part + i] = (uint8_t)((at[i] & 15) | (at[32 + i] & 15) << 4);
    }
}

static void put_q4_k(const float *x, const float *importance, uint8_t *b)
{
    affine_block a;
    quantize_affine(x, importance, 15, &a);
    ml_block_put_half(b, a.d);
    ml_block_put_half(b + 2, a.dmin);
    put_pairs(&a, b + 4);
    put_nibbles(a.q, b + 16);
}

static void put_q5_k(const float *x, const float *importance, uint8_t *b)
{
    affine_block a;
    quantize_affine(x, importance, 31, &a);
    ml_block_put_half(b, a.d);
    ml_block_put_half(b + 2, a.dmin);
    put_pairs(&a, b + 4);
    memset(b + 16, 0, 32);
    for (int h = 0; h < 8; h++) {
        for (int i = 0; i < 32; i++) b[16 + i] = (uint8_t)(b[16 + i] | (a.q[32 * h + i] >> 4) << h);
    }
    put_nibbles(a.q, b + 48);
}

/* Codes of q6_k as they lie in the block: 128 elements are 64 bytes of nibbles and 32 of pairs. */
static void put_six_bits(const uint8_t *q, uint8_t *low, uint8_t *high)
{
    for (int half = 0; half < 2; half++, q += 128, low += 64, high += 32) {
        for (int i = 0; i < 64; i++) low[i] = (uint8_t)((q[i] & 15) | (q[64 + i] & 15) << 4);
        for (int i = 0; i < 32; i++) {
            high[i] = (uint8_t)(q[i] >> 4 | (q[32 + i] >> 4) << 2 | (q[64 + i] >> 4) << 4 | (q[96 + i] >> 4) << 6);
        }
    }
}

static void put_q6_k(const float *x, const float *importance, uint8_t *b)
{
    float side[256], weight[256], scale[16], extreme = 0, inverse;
    uint8_t q[256];
    set_up_groups(x, importance, 16, side, weight);
    search_scale(16, 16, side, weight, 32, scale);
    for (int sub = 0; sub < 16; sub++) {
        if (fabsf(scale[sub]) > fabsf(extreme)) extreme = scale[sub];
    }
    float d = to_half(extreme / -128, &inverse);
    ml_block_put_half(b + 208, d);
    for (int sub = 0; sub < 16; sub++) {
        float s = ml_quantize_clamp(ml_quantize_round(scale[sub] * inverse), -128, 127);
        b[192 + sub] = (uint8_t)(int8_t)s;
        float to_code = d * s == 0 ? 0 : 1 / (d * s);
        for (int i = 16 * sub; i < 16 * sub + 16; i++) {
            q[i] = (uint8_t)((int)ml_quantize_clamp(ml_quantize_round(x[i] * to_code), -32, 31) + 32);
        }
    }
    put_six_bits(q, b, b + 128);
}

const ml_quantize_k QUANTIZE_K_TABLE = {
    .q4_k = put_q4_k, .q5_k = put_q5_k, .q6_k = put_q6_k, .search_affine = search_affine, .search_scale = search_scale
};
