/* 16 rows at a time without byte dot products: maddubs makes two int16 sums of two products per row.  With codes
 * below 2^bits and |q| <= 127 they stay below 2^15 for n words added up when (2^bits - 1) * 127 * 2 * n < 2^15: 8
 * words of 4 bits, 4 of 5, 2 of 6.  One madd then multiplies both by the scale and adds them.  8-bit codes are taken
 * as signed: |code - 128| meets q with its sign, 128 * 127 * 2 < 2^15. */
#include "ops/cpu/qmatmul_256.h"

#define SIGNED_WIDE 1

/* Words whose products may be added in 16 bits. */
V_INLINE int words_in_16_bits(int bits)
{
    return bits == 4 ? 8 : bits == 5 ? 4 : 2;
}

/* Both halves of a lane become its low half: scales fit in 16 bits. */
V_INLINE vi repeat_low_halves(vi scale)
{
    return _mm256_or_si256(_mm256_and_si256(scale, _mm256_set1_epi32(0xffff)), _mm256_slli_epi32(scale, 16));
}

/* The compiler may not gather additions into a tree: all of their terms would have to be kept at once. */
#define ADD_IN_ORDER(v) __asm__("" : "+x"(v))

V_INLINE void sub_block_narrow(int n_token, int n_word, int bits, const uint32_t *code, const int8_t *const *q, int at,
                               const vi *scale, vi (*tot)[2])
{
    const int group = words_in_16_bits(bits);
    vi pair[2];
    for (int v = 0; v < 2; v++) pair[v] = scale ? repeat_low_halves(scale[v]) : _mm256_set1_epi16(1);
#pragma GCC unroll 4
    for (int first = 0; first < n_word; first += group) {
        vi sum[4][2];
#pragma GCC unroll 8
        for (int i = first; i < first + group; i++) {
            vi w0 = v_load(code + 16 * i), w1 = v_load(code + 16 * i + 8);
            __asm__ volatile("" : "+x"(w0), "+x"(w1)); /* or each token reads them again */
#pragma GCC unroll 4
            for (int t = 0; t < n_token; t++) {
                vi x = v_repeat_again(q[t] + at + 4 * i);
                vi p0 = _mm256_maddubs_epi16(w0, x), p1 = _mm256_maddubs_epi16(w1, x);
                sum[t][0] = i == first ? p0 : _mm256_add_epi16(sum[t][0], p0);
                sum[t][1] = i == first ? p1 : _mm256_add_epi16(sum[t][1], p1);
                ADD_IN_ORDER(sum[t][0]);
                ADD_IN_ORDER(sum[t][1]);
            }
        }
#pragma GCC unroll 4
        for (int t = 0; t < n_token; t++) {
            tot[t][0] = v_add_pairs(tot[t][0], sum[t][0], pair[0]);
            tot[t][1] = v_add_pairs(tot[t][1], sum[t][1], pair[1]);
        }
    }
}

V_INLINE void sub_block_wide(int n_token, int n_word, const uint32_t *code, const int8_t *const *q, int at,
                             const vi *scale, vi (*tot)[2])
{
    const vi one = _mm256_set1_epi16(1), flip = _mm256_set1_epi8((char)0x80);
    vi sum[4][2];
#pragma GCC unroll 4
    for (int t = 0; t < n_token; t++) sum[t][0] = sum[t][1] = v_zero();
#pragma GCC unroll 8
    for (int i = 0; i < n_word; i++) {
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            vi w = _mm256_xor_si256(v_load(code + 16 * i + 8 * v), flip), magnitude = _mm256_abs_epi8(w);
#pragma GCC unroll 4
            for (int t = 0; t < n_token; t++) {
                vi x = _mm256_sign_epi8(v_repeat_again(q[t] + at + 4 * i), w);
                sum[t][v] = v_add_pairs(sum[t][v], _mm256_maddubs_epi16(magnitude, x), one);
                ADD_IN_ORDER(sum[t][v]);
            }
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < n_token; t++) {
        for (int v = 0; v < 2; v++) {
            tot[t][v] = v_add(tot[t][v], scale ? _mm256_mullo_epi32(sum[t][v], scale[v]) : sum[t][v]);
        }
    }
}

V_INLINE void sub_block(int n_token, int n_word, int bits, const uint32_t *code, size_t stride, const int8_t *const *q,
                        int at, const vi *scale, vi (*tot)[2])
{
    (void)stride;
    if (bits == 8) {
        sub_block_wide(n_token, n_word, code, q, at, scale, tot);
    } else {
        sub_block_narrow(n_token, n_word, bits, code, q, at, scale, tot);
    }
}

/* For kernels that do not unpack: codes below 64 (63 * 127 * 2 < 2^15), four products in 32 bits. */
V_INLINE vi v_dot_four(vi sum, vi code, const int8_t *x)
{
    sum = v_add_pairs(sum, _mm256_maddubs_epi16(code, v_repeat_again(x)), _mm256_set1_epi16(1));
    ADD_IN_ORDER(sum);
    return sum;
}

V_INLINE vi v_mul(vi a, vi b)
{
    return _mm256_mullo_epi32(a, b);
}

/* Codes below 16: the sums of eight words, at most 15 * 127 * 2 * 8 = 30480 either way, stay in 16 bits.  A scale,
 * below 64, then multiplies both. */
V_INLINE vi v_dot_four_small(vi sum, vi code, const int8_t *x)
{
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(code, v_repeat_again(x)));
    ADD_IN_ORDER(sum);
    return sum;
}

V_INLINE vi v_mul_small(vi sum, vi scale)
{
    return _mm256_madd_epi16(sum, repeat_low_halves(scale));
}

#define NO_DIRECT_Q8_0 /* its codes need 8 bits and a sign */
#include "ops/cpu/qmatmul_direct.h"

DOT_FUNCTIONS(4)
DOT_FUNCTIONS(2)
DOT_FUNCTIONS(1)
GATHER_256
#include "ops/cpu/qmatmul_gather.h"

const ml_q_kernel ml_q_kernel_avx2 = { .n_panel = N_PANEL,
                                       .n_token = { 4, 2, 1 },
                                       .dot = { { block_4, block_2, block_1 }, { super_4, super_2, super_1 } },
                                       .direct = DIRECT_TABLE,
                                       .gather = gather,
                                       .unpack = unpack,
                                       .quantize = quantize };
