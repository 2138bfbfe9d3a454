/* Reading block types (layouts: tensor/blocks.h), compiled once for each instruction set by a file that defines
 * BLOCK_READ_TABLE.  Sixteen codes at a time are brought into one byte each and made fp32; every value is computed by
 * the same operations in all copies, so they agree in bits. */
#include "tensor/blocks_codec.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

typedef uint8_t codes __attribute__((vector_size(16)));

#define READ_INLINE static inline __attribute__((always_inline))

READ_INLINE codes load_codes(const uint8_t *b)
{
    codes q;
    memcpy(&q, b, sizeof q);
    return q;
}

READ_INLINE float half_at(const uint8_t *b)
{
#if defined(__F16C__)
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(ml_block_get_u16(b))));
#else
    return ml_block_get_half(b);
#endif
}

/* Sixteen fp32 numbers, where the compiler needs to be told how bytes become them. */
#if defined(__AVX512F__)
READ_INLINE __m512 to_f32(codes q, int zero)
{
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_cvtepu8_epi32((__m128i)q), _mm512_set1_epi32(zero)));
}

/* x[j] = s * (q[j] - zero) for 16 elements */
READ_INLINE void scale_codes(codes q, int zero, float s, float *x)
{
    _mm512_storeu_ps(x, _mm512_mul_ps(_mm512_set1_ps(s), to_f32(q, zero)));
}

/* x[j] = s * q[j] + t for 16 elements, rounded twice */
READ_INLINE void scale_codes_add(codes q, float s, float t, float *x)
{
    _mm512_storeu_ps(x, _mm512_add_ps(_mm512_mul_ps(_mm512_set1_ps(s), to_f32(q, 0)), _mm512_set1_ps(t)));
}
#elif defined(__AVX2__)
READ_INLINE __m256 to_f32(__m128i q, int zero)
{
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_cvtepu8_epi32(q), _mm256_set1_epi32(zero)));
}

READ_INLINE void scale_codes(codes q, int zero, float s, float *x)
{
    __m128i all = (__m128i)q;
    _mm256_storeu_ps(x, _mm256_mul_ps(_mm256_set1_ps(s), to_f32(all, zero)));
    _mm256_storeu_ps(x + 8, _mm256_mul_ps(_mm256_set1_ps(s), to_f32(_mm_unpackhi_epi64(all, all), zero)));
}

READ_INLINE void scale_codes_add(codes q, float s, float t, float *x)
{
    __m128i all = (__m128i)q;
    __m256 factor = _mm256_set1_ps(s), term = _mm256_set1_ps(t);
    _mm256_storeu_ps(x, _mm256_add_ps(_mm256_mul_ps(factor, to_f32(all, 0)), term));
    _mm256_storeu_ps(x + 8, _mm256_add_ps(_mm256_mul_ps(factor, to_f32(_mm_unpackhi_epi64(all, all), 0)), term));
}
#else
READ_INLINE void scale_codes(codes q, int zero, float s, float *x)
{
    for (int j = 0; j < 16; j++) x[j] = s * (float)(q[j] - zero);
}

READ_INLINE void scale_codes_add(codes q, float s, float t, float *x)
{
    for (int j = 0; j < 16; j++) x[j] = s * (float)q[j] + t;
}
#endif

/* x[j] = s * table[q[j]] for 16 elements, q below 16 */
READ_INLINE void look_up_codes(codes q, float s, float *x)
{
    codes value;
#if defined(__AVX2__)
    value = (codes)_mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)ml_iq4_values), (__m128i)q);
#else
    for (int j = 0; j < 16; j++) value[j] = (uint8_t)ml_iq4_values[q[j]];
#endif
    scale_codes(value ^ 128, 128, s, x); /* signed bytes: 128 more, and less again */
}

/* 16 where bit j of h is set, else 0 */
READ_INLINE codes fifth_bits(uint32_t h)
{
    const codes bit = { 1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128 };
    codes all;
#if defined(__AVX2__)
    all = (codes)_mm_shuffle_epi8(_mm_cvtsi32_si128((int)h),
                                  _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
#else
    for (int j = 0; j < 16; j++) all[j] = (uint8_t)(h >> j / 8 * 8);
#endif
    return (codes)((all & bit) == bit) & 16;
}

/* ---- blocks of 32 ---- */

READ_INLINE void get_q8_0(const uint8_t *b, float *x)
{
    float d = half_at(b);
    for (int j = 0; j < 32; j += 16) scale_codes(load_codes(b + 2 + j) ^ 128, 128, d, x + j);
}

READ_INLINE void get_q4_0(const uint8_t *b, float *x)
{
    float d = half_at(b);
    codes q = load_codes(b + 2);
    scale_codes(q & 15, 8, d, x);
    scale_codes(q >> 4, 8, d, x + 16);
}

READ_INLINE void get_q4_1(const uint8_t *b, float *x)
{
    float d = half_at(b), m = half_at(b + 2);
    codes q = load_codes(b + 4);
    scale_codes_add(q & 15, d, m, x);
    scale_codes_add(q >> 4, d, m, x + 16);
}

READ_INLINE void get_q5_0(const uint8_t *b, float *x)
{
    float d = half_at(b);
    uint32_t high = ml_block_get_u32(b + 2);
    codes q = load_codes(b + 6);
    scale_codes((q & 15) | fifth_bits(high), 16, d, x);
    scale_codes((q >> 4) | fifth_bits(high >> 16), 16, d, x + 16);
}

READ_INLINE void get_q5_1(const uint8_t *b, float *x)
{
    float d = half_at(b), m = half_at(b + 2);
    uint32_t high = ml_block_get_u32(b + 4);
    codes q = load_codes(b + 8);
    scale_codes_add((q & 15) | fifth_bits(high), d, m, x);
    scale_codes_add((q >> 4) | fifth_bits(high >> 16), d, m, x + 16);
}

READ_INLINE void get_iq4_nl(const uint8_t *b, float *x)
{
    float d = half_at(b);
    codes q = load_codes(b + 2);
    look_up_codes(q & 15, d, x);
    look_up_codes(q >> 4, d, x + 16);
}

/* ---- super-blocks of 256 ---- */

/* Two-bit codes of sub-block i (16 elements) of 64 bytes, of which each half holds 128 elements. */
READ_INLINE codes pairs(const uint8_t *b, int i)
{
    return load_codes(b + i / 8 * 32 + i % 2 * 16) >> 2 * (i / 2 % 4) & 3;
}

READ_INLINE void get_q2_k(const uint8_t *b, float *x)
{
    float d = half_at(b + 80), dmin = half_at(b + 82);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        scale_codes_add(pairs(b + 16, i), d * (float)(b[i] & 15), -(dmin * (float)(b[i] >> 4)), x + 16 * i);
    }
}

/* The six-bit scale of sub-block i of a q3_k block, less 32. */
READ_INLINE int q3_k_scale(const uint8_t *scales, int i)
{
    int low = scales[i % 8] >> 4 * (i / 8) & 15;
    return (low | (scales[8 + i % 4] >> 2 * (i / 4) & 3) << 4) - 32;
}

READ_INLINE void get_q3_k(const uint8_t *b, float *x)
{
    float d = half_at(b + 108);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        codes third = (load_codes(b + i % 2 * 16) >> i / 2 & 1) << 2;
        scale_codes(pairs(b + 32, i) | third, 4, d * (float)q3_k_scale(b + 96, i), x + 16 * i);
    }
}

/* The pair (scale, minimum) of sub-block i from the twelve bytes of q4_k and q5_k. */
READ_INLINE void get_pair(const uint8_t *p, int i, int *scale, int *min)
{
    if (i < 4) {
        *scale = p[i] & 63;
        *min = p[4 + i] & 63;
    } else {
        *scale = (p[4 + i] & 15) | p[i - 4] >> 6 << 4;
        *min = p[4 + i] >> 4 | p[i] >> 6 << 4;
    }
}

READ_INLINE void get_q4_q5(const uint8_t *b, const uint8_t *high, const uint8_t *low, float *x)
{
    float d = half_at(b), dmin = half_at(b + 2);
#pragma GCC unroll 8
    for (int sub = 0; sub < 8; sub++) {
        int scale, min;
        get_pair(b + 4, sub, &scale, &min);
        float s = d * (float)scale, t = dmin * (float)min;
#pragma GCC unroll 2
        for (int j = 0; j < 32; j += 16) {
            codes q = load_codes(low + 32 * (sub / 2) + j) >> 4 * (sub % 2) & 15;
            if (high) q |= (load_codes(high + j) >> sub & 1) << 4;
            scale_codes_add(q, s, -t, x + 32 * sub + j);
        }
    }
}

READ_INLINE void get_q4_k(const uint8_t *b, float *x)
{
    get_q4_q5(b, NULL, b + 16, x);
}

READ_INLINE void get_q5_k(const uint8_t *b, float *x)
{
    get_q4_q5(b, b + 16, b + 48, x);
}

READ_INLINE void get_q6_k(const uint8_t *b, float *x)
{
    const uint8_t *scales = b + 192;
    float d = half_at(b + 208);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) { /* sub-block i is 16 (i % 8) elements into half i / 8 */
        codes low = load_codes(b + i / 8 * 64 + i % 4 * 16) >> 4 * (i / 4 % 2) & 15;
        codes q = low | pairs(b + 128, i) << 4;
        scale_codes(q, 32, d * (float)(int8_t)scales[i], x + 16 * i);
    }
}

READ_INLINE void get_iq4_xs(const uint8_t *b, float *x)
{
    float d = half_at(b);
    uint16_t high = ml_block_get_u16(b + 2);
#pragma GCC unroll 8
    for (int sub = 0; sub < 8; sub++) {
        int scale = (b[4 + sub / 2] >> 4 * (sub % 2) & 15) | (high >> 2 * sub & 3) << 4;
        float s = d * (float)(scale - 32);
        codes q = load_codes(b + 8 + 16 * sub);
        look_up_codes(q & 15, s, x + 32 * sub);
        look_up_codes(q >> 4, s, x + 32 * sub + 16);
    }
}

/* ---- rows ---- */

#define READER(name, length, bytes)                                                                                    \
    static void read_##name(const uint8_t *b, int64_t n_block, float *x)                                               \
    {                                                                                                                  \
        for (int64_t i = 0; i < n_block; i++) get_##name(b + i * (bytes), x + i * (length));                           \
    }

READER(q8_0, 32, 34)
READER(q4_0, 32, 18)
READER(q4_1, 32, 20)
READER(q5_0, 32, 22)
READER(q5_1, 32, 24)
READER(iq4_nl, 32, 18)
READER(q2_k, 256, 84)
READER(q3_k, 256, 110)
READER(q4_k, 256, 144)
READER(q5_k, 256, 176)
READER(q6_k, 256, 210)
READER(iq4_xs, 256, 136)

const ml_block_read_fn BLOCK_READ_TABLE[ML_N_DTYPE] = {
    [ML_Q8_0] = read_q8_0, [ML_Q4_0] = read_q4_0, [ML_Q4_1] = read_q4_1,     [ML_Q5_0] = read_q5_0,
    [ML_Q5_1] = read_q5_1, [ML_Q2_K] = read_q2_k, [ML_Q3_K] = read_q3_k,     [ML_Q4_K] = read_q4_k,
    [ML_Q5_K] = read_q5_k, [ML_Q6_K] = read_q6_k, [ML_IQ4_NL] = read_iq4_nl, [ML_IQ4_XS] = read_iq4_xs,
};
