/* Unpacking block types and rounding activations: plain loops over the 16 rows of a panel, included by the file of
 * each instruction set and made into its vectors by the compiler.  Layouts: tensor/blocks.h. */
#ifndef ML_OPS_CPU_QMATMUL_UNPACK_H
#define ML_OPS_CPU_QMATMUL_UNPACK_H

#include "ops/cpu/qmatmul_kernel.h"
#include "tensor/blocks.h"

#include <assert.h>
#include <string.h>

typedef const uint32_t (*q_words)[ML_Q_ROWS];
#define FOR_ROWS(r) for (int r = 0; r < ML_Q_ROWS; r++)
#define Q_INLINE static inline __attribute__((always_inline))

/* ml_f16_to_f32 for the low halves of 16 words. */
Q_INLINE void widen_low_halves(const uint32_t *word, float *out)
{
    FOR_ROWS(r)
    {
        uint32_t bits = (word[r] & 0x7fffu) << 13, wide, sign = (word[r] & 0x8000u) << 16;
        float f;
        memcpy(&f, &bits, sizeof f);
        f *= 0x1p112f;
        memcpy(&wide, &f, sizeof wide);
        wide |= (word[r] & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0;
        wide |= sign;
        memcpy(&out[r], &wide, sizeof wide);
    }
}

Q_INLINE void widen_halves(const uint16_t *half, float *out)
{
    uint32_t word[ML_Q_ROWS];
    FOR_ROWS(r) word[r] = half[r];
    widen_low_halves(word, out);
}

/* d in the low half, m in the high half. */
Q_INLINE void widen_pair(const uint32_t *word, float *d, float *m)
{
    uint32_t high[ML_Q_ROWS];
    FOR_ROWS(r) high[r] = word[r] >> 16;
    widen_low_halves(word, d);
    widen_low_halves(high, m);
}

Q_INLINE void negate(float *m)
{
    FOR_ROWS(r) m[r] = -m[r];
}

/* Low nibbles of n words to code[0..n), high nibbles to code[distance..distance + n). */
Q_INLINE void split_nibbles(q_words word, int n, int distance, uint32_t (*code)[ML_Q_ROWS])
{
    for (int i = 0; i < n; i++) {
        FOR_ROWS(r) code[i][r] = word[i][r] & 0x0f0f0f0fu;
        FOR_ROWS(r) code[distance + i][r] = word[i][r] >> 4 & 0x0f0f0f0fu;
    }
}

/* The pairs (v, v) and (a, b) of int16 that `offset` holds. */
Q_INLINE uint32_t pair_of(int32_t a, int32_t b)
{
    return ((uint32_t)a & 0xffffu) | (uint32_t)b << 16;
}

/* Four scales or minima, one per byte. */
Q_INLINE void put_scales(const uint32_t *packed, int32_t (*scale)[ML_Q_ROWS])
{
    for (int s = 0; s < 4; s++) {
        FOR_ROWS(r) scale[s][r] = (int32_t)(packed[r] >> 8 * s & 0xffu);
    }
}

Q_INLINE void put_minima(const uint32_t *packed, uint32_t (*offset)[ML_Q_ROWS])
{
    for (int s = 0; s < 4; s++) {
        FOR_ROWS(r) offset[s][r] = (packed[r] >> 8 * s & 0xffu) * 0x10001u;
    }
}

/* The 12 bytes of q4_k and q5_k: words p[0..2]. */
Q_INLINE void unpack_pairs(q_words p, ml_q_super *u)
{
    uint32_t packed[4][ML_Q_ROWS];
    FOR_ROWS(r)
    {
        packed[0][r] = p[0][r] & 0x3f3f3f3fu;
        packed[1][r] = (p[2][r] & 0x0f0f0f0fu) | (p[0][r] >> 2 & 0x30303030u);
        packed[2][r] = p[1][r] & 0x3f3f3f3fu;
        packed[3][r] = (p[2][r] >> 4 & 0x0f0f0f0fu) | (p[1][r] >> 2 & 0x30303030u);
    }
    put_scales(packed[0], u->scale);
    put_scales(packed[1], u->scale + 4);
    put_minima(packed[2], u->offset);
    put_minima(packed[3], u->offset + 4);
}

static void unpack_q4_k(q_words w, const uint16_t *half, ml_q_super *u)
{
    (void)half;
    widen_pair(w[0], u->d, u->m);
    negate(u->m);
    unpack_pairs(w + 1, u);
    for (int g = 0; g < 4; g++) split_nibbles(w + 4 + 8 * g, 8, 8, u->code + 16 * g);
}

static void unpack_q5_k(q_words w, const uint16_t *half, ml_q_super *u)
{
    (void)half;
    widen_pair(w[0], u->d, u->m);
    negate(u->m);
    unpack_pairs(w + 1, u);
    for (int g = 0; g < 4; g++) split_nibbles(w + 12 + 8 * g, 8, 8, u->code + 16 * g);
    for (int sub = 0; sub < 8; sub++) {
        for (int i = 0; i < 8; i++) {
            FOR_ROWS(r) u->code[8 * sub + i][r] |= (w[4 + i][r] >> sub & 0x01010101u) << 4;
        }
    }
}

/* offset = -zero * scale, for 16-element sub-blocks. */
Q_INLINE void offset_by_scales(int zero, ml_q_super *u)
{
    for (int g = 0; g < 8; g++) {
        FOR_ROWS(r) u->offset[g][r] = pair_of(-zero * u->scale[2 * g][r], -zero * u->scale[2 * g + 1][r]);
    }
}

static void unpack_q6_k(q_words w, const uint16_t *half, ml_q_super *u)
{
    widen_halves(half, u->d);
    for (int h = 0; h < 2; h++) {
        split_nibbles(w + 16 * h, 16, 16, u->code + 32 * h);
        for (int pair = 0; pair < 4; pair++) {
            for (int i = 0; i < 8; i++) {
                FOR_ROWS(r)
                u->code[32 * h + 8 * pair + i][r] |= (w[32 + 8 * h + i][r] >> 2 * pair & 0x03030303u) << 4;
            }
        }
    }
    for (int s = 0; s < 16; s++) {
        FOR_ROWS(r) u->scale[s][r] = (int32_t)(w[48 + s / 4][r] << (24 - s % 4 * 8)) >> 24;
    }
    offset_by_scales(32, u);
}

static void unpack_q2_k(q_words w, const uint16_t *half, ml_q_super *u)
{
    (void)half;
    widen_pair(w[20], u->d, u->m);
    negate(u->m);
    for (int i = 0; i < 64; i++) {
        FOR_ROWS(r) u->code[i][r] = w[4 + i / 32 * 8 + i % 8][r] >> (i / 8 % 4 * 2) & 0x03030303u;
    }
    for (int s = 0; s < 16; s++) {
        FOR_ROWS(r) u->scale[s][r] = (int32_t)(w[s / 4][r] >> s % 4 * 8 & 15);
    }
    for (int g = 0; g < 8; g++) {
        FOR_ROWS(r)
        {
            uint32_t two = w[g / 2][r] >> g % 2 * 16;
            u->offset[g][r] = (two >> 4 & 15) | (two >> 12 & 15) << 16;
        }
    }
}

static void unpack_q3_k(q_words w, const uint16_t *half, ml_q_super *u)
{
    widen_halves(half, u->d);
    for (int i = 0; i < 64; i++) {
        FOR_ROWS(r)
        u->code[i][r] =
            (w[8 + i / 32 * 8 + i % 8][r] >> (i / 8 % 4 * 2) & 0x03030303u) | (w[i % 8][r] >> i / 8 & 0x01010101u) << 2;
    }
    for (int s = 0; s < 16; s++) { /* bytes 4 (s / 4) ... of the words that q3_k_scale would read */
        FOR_ROWS(r)
        {
            uint32_t low = w[24 + s / 4 % 2][r] >> (s / 8 * 4 + s % 4 * 8) & 15;
            uint32_t high = w[26][r] >> (s / 4 * 2 + s % 4 * 8) & 3;
            u->scale[s][r] = (int32_t)(low | high << 4) - 32;
        }
    }
    offset_by_scales(4, u);
}

/* A byte of nibbles through the table of iq4, each value raised by 128. */
Q_INLINE uint32_t look_up(uint32_t nibbles)
{
    uint32_t out = 0;
    for (int b = 0; b < 4; b++) out |= (uint32_t)(ml_iq4_values[nibbles >> 8 * b & 15] + 128) << 8 * b;
    return out;
}

Q_INLINE void look_up_words(q_words w, uint32_t (*code)[ML_Q_ROWS])
{
    for (int i = 0; i < 4; i++) {
        FOR_ROWS(r) code[i][r] = look_up(w[i][r]);
        FOR_ROWS(r) code[4 + i][r] = look_up(w[i][r] >> 4);
    }
}

static void unpack_iq4_xs(q_words w, const uint16_t *half, ml_q_super *u)
{
    (void)half;
    widen_low_halves(w[0], u->d);
    for (int s = 0; s < 8; s++) {
        look_up_words(w + 2 + 4 * s, u->code + 8 * s);
        FOR_ROWS(r)
        {
            uint32_t low = w[1][r] >> 4 * s & 15, high = w[0][r] >> (16 + 2 * s) & 3;
            int32_t scale = (int32_t)(low | high << 4) - 32;
            u->scale[s][r] = scale;
            u->offset[s][r] = pair_of(-128 * scale, -128 * scale);
        }
    }
}

static void unpack_q8_0(q_words w, const uint16_t *half, ml_q_block *u)
{
    widen_halves(half, u->d);
    for (int i = 0; i < 8; i++) {
        FOR_ROWS(r) u->code[i][r] = w[i][r] ^ 0x80808080u;
    }
}

static void unpack_q4_0(q_words w, const uint16_t *half, ml_q_block *u)
{
    widen_halves(half, u->d);
    split_nibbles(w, 4, 4, u->code);
}

static void unpack_q4_1(q_words w, const uint16_t *half, ml_q_block *u)
{
    (void)half;
    widen_pair(w[0], u->d, u->m);
    split_nibbles(w + 1, 4, 4, u->code);
}

/* Bits 4 i .. 4 i + 3 of `high` become the fifth bits of word i's four codes. */
Q_INLINE void add_fifth_bits(const uint32_t *high, uint32_t (*code)[ML_Q_ROWS])
{
    for (int i = 0; i < 8; i++) {
        FOR_ROWS(r) code[i][r] |= ((high[r] >> 4 * i & 15) * 0x00204081u & 0x01010101u) << 4;
    }
}

static void unpack_q5_0(q_words w, const uint16_t *half, ml_q_block *u)
{
    widen_halves(half, u->d);
    split_nibbles(w + 1, 4, 4, u->code);
    add_fifth_bits(w[0], u->code);
}

static void unpack_q5_1(q_words w, const uint16_t *half, ml_q_block *u)
{
    (void)half;
    widen_pair(w[0], u->d, u->m);
    split_nibbles(w + 2, 4, 4, u->code);
    add_fifth_bits(w[1], u->code);
}

static void unpack_iq4_nl(q_words w, const uint16_t *half, ml_q_block *u)
{
    widen_halves(half, u->d);
    look_up_words(w, u->code);
}

static void unpack(ml_dtype dtype, const uint32_t (*word)[ML_Q_ROWS], const uint16_t *half, void *unit)
{
    switch (dtype) {
    case ML_Q8_0: unpack_q8_0(word, half, unit); break;
    case ML_Q4_0: unpack_q4_0(word, half, unit); break;
    case ML_Q4_1: unpack_q4_1(word, half, unit); break;
    case ML_Q5_0: unpack_q5_0(word, half, unit); break;
    case ML_Q5_1: unpack_q5_1(word, half, unit); break;
    case ML_Q2_K: unpack_q2_k(word, half, unit); break;
    case ML_Q3_K: unpack_q3_k(word, half, unit); break;
    case ML_Q4_K: unpack_q4_k(word, half, unit); break;
    case ML_Q5_K: unpack_q5_k(word, half, unit); break;
    case ML_Q6_K: unpack_q6_k(word, half, unit); break;
    case ML_IQ4_NL: unpack_iq4_nl(word, half, unit); break;
    case ML_IQ4_XS: unpack_iq4_xs(word, half, unit); break;
    default: assert(!"a block type is expected");
    }
}

/* The largest magnitude as bits: non-negative floats are ordered like their bits, infinities and NaN above all. */
Q_INLINE uint32_t largest_magnitude(int n, const float *x)
{
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
    for (int i = 0; i < n; i += ML_Q_ROWS) {
        int32_t rounded[ML_Q_ROWS], total = 0;
        FOR_ROWS(r)
        {
            const float magic = 12582912.0f; /* 1.5 * 2^23: the sum's low bits are the nearest integer */
            float shifted = x[i + r] * inverse + magic;
            memcpy(&rounded[r], &shifted, sizeof shifted);
            rounded[r] -= 0x4b400000;
        }
        FOR_ROWS(r) q[i + r] = (int8_t)rounded[r];
        FOR_ROWS(r) total += rounded[r];
        sum[i / 16] = (int16_t)total;
    }
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
