/* Decoding over latent rows of q8_0, in integers: what some heads of one token and a block of keys that they all read
 * do with each other.
 *
 * The stored codes are multiplied as they are.  What meets them is rounded to 16 bits, so that a sum over a block of 32
 * columns, or over a group of 64 keys, stays below 2^31 and is exact, whatever the order; what is left in fp32 has one
 * order.  So every instruction set gives the bits of the scalar code, which is the specification.
 *
 *   query of a head:  Q = max |q|, q' = q (32767 / Q) to the nearest integer, ties to even
 *   score:            s = (Q / 32767) t;  t = fma((float)(sum over block b of q' code), d_b, t), b ascending, from 0
 *   group of keys:    P = max p of the head;  D_b = max d_b of the keys
 *   weight:           w = (p (1 / P)) (d_b (32767 / D_b)) to the nearest integer, ties to even
 *   out:              out = fma((float)(sum over keys of w code), P (D_b / 32767), out)
 * p are probabilities relative to some maximum (attention_kernel_rows.h), d_b the scales of stored blocks, all >= 0;
 * the division by 32767 is a multiplication by its inverse.  Q, P or D_b below 2^-100 count as zero; a query with an
 * infinity or a NaN has scores of NaN.
 *
 * Against exact products of the stored numbers k:
 *   |s - exact| <= Q / 65534 * sum |k|,   |out - exact| <= P D_b / 65534 * 127 for each key,   and the rounding of
 * fp32. What a head gets depends on that head and the keys alone. */
#ifndef ML_OPS_CPU_ATTENTION_KERNEL_Q8_H
#define ML_OPS_CPU_ATTENTION_KERNEL_Q8_H

#include "ops/cpu/attention_kernel_rows.h"

#include <stdint.h>

enum {
    ML_Q8_HEADS = 16, /* of a tile: ML_ROWS_MAX */
    ML_Q8_KEYS = 64,  /* of a group: ML_ROWS_KEYS, the row length of d, s and p */
    ML_Q8_BLOCK = 32, /* columns of a block */
};

/* Rows of q8_0, 0 < n <= 64 of them.  d[b][i]: the scale of block b of row i, made by `scales`. */
typedef struct {
    const char *const *row;
    int64_t n, columns; /* whole blocks */
    const float *d;     /* [columns / 32][64] */
} ml_q8_rows;

typedef struct {
    /* q' of n_row <= 16 heads, rows q_stride apart: columns c and c + 1 (even c) of head h at packed[16 c + 2 h], zeros
     * for heads from n_row on; scale[h] = Q / 32767, all 16. */
    void (*pack)(const float *q, int64_t q_stride, int64_t n_row, int64_t columns, int16_t *packed, float *scale);
    /* d of n rows; d[b][n .. 64) = 0 */
    void (*scales)(const char *const *row, int64_t n, int64_t columns, float *d);
    /* s[h][i] for h < n_row, i < n; s[h][n .. 64) may be overwritten.  ahead[0], ahead[1]: memory that is fetched
     * meanwhile. */
    void (*scores)(const ml_q8_rows *keys, const int16_t *packed, const float *scale, int64_t n_row,
                   const ml_rows_ahead *ahead, float *s);
    /* out[h][0 .. columns) for h < n_row, rows out_stride apart */
    void (*values)(const ml_q8_rows *values, const float *p, int64_t n_row, float *out, int64_t out_stride);
} ml_q8_kernel;

/* For the instruction set in use. */
const ml_q8_kernel *ml_q8_kernel_get(void);

extern const ml_q8_kernel ml_q8_kernel_scalar, ml_q8_kernel_avx2, ml_q8_kernel_avxvnni, ml_q8_kernel_avx512,
    ml_q8_kernel_avx512vnni;

#endif
