/* The magnitudes of an adapter, in place: y[t, j] = g[j] y[t, j] + bias[j], g = m / norm (1 where norm is 0).
 *   save: u [rows, n], y as it came, while recording
 * Going back, in place in the gradient that y and its view share: dm[j] += sum over rows of dy u / norm; dy *= g.  One
 * thread for each element; the sum runs down the rows in one thread for each column. */
#include "ops/cuda/rows.cuh"

typedef struct {
    const float *m, *norm, *bias;
    const int32_t *row; /* NULL: all */
    ml_rows y;          /* or its gradient */
    float *u;           /* NULL: not kept */
    float *dm;          /* NULL: not wanted */
    int64_t n_row;
} dora;

static __device__ __forceinline__ float factor(const dora *w, int64_t j)
{
    return w->m && w->norm[j] > 0 ? w->m[j] / w->norm[j] : 1.0f;
}

static __device__ __forceinline__ float *at(const dora *w, int64_t i, int64_t j)
{
    return w->y.data + (w->row ? w->row[i] : i) * w->y.stride + j;
}

static __global__ void scale(dora w, bool forward)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, j = i % w.y.n_col;
    if (i >= w.n_row * w.y.n_col) return;
    float *y = at(&w, i / w.y.n_col, j);
    if (forward && w.u) w.u[i] = *y;
    float v = *y * factor(&w, j);
    *y = forward && w.bias ? v + w.bias[j] : v;
}

static __global__ void add_gradient(dora w)
{
    int64_t j = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= w.y.n_col || !(w.norm[j] > 0)) return;
    float sum = 0;
    for (int64_t i = 0; i < w.n_row; i++) sum += *at(&w, i, j) * w.u[i * w.y.n_col + j];
    w.dm[j] += sum / w.norm[j];
}

static dora describe(const ml_op_args *args)
{
    dora w;
    memset(&w, 0, sizeof w);
    w.m = ml_f32(args->in[1]);
    w.norm = ml_f32(args->in[2]);
    w.bias = ml_f32(args->in[3]);
    w.row = ml_i32(args->in[4]);
    w.y = ml_rows_of(args->in[0]);
    w.n_row = args->in[4] ? args->in[4]->dim[0] : args->in[0]->dim[0];
    return w;
}

static void run(ml_ctx *ctx, const dora *w, bool forward)
{
    int64_t n = w->n_row * w->y.n_col;
    if (n == 0) return;
    ML_LAUNCH(ctx->device, scale, (unsigned)ml_n_blocks(n, ML_ROWS_THREADS), ML_ROWS_THREADS, 0, *w, forward);
}

extern "C" ml_status ml_cuda_dora_forward(ml_ctx *ctx, const ml_op_args *args)
{
    dora w = describe(args);
    if (args->save[0]->dim[0] > 0) w.u = ml_f32(args->save[0]);
    run(ctx, &w, true);
    return ml_queued(ctx);
}

extern "C" ml_status ml_cuda_dora_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    dora w = describe(args);
    if (!w.m || !grads->out[0]) return ML_OK;
    w.y.data = grads->out[0];
    w.u = ml_f32(args->save[0]);
    w.dm = grads->in[1];
    if (w.dm && w.y.n_col > 0) {
        ML_LAUNCH(ctx->device, add_gradient, (unsigned)ml_n_blocks(w.y.n_col, ML_ROWS_THREADS), ML_ROWS_THREADS, 0, w);
    }
    run(ctx, &w, false);
    return ml_queued(ctx);
}
