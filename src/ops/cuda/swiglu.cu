/* y = silu(gate) * up;  silu'(g) = s + g s (1 - s) with s = sigmoid(g).  One thread for each element of y. */
#include "ops/cuda/rows.cuh"

static __global__ void forward(ml_rows gate_up, ml_rows y, int64_t n)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const float *row = gate_up.data + i / y.n_col * gate_up.stride + i % y.n_col;
    float g = row[0];
    *ml_at(y, i) = g * ml_sigmoid(g) * row[y.n_col];
}

static __global__ void backward(ml_rows gate_up, ml_rows dgate_up, ml_rows dy, int64_t n)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int64_t at = i / dy.n_col * gate_up.stride + i % dy.n_col;
    float g = gate_up.data[at], u = gate_up.data[at + dy.n_col], d = *ml_at(dy, i);
    float s = ml_sigmoid(g), silu = g * s;
    dgate_up.data[at] += d * u * (s + silu * (1.0f - s));
    dgate_up.data[at + dy.n_col] += d * silu;
}

extern "C" ml_status ml_cuda_swiglu_forward(ml_ctx *ctx, const ml_op_args *args)
{
    int64_t n = ml_tensor_count(args->out[0]);
    if (n == 0) return ML_OK;
    ML_LAUNCH(ctx->device, forward, (unsigned)ml_n_blocks(n, ML_ROWS_THREADS), ML_ROWS_THREADS, 0,
              ml_rows_of(args->in[0]), ml_rows_of(args->out[0]), n);
    return ml_queued(ctx);
}

extern "C" ml_status ml_cuda_swiglu_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    int64_t n = ml_tensor_count(args->out[0]);
    if (n == 0 || !grads->in[0]) return ML_OK;
    ML_LAUNCH(ctx->device, backward, (unsigned)ml_n_blocks(n, ML_ROWS_THREADS), ML_ROWS_THREADS, 0,
              ml_rows_of(args->in[0]), ml_rows_like(args->in[0], grads->in[0]),
              ml_rows_like(args->out[0], grads->out[0]), n);
    return ml_queued(ctx);
}
