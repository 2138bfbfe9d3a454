/* Dot products of a tile of tokens with two vectors of rows (two panels of 512-bit lanes or both halves of one panel
 * of 256-bit lanes), for the instruction set of the including file, which defines before:
 *   vi, vf        vectors of LANES int32 / float, and v_* on them
 *   N_PANEL       panels of a tile: 2 where a vector holds a panel, else 1
 *   N_VEC         vectors of a tile: N_PANEL * 16 / LANES
 *   sub_block()   tot[t][v] += scale[v] * sum over n_word words of code * q (scale NULL: 1), for N_VEC vectors, n_token
 *                 tokens, exactly in integers; codes below 2^bits
 *   SIGNED_WIDE   1 if sub_block takes 8-bit codes as code - 128: their offset is then already in
 * Lanes are rows, so no sum ever crosses lanes. */
#include "ops/cpu/qmatmul_unpack.h"

/* Vector v of a [16] row array that lies `stride` bytes further on for the next panel. */
Q_INLINE const void *vector_at(const void *array, int v, size_t stride)
{
    int lane = v * LANES;
    return (const char *)array + (size_t)(lane / ML_Q_ROWS) * stride + (size_t)(lane % ML_Q_ROWS) * 4;
}

/* Two int16 as one word, to be broadcast. */
Q_INLINE int32_t pair_at(const int16_t *p)
{
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return pair;
}

/* tot += what the offsets of unit i stand for: vectors of them with the sums of q that they count. */
Q_INLINE void add_offsets(int n_token, int sub_words, const ml_q_super *u, size_t stride, const ml_q_tile *x, int64_t i,
                          vi (*tot)[N_VEC])
{
    for (int g = 0; g < (sub_words == 4 ? 8 : 4); g++) {
        vi offset[N_VEC];
        for (int v = 0; v < N_VEC; v++) offset[v] = v_load(vector_at(u->offset[g], v, stride));
        for (int t = 0; t < n_token; t++) {
            vi sums = v_set1(sub_words == 4 ? pair_at(x->sum[t] + 16 * i + 2 * g) : x->pair[t][4 * i + g]);
            for (int v = 0; v < N_VEC; v++) tot[t][v] = v_add_pairs(tot[t][v], offset[v], sums);
        }
    }
}

/* acc += d dx a, unit i of x having the scale dx. */
Q_INLINE void join(int n_token, const float *rows, size_t stride, const ml_q_tile *x, int64_t i, vi (*a)[N_VEC],
                   float *acc)
{
    for (int v = 0; v < N_VEC; v++) {
        vf d = vf_load(vector_at(rows, v, stride));
        for (int t = 0; t < n_token; t++) {
            float *y = acc + (t * N_VEC + v) * LANES;
            vf_store(y, vf_fma(vf_mul(d, vf_set1(x->d[t][i])), v_to_float(a[t][v]), vf_load(y)));
        }
    }
}

/* n_token, sub_words and bits are constants at every call. */
Q_INLINE void run_super(int n_token, int sub_words, int bits, const ml_q_format *f, const void *w, int64_t n_unit,
                        const ml_q_tile *x, float *acc)
{
    const size_t stride = (size_t)n_unit * sizeof(ml_q_super);
    const ml_q_super *u = w;
    for (int64_t i = 0; i < n_unit; i++, u++) {
        vi tot[ML_Q_MAX_TOKEN][N_VEC];
        const int8_t *q[ML_Q_MAX_TOKEN];
        for (int t = 0; t < n_token; t++) {
            q[t] = x->q[t] + 256 * i;
            for (int v = 0; v < N_VEC; v++) tot[t][v] = v_zero();
        }
        for (int s = 0; s < 64 / sub_words; s++) {
            vi scale[N_VEC];
            for (int v = 0; v < N_VEC; v++) scale[v] = v_load(vector_at(u->scale[s], v, stride));
            sub_block(n_token, sub_words, bits, u->code[s * sub_words], stride, q, s * sub_words * 4, scale, tot);
        }
        if (f->has_min) {
            join(n_token, u->d, stride, x, i, tot, acc);
            for (int t = 0; t < n_token; t++) {
                for (int v = 0; v < N_VEC; v++) tot[t][v] = v_zero();
            }
            add_offsets(n_token, sub_words, u, stride, x, i, tot);
            join(n_token, u->m, stride, x, i, tot, acc);
        } else {
            /* Of signed codes of 8 bits the offset is in already. */
            if (!(SIGNED_WIDE && bits == 8)) add_offsets(n_token, sub_words, u, stride, x, i, tot);
            join(n_token, u->d, stride, x, i, tot, acc);
        }
    }
}

Q_INLINE void run_block(int n_token, int bits, const ml_q_format *f, const void *w, int64_t n_unit, const ml_q_tile *x,
                        float *acc)
{
    const bool folded = SIGNED_WIDE && bits == 8;
    const size_t stride = (size_t)n_unit * sizeof(ml_q_block);
    const ml_q_block *u = w;
    const vi one = v_set1(0x00010001), zero = v_set1(-f->zero * 0x10000 + (-f->zero & 0xffff));
    vf sum[ML_Q_MAX_TOKEN][N_VEC];
    for (int t = 0; t < n_token; t++) {
        for (int v = 0; v < N_VEC; v++) sum[t][v] = vf_load(acc + (t * N_VEC + v) * LANES);
    }
    for (int64_t i = 0; i < n_unit; i++, u++) {
        vi tot[ML_Q_MAX_TOKEN][N_VEC];
        const int8_t *q[ML_Q_MAX_TOKEN];
        for (int t = 0; t < n_token; t++) {
            q[t] = x->q[t] + 32 * i;
            vi start = v_zero();
            if (!folded && !f->has_min) start = v_add_pairs(start, zero, v_set1(pair_at(x->sum[t] + 2 * i)));
            for (int v = 0; v < N_VEC; v++) tot[t][v] = start;
        }
        sub_block(n_token, 8, bits, u->code[0], stride, q, 0, NULL, tot);
        for (int v = 0; v < N_VEC; v++) {
            vf d = vf_load(vector_at(u->d, v, stride));
            for (int t = 0; t < n_token; t++) {
                sum[t][v] = vf_fma(vf_mul(d, vf_set1(x->d[t][i])), v_to_float(tot[t][v]), sum[t][v]);
            }
        }
        for (int v = 0; v < N_VEC && f->has_min; v++) {
            vf m = vf_load(vector_at(u->m, v, stride));
            for (int t = 0; t < n_token; t++) {
                vi low = v_add_pairs(v_zero(), one, v_set1(pair_at(x->sum[t] + 2 * i)));
                sum[t][v] = vf_fma(vf_mul(m, vf_set1(x->d[t][i])), v_to_float(low), sum[t][v]);
            }
        }
    }
    for (int t = 0; t < n_token; t++) {
        for (int v = 0; v < N_VEC; v++) vf_store(acc + (t * N_VEC + v) * LANES, sum[t][v]);
    }
}

/* One function for each number of tokens and form; which code width matters is the instruction set's affair. */
#if SIGNED_WIDE
#define DOT_FUNCTIONS(n)                                                                                               \
    static void super_##n(const ml_q_format *f, const void *w, int64_t n_unit, const ml_q_tile *x, float *acc)         \
    {                                                                                                                  \
        if (f->sub_words == 4) {                                                                                       \
            run_super(n, 4, 6, f, w, n_unit, x, acc);                                                                  \
        } else if (f->code_bits == 4) {                                                                                \
            run_super(n, 8, 4, f, w, n_unit, x, acc);                                                                  \
        } else if (f->code_bits == 5) {                                                                                \
            run_super(n, 8, 5, f, w, n_unit, x, acc);                                                                  \
        } else {                                                                                                       \
            run_super(n, 8, 8, f, w, n_unit, x, acc);                                                                  \
        }                                                                                                              \
    }                                                                                                                  \
    static void block_##n(const ml_q_format *f, const void *w, int64_t n_unit, const ml_q_tile *x, float *acc)         \
    {                                                                                                                  \
        if (f->code_bits == 4) {                                                                                       \
            run_block(n, 4, f, w, n_unit, x, acc);                                                                     \
        } else if (f->code_bits == 5) {                                                                                \
            run_block(n, 5, f, w, n_unit, x, acc);                                                                     \
        } else {                                                                                                       \
            run_block(n, 8, f, w, n_unit, x, acc);                                                                     \
        }                                                                                                              \
    }
#else
#define DOT_FUNCTIONS(n)                                                                                               \
    static void super_##n(const ml_q_format *f, const void *w, int64_t n_unit, const ml_q_tile *x, float *acc)         \
    {                                                                                                                  \
        if (f->sub_words == 4) {                                                                                       \
            run_super(n, 4, 8, f, w, n_unit, x, acc);                                                                  \
        } else {                                                                                                       \
            run_super(n, 8, 8, f, w, n_unit, x, acc);                                                                  \
        }                                                                                                              \
    }                                                                                                                  \
    static void block_##n(const ml_q_format *f, const void *w, int64_t n_unit, const ml_q_tile *x, float *acc)         \
    {                                                                                                                  \
        run_block(n, 8, f, w, n_unit, x, acc);                                                                         \
    }
#endif
