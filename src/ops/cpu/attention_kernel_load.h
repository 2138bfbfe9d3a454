/* Stored numbers to vectors of fp32, for kernel bodies: one full vector, or the last few elements of a row.
 * The type is a constant at every call. */
#ifndef ML_OPS_CPU_ATTENTION_KERNEL_LOAD_H
#define ML_OPS_CPU_ATTENTION_KERNEL_LOAD_H

#include "ops/cpu/vmath.h"
#include "tensor/dtype.h"

enum { Q8_LENGTH = 32, Q8_BYTES = 34 };

VF_INLINE float half_at(const char *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
#if defined(__F16C__)
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h)));
#else
    return ml_f16_to_f32(h);
#endif
}

VF_INLINE vf load_f16(const char *p)
{
#if defined(__AVX512F__)
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
#elif defined(__F16C__)
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
#else
    float lane[VF_LANES];
    for (int i = 0; i < VF_LANES; i++) lane[i] = half_at(p + 2 * i);
    return vf_load(lane);
#endif
}

VF_INLINE vf load_bf16(const char *p)
{
#if defined(__AVX512F__)
    __m256i bits = _mm256_loadu_si256((const __m256i *)(const void *)p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
#elif defined(__F16C__)
    __m128i bits = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
#else
    uint16_t half[VF_LANES];
    float lane[VF_LANES];
    memcpy(half, p, sizeof half);
    for (int i = 0; i < VF_LANES; i++) lane[i] = ml_bf16_to_f32(half[i]);
    return vf_load(lane);
#endif
}

/* Elements j .. j + VF_LANES - 1 of a row of q8_0 blocks. */
VF_INLINE vf load_q8_0(const char *row, int64_t j)
{
    const char *block = row + j / Q8_LENGTH * Q8_BYTES, *q = block + 2 + j % Q8_LENGTH;
    vf d = vf_set1(half_at(block));
#if defined(__AVX512F__)
    return d * _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)q)));
#elif defined(__F16C__)
    return d * _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)q)));
#else
    float lane[VF_LANES];
    for (int i = 0; i < VF_LANES; i++) lane[i] = (float)(signed char)q[i];
    return d * vf_load(lane);
#endif
}

/* Elements j .. j + VF_LANES - 1 of a row; j is a multiple of VF_LANES. */
VF_INLINE vf load_stored(ml_dtype dtype, const char *row, int64_t j)
{
    switch (dtype) {
    case ML_F16: return load_f16(row + 2 * j);
    case ML_BF16: return load_bf16(row + 2 * j);
    case ML_Q8_0: return load_q8_0(row, j);
    default: return vf_load((const float *)(const void *)row + j);
    }
}

/* Elements j .. j + n - 1, n < VF_LANES, zeros behind; of plain types: rows of blocks have no such end. */
VF_INLINE vf load_stored_first(ml_dtype dtype, const char *row, int64_t j, int64_t n)
{
    char end[VF_LANES * sizeof(float)] = { 0 };
    size_t size = dtype == ML_F32 ? 4 : 2;
    memcpy(end, row + (size_t)j * size, (size_t)n * size);
    return load_stored(dtype, end, 0);
}

#endif
