/* vdpbf16ps takes the pairs as they are: tiles of 6 x 4, 4 x 4, 2 x 8 and 1 x 8 (tokens x weight rows). */
#include "ops/cpu/bf16_matmul_avx512.h"

V_INLINE vf vf_pairs(vf sum, vp w, vp x)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
}

#include "ops/cpu/bf16_matmul_body.h"

B_TILE(six, 6, 4)
B_TILE(four, 4, 4)
B_TILE(two, 2, 8)
B_TILE(one, 1, 8)

const ml_bf16_kernel ml_bf16_kernel_avx512bf16 = { .tile = {
                                                       { 6, 4, six }, { 4, 4, four }, { 2, 8, two }, { 1, 8, one } } };
