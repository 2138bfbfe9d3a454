#include "ops/cpu/limits.h"

#include <immintrin.h>

enum { N = 16 };

float ml_limits_int8_avx512vnni(int64_t n, double *n_mac)
{
    __m512i sum[N], x = _mm512_set1_epi8(3);
    for (int l = 0; l < N; l++) sum[l] = _mm512_set1_epi32(l);
    for (int64_t i = 0; i < n; i++) {
        for (int l = 0; l < N; l++) {
            sum[l] = _mm512_dpbusd_epi32(sum[l], x, x);
            __asm__("" : "+v"(sum[l]));
        }
    }
    *n_mac += (double)n * N * 64;
    for (int l = 1; l < N; l++) sum[0] = _mm512_add_epi32(sum[0], sum[l]);
    return (float)_mm512_cvtsi512_si32(sum[0]);
}
