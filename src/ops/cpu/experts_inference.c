/* A layer of experts by the products of inference.
 *
 *   pre[row] = x[token[row]] gate_up_e^T     a task: a tile of rows of one expert, HIDDEN hidden columns
 *   a[row]   = prob * act(gate) [* up]       the same task
 *   y[token[row]] += a[row] down_e^T         a task owns COLUMNS columns of y and goes through the experts in order
 *
 * An element of y is the sum over its experts by ascending id, each term a product that does not depend on the other
 * rows; so a token's bits depend on nothing but the token. */
#include "ops/cpu/experts_layer.h"

#include "base/thread.h"
#include "ops/cpu/weight.h"

enum { HIDDEN = 128, COLUMNS = 64, ROWS = 64 }; /* multiples of a panel; ROWS: of `a` that a task takes at once */

typedef struct {
    const ml_experts_layer *l;
    ml_weight_input x, a;
    int64_t n_part; /* tasks of a tile */
} inference;

static void make_hidden(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const inference *w = arg;
    const ml_experts_layer *l = w->l;
    for (int64_t i = begin; i < end; i++) {
        ml_experts_tile t = ml_experts_find_tile(l, i / w->n_part);
        int64_t column = i % w->n_part * HIDDEN, n = l->f - column < HIDDEN ? l->f - column : HIDDEN;
        const int32_t *token = l->token + t.begin;
        float *pre = l->pre + t.begin * l->n_col + column;
        ml_tensor m = ml_weight_matrix(l->gate, t.expert);
        ml_weight_product_serial(&w->x, token, t.n, &m, column, n, pre, l->n_col);
        if (l->up) {
            m = ml_weight_matrix(l->up, t.expert);
            ml_weight_product_serial(&w->x, token, t.n, &m, column, n, pre + l->f, l->n_col);
        }
        for (int64_t r = t.begin; r < t.begin + t.n; r++) {
            const float *gate = l->pre + r * l->n_col + column, *up = l->up ? gate + l->f : NULL;
            l->row_ops->activate(l->activation, gate, up, ml_experts_prob(l, r), l->a + r * l->f + column, n);
        }
    }
}

static void add_down(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const inference *w = arg;
    const ml_experts_layer *l = w->l;
    float part[ROWS * COLUMNS];
    int32_t index[ROWS];
    int64_t n = end - begin;
    for (int64_t e = 0; e < l->n_expert; e++) {
        if (l->offset[e] == l->offset[e + 1]) continue;
        ml_tensor m = ml_weight_matrix(l->down, e);
        for (int64_t row = l->offset[e]; row < l->offset[e + 1]; row += ROWS) {
            int64_t n_row = l->offset[e + 1] - row < ROWS ? l->offset[e + 1] - row : ROWS;
            for (int64_t r = 0; r < n_row; r++) index[r] = (int32_t)(row + r);
            ml_weight_product_serial(&w->a, index, n_row, &m, begin, n, part, COLUMNS);
            for (int64_t r = 0; r < n_row; r++) {
                float *y = ml_f32(l->y) + l->token[row + r] * l->y->stride + begin;
                for (int64_t j = 0; j < n; j++) y[j] += part[r * COLUMNS + j];
            }
        }
    }
}

ml_status ml_experts_run_inference(ml_ctx *ctx, const ml_experts_layer *l)
{
    inference w = { .l = l, .n_part = (l->f + HIDDEN - 1) / HIDDEN };
    w.x = ml_weight_input_make(ctx, ml_f32(l->x), l->x->dim[0], l->d, l->x->stride);
    ML_TRY(ml_weight_input_prepare(ctx, &w.x, l->gate));
    if (l->up) ML_TRY(ml_weight_input_prepare(ctx, &w.x, l->up));
    ml_parallel_for(l->first_tile[l->n_expert] * w.n_part, 1, make_hidden, &w);
    w.a = ml_weight_input_make(ctx, l->a, l->n_row, l->f, l->f);
    ML_TRY(ml_weight_input_prepare(ctx, &w.a, l->down));
    ml_parallel_for(l->d, COLUMNS, add_down, &w);
    return ML_OK;
}
