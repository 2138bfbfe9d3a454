/* Vectors of fp32 in the widest registers of the instruction set a file is compiled for, with the few functions
 * that kernels need beyond + - * /.
 *
 * A kernel is written once against this header in a file x_body.h, which x.c, x_avx2.c and x_avx512.c include;
 * base/cpu.h says at run time which copy to call.  + - * / and comparisons are the compiler's own (GNU vectors),
 * so they round as scalar code does; vf_fma is fused where the hardware fuses and two roundings where it does
 * not, which is the one way in which the copies may differ. */
#ifndef ML_OPS_CPU_VMATH_H
#define ML_OPS_CPU_VMATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
enum { VF_LANES = 16 };
typedef __m512 vf;
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
enum { VF_LANES = 8 };
typedef __m256 vf;
#else
enum { VF_LANES = 4 };
typedef float vf __attribute__((vector_size(16), may_alias));
#endif
typedef int32_t vi __attribute__((vector_size(VF_LANES * 4), may_alias));
typedef float vf_unaligned __attribute__((vector_size(VF_LANES * 4), aligned(4), may_alias));
typedef int32_t vi_unaligned __attribute__((vector_size(VF_LANES * 4), aligned(4), may_alias));

#define VF_INLINE static inline __attribute__((always_inline, unused))

VF_INLINE vf vf_load(const float *p)
{
    return (vf) * (const vf_unaligned *)p;
}

VF_INLINE void vf_store(float *p, vf v)
{
    *(vf_unaligned *)p = (vf_unaligned)v;
}

VF_INLINE vi vi_load(const int32_t *p)
{
    return (vi) * (const vi_unaligned *)p;
}

#if defined(__AVX512F__)
VF_INLINE vf vf_set1(float x)
{
    return _mm512_set1_ps(x);
}

VF_INLINE vi vi_set1(int32_t x)
{
    return (vi)_mm512_set1_epi32(x);
}

VF_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* The larger of a and b; b when either is NaN. */
VF_INLINE vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}

VF_INLINE vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}

/* The first n lanes of memory, zero in the others; 0 <= n <= VF_LANES. */
VF_INLINE vf vf_load_first(const float *p, int64_t n)
{
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), p);
}

VF_INLINE void vf_store_first(float *p, vf v, int64_t n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1u), v);
}
#elif defined(__AVX2__) && defined(__FMA__)
VF_INLINE vf vf_set1(float x)
{
    return _mm256_set1_ps(x);
}

VF_INLINE vi vi_set1(int32_t x)
{
    return (vi)_mm256_set1_epi32(x);
}

VF_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}

VF_INLINE vf vf_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}

VF_INLINE vf vf_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}

VF_INLINE __m256i vf_first_mask(int64_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

VF_INLINE vf vf_load_first(const float *p, int64_t n)
{
    return _mm256_maskload_ps(p, vf_first_mask(n));
}

VF_INLINE void vf_store_first(float *p, vf v, int64_t n)
{
    _mm256_maskstore_ps(p, vf_first_mask(n), v);
}
#else
VF_INLINE vf vf_set1(float x)
{
    return (vf){ x, x, x, x };
}

VF_INLINE vi vi_set1(int32_t x)
{
    return (vi){ x, x, x, x };
}

VF_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return a * b + c;
}

VF_INLINE vf vf_choose(vi mask, vf a, vf b)
{
    return (vf)((mask & (vi)a) | (~mask & (vi)b));
}

VF_INLINE vf vf_max(vf a, vf b)
{
    return vf_choose((vi)(a > b), a, b);
}

VF_INLINE vf vf_min(vf a, vf b)
{
    return vf_choose((vi)(a < b), a, b);
}

VF_INLINE vf vf_load_first(const float *p, int64_t n)
{
    vf v = { 0 };
    memcpy(&v, p, (size_t)n * sizeof *p);
    return v;
}

VF_INLINE void vf_store_first(float *p, vf v, int64_t n)
{
    memcpy(p, &v, (size_t)n * sizeof *p);
}
#endif

/* Lanes in a fixed order: halves are added until one is left. */
VF_INLINE float vf_sum(vf v)
{
    float lane[VF_LANES];
    vf_store(lane, v);
    for (int n = VF_LANES / 2; n > 0; n /= 2) {
        for (int i = 0; i < n; i++) lane[i] += lane[i + n];
    }
    return lane[0];
}

/* e^x within 1 ulp; 0 and infinity where the result underflows and overflows, denormals kept, NaN stays NaN.
 *   x = n ln 2 + r, |r| <= ln 2 / 2;  e^r = 1 + r + r^2 p(r), p interpolates at Chebyshev nodes (error 1.1e-8)
 * ln 2 is split so that n * (its upper part) is exact. */
VF_INLINE vf vf_exp(vf x)
{
    x = vf_max(vf_set1(-104.0f), vf_min(vf_set1(89.0f), x));
    const vf magic = vf_set1(0x1.8p23f); /* adding it rounds to a whole number */
    vf t = vf_fma(x, vf_set1(0x1.715476p+0f), magic);
    vf n = t - magic;
    vf r = vf_fma(n, vf_set1(-0.693359375f), x);
    r = vf_fma(n, vf_set1(2.12194440e-4f), r);
    vf p = vf_fma(vf_set1(0x1.6d1606p-10f), r, vf_set1(0x1.12106cp-7f));
    p = vf_fma(p, r, vf_set1(0x1.555516p-5f));
    p = vf_fma(p, r, vf_set1(0x1.5554d8p-3f));
    p = vf_fma(p, r, vf_set1(0.5f));
    p = vf_fma(p, r * r, r) + vf_set1(1.0f);
#if defined(__AVX512F__)
    return _mm512_scalef_ps(p, n);
#else
    /* 2^n in two factors, each a normal number. */
    vi whole = (vi)t - (vi)magic, half = whole >> 1;
    vf first = (vf)((half + 127) << 23), second = (vf)((whole - half + 127) << 23);
    return p * first * second;
#endif
}

/* 1 / (1 + e^-x) */
VF_INLINE vf vf_sigmoid(vf x)
{
    return vf_set1(1.0f) / (vf_set1(1.0f) + vf_exp(vf_set1(0.0f) - x));
}

#endif
