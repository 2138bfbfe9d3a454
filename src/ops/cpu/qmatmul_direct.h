/* One or two tokens, the types that matter most: codes go from the stored words straight into the products, without
 * being written down between.  For instruction sets with a byte dot product; the including file defines before
 *   v_dot(sum, code, x)   sum + the sum of four products of bytes
 *   v_mul(a, b)           int32
 *   v_halves(p)           LANES fp16 at p
 *   v_low_halves(words)   the fp16 in the low half of each word
 * Vectors of rows are taken one after the other, with few values alive at a time: x is so small that reading it again
 * costs less than keeping it.
 * The integers are those of qmatmul_body.h, so the bits are too. */
#include "ops/cpu/qmatmul_body.h"

enum { PANEL_VEC = ML_Q_ROWS / LANES };

/* Vector v of word i. */
Q_INLINE q_vu word_vector(q_words word, int i, int v)
{
    return get(word[i] + v * LANES);
}

/* The same vector of what follows the words of a block. */
Q_INLINE vf half_vector(const uint16_t *half, int v)
{
    return v_halves(half + v * LANES);
}

Q_INLINE vi four_of_x(const ml_q_tile *x, int t, int at)
{
    int32_t four;
    memcpy(&four, x->q[t] + at, sizeof four);
    return v_set1(four);
}

/* The sums of two 16s, to be broadcast. */
Q_INLINE vi sums_of_x(const ml_q_tile *x, int t, int pair)
{
    return v_set1(pair_at(x->sum[t] + 2 * pair));
}

/* Asks for the line that lies `ahead` of a word, when its first vector is read.  One line between products: asked
 * for in bursts, most of it is dropped by the hardware. */
Q_INLINE void ask_for_line(q_words word, int v, int i, int64_t ahead)
{
    if (v == 0) ask_for(word + i, 1, ahead);
}

Q_INLINE void add_to_y(int t, int v, vf d, const ml_q_tile *x, vi sum, float *acc)
{
    float *y = acc + (t * PANEL_VEC + v) * LANES;
    vf_store(y, vf_fma(vf_mul(d, vf_set1(x->d[t][0])), v_to_float(sum), vf_load(y)));
}

Q_INLINE vi scale_at(q_vu packed, int s)
{
    return (vi)(packed >> 8 * s & 0xffu);
}

/* tot += sum over 4 sub-blocks of minimum * (sum of q); minima one per byte, for sub-blocks sub .. sub + 3. */
Q_INLINE vi add_minima(const ml_q_tile *x, int t, int sub, q_vu minima, vi tot)
{
    q_vu even = minima & 0x00ff00ffu, odd = minima >> 8 & 0x00ff00ffu;
    const int32_t *pair = x->pair[t] + sub / 2;
    tot = v_add_pairs(tot, (vi)even, v_set1(pair[0]));
    return v_add_pairs(tot, (vi)odd, v_set1(pair[1]));
}

/* Four-bit codes, or with `fifth` five-bit ones, whose fifth bits are the bits of words 4 .. 11. */
Q_INLINE void direct_pairs(int n_token, bool fifth, q_words word, int64_t ahead, const ml_q_tile *x, float *acc)
{
    const int first = fifth ? 12 : 4;
#pragma GCC unroll 2
    for (int v = 0; v < PANEL_VEC; v++) {
        q_vu dm = word_vector(word, 0, v), a = word_vector(word, 1, v), b = word_vector(word, 2, v);
        q_vu c = word_vector(word, 3, v);
        q_vu scales[2] = { bytes_of(a, 63), bytes_of(c, 15) | bytes_of(a >> 2, 48) };
        q_vu minima[2] = { bytes_of(b, 63), bytes_of(c >> 4, 15) | bytes_of(b >> 2, 48) };
        vi tot[ML_Q_MAX_DIRECT];
        for (int t = 0; t < n_token; t++) tot[t] = v_zero();
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++) {
            vi low[ML_Q_MAX_DIRECT], high[ML_Q_MAX_DIRECT];
            for (int i = 0; i < first / 4; i++) ask_for_line(word, v, first / 4 * g + i, ahead);
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) {
                ask_for_line(word, v, first + 8 * g + i, ahead);
                q_vu w = word_vector(word, first + 8 * g + i, v), even = bytes_of(w, 15), odd = bytes_of(w >> 4, 15);
                if (fifth) {
                    q_vu bits = word_vector(word, 4 + i, v);
                    even |= bytes_of(g < 2 ? bits << (4 - 2 * g) : bits >> (2 * g - 4), 16);
                    odd |= bytes_of(g < 2 ? bits << (3 - 2 * g) : bits >> (2 * g - 3), 16);
                }
#pragma GCC unroll 2
                for (int t = 0; t < n_token; t++) {
                    low[t] = v_dot(i ? low[t] : v_zero(), (vi)even, four_of_x(x, t, 64 * g + 4 * i));
                    high[t] = v_dot(i ? high[t] : v_zero(), (vi)odd, four_of_x(x, t, 64 * g + 32 + 4 * i));
                }
            }
            for (int t = 0; t < n_token; t++) {
                vi sum = v_mul(low[t], scale_at(scales[g / 2], 2 * g % 4));
                tot[t] = v_add(tot[t], v_add(sum, v_mul(high[t], scale_at(scales[g / 2], 2 * g % 4 + 1))));
            }
        }
        vf d = v_low_halves(dm), m = v_low_halves(dm >> 16 ^ 0x8000u);
        for (int t = 0; t < n_token; t++) {
            vi least = add_minima(x, t, 4, minima[1], add_minima(x, t, 0, minima[0], v_zero()));
            add_to_y(t, v, d, x, tot[t], acc);
            add_to_y(t, v, m, x, least, acc);
        }
    }
}

Q_INLINE void direct_q4_k(int n_token, q_words word, const uint16_t *half, int64_t ahead, const ml_q_tile *x,
                          float *acc)
{
    (void)half;
    direct_pairs(n_token, false, word, ahead, x, acc);
}

Q_INLINE void direct_q5_k(int n_token, q_words word, const uint16_t *half, int64_t ahead, const ml_q_tile *x,
                          float *acc)
{
    (void)half;
    direct_pairs(n_token, true, word, ahead, x, acc);
}

/* Elements 128 h + 32 j + 16 part .. + 15, for j < 4: one 16-element sub-block each, whose sum begins with what the
 * codes' zero of 32 takes away. */
Q_INLINE void direct_q6_k_part(int n_token, int h, int part, int v, q_words word, int64_t ahead, const ml_q_tile *x,
                               vi *tot)
{
    const int first = 4 + 24 * h + 12 * part; /* of the words: see ml_q_format */
    const vi minus_zero = v_set1(part ? -32 * 0x10000 : -32 & 0xffff);
    vi sum[4][ML_Q_MAX_DIRECT];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        for (int t = 0; t < n_token; t++) sum[j][t] = v_add_pairs(v_zero(), minus_zero, sums_of_x(x, t, 4 * h + j));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        int at = 4 * part + i;
        for (int j = 0; j < 3; j++) ask_for_line(word, v, first + 3 * i + j, ahead);
        q_vu a = word_vector(word, first + 3 * i, v), b = word_vector(word, first + 3 * i + 1, v);
        q_vu high = word_vector(word, first + 3 * i + 2, v);
        q_vu code[4] = { bytes_of(a, 15) | bytes_of(high << 4, 48), bytes_of(b, 15) | bytes_of(high << 2, 48),
                         bytes_of(a >> 4, 15) | bytes_of(high, 48), bytes_of(b >> 4, 15) | bytes_of(high >> 2, 48) };
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
#pragma GCC unroll 2
            for (int t = 0; t < n_token; t++) {
                sum[j][t] = v_dot(sum[j][t], (vi)code[j], four_of_x(x, t, 128 * h + 32 * j + 4 * at));
            }
        }
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        int s = 8 * h + 2 * j + part;
        vi scale = (vi)((q_vi)(word_vector(word, s / 4, v) << (24 - s % 4 * 8)) >> 24);
        for (int t = 0; t < n_token; t++) tot[t] = v_add(tot[t], v_mul(sum[j][t], scale));
    }
}

Q_INLINE void direct_q6_k(int n_token, q_words word, const uint16_t *half, int64_t ahead, const ml_q_tile *x,
                          float *acc)
{
#pragma GCC unroll 2
    for (int v = 0; v < PANEL_VEC; v++) {
        vi tot[ML_Q_MAX_DIRECT];
        for (int t = 0; t < n_token; t++) tot[t] = v_zero();
        for (int h = 0; h < 2; h++) {
#pragma GCC unroll 2
            for (int part = 0; part < 2; part++) {
                ask_for_line(word, v, 2 * h + part, ahead);
                direct_q6_k_part(n_token, h, part, v, word, ahead, x, tot);
            }
        }
        ask_for_line(word, v, 52, ahead); /* the halves */
        for (int t = 0; t < n_token; t++) add_to_y(t, v, half_vector(half, v), x, tot[t], acc);
    }
}

/* ---- blocks of 32: their sums stay in registers from block to block ---- */

/* Eight words of codes, each below 256. */
Q_INLINE void codes_q8_0(q_words word, int v, q_vu *code)
{
    for (int i = 0; i < 8; i++) code[i] = word_vector(word, i, v) ^ 0x80808080u;
}

Q_INLINE void codes_nibbles(q_words word, int first, int v, q_vu *code)
{
    for (int i = 0; i < 4; i++) {
        q_vu w = word_vector(word, first + i, v);
        code[i] = bytes_of(w, 15);
        code[4 + i] = bytes_of(w >> 4, 15);
    }
}

Q_INLINE void codes_q4_0(q_words word, int v, q_vu *code)
{
    codes_nibbles(word, 0, v, code);
}

Q_INLINE void codes_fifth(q_words word, int at, int v, q_vu *code)
{
    q_vu bits = word_vector(word, at, v);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) code[i] |= bytes_of(i < 4 ? bits << (4 - i) : bits >> (i - 4), 16);
}

Q_INLINE void codes_q5_0(q_words word, int v, q_vu *code)
{
    codes_nibbles(word, 1, v, code);
    codes_fifth(word, 0, v, code);
}

Q_INLINE void codes_q5_1(q_words word, int v, q_vu *code)
{
    codes_nibbles(word, 2, v, code);
    codes_fifth(word, 1, v, code);
}

typedef void (*codes_fn)(q_words word, int v, q_vu *code);

/* codes, zero (see ml_q_format) and has_min are constants at every call; n_line: stored words of a block and half. */
Q_INLINE void direct_blocks(int n_token, codes_fn codes, int zero, bool has_min, int n_line, q_words first,
                            const uint16_t *first_half, int64_t n_unit, size_t unit_bytes, int64_t ahead,
                            const ml_q_tile *x, float *acc)
{
    const vi one = v_set1(0x00010001), minus_zero = v_set1(-zero * 0x10000 + (-zero & 0xffff));
    vf sum[ML_Q_MAX_DIRECT][PANEL_VEC];
    for (int t = 0; t < n_token; t++) {
        for (int v = 0; v < PANEL_VEC; v++) sum[t][v] = vf_load(acc + (t * PANEL_VEC + v) * LANES);
    }
    for (int64_t u = 0; u < n_unit; u++) {
        q_words word = (const void *)((const char *)first + (size_t)u * unit_bytes);
        const uint16_t *half = (const void *)((const char *)first_half + (size_t)u * unit_bytes);
#pragma GCC unroll 2
        for (int v = 0; v < PANEL_VEC; v++) {
            q_vu code[8], dm = has_min ? word_vector(word, 0, v) : (q_vu){ 0 };
            vf d = has_min ? v_low_halves(dm) : half_vector(half, v);
            codes(word, v, code);
            for (int t = 0; t < n_token; t++) {
                vi pair = sums_of_x(x, t, (int)u), tot = v_zero();
                vf dx = vf_set1(x->d[t][u]);
                if (!has_min) tot = v_add_pairs(tot, minus_zero, pair);
#pragma GCC unroll 8
                for (int i = 0; i < 8; i++) {
                    if (t == 0 && i < n_line) ask_for_line(word, v, i, ahead);
                    tot = v_dot(tot, (vi)code[i], four_of_x(x, t, (int)(32 * u) + 4 * i));
                }
                if (t == 0 && n_line > 8) ask_for_line(word, v, 8, ahead);
                sum[t][v] = vf_fma(vf_mul(d, dx), v_to_float(tot), sum[t][v]);
                if (!has_min) continue;
                vf low = v_to_float(v_add_pairs(v_zero(), one, pair));
                sum[t][v] = vf_fma(vf_mul(v_low_halves(dm >> 16), dx), low, sum[t][v]);
            }
        }
    }
    for (int t = 0; t < n_token; t++) {
        for (int v = 0; v < PANEL_VEC; v++) vf_store(acc + (t * PANEL_VEC + v) * LANES, sum[t][v]);
    }
}

#define DIRECT_BLOCKS(type, n, zero, has_min, n_line)                                                                  \
    static void type##_##n(q_words word, const uint16_t *half, int64_t n_unit, size_t unit_bytes, int64_t ahead,       \
                           const ml_q_tile *x, float *acc)                                                             \
    {                                                                                                                  \
        direct_blocks(n, codes_##type, zero, has_min, n_line, word, half, n_unit, unit_bytes, ahead, x, acc);          \
    }
DIRECT_BLOCKS(q8_0, 1, 128, false, 9)
DIRECT_BLOCKS(q8_0, 2, 128, false, 9)
DIRECT_BLOCKS(q4_0, 1, 8, false, 5)
DIRECT_BLOCKS(q4_0, 2, 8, false, 5)
DIRECT_BLOCKS(q5_0, 1, 16, false, 6)
DIRECT_BLOCKS(q5_0, 2, 16, false, 6)
DIRECT_BLOCKS(q5_1, 1, 0, true, 6)
DIRECT_BLOCKS(q5_1, 2, 0, true, 6)

/* ---- super-blocks, one after the other ---- */

#define DIRECT_SUPER(type, n)                                                                                          \
    static void type##_##n(q_words word, const uint16_t *half, int64_t n_unit, size_t unit_bytes, int64_t ahead,       \
                           const ml_q_tile *x, float *acc)                                                             \
    {                                                                                                                  \
        ml_q_tile at = *x;                                                                                             \
        for (int64_t u = 0; u < n_unit; u++) {                                                                         \
            direct_##type(n, word, half, ahead, &at, acc);                                                             \
            word = (const void *)((const char *)word + unit_bytes);                                                    \
            half = (const void *)((const char *)half + unit_bytes);                                                    \
            for (int t = 0; t < n; t++) {                                                                              \
                at.q[t] += 256;                                                                                        \
                at.sum[t] += 16;                                                                                       \
                at.pair[t] += 4;                                                                                       \
                at.d[t]++;                                                                                             \
            }                                                                                                          \
        }                                                                                                              \
    }
DIRECT_SUPER(q4_k, 1)
DIRECT_SUPER(q4_k, 2)
DIRECT_SUPER(q5_k, 1)
DIRECT_SUPER(q5_k, 2)
DIRECT_SUPER(q6_k, 1)
DIRECT_SUPER(q6_k, 2)
#define DIRECT_TABLE                                                                                                   \
    {                                                                                                                  \
        [ML_Q4_K] = { q4_k_1, q4_k_2 }, [ML_Q5_K] = { q5_k_1, q5_k_2 }, [ML_Q6_K] = { q6_k_1, q6_k_2 },                \
        [ML_Q8_0] = { q8_0_1, q8_0_2 }, [ML_Q4_0] = { q4_0_1, q4_0_2 }, [ML_Q5_0] = { q5_0_1, q5_0_2 },                \
        [ML_Q5_1] = { q5_1_1, q5_1_2 },                                                                                \
    }
