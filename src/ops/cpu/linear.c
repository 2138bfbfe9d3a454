/* y = x w^T + b.
 *   x [tokens, k] (rows may be strided), w [n, k], b [n] or NULL -> y [tokens, n]
 *   dx += dy w;  dw += dy^T x;  db += the sum of dy's rows, in order
 * Which product runs depends on the mode and the weight's type alone, so a row's bits never depend on the number
 * of rows.  A weight of a block type meets x rounded to 8 bits in fast mode; in exact mode x as it is, and the weight
 * is dequantised a few rows at a time. */
#include "ops/cpu/cpu.h"

#include "base/thread.h"
#include "ops/cpu/gemm.h"
#include "ops/cpu/matvec.h"
#include "ops/cpu/qmatmul.h"
#include "tensor/blocks.h"

enum { ROWS_PER_TASK = 64, COLUMNS_PER_TASK = 256, DEQUANTIZED_ROWS = 256 };

typedef struct {
    const float *b;
    ml_tensor *y;
} bias_work;

static void add_bias(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const bias_work *work = arg;
    int64_t n = work->y->dim[1];
    for (int64_t t = begin; t < end; t++) {
        float *y = ml_f32(work->y) + t * work->y->stride;
        for (int64_t i = 0; i < n; i++) y[i] += work->b[i];
    }
}

static ml_status multiply_blocks_fast(ml_ctx *ctx, const ml_tensor *x, const ml_tensor *w, const ml_tensor *y)
{
    void *memory = ml_ctx_scratch(ctx, ml_qx_bytes(w->dtype, x->dim[0], x->dim[1]));
    if (!memory) return ctx->error.code;
    ml_qx qx = ml_qx_make(w->dtype, ml_f32(x), x->stride, x->dim[0], x->dim[1], memory);
    ml_qmatmul p = { .n_token = x->dim[0],
                     .n = w->dim[0],
                     .k = w->dim[1],
                     .x = &qx,
                     .w_dtype = w->dtype,
                     .w = w->data,
                     .y = ml_f32(y),
                     .y_stride = y->stride };
    ml_qmatmul_run(&p);
    return ML_OK;
}

typedef struct {
    const ml_tensor *w;
    int64_t first;
    float *rows;
} dequantize_work;

static void dequantize_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const dequantize_work *work = arg;
    int64_t k = work->w->dim[1];
    const char *from =
        (const char *)work->w->data + (size_t)(work->first + begin) * ml_dtype_row_bytes(work->w->dtype, k);
    ml_dequantize(work->w->dtype, from, work->rows + begin * k, (end - begin) * k);
}

static ml_status multiply_blocks_exact(ml_ctx *ctx, const ml_tensor *x, const ml_tensor *w, const ml_tensor *y)
{
    int64_t n = w->dim[0], k = w->dim[1], chunk = n < DEQUANTIZED_ROWS ? n : DEQUANTIZED_ROWS;
    float *rows = ml_ctx_scratch(ctx, (size_t)(chunk * k) * sizeof *rows); // [chunk, k]
    if (!rows) return ctx->error.code;
    for (int64_t first = 0; first < n; first += chunk) {
        int64_t n_row = n - first < chunk ? n - first : chunk;
        dequantize_work work = { w, first, rows };
        ml_parallel_for(n_row, 8, dequantize_rows, &work);
        ml_matvec p = { .n_token = x->dim[0],
                        .n = n_row,
                        .k = k,
                        .x = ml_f32(x),
                        .x_stride = x->stride,
                        .w_dtype = ML_F32,
                        .w = rows,
                        .w_stride = k,
                        .y = ml_f32(y) + first,
                        .y_stride = y->stride };
        ml_matvec_run(&p);
    }
    return ML_OK;
}

ml_status ml_cpu_linear_forward(ml_ctx *ctx, const ml_op_args *args)
{
    const ml_tensor *x = args->in[0], *w = args->in[1], *b = args->in[2];
    ml_tensor *y = args->out[0];
    if (ml_dtype_is_block(w->dtype)) {
        ML_TRY((ctx->mode == ML_MODE_FAST ? multiply_blocks_fast : multiply_blocks_exact)(ctx, x, w, y));
    } else if (ctx->mode == ML_MODE_FAST || w->dtype != ML_F32) {
        ml_matvec p = { .n_token = x->dim[0],
                        .n = w->dim[0],
                        .k = w->dim[1],
                        .x = ml_f32(x),
                        .x_stride = x->stride,
                        .w_dtype = w->dtype,
                        .w = w->data,
                        .w_stride = w->stride,
                        .y = ml_f32(y),
                        .y_stride = y->stride };
        ml_matvec_run(&p);
    } else {
        ml_gemm p = { .m = x->dim[0],
                      .n = w->dim[0],
                      .k = w->dim[1],
                      .a = { .data = ml_f32(x), .stride = x->stride },
                      .b = { .data = ml_f32(w), .stride = w->stride, .transpose = true },
                      .c = ml_f32(y),
                      .c_stride = y->stride };
        ml_gemm_run(&p);
    }
    if (b) {
        bias_work work = { ml_f32(b), y };
        ml_parallel_for(y->dim[0], ROWS_PER_TASK, add_bias, &work);
    }
    return ML_OK;
}

typedef struct {
    const float *dy;
    int64_t n_row, stride;
    float *db;
} bias_gradient_work;

/* Columns [begin, end) of db, over all rows in order. */
static void add_bias_gradient(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const bias_gradient_work *work = arg;
    float sum[COLUMNS_PER_TASK] = { 0 };
    int64_t n = end - begin;
    for (int64_t t = 0; t < work->n_row; t++) {
        const float *dy = work->dy + t * work->stride + begin;
        for (int64_t i = 0; i < n; i++) sum[i] += dy[i];
    }
    for (int64_t i = 0; i < n; i++) work->db[begin + i] += sum[i];
}

ml_status ml_cpu_linear_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    const ml_tensor *x = args->in[0], *w = args->in[1], *y = args->out[0];
    const float *dy = grads->out[0];
    if ((grads->in[0] || grads->in[1]) && w->dtype != ML_F32) {
        return ml_ctx_fail(ctx, ML_EINVAL, "linear: a weight of type %s has no backward pass: train with f32 weights",
                           ml_dtype_name(w->dtype));
    }
    if (grads->in[0]) { /* dx [tokens, k] += dy [tokens, n] w [n, k] */
        ml_gemm p = { .m = x->dim[0],
                      .n = w->dim[1],
                      .k = w->dim[0],
                      .a = { .data = dy, .stride = y->stride },
                      .b = { .data = ml_f32(w), .stride = w->stride },
                      .c = grads->in[0],
                      .c_stride = x->stride,
                      .accumulate = true };
        ml_gemm_run(&p);
    }
    if (grads->in[1]) { /* dw [n, k] += dy^T [n, tokens] x [tokens, k] */
        ml_gemm p = { .m = w->dim[0],
                      .n = w->dim[1],
                      .k = x->dim[0],
                      .a = { .data = dy, .stride = y->stride, .transpose = true },
                      .b = { .data = ml_f32(x), .stride = x->stride },
                      .c = grads->in[1],
                      .c_stride = w->stride,
                      .accumulate = true };
        ml_gemm_run(&p);
    }
    if (grads->in[2]) {
        bias_gradient_work work = { dy, y->dim[0], y->stride, grads->in[2] };
        ml_parallel_for(y->dim[1], COLUMNS_PER_TASK, add_bias_gradient, &work);
    }
    return ML_OK;
}
