/* Products with a weight of any type, for inference: y[t, i] = sum over j of x[t, j] * w[i, j].
 *
 * Float types go through ops/cpu/matvec.h.  In fast mode block types meet x rounded to 8 bits (ops/cpu/qmatmul.h), and
 * bf16 meets x rounded to bf16 (ops/cpu/bf16_matmul.h); in exact mode x stays as it is, and blocks are dequantised a
 * few rows at a time.  Which product runs depends on the mode and the weight's type alone, so a token's bits depend
 * neither on the other tokens nor on the threads. */
#ifndef ML_OPS_CPU_WEIGHT_H
#define ML_OPS_CPU_WEIGHT_H

#include "ops/cpu/bf16_matmul.h"
#include "ops/cpu/qmatmul.h"
#include "tensor/tensor.h"

enum { ML_WEIGHT_MAX_K = 65536 }; /* columns of a block type in exact mode */

/* The activations of one or several products, with their roundings. */
typedef struct {
    const float *x; /* [n_row, k], rows `stride` apart */
    int64_t n_row, k, stride;
    bool exact;
    bool rounded[2]; /* for block types of 32, and of 256 */
    ml_qx qx[2];
    ml_bf16_input bx; /* for bf16; without rows until it is made */
} ml_weight_input;

ml_weight_input ml_weight_input_make(const ml_ctx *ctx, const float *x, int64_t n_row, int64_t k, int64_t stride);
/* Round x as the weight (all its parts) wants it, unless that was done: in scratch of the running operator, on all
 * threads. */
ml_status ml_weight_input_prepare(ml_ctx *ctx, ml_weight_input *in, const ml_tensor *w);

/* Matrix i of a weight with three dimensions or with parts. */
ml_tensor ml_weight_matrix(const ml_tensor *w, int64_t i);

/* y [n_token, n] = rows row[t] (NULL: row t) of the input times rows first .. first + n - 1 of w, a matrix without
 * parts for which the input was prepared.  Of panels, `first` is a multiple of 16.  On the calling thread. */
void ml_weight_product_serial(const ml_weight_input *in, const int32_t *row, int64_t n_token, const ml_tensor *w,
                              int64_t first, int64_t n, float *y, int64_t y_stride);
/* All rows of the input times all rows of w, which may have parts; on all threads. */
void ml_weight_product(const ml_weight_input *in, const ml_tensor *w, float *y, int64_t y_stride);

/* The way back through a weight that is not trained, of any type: dx += dy w, token after token.  Rows of w become fp32
 * a few at a time, never the matrix.  Every sum runs down the rows of w in their order. */
typedef struct {
    int64_t n_token;
    const float *dy; /* [n_token, rows of w], rows dy_stride apart */
    int64_t dy_stride;
    const int32_t *dy_row; /* NULL, or: token t is stored row dy_row[t] of dy */
    float *dx;             /* [n_token, k] */
    int64_t dx_stride;
    const int32_t *dx_row; /* NULL, or: token t goes to row dx_row[t] (all different) */
} ml_weight_back;

enum { ML_WEIGHT_BACK_COLUMNS = 256 }; /* of a task; whole blocks of every type */

/* ML_EINVAL when w (with parts or without) is repacked: those are for inference. */
ml_status ml_weight_back_check(ml_ctx *ctx, const ml_tensor *w);
/* Columns first .. first + n of dx, first and n whole blocks of w, a matrix without parts.  On the calling thread. */
void ml_weight_back_serial(const ml_weight_back *b, const ml_tensor *w, int64_t first, int64_t n);
/* All columns of w, which may have parts; on all threads. */
void ml_weight_back_run(const ml_weight_back *b, const ml_tensor *w);

#endif
