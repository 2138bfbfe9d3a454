#include "ops/cuda/sums.cuh"

enum { COLUMNS = 32, SLICES = 32 };

static __global__ void __launch_bounds__(COLUMNS *SLICES) column_sums(ml_rows x, int64_t n_row, float *sum)
{
    __shared__ float part[SLICES][COLUMNS];
    int64_t c = (int64_t)blockIdx.x * COLUMNS + threadIdx.x;
    float v = 0;
    for (int64_t row = threadIdx.y; row < n_row && c < x.n_col; row += SLICES) v += x.data[row * x.stride + c];
    part[threadIdx.y][threadIdx.x] = v;
    __syncthreads();
    if (threadIdx.y > 0 || c >= x.n_col) return;
    v = 0;
    for (int s = 0; s < SLICES; s++) v += part[s][threadIdx.x];
    sum[c] += v;
}

void ml_cuda_add_column_sums(ml_ctx *ctx, ml_rows x, int64_t n_row, float *sum)
{
    if (n_row == 0 || x.n_col == 0) return;
    ML_LAUNCH(ctx->device, column_sums, (unsigned)ml_n_blocks(x.n_col, COLUMNS), dim3(COLUMNS, SLICES), 0, x, n_row,
              sum);
}
