/* Low-rank terms of a layer of experts (ops.h, ml_experts_lora), applied to the rows of experts_layer.h beside the
 * products with the weights, whichever those are.
 *
 *   h[row] = scale * a_e dropout(input[row])      input: x[token[row]] for gate and up, a[row] for down
 *   out[row] += b_e h[row]                        out: pre[row] for gate and up, y[token[row]] for down
 *   going back, with dh[row] = scale * b_e^T dout[row]:
 *   db_e += dout^T h;   da_e += dh^T dropout(input);   dinput += dropout(dh a_e) */
#ifndef ML_OPS_CPU_EXPERTS_LORA_H
#define ML_OPS_CPU_EXPERTS_LORA_H

#include "ops/cpu/experts_layer.h"

/* The term of one of the three matrices; without `a` there is none. */
typedef struct {
    const ml_tensor *a, *b; /* [n_expert, r, n_in], [n_expert, n_out, r] */
    float *h, *dh;          /* first of a row; rows h_stride apart */
    float *da, *db;         /* NULL: not wanted */
    uint64_t seed;
    bool is_down;
} ml_experts_term;

struct ml_experts_adapter {
    ml_experts_term gate, up, down;
    int64_t h_stride;
    float scale, dropout;
    float *dropped; /* with dropout: of each thread, [tile_rows, max(d, f)] */
    int64_t dropped_count;
};

/* The terms of an operator's arguments, or NULL (on failure with the error in ctx) when there are none.  `l` is
 * described already; grads is NULL going forward. */
ml_status ml_experts_adapter_make(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads, ml_experts_layer *l);

/* h of the rows of a tile. */
void ml_experts_term_begin(const ml_experts_layer *l, const ml_experts_term *t, ml_experts_tile tile, int thread);
/* Columns [first, first + n) of out += h b_e^T, for n_row rows from `row` on; out is that of column `first` and of the
 * first row, or (out_row) of row 0. */
void ml_experts_term_add(const ml_experts_layer *l, const ml_experts_term *t, int64_t expert, int64_t row,
                         int64_t n_row, int64_t first, int64_t n, float *out, int64_t stride, const int32_t *out_row);
/* dh of the rows of a tile; and, of down, their dinput, into a. */
void ml_experts_term_pull(const ml_experts_layer *l, const ml_experts_term *t, ml_experts_tile tile, int thread);
/* On all threads, once every dh is there: gradients of all terms, and (dx not NULL) the input's. */
void ml_experts_adapter_finish(const ml_experts_layer *l, float *dx);

#endif
