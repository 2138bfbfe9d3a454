/* 16 rows at a time with the 256-bit vpdpbusd. */
#include "ops/cpu/qmatmul_256.h"

#define SIGNED_WIDE 0

V_INLINE vi v_dot(vi sum, vi code, vi x)
{
    return _mm256_dpbusd_avx_epi32(sum, code, x);
}
V_INLINE vi v_dot_four(vi sum, vi code, const int8_t *x)
{
    return v_dot(sum, code, v_repeat_again(x));
}
V_INLINE vi v_mul(vi a, vi b)
{
    return _mm256_mullo_epi32(a, b);
}

V_INLINE void sub_block(int n_token, int n_word, int bits, const uint32_t *code, size_t stride, const int8_t *const *q,
                        int at, const vi *scale, vi (*tot)[2])
{
    (void)bits;
    (void)stride;
    vi sum[6][2];
#pragma GCC unroll 8
    for (int t = 0; t < n_token; t++) {
        sum[t][0] = scale ? v_zero() : tot[t][0];
        sum[t][1] = scale ? v_zero() : tot[t][1];
    }
#pragma GCC unroll 8
    for (int i = 0; i < n_word; i++) {
        vi w0 = v_load(code + 16 * i), w1 = v_load(code + 16 * i + 8);
#pragma GCC unroll 8
        for (int t = 0; t < n_token; t++) {
            int32_t four;
            __builtin_memcpy(&four, q[t] + at + 4 * i, sizeof four);
            vi x = v_set1(four);
            sum[t][0] = v_dot(sum[t][0], w0, x);
            sum[t][1] = v_dot(sum[t][1], w1, x);
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < n_token; t++) {
        for (int v = 0; v < 2; v++) {
            tot[t][v] = scale ? v_add(tot[t][v], v_mul(sum[t][v], scale[v])) : sum[t][v];
        }
    }
}

#define v_dot_four_small v_dot_four
#define v_mul_small v_mul
#include "ops/cpu/qmatmul_direct.h"

DOT_FUNCTIONS(6)
DOT_FUNCTIONS(4)
DOT_FUNCTIONS(2)
DOT_FUNCTIONS(1)
GATHER_256
#include "ops/cpu/qmatmul_gather.h"

const ml_q_kernel ml_q_kernel_avxvnni = { .n_panel = N_PANEL,
                                          .n_token = { 6, 4, 2, 1 },
                                          .dot = { { block_6, block_4, block_2, block_1 },
                                                   { super_6, super_4, super_2, super_1 } },
                                          .direct = DIRECT_TABLE,
                                          .gather = gather,
                                          .unpack = unpack,
                                          .quantize = quantize };
