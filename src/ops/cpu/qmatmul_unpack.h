/* Unpacking block types and rounding activations, included by the file of each instruction set, which has defined
 * LANES: vectors of that many rows, in the compiler's own vector arithmetic.  Layouts: tensor/blocks.h. */
#ifndef ML_OPS_CPU_QMATMUL_UNPACK_H
#define ML_OPS_CPU_QMATMUL_UNPACK_H

#include "ops/cpu/qmatmul_kernel.h"
#include "tensor/blocks.h"

#include <assert.h>
#include <string.h>
#if defined(__SSSE3__)
#include <immintrin.h>
#endif

typedef ml_q_words q_words;
typedef uint32_t q_vu __attribute__((vector_size(4 * LANES)));
typedef int32_t q_vi __attribute__((vector_size(4 * LANES)));
typedef float q_vf __attribute__((vector_size(4 * LANES)));
typedef uint16_t q_vh __attribute__((vector_size(2 * LANES)));

#define Q_INLINE static inline __attribute__((always_inline))
#define FOR_ROWS(r) for (int r = 0; r < ML_Q_ROWS; r++)
/* r: the first row of each vector */
#define FOR_VECTORS(r) for (int r = 0; r < ML_Q_ROWS; r += LANES)

Q_INLINE q_vu get(const uint32_t *p)
{
    q_vu v;
    memcpy(&v, p, sizeof v);
    return v;
}

Q_INLINE void put(void *p, q_vu v)
{
    memcpy(p, &v, sizeof v);
}

/* Four bytes of every word, of which the bits in `mask`. */
Q_INLINE q_vu bytes_of(q_vu v, uint32_t mask)
{
    return v & (mask * 0x01010101u);
}

/* ml_f16_to_f32 for the low halves of words.  By an instruction where there is one: scales are often small enough to be
 * subnormal, and multiplying those takes x86-64 tens of cycles. */
Q_INLINE q_vu widen_low_halves(q_vu word)
{
#if defined(__AVX512F__)
    return (q_vu)_mm512_cvtph_ps((__m256i) __builtin_convertvector(word, q_vh));
#elif defined(__F16C__)
    return (q_vu)_mm256_cvtph_ps((__m128i) __builtin_convertvector(word, q_vh));
#elif defined(__ARM_FEATURE_DOTPROD)
    return (q_vu)vcvt_f32_f16((float16x4_t) __builtin_convertvector(word, q_vh));
#else
    q_vf magnitude = (q_vf)((word & 0x7fffu) << 13) * 0x1p112f;
    q_vu special = (q_vu)((word & 0x7c00u) == 0x7c00u);
    return (q_vu)magnitude | (special & 0x7f800000u) | (word & 0x8000u) << 16;
#endif
}

Q_INLINE void widen_halves(const uint16_t *half, float *out)
{
    FOR_VECTORS(r)
    {
        q_vh h;
        memcpy(&h, half + r, sizeof h);
        put(out + r, widen_low_halves(__builtin_convertvector(h, q_vu)));
    }
}

/* The halves at byte `at` of sixteen rows' blocks, made into one vector: it is read as one next, which would have to
 * wait for sixteen small stores. */
Q_INLINE void gather_halves(const uint8_t *const *row, size_t at, uint16_t *half)
{
    typedef uint16_t vector __attribute__((vector_size(2 * ML_Q_ROWS)));
    uint16_t h[ML_Q_ROWS];
    FOR_ROWS(r) memcpy(&h[r], row[r] + at, sizeof h[r]);
    vector v = { h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7], h[8], h[9], h[10], h[11], h[12], h[13], h[14], h[15] };
    memcpy(half, &v, sizeof v);
}

/* Fifth bits as stored, that of element 4 i + j at bit 4 i + j, to bit 8 j + i. */
/* Bits whose numbers have a 0 in one place and a 1 in another change places with those that have 1 and 0: `low` are
 * the former with the 1 in the lower place, and the others lie `distance` further up. */
Q_INLINE q_vu swap_bits(q_vu x, int distance, uint32_t low)
{
    q_vu t = (x >> distance ^ x) & low;
    return x ^ t ^ t << distance;
}

/* Bit 4 i + k becomes bit 8 k + i: of a bit's number i2 i1 i0 k1 k0, the places become k1 k0 i2 i1 i0. */
Q_INLINE q_vu order_fifth(q_vu x)
{
    x = swap_bits(x, 14, 0x0000ccccu);   /* k1 i1 i0 i2 k0 */
    x = swap_bits(x, 7, 0x00aa00aau);    /* k1 k0 i0 i2 i1 */
    x = swap_bits(x, 2, 0x0c0c0c0cu);    /* k1 k0 i2 i0 i1 */
    return swap_bits(x, 1, 0x22222222u); /* k1 k0 i2 i1 i0 */
}

Q_INLINE void order_fifth_bits(uint32_t *word)
{
    FOR_VECTORS(r) put(word + r, order_fifth(get(word + r)));
}

/* d in the low half, m in the high half; m with its sign changed if `negate`. */
Q_INLINE void widen_pair(const uint32_t *word, bool negate, float *d, float *m)
{
    FOR_VECTORS(r)
    {
        q_vu v = get(word + r);
        put(d + r, widen_low_halves(v));
        put(m + r, widen_low_halves(v >> 16) ^ (negate ? 0x80000000u : 0));
    }
}

/* Low nibbles of n words to code[0..n), high nibbles to code[distance..distance + n).  What lies `ahead` bytes after
 * a word is asked for: unpacking is the time in which the next weights come from memory. */
Q_INLINE void split_nibbles(q_words word, int n, int distance, int64_t ahead, uint32_t (*code)[ML_Q_ROWS])
{
    for (int i = 0; i < n; i++) {
        __builtin_prefetch((const char *)word[i] + ahead);
        FOR_VECTORS(r)
        {
            q_vu v = get(word[i] + r);
            put(code[i] + r, bytes_of(v, 15));
            put(code[distance + i] + r, bytes_of(v >> 4, 15));
        }
    }
}

Q_INLINE void ask_for(q_words word, int n, int64_t ahead)
{
    for (int i = 0; i < n; i++) __builtin_prefetch((const char *)word[i] + ahead);
}

/* code |= the masked bits of v, moved up by four. */
Q_INLINE void add_high_bits(uint32_t *code, q_vu v, uint32_t mask)
{
    put(code, get(code) | bytes_of(v, mask) << 4);
}

/* The pair of int16 that `offset` holds. */
Q_INLINE q_vu pair_of(q_vi a, q_vi b)
{
    return ((q_vu)a & 0xffffu) | (q_vu)b << 16;
}

/* Four scales, one per byte. */
Q_INLINE void put_scales(q_vu packed, int r, int32_t (*scale)[ML_Q_ROWS])
{
    for (int s = 0; s < 4; s++) put(scale[s] + r, packed >> 8 * s & 0xffu);
}

/* Four minima, one per byte: the first with the third, the second with the fourth. */
Q_INLINE void put_minima(q_vu packed, int r, uint32_t (*offset)[ML_Q_ROWS])
{
    for (int odd = 0; odd < 2; odd++) put(offset[odd] + r, packed >> 8 * odd & 0x00ff00ffu);
}

/* The 12 bytes of q4_k and q5_k: words p[0..2]. */
Q_INLINE void unpack_pairs(q_words p, ml_q_super *u)
{
    FOR_VECTORS(r)
    {
        q_vu a = get(p[0] + r), b = get(p[1] + r), c = get(p[2] + r);
        put_scales(bytes_of(a, 63), r, u->scale);
        put_scales(bytes_of(c, 15) | bytes_of(a >> 2, 48), r, u->scale + 4);
        put_minima(bytes_of(b, 63), r, u->offset);
        put_minima(bytes_of(c >> 4, 15) | bytes_of(b >> 2, 48), r, u->offset + 2);
    }
}

static void unpack_q4_k(q_words w, const uint16_t *half, int64_t ahead, ml_q_super *u)
{
    (void)half;
    widen_pair(w[0], true, u->d, u->m);
    unpack_pairs(w + 1, u);
    ask_for(w, 4, ahead);
    for (int g = 0; g < 4; g++) split_nibbles(w + 4 + 8 * g, 8, 8, ahead, u->code + 16 * g);
}

static void unpack_q5_k(q_words w, const uint16_t *half, int64_t ahead, ml_q_super *u)
{
    (void)half;
    widen_pair(w[0], true, u->d, u->m);
    unpack_pairs(w + 1, u);
    ask_for(w, 12, ahead);
    for (int g = 0; g < 4; g++) split_nibbles(w + 12 + 8 * g, 8, 8, ahead, u->code + 16 * g);
    for (int i = 0; i < 8; i++) {
        FOR_VECTORS(r)
        {
            q_vu high = get(w[4 + i] + r);
            for (int sub = 0; sub < 8; sub++) add_high_bits(u->code[8 * sub + i] + r, high >> sub, 1);
        }
    }
}

/* offset = -zero * scale, for 16-element sub-blocks. */
Q_INLINE void offset_by_scales(int zero, ml_q_super *u)
{
    for (int g = 0; g < 8; g++) {
        FOR_VECTORS(r)
        {
            q_vi a = (q_vi)get((const uint32_t *)u->scale[2 * g] + r);
            q_vi b = (q_vi)get((const uint32_t *)u->scale[2 * g + 1] + r);
            put(u->offset[g] + r, pair_of(a * -zero, b * -zero));
        }
    }
}

Q_INLINE void unpack_q6_k_scales(q_words w, ml_q_super *u)
{
    for (int s = 0; s < 16; s++) {
        FOR_VECTORS(r) put(u->scale[s] + r, (q_vu)((q_vi)(get(w[s / 4] + r) << (24 - s % 4 * 8)) >> 24));
    }
    offset_by_scales(32, u);
}

static void unpack_q6_k(q_words w, const uint16_t *half, int64_t ahead, ml_q_super *u)
{
    widen_halves(half, u->d);
    ask_for(w, 53, ahead); /* the halves too */
    for (int i = 0; i < 16; i++) {
        uint32_t(*code)[ML_Q_ROWS] = u->code + i / 8 * 32 + i % 8;
        FOR_VECTORS(r)
        {
            q_vu a = get(w[4 + 3 * i] + r), b = get(w[5 + 3 * i] + r), high = get(w[6 + 3 * i] + r);
            put(code[0] + r, bytes_of(a, 15) | bytes_of(high, 3) << 4);
            put(code[8] + r, bytes_of(b, 15) | bytes_of(high >> 2, 3) << 4);
            put(code[16] + r, bytes_of(a >> 4, 15) | bytes_of(high >> 4, 3) << 4);
            put(code[24] + r, bytes_of(b >> 4, 15) | bytes_of(high >> 6, 3) << 4);
        }
    }
    unpack_q6_k_scales(w, u);
}

static void unpack_q2_k(q_words w, const uint16_t *half, int64_t ahead, ml_q_super *u)
{
    (void)half;
    widen_pair(w[20], true, u->d, u->m);
    ask_for(w, 21, ahead);
    for (int i = 0; i < 64; i++) {
        FOR_VECTORS(r) put(u->code[i] + r, bytes_of(get(w[4 + i / 32 * 8 + i % 8] + r) >> i / 8 % 4 * 2, 3));
    }
    for (int s = 0; s < 16; s++) {
        FOR_VECTORS(r) put(u->scale[s] + r, get(w[s / 4] + r) >> s % 4 * 8 & 15);
    }
    for (int g = 0; g < 8; g++) {
        FOR_VECTORS(r)
        {
            q_vu two = get(w[g / 2] + r) >> g % 2 * 16;
            put(u->offset[g] + r, (two >> 4 & 15) | (two >> 12 & 15) << 16);
        }
    }
}

static void unpack_q3_k(q_words w, const uint16_t *half, int64_t ahead, ml_q_super *u)
{
    widen_halves(half, u->d);
    ask_for(w, 28, ahead);
    for (int i = 0; i < 64; i++) {
        FOR_VECTORS(r)
        {
            q_vu low = get(w[8 + i / 32 * 8 + i % 8] + r) >> i / 8 % 4 * 2;
            put(u->code[i] + r, bytes_of(low, 3) | bytes_of(get(w[i % 8] + r) >> i / 8, 1) << 2);
        }
    }
    for (int s = 0; s < 16; s++) {
        FOR_VECTORS(r)
        {
            q_vu low = get(w[24 + s / 4 % 2] + r) >> (s / 8 * 4 + s % 4 * 8) & 15;
            q_vu high = get(w[26] + r) >> (s / 4 * 2 + s % 4 * 8) & 3;
            put(u->scale[s] + r, (low | high << 4) - 32);
        }
    }
    offset_by_scales(4, u);
}

typedef uint8_t q_vb __attribute__((vector_size(16)));

/* table[index[i]] for each i; indices are below 16. */
Q_INLINE q_vb choose_bytes(q_vb table, q_vb index)
{
#if defined(__SSSE3__)
    return (q_vb)_mm_shuffle_epi8((__m128i)table, (__m128i)index);
#else
    q_vb v;
    for (int i = 0; i < 16; i++) v[i] = table[index[i]];
    return v;
#endif
}

/* Nibbles through the table of iq4, each value raised by 128; sixteen at a time where the machine shuffles bytes. */
Q_INLINE void look_up(const uint32_t *word, int shift, uint32_t *code)
{
    q_vb table;
    memcpy(&table, ml_iq4_values, sizeof table);
    table ^= 0x80;
    for (int i = 0; i < ML_Q_ROWS; i += 4) {
        q_vb v;
        memcpy(&v, word + i, sizeof v);
        v = choose_bytes(table, v >> shift & 15);
        memcpy(code + i, &v, sizeof v);
    }
}

Q_INLINE void look_up_words(q_words w, uint32_t (*code)[ML_Q_ROWS])
{
    for (int i = 0; i < 4; i++) {
        look_up(w[i], 0, code[i]);
        look_up(w[i], 4, code[4 + i]);
    }
}

static void unpack_iq4_xs(q_words w, const uint16_t *half, int64_t ahead, ml_q_super *u)
{
    (void)half;
    ask_for(w, 34, ahead);
    for (int s = 0; s < 8; s++) {
        look_up_words(w + 2 + 4 * s, u->code + 8 * s);
        FOR_VECTORS(r)
        {
            q_vu low = get(w[1] + r) >> 4 * s & 15, high = get(w[0] + r) >> (16 + 2 * s) & 3;
            put(u->scale[s] + r, (low | high << 4) - 32);
        }
    }
    for (int g = 0; g < 4; g++) { /* in the order of ml_qx.pair: sub-blocks 0 and 2, 1 and 3, 4 and 6, 5 and 7 */
        FOR_VECTORS(r)
        {
            int first = g / 2 * 4 + g % 2;
            q_vi a = (q_vi)get((const uint32_t *)u->scale[first] + r);
            q_vi b = (q_vi)get((const uint32_t *)u->scale[first + 2] + r);
            put(u->offset[g] + r, pair_of(a * -128, b * -128));
        }
    }
    FOR_VECTORS(r) put(u->d + r, widen_low_halves(get(w[0] + r)));
}

static void unpack_q8_0(q_words w, const uint16_t *half, int64_t ahead, ml_q_block *u)
{
    ask_for(w, 9, ahead);
    widen_halves(half, u->d);
    for (int i = 0; i < 8; i++) {
        FOR_VECTORS(r) put(u->code[i] + r, get(w[i] + r) ^ 0x80808080u);
    }
}

static void unpack_q4_0(q_words w, const uint16_t *half, int64_t ahead, ml_q_block *u)
{
    widen_halves(half, u->d);
    split_nibbles(w, 4, 4, ahead, u->code);
}

static void unpack_q4_1(q_words w, const uint16_t *half, int64_t ahead, ml_q_block *u)
{
    (void)half;
    widen_pair(w[0], false, u->d, u->m);
    split_nibbles(w + 1, 4, 4, ahead, u->code);
}

/* Bits i, 8 + i, 16 + i and 24 + i of `high` become the fifth bits of word i's four codes. */
Q_INLINE void add_fifth_bits(const uint32_t *high, uint32_t (*code)[ML_Q_ROWS])
{
    for (int i = 0; i < 8; i++) {
        FOR_VECTORS(r) add_high_bits(code[i] + r, get(high + r) >> i, 1);
    }
}

static void unpack_q5_0(q_words w, const uint16_t *half, int64_t ahead, ml_q_block *u)
{
    widen_halves(half, u->d);
    split_nibbles(w + 1, 4, 4, ahead, u->code);
    add_fifth_bits(w[0], u->code);
}

static void unpack_q5_1(q_words w, const uint16_t *half, int64_t ahead, ml_q_block *u)
{
    (void)half;
    widen_pair(w[0], false, u->d, u->m);
    split_nibbles(w + 2, 4, 4, ahead, u->code);
    add_fifth_bits(w[1], u->code);
}

static void unpack_iq4_nl(q_words w, const uint16_t *half, int64_t ahead, ml_q_block *u)
{
    ask_for(w, 5, ahead);
    widen_halves(half, u->d);
    look_up_words(w, u->code);
}

static void unpack(ml_dtype dtype, q_words word, const uint16_t *half, int64_t ahead, void *unit)
{
    switch (dtype) {
    case ML_Q8_0: unpack_q8_0(word, half, ahead, unit); break;
    case ML_Q4_0: unpack_q4_0(word, half, ahead, unit); break;
    case ML_Q4_1: unpack_q4_1(word, half, ahead, unit); break;
    case ML_Q5_0: unpack_q5_0(word, half, ahead, unit); break;
    case ML_Q5_1: unpack_q5_1(word, half, ahead, unit); break;
    case ML_Q2_K: unpack_q2_k(word, half, ahead, unit); break;
    case ML_Q3_K: unpack_q3_k(word, half, ahead, unit); break;
    case ML_Q4_K: unpack_q4_k(word, half, ahead, unit); break;
    case ML_Q5_K: unpack_q5_k(word, half, ahead, unit); break;
    case ML_Q6_K: unpack_q6_k(word, half, ahead, unit); break;
    case ML_IQ4_NL: unpack_iq4_nl(word, half, ahead, unit); break;
    case ML_IQ4_XS: unpack_iq4_xs(word, half, ahead, unit); break;
    default: assert(0 && "a block type is expected");
    }
}

/* The largest magnitude as bits: non-negative floats are ordered like their bits, infinities and NaN above all.  n is a
 * multiple of 32. */
Q_INLINE uint32_t largest_magnitude(int n, const float *x)
{
#if defined(__AVX2__)
    __m256i magnitude = _mm256_set1_epi32(0x7fffffff), a[4];
    for (int v = 0; v < 4; v++) a[v] = _mm256_setzero_si256();
    for (int i = 0; i < n; i += 32) {
        for (int v = 0; v < 4; v++) {
            __m256i bits = _mm256_loadu_si256((const void *)(x + i + 8 * v));
            a[v] = _mm256_max_epi32(a[v], _mm256_and_si256(bits, magnitude));
        }
    }
    a[0] = _mm256_max_epi32(_mm256_max_epi32(a[0], a[1]), _mm256_max_epi32(a[2], a[3]));
    __m128i largest = _mm_max_epi32(_mm256_castsi256_si128(a[0]), _mm256_extracti128_si256(a[0], 1));
    largest = _mm_max_epi32(largest, _mm_shuffle_epi32(largest, 0x4e));
    largest = _mm_max_epi32(largest, _mm_shuffle_epi32(largest, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(largest);
#else
    uint32_t bits[ML_Q_ROWS] = { 0 }, largest = 0;
    for (int i = 0; i < n; i += ML_Q_ROWS) {
        FOR_ROWS(r)
        {
            uint32_t b;
            memcpy(&b, &x[i + r], sizeof b);
            b &= 0x7fffffffu;
            bits[r] = b > bits[r] ? b : bits[r];
        }
    }
    FOR_ROWS(r) largest = bits[r] > largest ? bits[r] : largest;
    return largest;
#endif
}

/* Sixteen x * inverse to the nearest integers, ties to even, and their sum; |x * inverse| < 128. */
Q_INLINE int32_t round_sixteen(const float *x, float inverse, int8_t *q)
{
#if defined(__AVX2__)
    __m256 scale = _mm256_set1_ps(inverse);
    __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), scale));
    __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8), scale));
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
    __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    /* An instruction adds eight bytes without a sign. */
    __m128i sums = _mm_sad_epu8(_mm_xor_si128(bytes, _mm_set1_epi8((char)0x80)), _mm_setzero_si128());
    _mm_storeu_si128((void *)q, bytes);
    return _mm_cvtsi128_si32(sums) + _mm_extract_epi16(sums, 4) - 16 * 128;
#else
    int32_t rounded[ML_Q_ROWS], total = 0;
    FOR_ROWS(r)
    {
        const float magic = 12582912.0f; /* 1.5 * 2^23: the sum's low bits are the nearest integer */
        float shifted = x[r] * inverse + magic;
        memcpy(&rounded[r], &shifted, sizeof shifted);
        rounded[r] -= 0x4b400000;
    }
    FOR_ROWS(r) q[r] = (int8_t)rounded[r];
    FOR_ROWS(r) total += rounded[r];
    return total;
#endif
}

Q_INLINE void quantize_unit(int n, const float *x, int8_t *q, int16_t *sum, float *d)
{
    uint32_t bits = largest_magnitude(n, x);
    float largest, inverse;
    memcpy(&largest, &bits, sizeof largest);
    if (bits >= 0x7f800000u || largest < 0x1p-100f) {
        const uint32_t not_a_number = 0x7fc00000u;
        *d = 0;
        if (bits >= 0x7f800000u) memcpy(d, &not_a_number, sizeof *d);
        memset(q, 0, (size_t)n);
        memset(sum, 0, (size_t)(n / 16) * sizeof *sum);
        return;
    }
    *d = largest / 127;
    inverse = 127 / largest;
    for (int i = 0; i < n; i += ML_Q_ROWS) sum[i / 16] = (int16_t)round_sixteen(x + i, inverse, q + i);
}

static void quantize(int unit, int64_t k, const float *x, int8_t *q, int16_t *sum, float *d)
{
    for (int64_t i = 0; i < k; i += unit, d++) {
        if (unit == 256) {
            quantize_unit(256, x + i, q + i, sum + i / 16, d);
        } else {
            quantize_unit(32, x + i, q + i, sum + i / 16, d);
        }
    }
}

#endif
