/* Gradients of inputs through weights that are not trained (ops/cpu/weight.h). */
#include "ops/cpu/gemm.h"
#include "ops/cpu/rowops.h"
#include "ops/cpu/weight.h"

#include "base/thread.h"
#include "tensor/blocks.h"

enum { ROWS = 64, COLUMNS = ML_WEIGHT_BACK_COLUMNS };

ml_status ml_weight_back_check(ml_ctx *ctx, const ml_tensor *w)
{
    if (w->layout != ML_LAYOUT_ROWS) {
        return ml_ctx_fail(ctx, ML_EINVAL, "a weight that was repacked for inference has no backward pass");
    }
    for (int64_t i = 0; i < w->n_part; i++) {
        if (w->part[i].layout != ML_LAYOUT_ROWS) return ml_weight_back_check(ctx, &w->part[i]);
    }
    return ML_OK;
}

/* Rows [row, row + n_row), columns [first, first + n) of w as fp32: out [n_row, COLUMNS]. */
static void read_rows(const ml_tensor *w, int64_t row, int64_t n_row, int64_t first, int64_t n, float *out)
{
    const char *at = (const char *)w->data + (size_t)row * ml_dtype_row_bytes(w->dtype, w->stride) +
                     ml_dtype_row_bytes(w->dtype, first);
    for (int64_t i = 0; i < n_row; i++, at += ml_dtype_row_bytes(w->dtype, w->stride)) {
        if (ml_dtype_is_block(w->dtype)) {
            ml_dequantize(w->dtype, at, out + i * COLUMNS, n);
        } else {
            ml_row_ops_get()->to_f32(w->dtype, at, out + i * COLUMNS, n);
        }
    }
}

void ml_weight_back_serial(const ml_weight_back *b, const ml_tensor *w, int64_t first, int64_t n)
{
    float buffer[ROWS * COLUMNS];
    ml_gemm g = { .m = b->n_token,
                  .a = { .stride = b->dy_stride, .row = b->dy_row },
                  .c_stride = b->dx_stride,
                  .c_row = b->dx_row,
                  .accumulate = true };
    for (int64_t column = first; column < first + n; column += COLUMNS) {
        g.n = first + n - column < COLUMNS ? first + n - column : COLUMNS;
        g.c = b->dx + column;
        for (int64_t row = 0; row < w->dim[0]; row += ROWS) {
            g.k = w->dim[0] - row < ROWS ? w->dim[0] - row : ROWS;
            g.a.data = b->dy + row;
            g.b = (ml_gemm_operand){ .data = buffer, .stride = COLUMNS };
            if (w->dtype == ML_F32) {
                g.b = (ml_gemm_operand){ .data = ml_f32(w) + row * w->stride + column, .stride = w->stride };
            } else {
                read_rows(w, row, g.k, column, g.n, buffer);
            }
            ml_gemm_run_serial(&g);
        }
    }
}

typedef struct {
    const ml_weight_back *b;
    const ml_tensor *w;
} back_work;

static void run_columns(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const back_work *work = arg;
    ml_weight_back b = *work->b;
    if (!work->w->part) {
        ml_weight_back_serial(&b, work->w, begin, end - begin);
        return;
    }
    for (int64_t i = 0; i < work->w->n_part; i++) {
        ml_weight_back_serial(&b, &work->w->part[i], begin, end - begin);
        b.dy += work->w->part[i].dim[0];
    }
}

void ml_weight_back_run(const ml_weight_back *b, const ml_tensor *w)
{
    back_work work = { b, w };
    ml_parallel_for(w->dim[1], COLUMNS, run_columns, &work);
}
