#include "ops/cpu/limits.h"

#include <immintrin.h>

enum { N = 12 };

/* As products with 4-bit codes do it: sums of two products are added in 16 bits, and widening them is seldom. */
float ml_limits_int8_avx2(int64_t n, double *n_mac)
{
    __m256i sum[N], x = _mm256_set1_epi8(3), code = _mm256_set1_epi8(5);
    for (int l = 0; l < N; l++) sum[l] = _mm256_set1_epi16((int16_t)l);
    for (int64_t i = 0; i < n; i++) {
        for (int l = 0; l < N; l++) {
            __asm__("" : "+x"(code)); /* every product is computed */
            sum[l] = _mm256_add_epi16(sum[l], _mm256_maddubs_epi16(code, x));
            __asm__("" : "+x"(sum[l]));
        }
    }
    *n_mac += (double)n * N * 32;
    for (int l = 1; l < N; l++) sum[0] = _mm256_add_epi16(sum[0], sum[l]);
    return (float)_mm256_cvtsi256_si32(sum[0]);
}

float ml_limits_fp32_avx2(int64_t n, double *n_mac)
{
    __m256 sum[N], x = _mm256_set1_ps(0.5f);
    for (int l = 0; l < N; l++) sum[l] = _mm256_set1_ps((float)l);
    for (int64_t i = 0; i < n; i++) {
        for (int l = 0; l < N; l++) {
            sum[l] = _mm256_fmadd_ps(sum[l], x, x);
            __asm__("" : "+x"(sum[l]));
        }
    }
    *n_mac += (double)n * N * 8;
    for (int l = 1; l < N; l++) sum[0] = _mm256_add_ps(sum[0], sum[l]);
    return _mm256_cvtss_f32(sum[0]);
}
