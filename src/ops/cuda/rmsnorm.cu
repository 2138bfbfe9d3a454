/* y = x rstd w over groups of columns, rstd = 1 / sqrt(mean(x^2) + eps): one warp for each group of each row.
 *   u = x rstd;  dx += rstd (w dy - u mean(w dy u));  dw += sum over rows and groups of dy u
 * dw: a block of the first kernel sums ROWS rows in order for each column, the second adds these sums in order. */
#include "ops/cuda/rows.cuh"

enum { WARPS = 8, ROWS = 32, COLUMNS = 128 };

static __global__ void forward(ml_rows x, const float *w, ml_rows y, ml_rows rstd, float eps, int64_t d, int64_t n)
{
    int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP; /* group, counted through all rows */
    if (i >= n) return;
    int64_t n_group = x.n_col / d, row = i / n_group, group = i % n_group;
    const float *from = x.data + row * x.stride + group * d;
    float *to = y.data + row * y.stride + group * d, sum = 0;
    for (int64_t c = threadIdx.x % WARP; c < d; c += WARP) sum = fmaf(from[c], from[c], sum);
    float r = 1.0f / sqrtf(ml_warp_sum(sum) / (float)d + eps);
    for (int64_t c = threadIdx.x % WARP; c < d; c += WARP) to[c] = from[c] * r * w[c];
    if (threadIdx.x % WARP == 0) rstd.data[row * rstd.stride + group] = r;
}

static __global__ void backward_x(ml_rows x, const float *w, ml_rows dy, ml_rows rstd, float *dx, int64_t d, int64_t n)
{
    int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    if (i >= n) return;
    int64_t n_group = x.n_col / d, row = i / n_group, group = i % n_group;
    const float *from = x.data + row * x.stride + group * d, *slope = dy.data + row * dy.stride + group * d;
    float *to = dx + row * x.stride + group * d, r = rstd.data[row * rstd.stride + group], sum = 0;
    for (int64_t c = threadIdx.x % WARP; c < d; c += WARP) sum = fmaf(w[c] * slope[c], from[c] * r, sum);
    float mean = ml_warp_sum(sum) / (float)d;
    for (int64_t c = threadIdx.x % WARP; c < d; c += WARP) to[c] += r * (w[c] * slope[c] - from[c] * r * mean);
}

static __global__ void sum_gain(ml_rows x, ml_rows dy, ml_rows rstd, float *part, int64_t d, int64_t n_row)
{
    int64_t c = (int64_t)blockIdx.x * COLUMNS + threadIdx.x, first = (int64_t)blockIdx.y * ROWS;
    if (c >= d) return;
    int64_t n_group = x.n_col / d, end = first + ROWS < n_row ? first + ROWS : n_row;
    float sum = 0;
    for (int64_t row = first; row < end; row++) {
        for (int64_t g = 0; g < n_group; g++) {
            float u = x.data[row * x.stride + g * d + c] * rstd.data[row * rstd.stride + g];
            sum = fmaf(dy.data[row * dy.stride + g * d + c], u, sum);
        }
    }
    part[(int64_t)blockIdx.y * d + c] = sum;
}

static __global__ void add_parts(const float *part, float *dw, int64_t d, int64_t n_part)
{
    int64_t c = (int64_t)blockIdx.x * COLUMNS + threadIdx.x;
    if (c >= d) return;
    float sum = 0;
    for (int64_t p = 0; p < n_part; p++) sum += part[p * d + c];
    dw[c] += sum;
}

extern "C" ml_status ml_cuda_rmsnorm_forward(ml_ctx *ctx, const ml_op_args *args)
{
    const ml_tensor *x = args->in[0], *w = args->in[1];
    int64_t d = w->dim[0], n = ml_tensor_count(x) / d;
    if (n == 0) return ML_OK;
    ML_LAUNCH(ctx->device, forward, (unsigned)ml_n_blocks(n, WARPS), WARPS * WARP, 0, ml_rows_of(x), ml_f32(w),
              ml_rows_of(args->out[0]), ml_rows_of(args->save[0]), ((const ml_rmsnorm_param *)args->param)->eps, d, n);
    return ml_queued(ctx);
}

extern "C" ml_status ml_cuda_rmsnorm_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    const ml_tensor *x = args->in[0], *w = args->in[1];
    int64_t d = w->dim[0], n_row = x->dim[0], n = ml_tensor_count(x) / d, n_part = ml_n_blocks(n_row, ROWS);
    if (n == 0) return ML_OK;
    ml_rows dy = ml_rows_like(args->out[0], grads->out[0]), rstd = ml_rows_of(args->save[0]);
    if (grads->in[0]) {
        ML_LAUNCH(ctx->device, backward_x, (unsigned)ml_n_blocks(n, WARPS), WARPS * WARP, 0, ml_rows_of(x), ml_f32(w),
                  dy, rstd, grads->in[0], d, n);
    }
    if (!grads->in[1]) return ml_queued(ctx);
    if (n_part > MAX_GRID_Y) return ml_ctx_fail(ctx, ML_EINVAL, "rmsnorm: %lld rows are too many", (long long)n_row);
    float *part = (float *)ml_ctx_scratch_data(ctx, (size_t)(n_part * d) * sizeof *part);
    if (!part) return ML_ENOMEM;
    unsigned columns = (unsigned)ml_n_blocks(d, COLUMNS);
    ML_LAUNCH(ctx->device, sum_gain, dim3(columns, (unsigned)n_part), COLUMNS, 0, ml_rows_of(x), dy, rstd, part, d,
              n_row);
    ML_LAUNCH(ctx->device, add_parts, columns, COLUMNS, 0, part, grads->in[1], d, n_part);
    return ml_queued(ctx);
}
