/* What bf16_matmul_body.h wants to be defined, with 512-bit registers: all but vf_pairs. */
#ifndef ML_OPS_CPU_BF16_MATMUL_AVX512_H
#define ML_OPS_CPU_BF16_MATMUL_AVX512_H

#include "ops/cpu/reduce_avx512.h"

#include <stdint.h>

enum { LANES = 16 };
typedef __m512 vf;
typedef __m512i vp;
#define V_INLINE static inline __attribute__((always_inline))
V_INLINE vf vf_zero(void)
{
    return _mm512_setzero_ps();
}
V_INLINE vp vp_load(const uint16_t *p)
{
    return _mm512_loadu_si512(p);
}
V_INLINE void reduce(vf (*sum)[1], int n, float *out)
{
    for (int i = 0; i < n; i += 16) _mm512_store_ps(out + i, reduce_16(&sum[i][0]));
}

#endif
