/* Block types: rows stored as blocks of numbers that share scales, bit-compatible with GGUF.
 *
 * All integers are little-endian, d, m and dmin are halves, and "low, then high nibbles" means that byte j of the
 * codes holds element j in its low four bits and element j + (number of bytes) in its high four.
 *
 * Blocks of 32
 *   q8_0    d, 32 signed bytes q                                         x = d q
 *   q4_0    d, 16 bytes: low, then high nibbles                          x = d (q - 8)
 *   q4_1    d, m, 16 bytes: low, then high nibbles                       x = d q + m
 *   q5_0    d, 32 bits (bit j: the fifth bit of element j), nibbles      x = d (q - 16)
 *   q5_1    d, m, 32 fifth bits, nibbles                                 x = d q + m
 *   iq4_nl  d, 16 bytes: low, then high nibbles                          x = d table[q]
 * Super-blocks of 256 in sub-blocks of 16 or 32, whose integer scales s (and minima t) are coded as well
 *   q2_k    16 bytes (low nibble s, high nibble t, one per 16), 64 bytes of codes, d, dmin
 *           codes: each half of 128 has 32 bytes; byte j holds elements j, j + 32, j + 64, j + 96 in two bits each,
 *           lowest first                                                 x = d s q - dmin t
 *   q3_k    32 bytes (bit h of byte j: third bit of element j of the h-th 32), 64 bytes of codes as q2_k, 12 bytes
 *           of 16 six-bit s (nibbles of the first eight bytes, low then high, are the low four bits; byte 8 + i
 *           holds the high two bits of s[i], s[4 + i], s[8 + i], s[12 + i], lowest first), d
 *                                                                        x = d (s - 32) (q - 4)
 *   q4_k    d, dmin, 12 bytes of 8 six-bit pairs (s, t), 128 bytes of codes: each 64 has 32 bytes of low, then high
 *           nibbles                                                      x = d s q - dmin t
 *           pairs: s[i] = byte i & 63 and t[i] = byte 4 + i & 63 for i < 4; s[4 + i] and t[4 + i] have byte 8 + i's
 *           low and high nibble, and above it the top two bits of byte i and of byte 4 + i
 *   q5_k    d, dmin, the same 12 bytes, 32 bytes (bit h of byte j: fifth bit of element j of the h-th 32), 128 bytes
 *           of nibbles as q4_k                                           x = d s q - dmin t
 *   q6_k    128 bytes of low nibbles, 64 bytes of high pairs, 16 signed bytes s (one per 16), d
 *           each half of 128 has 64 bytes of nibbles (byte j: elements j and j + 64) and 32 bytes of pairs as q2_k
 *                                                                        x = d s (q - 32)
 *   iq4_xs  d, 16 bits (two high bits of the eight s, lowest first), 4 bytes (nibbles: low bits of s), 128 bytes:
 *           each 32 has 16 bytes of low, then high nibbles               x = d (s - 32) table[q]
 *
 * Values are computed in fp32, d s first. */
#ifndef ML_TENSOR_BLOCKS_H
#define ML_TENSOR_BLOCKS_H

#include "base/status.h"
#include "tensor/dtype.h"

#include <stdbool.h>

/* The sixteen values of iq4_nl and iq4_xs. */
extern const int8_t ml_iq4_values[16];

/* n elements (whole blocks) of a block type to fp32.  Any bytes are legal; d may make infinities and NaN. */
void ml_dequantize(ml_dtype dtype, const void *src, float *dst, int64_t n);

/* q8_0, q6_k, q5_k, q4_k, q5_1, q5_0, q4_0. */
bool ml_can_quantize(ml_dtype dtype);

/* x [n_row, n_col] -> n_row rows of ml_dtype_row_bytes(dtype, n_col).
 *   importance [n_col] or NULL: how much a column's squared error counts (the mean square of the activation that
 *   meets it); not negative, finite.
 * Without importance q8_0, q5_0, q4_0 and q5_1 are rounded to nearest in the scale of the block's extreme; with it,
 * and always for the k-types, scales are searched for the least weighted squared error.  The result depends on x,
 * importance and dtype only, not on threads.
 * Fails with ML_EINVAL if the type cannot be written, n_col is not a whole number of blocks, or a value is not finite
 * or too large for the block's half-precision scale. */
ml_status ml_quantize_rows(ml_dtype dtype, const float *x, int64_t n_row, int64_t n_col, const float *importance,
                           void *dst, ml_error *err);

#endif
