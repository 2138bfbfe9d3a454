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

#define DIRECT_FUNCTION(type, n)                                                                                       \
    static void type##_##n(const q_words *word, const uint16_t *const *half, int64_t ahead, const ml_q_tile *x,        \
                           float *acc)                                                                                 \
    {                                                                                                                  \
        direct_##type(n, word, half, ahead, x, acc);                                                                   \
    }
DIRECT_FUNCTION(q4_k, 1)
DIRECT_FUNCTION(q4_k, 2)
DIRECT_FUNCTION(q6_k, 1)
DIRECT_FUNCTION(q6_k, 2)
#define DIRECT_TABLE                                                                                                   \
    {                                                                                                                  \
        [ML_Q4_K] = { q4_k_1, q4_k_2 }, [ML_Q6_K] = { q6_k_1, q6_k_2 },                                                \
    }
