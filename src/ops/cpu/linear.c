/* y = x w^T + b.
 *   x [tokens, k] (rows may be strided), w [n, k], b [n] or NULL -> y [tokens, n]
 *   dx += dy w;  dw += dy^T x;  db += the sum of dy's rows, in order
 * Training multiplies by ops/cpu/gemm.h; inference, and weights that are not fp32 or have parts (which are not trained;
 * the gradient of x goes through them), by ops/cpu/weight.h. */
#include "ops/cpu/cpu.h"

#include "base/thread.h"
#include "ops/cpu/gemm.h"
#include "ops/cpu/weight.h"

enum { ROWS_PER_TASK = 64, COLUMNS_PER_TASK = 256 };

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

ml_status ml_cpu_linear_forward(ml_ctx *ctx, const ml_op_args *args)
{
    const ml_tensor *x = args->in[0], *w = args->in[1], *b = args->in[2];
    ml_tensor *y = args->out[0];
    if (ctx->observer) {
        ctx->observer->see(ctx->observer->arg, w, 0, ml_f32(x), NULL, x->dim[0], x->dim[1], x->stride);
    }
    if (ctx->mode == ML_MODE_FAST || w->dtype != ML_F32 || w->part) {
        ml_weight_input in = ml_weight_input_make(ctx, ml_f32(x), x->dim[0], x->dim[1], x->stride);
        ML_TRY(ml_weight_input_prepare(ctx, &in, w));
        ml_weight_product(&in, w, ml_f32(y), y->stride);
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
    bool is_plain = w->dtype == ML_F32 && !w->part;
    if (grads->in[1] && !is_plain) {
        return ml_ctx_fail(ctx, ML_EINVAL, "linear: a weight of type %s%s cannot be trained: expected f32",
                           ml_dtype_name(w->dtype), w->part ? " in parts" : "");
    }
    if (grads->in[0] && !is_plain) {
        ML_TRY(ml_weight_back_check(ctx, w));
        ml_weight_back back = {
            .n_token = x->dim[0], .dy = dy, .dy_stride = y->stride, .dx = grads->in[0], .dx_stride = x->stride
        };
        ml_weight_back_run(&back, w);
    } else if (grads->in[0]) { /* dx [tokens, k] += dy [tokens, n] w [n, k] */
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
