/* Sums of the lanes of sixteen registers at once, in the order that ops/cpu/matvec.h promises. */
#ifndef ML_OPS_CPU_REDUCE_AVX512_H
#define ML_OPS_CPU_REDUCE_AVX512_H

#include <immintrin.h>

/* out[i] = the sum of the lanes of s[i]: lanes 8 apart first, then 4, 2, 1; sixteen registers at a time, each
 * level halving their number. */
static inline __attribute__((always_inline)) __m512 reduce_16(const __m512 *s)
{
    __m512 eight[8], four[4], two[2];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        eight[i] = _mm512_add_ps(_mm512_shuffle_f32x4(s[2 * i], s[2 * i + 1], 0x44),
                                 _mm512_shuffle_f32x4(s[2 * i], s[2 * i + 1], 0xee));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* -> 128-bit blocks: one register's four partial sums each */
        four[i] = _mm512_add_ps(_mm512_shuffle_f32x4(eight[2 * i], eight[2 * i + 1], 0x88),
                                _mm512_shuffle_f32x4(eight[2 * i], eight[2 * i + 1], 0xdd));
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        __m512d a = _mm512_castps_pd(four[2 * i]), b = _mm512_castps_pd(four[2 * i + 1]);
        two[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    /* Block b of the sum holds registers b, 4 + b, 8 + b, 12 + b. */
    __m512 sum = _mm512_add_ps(_mm512_shuffle_ps(two[0], two[1], 0x88), _mm512_shuffle_ps(two[0], two[1], 0xdd));
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), sum);
}

#endif
