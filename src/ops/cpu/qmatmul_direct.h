/* One or two tokens, the types that matter most: codes go from the stored words straight into the products, without
 * being written down between.  The including file defines before
 *   v_dot_four(sum, code, x)   sum + the sum of four products of bytes, with the four at x in every lane
 *   v_dot_four_small           the same of codes below 16, whose sum over eight words may be of another form, to be
 *   v_mul_small(sum, scale)    multiplied by the scale; defined as the others where that is not so
 *   v_mul(a, b)                int32
 *   v_halves(p)                LANES fp16 at p
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

/* The sums of two 16s, to be broadcast. */
Q_INLINE vi sums_of_x(const ml_q_tile *x, int t, int pair)
{
    return v_set1(pair_at(x->sum[t] + 2 * pair));
}

/* Where what lies `ahead` of a word is: an address that the compiler knows nothing about, or it would keep a register
 * for every line. */
Q_INLINE const char *place_ahead(q_words word, int64_t ahead)
{
    const char *at = (const char *)word + ahead;
    __asm__("" : "+r"(at));
    return at;
}

/* Asks for line i there, when the first vector of a word is read.  One line between products, and just where this
 * stands: asked for in bursts, as compilers like to place them, most of it is dropped by the hardware. */
Q_INLINE void ask_for_line(const char *ahead, int v, int i)
{
    if (v) return;
#if defined(__x86_64__)
    __asm__ volatile("prefetcht0 %0" : : "m"(ahead[64 * i]));
#else
    __builtin_prefetch(ahead + 64 * i);
#endif
}

/* d [LANES] times the whole sums of a unit. */
Q_INLINE vf add_unit(vf sum, vf d, const ml_q_tile *x, int t, vi whole)
{
    return vf_fma(vf_mul(d, vf_set1(x->d[t][0])), v_to_float(whole), sum);
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

/* Sums of a panel, in registers from unit to unit: [token][vector] */
typedef vf panel_sums[ML_Q_MAX_DIRECT][PANEL_VEC];

Q_INLINE void load_sums(int n_token, const float *acc, vf (*sum)[PANEL_VEC])
{
    for (int t = 0; t < n_token; t++) {
        for (int v = 0; v < PANEL_VEC; v++) sum[t][v] = vf_load(acc + (t * PANEL_VEC + v) * LANES);
    }
}

Q_INLINE void store_sums(int n_token, vf (*sum)[PANEL_VEC], float *acc)
{
    for (int t = 0; t < n_token; t++) {
        for (int v = 0; v < PANEL_VEC; v++) vf_store(acc + (t * PANEL_VEC + v) * LANES, sum[t][v]);
    }
}

/* Four-bit codes, or with `fifth` five-bit ones, whose fifth bits are the bits of words 4 .. 11.  Four-bit codes in
 * high halves of bytes are multiplied there, and the sums, 16 times too large, shifted. */
Q_INLINE void direct_pairs(int n_token, bool fifth, q_words word, const char *ahead, const ml_q_tile *x,
                           vf (*y)[PANEL_VEC])
{
    const int first = fifth ? 12 : 4;
    const bool in_place = !fifth && !SIGNED_WIDE;
#pragma GCC unroll 4
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
            for (int i = 0; i < first / 4; i++) ask_for_line(ahead, v, first / 4 * g + i);
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) {
                ask_for_line(ahead, v, first + 8 * g + i);
                q_vu w = word_vector(word, first + 8 * g + i, v), even = bytes_of(w, 15);
                q_vu odd = in_place ? bytes_of(w, 240) : bytes_of(w >> 4, 15);
                if (fifth) {
                    q_vu bits = word_vector(word, 4 + i, v);
                    even |= bytes_of(g < 2 ? bits << (4 - 2 * g) : bits >> (2 * g - 4), 16);
                    odd |= bytes_of(g < 2 ? bits << (3 - 2 * g) : bits >> (2 * g - 3), 16);
                }
#pragma GCC unroll 2
                for (int t = 0; t < n_token; t++) {
                    const int8_t *q = x->q[t] + 64 * g + 4 * i;
                    if (!i) low[t] = high[t] = v_zero();
                    low[t] = fifth ? v_dot_four(low[t], (vi)even, q) : v_dot_four_small(low[t], (vi)even, q);
                    high[t] = fifth ? v_dot_four(high[t], (vi)odd, q + 32) : v_dot_four_small(high[t], (vi)odd, q + 32);
                }
            }
            for (int t = 0; t < n_token; t++) {
                vi scale[2] = { scale_at(scales[g / 2], 2 * g % 4), scale_at(scales[g / 2], 2 * g % 4 + 1) };
                if (in_place) high[t] = (vi)((q_vi)high[t] >> 4);
                vi a_sum = fifth ? v_mul(low[t], scale[0]) : v_mul_small(low[t], scale[0]);
                vi b_sum = fifth ? v_mul(high[t], scale[1]) : v_mul_small(high[t], scale[1]);
                tot[t] = v_add(tot[t], v_add(a_sum, b_sum));
            }
        }
        vf d = (vf)widen_low_halves(dm), m = (vf)widen_low_halves(dm >> 16 ^ 0x8000u);
        for (int t = 0; t < n_token; t++) {
            vi least = add_minima(x, t, 4, minima[1], add_minima(x, t, 0, minima[0], v_zero()));
            y[t][v] = add_unit(add_unit(y[t][v], d, x, t, tot[t]), m, x, t, least);
        }
    }
}

Q_INLINE void direct_q4_k(int n_token, q_words word, const uint16_t *half, const char *ahead, const ml_q_tile *x,
                          vf (*y)[PANEL_VEC])
{
    (void)half;
    direct_pairs(n_token, false, word, ahead, x, y);
}

Q_INLINE void direct_q5_k(int n_token, q_words word, const uint16_t *half, const char *ahead, const ml_q_tile *x,
                          vf (*y)[PANEL_VEC])
{
    (void)half;
    direct_pairs(n_token, true, word, ahead, x, y);
}

/* Elements 128 h + 32 j + 16 part .. + 15, for j < 4: one 16-element sub-block each, whose sum begins with what the
 * codes' zero of 32 takes away. */
Q_INLINE void direct_q6_k_part(int n_token, int h, int part, int v, q_words word, const char *ahead, const ml_q_tile *x,
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
        for (int j = 0; j < 3; j++) ask_for_line(ahead, v, first + 3 * i + j);
        q_vu a = word_vector(word, first + 3 * i, v), b = word_vector(word, first + 3 * i + 1, v);
        q_vu high = word_vector(word, first + 3 * i + 2, v);
        q_vu code[4] = { bytes_of(a, 15) | bytes_of(high << 4, 48), bytes_of(b, 15) | bytes_of(high << 2, 48),
                         bytes_of(a >> 4, 15) | bytes_of(high, 48), bytes_of(b >> 4, 15) | bytes_of(high >> 2, 48) };
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
#pragma GCC unroll 2
            for (int t = 0; t < n_token; t++) {
                sum[j][t] = v_dot_four(sum[j][t], (vi)code[j], x->q[t] + 128 * h + 32 * j + 4 * at);
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

Q_INLINE void direct_q6_k(int n_token, q_words word, const uint16_t *half, const char *ahead, const ml_q_tile *x,
                          vf (*y)[PANEL_VEC])
{
#pragma GCC unroll 4
    for (int v = 0; v < PANEL_VEC; v++) {
        vi tot[ML_Q_MAX_DIRECT];
        for (int t = 0; t < n_token; t++) tot[t] = v_zero();
        for (int h = 0; h < 2; h++) {
#pragma GCC unroll 2
            for (int part = 0; part < 2; part++) {
                ask_for_line(ahead, v, 2 * h + part);
                direct_q6_k_part(n_token, h, part, v, word, ahead, x, tot);
            }
        }
        ask_for_line(ahead, v, 52); /* the halves */
        for (int t = 0; t < n_token; t++) y[t][v] = add_unit(y[t][v], half_vector(half, v), x, t, tot[t]);
    }
}

/* ---- blocks of 32: their sums stay in registers from block to block ---- */

#ifndef NO_DIRECT_Q8_0
/* Eight words of codes, each below 256; where v_dot takes signed ones, q8_0's as they are. */
Q_INLINE void codes_q8_0(q_words word, int v, q_vu *code)
{
    for (int i = 0; i < 8; i++) code[i] = word_vector(word, i, v) ^ (SIGNED_WIDE ? 0 : 0x80808080u);
}
#endif

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
    panel_sums sum;
    load_sums(n_token, acc, sum);
    for (int64_t u = 0; u < n_unit; u++) {
        q_words word = (const void *)((const char *)first + (size_t)u * unit_bytes);
        const uint16_t *half = (const void *)((const char *)first_half + (size_t)u * unit_bytes);
        const char *next = place_ahead(word, ahead);
#pragma GCC unroll 4
        for (int v = 0; v < PANEL_VEC; v++) {
            q_vu code[8], dm = has_min ? word_vector(word, 0, v) : (q_vu){ 0 };
            vf d = has_min ? (vf)widen_low_halves(dm) : half_vector(half, v);
            codes(word, v, code);
            for (int t = 0; t < n_token; t++) {
                vi pair = sums_of_x(x, t, (int)u), tot = v_zero();
                vf dx = vf_set1(x->d[t][u]);
                if (!has_min) tot = v_add_pairs(tot, minus_zero, pair);
#pragma GCC unroll 8
                for (int i = 0; i < 8; i++) {
                    if (t == 0 && i < n_line) ask_for_line(next, v, i);
                    tot = v_dot_four(tot, (vi)code[i], x->q[t] + 32 * u + 4 * i);
                }
                if (t == 0 && n_line > 8) ask_for_line(next, v, 8);
                sum[t][v] = vf_fma(vf_mul(d, dx), v_to_float(tot), sum[t][v]);
                if (!has_min) continue;
                vf low = v_to_float(v_add_pairs(v_zero(), one, pair));
                sum[t][v] = vf_fma(vf_mul((vf)widen_low_halves(dm >> 16), dx), low, sum[t][v]);
            }
        }
    }
    store_sums(n_token, sum, acc);
}

#define DIRECT_BLOCKS(type, n, zero, has_min, n_line)                                                                  \
    static void type##_##n(q_words word, const uint16_t *half, int64_t n_unit, size_t unit_bytes, int64_t ahead,       \
                           const ml_q_tile *x, float *acc)                                                             \
    {                                                                                                                  \
        direct_blocks(n, codes_##type, zero, has_min, n_line, word, half, n_unit, unit_bytes, ahead, x, acc);          \
    }
#ifndef NO_DIRECT_Q8_0
DIRECT_BLOCKS(q8_0, 1, SIGNED_WIDE ? 0 : 128, false, 9)
DIRECT_BLOCKS(q8_0, 2, SIGNED_WIDE ? 0 : 128, false, 9)
#define DIRECT_Q8_0                                                                                                    \
    {                                                                                                                  \
        q8_0_1, q8_0_2                                                                                                 \
    }
#else
#define DIRECT_Q8_0                                                                                                    \
    {                                                                                                                  \
        NULL, NULL                                                                                                     \
    }
#endif
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
        panel_sums sum;                                                                                                \
        load_sums(n, acc, sum);                                                                                        \
        for (int64_t u = 0; u < n_unit; u++) {                                                                         \
            direct_##type(n, word, half, place_ahead(word, ahead), &at, sum);                                          \
            word = (const void *)((const char *)word + unit_bytes);                                                    \
            half = (const void *)((const char *)half + unit_bytes);                                                    \
            for (int t = 0; t < n; t++) {                                                                              \
                at.q[t] += 256;                                                                                        \
                at.sum[t] += 16;                                                                                       \
                at.pair[t] += 4;                                                                                       \
                at.d[t]++;                                                                                             \
            }                                                                                                          \
        }                                                                                                              \
        store_sums(n, sum, acc);                                                                                       \
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
        [ML_Q8_0] = DIRECT_Q8_0, [ML_Q4_0] = { q4_0_1, q4_0_2 }, [ML_Q5_0] = { q5_0_1, q5_0_2 },                       \
        [ML_Q5_1] = { q5_1_1, q5_1_2 },                                                                                \
    }
