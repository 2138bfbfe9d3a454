/* vdpbf16ps takes the pairs as they are: tiles of 6 x 4, 4 x 4, 2 x 8 and 1 x 8 (tokens x weight rows). */
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
V_INLINE vf vf_pairs(vf sum, vp w, vp x)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
}
V_INLINE void reduce(vf (*sum)[1], int n, float *out)
{
    for (int i = 0; i < n; i += 16) _mm512_store_ps(out + i, reduce_16(&sum[i][0]));
}

#include "ops/cpu/bmatmul_body.h"

B_TILE(six, 6, 4)
B_TILE(four, 4, 4)
B_TILE(two, 2, 8)
B_TILE(one, 1, 8)

const ml_b_kernel ml_b_kernel_avx512bf16 = { .tile = { { 6, 4, six }, { 4, 4, four }, { 2, 8, two }, { 1, 8, one } } };
