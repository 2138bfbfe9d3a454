/* What decoding does with the few queries of one token ("rows") and one block of keys.
 *
 * Vectors run along columns: a score is a dot product whose lanes are added at its end, and every value vector is
 * multiplied by one probability per row.  So one query costs what it is worth, where the lanes of attention_kernel.h
 * would stay empty.  Rows are padded with zeros to whole vectors of the widest kind (ml_rows_pad).
 *
 *   q [rows][pad(d_qk)]  queries, times the scale       s [rows][KEYS]  scores, then probabilities
 *   out [rows][pad(d_v)] sums of probability * value    max, sum [rows] the running softmax
 *
 * What a row gets depends on that row and the keys alone, summed in the order of the keys. */
#ifndef ML_OPS_CPU_ATTENTION_KERNEL_ROWS_H
#define ML_OPS_CPU_ATTENTION_KERNEL_ROWS_H

#include "tensor/dtype.h"

enum {
    ML_ROWS_MAX = 16,  /* queries of a task */
    ML_ROWS_KEYS = 64, /* keys of a block, and the row length of s */
};

static inline int64_t ml_rows_pad(int64_t n)
{
    return (n + 15) / 16 * 16;
}

/* Memory that will be wanted soon: n_bytes from each of row[0 .. n_row - 1] on. */
typedef struct {
    const char *const *row;
    int64_t n_row, n_bytes;
} ml_rows_ahead;

typedef struct {
    float *max, *sum, *out;
    int64_t out_stride; /* ml_rows_pad(d_v) */
} ml_rows_state;

/* Stored keys, and the queries they meet.  columns is a multiple of 16; row[n .. 8 * ceil(n / 8)) must be readable. */
typedef struct {
    ml_dtype dtype; /* f32, f16, bf16 or q8_0 */
    const char *const *row;
    int64_t n, columns;
    const float *q;
    int64_t q_stride;
} ml_rows_keys;

/* Stored values; columns = ml_rows_pad(d_v) */
typedef struct {
    ml_dtype dtype;
    const char *const *row;
    int64_t n, columns;
} ml_rows_values;

typedef struct {
    /* dst[0 .. n) = the n stored numbers at src, dst[n .. pad(n)) = 0; f32, f16, bf16 or q8_0 */
    void (*load)(ml_dtype dtype, const void *src, float *dst, int64_t n);
    /* s[r][i] = q[r] . row[i] for n_row rows; ahead[0] and ahead[1] are fetched meanwhile */
    void (*scores)(const ml_rows_keys *p, int64_t n_row, const ml_rows_ahead *ahead, float *s);
    /* Scores become probabilities relative to the new maximum, and the state is rescaled to it. */
    void (*softmax)(const ml_rows_state *state, float *s, int64_t n_row, int64_t n_key);
    /* out[r] += sum over values, ascending, of s[r][i] * row[i] */
    void (*values)(const ml_rows_values *p, const float *s, int64_t n_row, const ml_rows_state *state);
    /* max very low, sum and out 0 */
    void (*begin)(const ml_rows_state *state, int64_t n_row);
    /* total := total merged with part, for row r alone */
    void (*merge)(const ml_rows_state *total, const ml_rows_state *part, int64_t r);
    /* n fp32 numbers as dtype (f32, f16, bf16, q8_0), as ml_convert_from_f32 and ml_quantize_rows round them.  False
     * when one is not finite or too large for f16 or q8_0; of f32 and bf16 anything is stored. */
    bool (*store)(ml_dtype dtype, const float *src, void *dst, int64_t n);
} ml_rows_kernel;

/* For the instruction set in use. */
const ml_rows_kernel *ml_rows_kernel_get(void);

extern const ml_rows_kernel ml_rows_kernel_scalar, ml_rows_kernel_avx2, ml_rows_kernel_avx512;

#endif
