/* y = x w^T + b;  dx += dy w;  dw += dy^T x;  db += the sum of dy's rows. */
#include "ops/cuda/half.cuh"
#include "ops/cuda/matvec.cuh"
#include "ops/cuda/rows.cuh"
#include "ops/cuda/sums.cuh"
#include "ops/cuda/weight.cuh"

static __global__ void add_bias(ml_rows y, const float *b, int64_t n)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) *ml_at(y, i) += b[i % y.n_col];
}

/* Rows from `first` on, as one product. */
static ml_status multiply(ml_ctx *ctx, const ml_op_args *args, int64_t first)
{
    const ml_tensor *x = args->in[0], *w = args->in[1], *b = args->in[2], *y = args->out[0];
    int64_t n_row = x->dim[0] - first;
    if (n_row == 0) return ML_OK;
    ml_cuda_weight weight;
    ML_TRY(ml_cuda_weight_read(ctx, w, &weight));
    ml_cuda_gemm g = ml_cuda_gemm_make(n_row, w->dim[0], x->dim[1]);
    g.a = ml_cuda_operand_make(ml_f32(x) + first * x->stride, x->stride, false);
    g.b = ml_cuda_weight_operand(&weight, true);
    ml_rows to = ml_rows_of(y);
    to.data += first * y->stride;
    g.c = to.data;
    g.c_stride = y->stride;
    ml_cuda_gemm_run(ctx, &g);
    int64_t n = n_row * y->dim[1];
    if (!b || n == 0) return ml_queued(ctx);
    ML_LAUNCH(ctx->device, add_bias, (unsigned)ml_n_blocks(n, ML_ROWS_THREADS), ML_ROWS_THREADS, 0, to, ml_f32(b), n);
    return ml_queued(ctx);
}

extern "C" ml_status ml_cuda_linear_forward(ml_ctx *ctx, const ml_op_args *args)
{
    const ml_tensor *x = args->in[0], *b = args->in[2], *y = args->out[0];
    int64_t n_decode = ctx->n_decode < x->dim[0] ? ctx->n_decode : x->dim[0];
    ML_TRY(ml_cuda_matvec_linear(ctx, args->in[1], b ? ml_f32(b) : NULL, ml_f32(x), x->stride, n_decode, ml_f32(y),
                                 y->stride));
    return multiply(ctx, args, n_decode);
}

extern "C" ml_status ml_cuda_linear_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    const ml_tensor *x = args->in[0], *w = args->in[1], *y = args->out[0];
    ml_cuda_operand dy = ml_cuda_operand_make(grads->out[0], y->stride, false);
    if (grads->in[1] && !ml_is_trainable(w)) {
        return ml_ctx_fail(ctx, ML_EINVAL, "linear: a weight of type %s%s cannot be trained: expected f32",
                           ml_dtype_name(w->dtype), w->part ? " in parts" : "");
    }
    if (grads->in[0] || grads->in[1]) ML_TRY(ml_cuda_round_shared(ctx, &dy, y->dim[0], y->dim[1]));
    if (grads->in[0]) {
        ml_cuda_weight weight;
        ML_TRY(ml_cuda_weight_read(ctx, w, &weight));
        ml_cuda_gemm g = ml_cuda_gemm_make(x->dim[0], w->dim[1], w->dim[0]);
        g.a = dy;
        g.b = ml_cuda_weight_operand(&weight, false);
        g.c = grads->in[0];
        g.c_stride = x->stride;
        g.accumulate = true;
        ml_cuda_gemm_run(ctx, &g);
    }
    if (grads->in[1]) {
        ml_cuda_gemm g = ml_cuda_gemm_make(w->dim[0], w->dim[1], x->dim[0]);
        g.a = dy;
        g.a.transpose = true;
        g.b = ml_cuda_operand_make(ml_f32(x), x->stride, false);
        g.c = grads->in[1];
        g.c_stride = w->stride;
        g.accumulate = true;
        ml_cuda_gemm_run(ctx, &g);
    }
    if (grads->in[2]) ml_cuda_add_column_sums(ctx, ml_rows_like(y, grads->out[0]), y->dim[0], grads->in[2]);
    return ml_queued(ctx);
}
