/* y[t] = table[id[t]].
 *
 * Backward: a block for each token.  The first token of an id owns that row of dtable and adds its own gradient and
 * those of all later tokens with that id, in their order; the blocks of the later ones end at once. */
#include "ops/cuda/rows.cuh"
#include "ops/cuda/weight.cuh"

enum { THREADS = 256 };

static __global__ void __launch_bounds__(THREADS)
    backward(const int32_t *id, ml_rows dy, ml_rows dtable, int64_t n_row, int64_t n)
{
    __shared__ int is_later;
    __shared__ unsigned char same[THREADS];
    int64_t t = blockIdx.x;
    int32_t row = id[t];
    if (row < 0 || row >= n_row) return; /* reported going forward */
    if (threadIdx.x == 0) is_later = 0;
    __syncthreads();
    for (int64_t j = threadIdx.x; j < t; j += THREADS) {
        if (id[j] == row) is_later = 1; /* whoever writes, writes the same */
    }
    __syncthreads();
    if (is_later) return;
    float *to = dtable.data + row * dtable.stride;
    for (int64_t first = t; first < n; first += THREADS) {
        int64_t j = first + threadIdx.x;
        same[threadIdx.x] = j < n && id[j] == row;
        __syncthreads();
        for (int k = 0; k < THREADS; k++) {
            if (!same[k]) continue;
            const float *from = dy.data + (first + k) * dy.stride;
            for (int64_t c = threadIdx.x; c < dtable.n_col; c += THREADS) to[c] += from[c];
        }
        __syncthreads();
    }
}

extern "C" ml_status ml_cuda_embedding_forward(ml_ctx *ctx, const ml_op_args *args)
{
    const ml_tensor *id = args->in[1], *y = args->out[0];
    return ml_cuda_weight_pick(ctx, args->in[0], ml_i32(id), id->dim[0], ml_f32(y), y->stride);
}

extern "C" ml_status ml_cuda_embedding_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    const ml_tensor *id = args->in[1];
    if (!grads->in[0] || id->dim[0] == 0) return ML_OK;
    ML_LAUNCH(ctx->device, backward, (unsigned)id->dim[0], THREADS, 0, ml_i32(id),
              ml_rows_like(args->out[0], grads->out[0]), ml_rows_like(args->in[0], grads->in[0]), args->in[0]->dim[0],
              id->dim[0]);
    return ml_queued(ctx);
}
