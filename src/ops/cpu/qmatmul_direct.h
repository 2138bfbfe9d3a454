/* One or two tokens, the types that matter most: codes go from the stored words straight into the products, without
 * being written down between.  For instruction sets with a byte dot product; the including file defines before
 *   v_dot(sum, code, x)   sum + the sum of four products of bytes
 *   v_mul(a, b)           int32
 * The integers are those of qmatmul_body.h, so the bits are too. */
#include "ops/cpu/qmatmul_body.h"

/* Vector v of word i, of the panel it belongs to. */
Q_INLINE q_vu word_vector(const q_words *word, int i, int v)
{
    return get(word[v * LANES / ML_Q_ROWS][i] + v * LANES % ML_Q_ROWS);
}

Q_INLINE vi four_of_x(const ml_q_tile *x, int t, int at)
{
    int32_t four;
    memcpy(&four, x->q[t] + at, sizeof four);
    return v_set1(four);
}

Q_INLINE void add_scaled(const ml_q_super *u, int sub, int v, vi sum, vi *tot)
{
    *tot = v_add(*tot, v_mul(sum, v_load(vector_at(u->scale[sub], v, sizeof *u))));
}

Q_INLINE void direct_q4_k(int n_token, const q_words *word, const uint16_t *const *half, int64_t ahead,
                          const ml_q_tile *x, float *acc)
{
    ml_q_super u[N_PANEL]; /* but for the codes */
    vi tot[ML_Q_MAX_TOKEN][N_VEC];
    (void)half;
    for (int panel = 0; panel < N_PANEL; panel++) {
        ask_for(word[panel], 4, ahead);
        widen_pair(word[panel][0], true, u[panel].d, u[panel].m);
        unpack_pairs(word[panel] + 1, &u[panel]);
    }
    for (int t = 0; t < n_token; t++) {
        for (int v = 0; v < N_VEC; v++) tot[t][v] = v_zero();
    }
    for (int g = 0; g < 4; g++) {
        vi low[2][N_VEC], high[2][N_VEC];
        for (int panel = 0; panel < N_PANEL; panel++) ask_for(word[panel] + 4 + 8 * g, 8, ahead);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
#pragma GCC unroll 2
            for (int v = 0; v < N_VEC; v++) {
                q_vu w = word_vector(word, 4 + 8 * g + i, v);
                vi a = (vi)bytes_of(w, 15), b = (vi)bytes_of(w >> 4, 15);
#pragma GCC unroll 2
                for (int t = 0; t < n_token; t++) {
                    low[t][v] = v_dot(i ? low[t][v] : v_zero(), a, four_of_x(x, t, 64 * g + 4 * i));
                    high[t][v] = v_dot(i ? high[t][v] : v_zero(), b, four_of_x(x, t, 64 * g + 32 + 4 * i));
                }
            }
        }
        for (int t = 0; t < n_token; t++) {
            for (int v = 0; v < N_VEC; v++) {
                add_scaled(u, 2 * g, v, low[t][v], &tot[t][v]);
                add_scaled(u, 2 * g + 1, v, high[t][v], &tot[t][v]);
            }
        }
    }
    finish_super(n_token, true, false, u, sizeof *u, x, 0, tot, acc);
}

/* Elements 128 h + 32 j + 16 part .. + 15, for j < 4: one 16-element sub-block each. */
Q_INLINE void direct_q6_k_part(int n_token, int h, int part, const q_words *word, const ml_q_super *u,
                               const ml_q_tile *x, vi (*tot)[N_VEC])
{
    vi sum[4][2][N_VEC];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        int at = 4 * part + i;
#pragma GCC unroll 2
        for (int v = 0; v < N_VEC; v++) {
            q_vu a = word_vector(word, 16 * h + at, v), b = word_vector(word, 16 * h + 8 + at, v);
            q_vu high = word_vector(word, 32 + 8 * h + at, v);
            q_vu code[4] = { bytes_of(a, 15) | bytes_of(high << 4, 48), bytes_of(b, 15) | bytes_of(high << 2, 48),
                             bytes_of(a >> 4, 15) | bytes_of(high, 48),
                             bytes_of(b >> 4, 15) | bytes_of(high >> 2, 48) };
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
#pragma GCC unroll 2
                for (int t = 0; t < n_token; t++) {
                    vi q = four_of_x(x, t, 128 * h + 32 * j + 4 * at);
                    sum[j][t][v] = v_dot(i ? sum[j][t][v] : v_zero(), (vi)code[j], q);
                }
            }
        }
    }
    for (int j = 0; j < 4; j++) {
        for (int t = 0; t < n_token; t++) {
            for (int v = 0; v < N_VEC; v++) add_scaled(u, 8 * h + 2 * j + part, v, sum[j][t][v], &tot[t][v]);
        }
    }
}

Q_INLINE void direct_q6_k(int n_token, const q_words *word, const uint16_t *const *half, int64_t ahead,
                          const ml_q_tile *x, float *acc)
{
    ml_q_super u[N_PANEL]; /* but for the codes */
    vi tot[ML_Q_MAX_TOKEN][N_VEC];
    for (int panel = 0; panel < N_PANEL; panel++) {
        ask_for(word[panel] + 40, 13, ahead);
        widen_halves(half[panel], u[panel].d);
        unpack_q6_k_scales(word[panel], &u[panel]);
    }
    for (int t = 0; t < n_token; t++) {
        for (int v = 0; v < N_VEC; v++) tot[t][v] = v_zero();
    }
    for (int h = 0; h < 2; h++) {
        for (int part = 0; part < 2; part++) {
            for (int panel = 0; panel < N_PANEL; panel++) ask_for(word[panel] + 10 * (2 * h + part), 10, ahead);
            direct_q6_k_part(n_token, h, part, word, u, x, tot);
        }
    }
    finish_super(n_token, false, false, u, sizeof *u, x, 0, tot, acc);
}

/* ---- blocks of 32: their sums stay in registers from block to block ---- */

/* Eight words of codes, each below 256. */
Q_INLINE void codes_q8_0(const q_words *word, int v, q_vu *code)
{
    for (int i = 0; i < 8; i++) code[i] = word_vector(word, i, v) ^ 0x80808080u;
}

Q_INLINE void codes_nibbles(const q_words *word, int first, int v, q_vu *code)
{
    for (int i = 0; i < 4; i++) {
        q_vu w = word_vector(word, first + i, v);
        code[i] = bytes_of(w, 15);
        code[4 + i] = bytes_of(w >> 4, 15);
    }
}

Q_INLINE void codes_q4_0(const q_words *word, int v, q_vu *code)
{
    codes_nibbles(word, 0, v, code);
}

/* As add_fifth_bits of the unpacked form. */
Q_INLINE void codes_fifth(const q_words *word, int at, int v, q_vu *code)
{
    q_vu high = word_vector(word, at, v);
    for (int i = 0; i < 8; i++) code[i] |= bytes_of((high >> 4 * i & 15) * 0x00204081u, 1) << 4;
}

Q_INLINE void codes_q5_0(const q_words *word, int v, q_vu *code)
{
    codes_nibbles(word, 1, v, code);
    codes_fifth(word, 0, v, code);
}

Q_INLINE void codes_q5_1(const q_words *word, int v, q_vu *code)
{
    codes_nibbles(word, 2, v, code);
    codes_fifth(word, 1, v, code);
}

typedef void (*codes_fn)(const q_words *word, int v, q_vu *code);

/* codes, zero (see ml_q_format) and has_min are constants at every call; n_line: stored words of a block and half. */
Q_INLINE void direct_blocks(int n_token, codes_fn codes, int zero, bool has_min, int n_line, const q_words *first,
                            const uint16_t *const *first_half, int64_t n_unit, size_t unit_bytes, int64_t ahead,
                            const ml_q_tile *x, float *acc)
{
    const vi one = v_set1(0x00010001), minus_zero = v_set1(-zero * 0x10000 + (-zero & 0xffff));
    vf sum[ML_Q_MAX_DIRECT][N_VEC];
    for (int t = 0; t < n_token; t++) {
        for (int v = 0; v < N_VEC; v++) sum[t][v] = vf_load(acc + (t * N_VEC + v) * LANES);
    }
    for (int64_t u = 0; u < n_unit; u++) {
        float d[N_PANEL * ML_Q_ROWS], m[N_PANEL * ML_Q_ROWS];
        q_words word[N_PANEL];
        for (int panel = 0; panel < N_PANEL; panel++) {
            word[panel] = (q_words)(const void *)((const char *)first[panel] + (size_t)u * unit_bytes);
            ask_for(word[panel], n_line, ahead);
            if (has_min) {
                widen_pair(word[panel][0], false, d + panel * ML_Q_ROWS, m + panel * ML_Q_ROWS);
            } else {
                const void *half = (const char *)first_half[panel] + (size_t)u * unit_bytes;
                widen_halves(half, d + panel * ML_Q_ROWS);
            }
        }
        for (int v = 0; v < N_VEC; v++) {
            q_vu code[8];
            codes(word, v, code);
            for (int t = 0; t < n_token; t++) {
                vi pair = v_set1(pair_at(x->sum[t] + 2 * u)), tot = v_zero();
                vf dx = vf_set1(x->d[t][u]);
                if (!has_min) tot = v_add_pairs(tot, minus_zero, pair);
#pragma GCC unroll 8
                for (int i = 0; i < 8; i++) tot = v_dot(tot, (vi)code[i], four_of_x(x, t, (int)(32 * u) + 4 * i));
                sum[t][v] = vf_fma(vf_mul(vf_load(d + v * LANES), dx), v_to_float(tot), sum[t][v]);
                if (!has_min) continue;
                vf low = v_to_float(v_add_pairs(v_zero(), one, pair));
                sum[t][v] = vf_fma(vf_mul(vf_load(m + v * LANES), dx), low, sum[t][v]);
            }
        }
    }
    for (int t = 0; t < n_token; t++) {
        for (int v = 0; v < N_VEC; v++) vf_store(acc + (t * N_VEC + v) * LANES, sum[t][v]);
    }
}

#define DIRECT_BLOCKS(type, n, zero, has_min, n_line)                                                                  \
    static void type##_##n(const q_words *word, const uint16_t *const *half, int64_t n_unit, size_t unit_bytes,        \
                           int64_t ahead, const ml_q_tile *x, float *acc)                                              \
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
    static void type##_##n(const q_words *first, const uint16_t *const *first_half, int64_t n_unit, size_t unit_bytes, \
                           int64_t ahead, const ml_q_tile *x, float *acc)                                              \
    {                                                                                                                  \
        ml_q_tile at = *x;                                                                                             \
        q_words word[N_PANEL];                                                                                         \
        const uint16_t *half[N_PANEL];                                                                                 \
        for (int64_t u = 0; u < n_unit; u++) {                                                                         \
            for (int panel = 0; panel < N_PANEL; panel++) {                                                            \
                word[panel] = (const void *)((const char *)first[panel] + (size_t)u * unit_bytes);                     \
                half[panel] = (const void *)((const char *)first_half[panel] + (size_t)u * unit_bytes);                \
            }                                                                                                          \
            direct_##type(n, word, half, ahead, &at, acc);                                                             \
            for (int t = 0; t < n; t++) {                                                                              \
                at.q[t] += 256;                                                                                        \
                at.sum[t] += 16;                                                                                       \
                at.d[t]++;                                                                                             \
            }                                                                                                          \
        }                                                                                                              \
    }
DIRECT_SUPER(q4_k, 1)
DIRECT_SUPER(q4_k, 2)
DIRECT_SUPER(q6_k, 1)
DIRECT_SUPER(q6_k, 2)
#define DIRECT_TABLE                                                                                                   \
    {                                                                                                                  \
        [ML_Q4_K] = { q4_k_1, q4_k_2 }, [ML_Q6_K] = { q6_k_1, q6_k_2 }, [ML_Q8_0] = { q8_0_1, q8_0_2 },                \
        [ML_Q4_0] = { q4_0_1, q4_0_2 }, [ML_Q5_0] = { q5_0_1, q5_0_2 }, [ML_Q5_1] = { q5_1_1, q5_1_2 },                \
    }
