#include "ops/cpu/limits.h"

#include <immintrin.h>

enum { N = 16 }; /* independent sums: more than latency times ports */

float ml_limits_fp32_avx512(int64_t n, double *n_mac)
{
    __m512 sum[N], x = _mm512_set1_ps(0.5f);
    for (int l = 0; l < N; l++) sum[l] = _mm512_set1_ps((float)l);
    for (int64_t i = 0; i < n; i++) {
        for (int l = 0; l < N; l++) {
            sum[l] = _mm512_fmadd_ps(sum[l], x, x);
            __asm__("" : "+v"(sum[l]));
        }
    }
    *n_mac += (double)n * N * 16;
    for (int l = 1; l < N; l++) sum[0] = _mm512_add_ps(sum[0], sum[l]);
    return _mm512_cvtss_f32(sum[0]);
}
