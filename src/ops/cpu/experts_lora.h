/* Low-rank terms of a layer of experts (ops.h, ml_experts_lora), applied to the rows of experts_layer.h beside the
 * products with the weights, whichever those are.
 *
 *   h[row] = scale * a_e dropout(input[row])      input: x[token[row]] for gate and up, a[row] for down
 *   out[row] += b_e h[row]                        out: pre[row] for gate and up, y[token[row]] for down
 *   going back, with dh[row] = scale * b_e^T dout[row]:
 *   db_e += dout^T h;   da_e += dh^T dropout(input);   dinput += dropout(dh a_e)
 *
 * With magnitudes, per expert g = m / norm of each row of its matrix, the sum u of product and term becomes g u:
 *   pre keeps u of gate and up, which are activated as g u (ml_experts_activate)
 *   going back, with ds the gradient of g u:   dm += ds u / norm, row after row;   du = g ds, which takes dout's place
 *   y of down is not kept: u of down is made again, in blocks of rows, for its dm */
#ifndef ML_OPS_CPU_EXPERTS_LORA_H
#define ML_OPS_CPU_EXPERTS_LORA_H

#include "ops/cpu/experts_layer.h"

/* The term of one of the three matrices; without `a` there is none. */
typedef struct {
    const ml_tensor *a, *b;    /* [n_expert, r, n_in], [n_expert, n_out, r] */
    float *h, *dh;             /* first of a row; rows h_stride apart */
    float *da, *db;            /* NULL: not wanted */
    const ml_tensor *m, *norm; /* [n_expert, n_out], or NULL */
    float *dm;                 /* NULL: not wanted */
    uint64_t seed;
    bool is_down;
} ml_experts_term;

struct ml_experts_adapter {
    ml_experts_term gate, up, down;
    int64_t h_stride;
    float scale, dropout;
    float *dropped; /* with dropout: of each thread, [tile_rows, max(d, f)] */
    int64_t dropped_count;
    float *share; /* going back, of gate and up with magnitudes: what each row adds to dm, [n_row, n_col] */
    float *du;    /* of down with magnitudes: going back the gradient of u, [n_row, d]; going forward u of an expert */
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
/* m / norm of output j of a term that has magnitudes. */
static inline float ml_experts_factor(const ml_experts_term *t, int64_t expert, int64_t j)
{
    float norm = ml_f32(t->norm)[expert * t->norm->stride + j];
    return norm > 0 ? ml_f32(t->m)[expert * t->m->stride + j] / norm : 1.0f;
}
/* Columns [column, column + n) of a, of row `row` of pre, whose first is gate's (and up's behind f). */
void ml_experts_activate(const ml_experts_layer *l, int64_t expert, int64_t row, int64_t column, int64_t n);
/* out += what a row of down is: u times its factors, columns [column, column + n). */
void ml_experts_add_down_row(const ml_experts_layer *l, int64_t expert, int64_t column, int64_t n, const float *u,
                             float *out);
/* Going back over a row: pre, which is u, becomes g u, and is kept for dm ... */
void ml_experts_scale_pre(const ml_experts_layer *l, int64_t expert, int64_t row);
/* ... and once pre is the gradient of that, it becomes du, and its share of dm is kept. */
void ml_experts_pull_pre(const ml_experts_layer *l, int64_t expert, int64_t row);
/* Going back: du of down, of the rows of a tile. */
void ml_experts_scale_dy(const ml_experts_layer *l, ml_experts_tile tile);
/* The gradient of down's product, row by row from `row` on: du, or dy by token. */
const float *ml_experts_down_gradient(const ml_experts_layer *l, int64_t row, int64_t *stride, const int32_t **index);

/* dh of the rows of a tile; and, of down, their dinput, into a. */
void ml_experts_term_pull(const ml_experts_layer *l, const ml_experts_term *t, ml_experts_tile tile, int thread);
/* On all threads, once every dh is there: gradients of all terms, and (dx not NULL) the input's. */
ml_status ml_experts_adapter_finish(ml_ctx *ctx, const ml_experts_layer *l, float *dx);

#endif
