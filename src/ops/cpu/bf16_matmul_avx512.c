/* Pairs widened in registers: the second element by a mask, the first by a shift.  Tiles of 4 x 4, 2 x 8 and 1 x 8. */
#include "ops/cpu/bf16_matmul_avx512.h"

V_INLINE vf vf_pairs(vf sum, vp w, vp x)
{
    const vp high = _mm512_set1_epi32((int)0xffff0000u);
    sum = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(x, high)),
                          _mm512_castsi512_ps(_mm512_and_si512(w, high)), sum);
    return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(x, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(w, 16)),
                           sum);
}

#include "ops/cpu/bf16_matmul_body.h"

B_TILE(four, 4, 4)
B_TILE(two, 2, 8)
B_TILE(one, 1, 8)

const ml_bf16_kernel ml_bf16_kernel_avx512 = { .tile = {
                                                   { 4, 4, four }, { 4, 4, four }, { 2, 8, two }, { 1, 8, one } } };
