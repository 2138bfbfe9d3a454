/* Sixteen rows at a time in four vectors; sdot adds four signed products of a row in one step.  Codes of up to seven
 * bits are signed as they are; those of eight bits are taken as code - 128. */
#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>

enum { LANES = 4, N_PANEL = 1, N_VEC = 4 };
#define SIGNED_WIDE 1
typedef int32x4_t vi;
typedef float32x4_t vf;
#define V_INLINE static inline __attribute__((always_inline))
V_INLINE vi v_zero(void)
{
    return vdupq_n_s32(0);
}
V_INLINE vi v_load(const void *p)
{
    return vld1q_s32(p);
}
V_INLINE vi v_set1(int32_t x)
{
    return vdupq_n_s32(x);
}
V_INLINE vi v_add(vi a, vi b)
{
    return vaddq_s32(a, b);
}
V_INLINE vi v_add_pairs(vi sum, vi a, vi b)
{
    int16x8_t x = vreinterpretq_s16_s32(a), y = vreinterpretq_s16_s32(b);
    return vaddq_s32(sum, vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y)));
}
V_INLINE vf v_to_float(vi a)
{
    return vcvtq_f32_s32(a);
}
V_INLINE vf vf_load(const void *p)
{
    return vld1q_f32(p);
}
V_INLINE void vf_store(float *p, vf a)
{
    vst1q_f32(p, a);
}
V_INLINE vf vf_set1(float x)
{
    return vdupq_n_f32(x);
}
V_INLINE vf vf_mul(vf a, vf b)
{
    return vmulq_f32(a, b);
}
V_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return vfmaq_f32(c, a, b);
}
V_INLINE vi v_dot(vi sum, vi code, vi x)
{
    return vdotq_s32(sum, vreinterpretq_s8_s32(code), vreinterpretq_s8_s32(x));
}
V_INLINE vi v_dot_four(vi sum, vi code, const int8_t *x)
{
    int32_t four;
    __builtin_memcpy(&four, x, sizeof four);
    return v_dot(sum, code, v_set1(four));
}
V_INLINE vi v_mul(vi a, vi b)
{
    return vmulq_s32(a, b);
}
V_INLINE vf v_halves(const uint16_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

V_INLINE void sub_block(int n_token, int n_word, int bits, const uint32_t *code, size_t stride, const int8_t *const *q,
                        int at, const vi *scale, vi (*tot)[N_VEC])
{
    (void)stride;
    const vi flip = vdupq_n_s32(bits == 8 ? (int32_t)0x80808080u : 0);
    vi sum[2][N_VEC];
#pragma GCC unroll 2
    for (int t = 0; t < n_token; t++) {
#pragma GCC unroll 4
        for (int v = 0; v < N_VEC; v++) sum[t][v] = scale ? v_zero() : tot[t][v];
    }
#pragma GCC unroll 8
    for (int i = 0; i < n_word; i++) {
        vi x[2];
#pragma GCC unroll 2
        for (int t = 0; t < n_token; t++) {
            int32_t four;
            __builtin_memcpy(&four, q[t] + at + 4 * i, sizeof four);
            x[t] = v_set1(four);
        }
#pragma GCC unroll 4
        for (int v = 0; v < N_VEC; v++) {
            vi w = veorq_s32(v_load(code + 16 * i + LANES * v), flip);
#pragma GCC unroll 2
            for (int t = 0; t < n_token; t++) sum[t][v] = v_dot(sum[t][v], w, x[t]);
        }
    }
#pragma GCC unroll 2
    for (int t = 0; t < n_token; t++) {
#pragma GCC unroll 4
        for (int v = 0; v < N_VEC; v++) {
            tot[t][v] = scale ? v_add(tot[t][v], v_mul(sum[t][v], scale[v])) : sum[t][v];
        }
    }
}

#include "ops/cpu/qmatmul_unpack.h"

#define v_dot_four_small v_dot_four
#define v_mul_small v_mul
#include "ops/cpu/qmatmul_direct.h"

DOT_FUNCTIONS(2)
DOT_FUNCTIONS(1)

/* Four words of four rows, transposed. */
V_INLINE void transpose_4(const uint8_t *const *row, size_t at, const uint8_t *place, uint32_t (*word)[ML_Q_ROWS],
                          int first_row)
{
    uint32x4_t a[4];
    for (int i = 0; i < 4; i++) a[i] = vreinterpretq_u32_u8(vld1q_u8(row[first_row + i] + at));
    uint64x2_t low01 = vreinterpretq_u64_u32(vtrn1q_u32(a[0], a[1])),
               low23 = vreinterpretq_u64_u32(vtrn1q_u32(a[2], a[3]));
    uint64x2_t high01 = vreinterpretq_u64_u32(vtrn2q_u32(a[0], a[1])),
               high23 = vreinterpretq_u64_u32(vtrn2q_u32(a[2], a[3]));
    vst1q_u32(word[place[0]] + first_row, vreinterpretq_u32_u64(vtrn1q_u64(low01, low23)));
    vst1q_u32(word[place[1]] + first_row, vreinterpretq_u32_u64(vtrn1q_u64(high01, high23)));
    vst1q_u32(word[place[2]] + first_row, vreinterpretq_u32_u64(vtrn2q_u64(low01, low23)));
    vst1q_u32(word[place[3]] + first_row, vreinterpretq_u32_u64(vtrn2q_u64(high01, high23)));
}

V_INLINE void gather_unit(const ml_q_format *f, const uint8_t *const *row, size_t at, const char *ahead,
                          uint32_t (*word)[ML_Q_ROWS], uint16_t *half)
{
    for (int i = 0; i < f->n_word; i += 4) {
        int first = i + 4 <= f->n_word ? i : f->n_word - 4; /* the last four may repeat some */
        for (int line = 0; line < 4; line++) __builtin_prefetch(ahead + 64 * (i + line));
        for (int r = 0; r < ML_Q_ROWS; r += 4)
            transpose_4(row, at + (size_t)(f->word_at + 4 * first), f->place + first, word, r);
    }
    if (f->half_at >= 0) gather_halves(row, at + (size_t)f->half_at, half);
    if (f->fifth_at >= 0) order_fifth_bits(word[f->fifth_at]);
}

#include "ops/cpu/qmatmul_gather.h"

const ml_q_kernel ml_q_kernel_neondot = { .n_panel = N_PANEL,
                                          .n_token = { 2, 1 },
                                          .dot = { { block_2, block_1 }, { super_2, super_1 } },
                                          .direct = DIRECT_TABLE,
                                          .gather = gather,
                                          .unpack = unpack,
                                          .quantize = quantize };
