/* What attention does with one block of queries and one block of keys.
 *
 * Queries are the lanes of vectors: a block of scores is [key][query], so maximum and sum over keys are plain
 * vector operations, keys and values are read where they lie (one broadcast at a time), and only queries are
 * transposed.  Everything a lane holds depends on that lane's query and on the keys alone, summed in the order of
 * the keys: a query gets the same bits whichever lane it is in and whatever its neighbours are.
 *
 *   qt [d_qk][LANES]   queries, times the scale        s [keys][LANES]    scores, then probabilities
 *   ot [d_v][LANES]    sums of probability * value     max, sum [LANES]   the running softmax
 */
#ifndef ML_OPS_CPU_ATTENTION_KERNEL_H
#define ML_OPS_CPU_ATTENTION_KERNEL_H

#include <stdbool.h>
#include <stdint.h>

enum {
    ML_ATTENTION_LANES = 64, /* queries of a block, and the row length of every lane array */
    ML_ATTENTION_KEYS = 64,  /* keys of a block */
};

/* Lanes that are computed for n queries: whole vectors of the widest kind. */
static inline int64_t ml_attention_pad(int64_t n)
{
    return (n + 15) / 16 * 16;
}

/* C[i, j] (+)= sum over k, ascending, of A[i, k] * B[k, j]; B and C have rows of contiguous elements. */
typedef struct {
    int64_t m, n, k;
    const float *a;
    int64_t a_row, a_col; /* elements from A[i, k] to A[i + 1, k] and to A[i, k + 1] */
    const float *b;
    int64_t b_stride;
    float *c;
    int64_t c_stride;
    bool accumulate;
} ml_attention_product;

/* The running softmax of a block of queries (Milakov and Gimelshein, arXiv:1805.02867). */
typedef struct {
    float *max, *sum; /* [LANES] */
    float *ot;        /* [d_v][LANES] */
    int64_t d_v;
} ml_attention_state;

typedef struct {
    void (*product)(const ml_attention_product *p);
    /* Lanes dst[c * dst_stride + i] = scale * row[i][c] for n rows of d columns; lanes up to ml_attention_pad(n) are
     * zero. */
    void (*pack)(float *dst, int64_t dst_stride, const float *const *row, int64_t n, int64_t d, float scale);
    /* row[i][c] (+)= factor[i] * lanes[c][i]; factor NULL is 1 */
    void (*unpack)(float *const *row, const float *lanes, const float *factor, int64_t n, int64_t d, bool accumulate);
    /* max = very low, sum = 0, ot = 0 */
    void (*begin)(const ml_attention_state *state);
    /* Scores s of n_key keys, the first at position k0, become probabilities relative to the new maximum, and the
     * state is rescaled to it.  Lane i sees keys up to position last[i]; the others get probability 0. */
    void (*softmax)(const ml_attention_state *state, float *s, int64_t n_key, int64_t k0, const int32_t *last,
                    int64_t n_lane);
    /* Backward: s -> p = exp(s - lse), dp -> scale * p * (dp - delta), 0 for keys a lane does not see. */
    void (*gradient)(float *s, float *dp, const float *lse, const float *delta, float scale, int64_t n_key, int64_t k0,
                     const int32_t *last, int64_t n_lane);
} ml_attention_kernel;

/* For the instruction set in use. */
const ml_attention_kernel *ml_attention_kernel_get(void);

extern const ml_attention_kernel ml_attention_kernel_scalar, ml_attention_kernel_avx2, ml_attention_kernel_avx512;

#endif
