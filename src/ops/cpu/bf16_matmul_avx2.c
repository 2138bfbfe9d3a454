/* Pairs widened in registers: the second element by a mask, the first by a shift; sixteen sums are two registers.
 * Tiles of 2 x 2 and 1 x 4 (tokens x weight rows). */
#include <immintrin.h>
#include <stdint.h>

enum { LANES = 8 };
typedef __m256 vf;
typedef __m256i vp;
#define V_INLINE static inline __attribute__((always_inline))
V_INLINE vf vf_zero(void)
{
    return _mm256_setzero_ps();
}
V_INLINE vp vp_load(const uint16_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}
V_INLINE vf vf_pairs(vf sum, vp w, vp x)
{
    const vp high = _mm256_set1_epi32((int)0xffff0000u);
    sum = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(x, high)),
                          _mm256_castsi256_ps(_mm256_and_si256(w, high)), sum);
    return _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(x, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(w, 16)),
                           sum);
}
V_INLINE void reduce(vf (*sum)[2], int n, float *out)
{
    for (int i = 0; i < n; i++) {
        __m256 eight = _mm256_add_ps(sum[i][0], sum[i][1]);
        __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        out[i] = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
}

#include "ops/cpu/bf16_matmul_body.h"

B_TILE(two, 2, 2)
B_TILE(one, 1, 4)

const ml_bf16_kernel ml_bf16_kernel_avx2 = { .tile = { { 2, 2, two }, { 2, 2, two }, { 2, 2, two }, { 1, 4, one } } };
