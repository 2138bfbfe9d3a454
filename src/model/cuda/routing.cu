/* A warp takes a token and its lanes the experts; blocks take tokens in order, and one block adds the blocks' sums in
 * order.  Statistics are double as on the processor, where the sums have another order. */
#include "ops/cuda/common.cuh"

extern "C" {
#include "model/cuda/routing.h"
}

enum { THREADS = 256, WARPS = THREADS / WARP, MAX_PART = 128 };

static __device__ __forceinline__ double softmax_entropy(const float *z, int64_t n)
{
    int lane = (int)threadIdx.x % WARP;
    float largest = -INFINITY;
    for (int64_t e = lane; e < n; e += WARP) largest = fmaxf(largest, z[e]);
    largest = ml_warp_max(largest);
    double sum = 0, weighted = 0;
    for (int64_t e = lane; e < n; e += WARP) {
        double above = (double)z[e] - (double)largest, p = exp(above);
        sum += p;
        weighted += p * above;
    }
    sum = ml_warp_sum(sum);
    weighted = ml_warp_sum(weighted);
    return log(sum) - weighted / sum;
}

static __global__ void __launch_bounds__(THREADS)
    entropy_parts(const float *logit, int64_t n_token, int64_t n_expert, double *part)
{
    __shared__ double of_warp[WARPS];
    int warp = (int)threadIdx.x / WARP;
    double sum = 0;
    for (int64_t t = (int64_t)blockIdx.x * WARPS + warp; t < n_token; t += (int64_t)gridDim.x * WARPS)
        sum += softmax_entropy(logit + t * n_expert, n_expert);
    if (threadIdx.x % WARP == 0) of_warp[warp] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    double all = 0;
    for (int w = 0; w < WARPS; w++) all += of_warp[w];
    part[blockIdx.x] = all;
}

static __global__ void __launch_bounds__(THREADS)
    add_routing(const double *part, int n_part, const int32_t *count, int64_t n_expert, const float *loss,
                double *losses, double *entropy, int64_t *counts)
{
    for (int64_t e = threadIdx.x; e < n_expert; e += THREADS) counts[e] += count[e];
    if (threadIdx.x != 0) return;
    double sum = *entropy;
    for (int i = 0; i < n_part; i++) sum += part[i];
    *entropy = sum;
    if (!loss) return;
    losses[0] += (double)loss[0];
    losses[1] += (double)loss[1];
}

static double *entropy_there(const ml_router_stats *s)
{
    return (double *)s->there + 2;
}

static int64_t *count_there(const ml_router_stats *s)
{
    return (int64_t *)(void *)(entropy_there(s) + s->n_layer);
}

extern "C" void ml_cuda_count_routing(ml_ctx *ctx, const ml_router_stats *stats, int64_t layer,
                                      const ml_routing *routing, const ml_tensor *loss)
{
    int64_t n = routing->logit->dim[0], n_part = ml_n_blocks(n, WARPS);
    if (n == 0) return;
    if (n_part > MAX_PART) n_part = MAX_PART;
    ml_ctx_mark mark = ml_ctx_get_mark(ctx);
    double *part = (double *)ml_ctx_scratch_data(ctx, (size_t)n_part * sizeof *part);
    if (part) {
        ML_LAUNCH(ctx->device, entropy_parts, (unsigned)n_part, THREADS, 0, ml_f32(routing->logit), n, stats->n_expert,
                  part);
        ML_LAUNCH(ctx->device, add_routing, 1, THREADS, 0, part, (int)n_part, ml_i32(routing->count), stats->n_expert,
                  ml_f32(loss), (double *)stats->there, entropy_there(stats) + layer,
                  count_there(stats) + layer * stats->n_expert);
    }
    ml_ctx_release(ctx, mark);
}

/* ---- the router's bias ---- */

static __device__ __forceinline__ int sign_of(int64_t total, int64_t n, int64_t count)
{
    return (total > n * count) - (total < n * count);
}

/* One block; whole numbers but for the last line, so the order of sums does not matter. */
static __global__ void __launch_bounds__(THREADS)
    move_bias(float *bias, const int64_t *count, int64_t n, double rate, const int32_t *use)
{
    __shared__ int64_t shared[WARPS];
    if (!*use) return;
    int64_t total = 0, signs = 0;
    for (int64_t e = threadIdx.x; e < n; e += THREADS) total += count[e];
    total = ml_block_sum(total, shared);
    for (int64_t e = threadIdx.x; e < n; e += THREADS) signs += sign_of(total, n, count[e]);
    signs = ml_block_sum(signs, shared);
    double mean = (double)signs / (double)n;
    for (int64_t e = threadIdx.x; e < n; e += THREADS)
        bias[e] = (float)((double)bias[e] + rate * ((double)sign_of(total, n, count[e]) - mean));
}

extern "C" void ml_cuda_update_router_bias(const ml_model *m, const ml_router_stats *stats, double rate,
                                           const int32_t *use)
{
    for (int64_t i = 0; i < stats->n_layer; i++) {
        float *bias = ml_f32(&m->layer[i].router_bias);
        if (!bias || !ml_config_layer_is_moe(&m->config, i)) continue;
        ML_LAUNCH(m->device, move_bias, 1, THREADS, 0, bias, count_there(stats) + i * stats->n_expert, stats->n_expert,
                  rate, use);
    }
}
