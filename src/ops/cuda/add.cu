/* y = a + scale * b;  da += dy, db += scale dy.  One thread for each element. */
#include "ops/cuda/rows.cuh"

static __global__ void add(ml_rows a, ml_rows b, ml_rows y, float scale, int64_t n)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    *ml_at(y, i) = *ml_at(a, i) + scale * *ml_at(b, i);
}

static __global__ void accumulate(ml_rows to, ml_rows from, float scale, int64_t n)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) *ml_at(to, i) += scale * *ml_at(from, i);
}

extern "C" ml_status ml_cuda_add_forward(ml_ctx *ctx, const ml_op_args *args)
{
    const ml_tensor *y = args->out[0];
    float scale = ((const ml_add_param *)args->param)->scale;
    int64_t n = ml_tensor_count(y);
    if (n == 0) return ML_OK;
    ML_LAUNCH(ctx->device, add, (unsigned)ml_n_blocks(n, ML_ROWS_THREADS), ML_ROWS_THREADS, 0, ml_rows_of(args->in[0]),
              ml_rows_of(args->in[1]), ml_rows_of(y), scale, n);
    return ml_queued(ctx);
}

extern "C" ml_status ml_cuda_add_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    float scale = ((const ml_add_param *)args->param)->scale;
    int64_t n = ml_tensor_count(args->out[0]);
    for (int i = 0; i < 2 && n > 0; i++) {
        if (!grads->in[i]) continue;
        ML_LAUNCH(ctx->device, accumulate, (unsigned)ml_n_blocks(n, ML_ROWS_THREADS), ML_ROWS_THREADS, 0,
                  ml_rows_like(args->in[i], grads->in[i]), ml_rows_like(args->out[0], grads->out[0]),
                  i == 0 ? 1.0f : scale, n);
    }
    return ml_queued(ctx);
}
