/* What the two 256-bit instruction sets share: vectors of 8 rows, and the transposition. */
#include "ops/cpu/qmatmul_kernel.h"

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

enum { LANES = 8, N_PANEL = 1, N_VEC = 2 };
typedef __m256i vi;
typedef __m256 vf;
#define V_INLINE static inline __attribute__((always_inline))
V_INLINE vi v_zero(void)
{
    return _mm256_setzero_si256();
}
V_INLINE vi v_load(const void *p)
{
    return _mm256_loadu_si256(p);
}
V_INLINE vi v_set1(int32_t x)
{
    return _mm256_set1_epi32(x);
}
V_INLINE vi v_add(vi a, vi b)
{
    return _mm256_add_epi32(a, b);
}
V_INLINE vi v_add_pairs(vi sum, vi a, vi b)
{
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}
V_INLINE vf v_to_float(vi a)
{
    return _mm256_cvtepi32_ps(a);
}
V_INLINE vf vf_load(const void *p)
{
    return _mm256_loadu_ps(p);
}
V_INLINE void vf_store(float *p, vf a)
{
    _mm256_storeu_ps(p, a);
}
V_INLINE vf vf_set1(float x)
{
    return _mm256_set1_ps(x);
}
V_INLINE vf vf_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}
V_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}

V_INLINE vf v_halves(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128(p));
}

/* The four bytes at x in every lane, read anew: the compiler would keep as many as there are words on the stack, from
 * the first eight rows to the next. */
V_INLINE vi v_repeat_again(const int8_t *x)
{
    vi four;
    __asm__ volatile("vpbroadcastd %1, %0" : "=x"(four) : "m"(*(const char(*)[4])(const void *)x));
    return four;
}

/* Four words of eight rows, transposed: rows 4 b + i stand in 128-bit block b of register i. */
V_INLINE void transpose_4(const uint8_t *const *row, size_t at, const uint8_t *place, uint32_t (*word)[16],
                          int first_row)
{
    __m256i a[4];
    for (int i = 0; i < 4; i++) {
        __m128i low = _mm_loadu_si128((const void *)(row[first_row + i] + at));
        a[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(low),
                                       _mm_loadu_si128((const void *)(row[first_row + 4 + i] + at)), 1);
    }
    __m256i low01 = _mm256_unpacklo_epi32(a[0], a[1]), low23 = _mm256_unpacklo_epi32(a[2], a[3]);
    __m256i high01 = _mm256_unpackhi_epi32(a[0], a[1]), high23 = _mm256_unpackhi_epi32(a[2], a[3]);
    _mm256_storeu_si256((void *)(word[place[0]] + first_row), _mm256_unpacklo_epi64(low01, low23));
    _mm256_storeu_si256((void *)(word[place[1]] + first_row), _mm256_unpackhi_epi64(low01, low23));
    _mm256_storeu_si256((void *)(word[place[2]] + first_row), _mm256_unpacklo_epi64(high01, high23));
    _mm256_storeu_si256((void *)(word[place[3]] + first_row), _mm256_unpackhi_epi64(high01, high23));
}

V_INLINE void gather_words(const ml_q_format *f, const uint8_t *const *row, size_t at, const char *ahead,
                           uint32_t (*word)[16])
{
    for (int i = 0; i < f->n_word; i += 4) {
        int first = i + 4 <= f->n_word ? i : f->n_word - 4; /* the last four may repeat some */
        for (int line = 0; line < 4; line++) __builtin_prefetch(ahead + 64 * (i + line));
        transpose_4(row, at + (size_t)(f->word_at + 4 * first), f->place + first, word, 0);
        transpose_4(row, at + (size_t)(f->word_at + 4 * first), f->place + first, word, 8);
    }
}

#define GATHER_256                                                                                                     \
    V_INLINE void gather_unit(const ml_q_format *f, const uint8_t *const *row, size_t at, const char *ahead,           \
                              uint32_t(*word)[ML_Q_ROWS], uint16_t *half)                                              \
    {                                                                                                                  \
        gather_words(f, row, at, ahead, word);                                                                         \
        if (f->half_at >= 0) gather_halves(row, at + (size_t)f->half_at, half);                                        \
        if (f->fifth_at >= 0) order_fifth_bits(word[f->fifth_at]);                                                     \
    }
