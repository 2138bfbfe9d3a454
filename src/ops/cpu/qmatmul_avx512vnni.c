/* 32 rows at a time; vpdpbusd adds four products of a row in one step, so a word of codes meets a word of q. */
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

enum { LANES = 16, N_PANEL = 2, N_VEC = 2 };
#define SIGNED_WIDE 0
typedef __m512i vi;
typedef __m512 vf;
#define V_INLINE static inline __attribute__((always_inline))
V_INLINE vi v_zero(void)
{
    return _mm512_setzero_si512();
}
V_INLINE vi v_load(const void *p)
{
    return _mm512_loadu_si512(p);
}
V_INLINE vi v_set1(int32_t x)
{
    return _mm512_set1_epi32(x);
}
V_INLINE vi v_add(vi a, vi b)
{
    return _mm512_add_epi32(a, b);
}
V_INLINE vi v_add_pairs(vi sum, vi a, vi b)
{
    return _mm512_dpwssd_epi32(sum, a, b);
}
V_INLINE vf v_to_float(vi a)
{
    return _mm512_cvtepi32_ps(a);
}
V_INLINE vf vf_load(const void *p)
{
    return _mm512_loadu_ps(p);
}
V_INLINE void vf_store(float *p, vf a)
{
    _mm512_storeu_ps(p, a);
}
V_INLINE vf vf_set1(float x)
{
    return _mm512_set1_ps(x);
}
V_INLINE vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
V_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

V_INLINE vi v_dot(vi sum, vi code, vi x)
{
    return _mm512_dpbusd_epi32(sum, code, x);
}
/* Written down: compilers read x by an instruction of its own. */
V_INLINE vi v_dot_four(vi sum, vi code, const int8_t *x)
{
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(code), "m"(*(const int32_t *)(const void *)x));
    return sum;
}
V_INLINE vi v_mul(vi a, vi b)
{
    return _mm512_mullo_epi32(a, b);
}
V_INLINE vf v_halves(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}

V_INLINE void sub_block(int n_token, int n_word, int bits, const uint32_t *code, size_t stride, const int8_t *const *q,
                        int at, const vi *scale, vi (*tot)[2])
{
    (void)bits;
    vi sum[6][2];
#pragma GCC unroll 8
    for (int t = 0; t < n_token; t++) {
        sum[t][0] = scale ? v_zero() : tot[t][0];
        sum[t][1] = scale ? v_zero() : tot[t][1];
    }
#pragma GCC unroll 8
    for (int i = 0; i < n_word; i++) {
        vi w0 = v_load(code + 16 * i), w1 = v_load((const char *)code + stride + 64 * i);
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

#include "ops/cpu/qmatmul_unpack.h"

#define v_dot_four_small v_dot_four
#define v_mul_small v_mul
#include "ops/cpu/qmatmul_direct.h"

DOT_FUNCTIONS(6)
DOT_FUNCTIONS(4)
DOT_FUNCTIONS(2)
DOT_FUNCTIONS(1)

/* Sixteen bytes of sixteen rows: rows 4 b + i stand in 128-bit block b of register i, so that transposing four by four
 * within the blocks brings the rows into order. */
V_INLINE void load_16_rows(const uint8_t *const *row, size_t at, __m512i *a)
{
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        a[i] = _mm512_castsi128_si512(_mm_loadu_si128((const void *)(row[i] + at)));
        a[i] = _mm512_inserti32x4(a[i], _mm_loadu_si128((const void *)(row[4 + i] + at)), 1);
        a[i] = _mm512_inserti32x4(a[i], _mm_loadu_si128((const void *)(row[8 + i] + at)), 2);
        a[i] = _mm512_inserti32x4(a[i], _mm_loadu_si128((const void *)(row[12 + i] + at)), 3);
    }
}

/* Their four words, a row in each lane. */
V_INLINE void transpose_4(const uint8_t *const *row, size_t at, __m512i *word)
{
    __m512i a[4];
    load_16_rows(row, at, a);
    __m512i low01 = _mm512_unpacklo_epi32(a[0], a[1]), low23 = _mm512_unpacklo_epi32(a[2], a[3]);
    __m512i high01 = _mm512_unpackhi_epi32(a[0], a[1]), high23 = _mm512_unpackhi_epi32(a[2], a[3]);
    word[0] = _mm512_unpacklo_epi64(low01, low23);
    word[1] = _mm512_unpackhi_epi64(low01, low23);
    word[2] = _mm512_unpacklo_epi64(high01, high23);
    word[3] = _mm512_unpackhi_epi64(high01, high23);
}

/* q5_0: a half, fifth bits, codes.  The first two come out of the first eight bytes. */
V_INLINE void gather_q5_0(const uint8_t *const *row, size_t at, const char *ahead, uint32_t (*word)[ML_Q_ROWS],
                          uint16_t *half)
{
    __m512i first[4], code[4];
    for (int line = 0; line < 6; line++) __builtin_prefetch(ahead + 64 * line);
    transpose_4(row, at, first);
    transpose_4(row, at + 6, code);
    _mm256_storeu_si256((void *)half, _mm512_cvtepi32_epi16(first[0]));
    q_vu fifth = (q_vu)_mm512_or_si512(_mm512_srli_epi32(first[0], 16), _mm512_slli_epi32(first[1], 16));
    put(word[0], order_fifth(fifth));
    for (int i = 0; i < 4; i++) _mm512_storeu_si512(word[1 + i], code[i]);
}

V_INLINE void gather_unit(const ml_q_format *f, const uint8_t *const *row, size_t at, const char *ahead,
                          uint32_t (*word)[ML_Q_ROWS], uint16_t *half)
{
    if (f->fifth_at == 0) {
        gather_q5_0(row, at, ahead, word, half);
        return;
    }
    for (int i = 0; i < f->n_word; i += 4) {
        int first = i + 4 <= f->n_word ? i : f->n_word - 4; /* the last four may repeat some */
        __m512i four[4];
        for (int line = 0; line < 4; line++) __builtin_prefetch(ahead + 64 * (i + line));
        transpose_4(row, at + (size_t)(f->word_at + 4 * first), four);
        for (int j = 0; j < 4; j++) _mm512_storeu_si512(word[f->place[first + j]], four[j]);
    }
    if (f->half_at >= 0) gather_halves(row, at + (size_t)f->half_at, half);
    if (f->fifth_at >= 0) order_fifth_bits(word[f->fifth_at]);
}

#include "ops/cpu/qmatmul_gather.h"

const ml_q_kernel ml_q_kernel_avx512vnni = { .n_panel = N_PANEL,
                                             .n_token = { 6, 4, 2, 1 },
                                             .dot = { { block_6, block_4, block_2, block_1 },
                                                      { super_6, super_4, super_2, super_1 } },
                                             .direct = DIRECT_TABLE,
                                             .gather = gather,
                                             .unpack = unpack,
                                             .quantize = quantize };
