/* A block has a sequence, or a pair of them; sums are double, each in one order. */
#include "ops/cuda/common.cuh"

extern "C" {
#include "train/cuda/dpo.h"
}

enum { THREADS = 256, N_PART = 1 + ML_DPO_N_SUM };

typedef struct {
    const float *logp;
    const int32_t *target, *seq;
    const double *reference;
    float *seed;
    double *part; /* [n_pair, N_PART] the loss, then what is summed */
} pairs;

/* Of sequence s, to every thread: the log-probability of its targets and, where wanted, their number. */
static __device__ double sum_sequence(const pairs *w, int64_t s, double *n_target, double *shared)
{
    double sum = 0, n = 0;
    for (int32_t i = w->seq[s] + (int32_t)threadIdx.x; i < w->seq[s + 1]; i += THREADS) {
        if (w->target[i] < 0) continue;
        sum += (double)w->logp[i];
        n += 1;
    }
    if (n_target) *n_target = ml_block_sum(n, shared);
    return ml_block_sum(sum, shared);
}

static __device__ void put_seed(const pairs *w, int64_t s, float value)
{
    for (int32_t i = w->seq[s] + (int32_t)threadIdx.x; i < w->seq[s + 1]; i += THREADS)
        w->seed[i] = w->target[i] >= 0 ? value : 0.0f;
}

static __global__ void __launch_bounds__(THREADS) sum_sequences(pairs w, double *sum)
{
    __shared__ double shared[THREADS / WARP];
    double v = sum_sequence(&w, blockIdx.x, NULL, shared);
    if (threadIdx.x == 0) sum[blockIdx.x] = v;
}

static __global__ void __launch_bounds__(THREADS) pair_losses(pairs w, ml_dpo_terms t)
{
    __shared__ double shared[THREADS / WARP];
    int64_t s = 2 * (int64_t)blockIdx.x;
    double n, slope, chosen = sum_sequence(&w, s, &n, shared), rejected = sum_sequence(&w, s + 1, NULL, shared);
    double by = w.reference[s], of = w.reference[s + 1];
    double loss = ml_dpo_pair_loss(t.loss, t.beta, chosen - rejected, by - of, &slope);
    double per_token = n > 0 ? t.chosen / n : 0.0;
    if (w.seed) {
        put_seed(&w, s, (float)(t.weight * (slope - per_token)));
        put_seed(&w, s + 1, (float)(-t.weight * slope));
    }
    if (threadIdx.x != 0) return;
    double *part = w.part + (int64_t)blockIdx.x * N_PART + 1;
    part[-1] = loss - per_token * chosen;
    part[ML_DPO_CHOSEN] = t.beta * (chosen - by);
    part[ML_DPO_REJECTED] = t.beta * (rejected - of);
    part[ML_DPO_N_PAIR] = 1;
    part[ML_DPO_N_RIGHT] = part[ML_DPO_CHOSEN] > part[ML_DPO_REJECTED] ? 1 : 0;
}

/* Thread k has sum k. */
static __global__ void add_pairs(const double *part, int64_t n_pair, ml_stage_sums *sums)
{
    if (threadIdx.x >= N_PART) return;
    double *to = threadIdx.x == 0 ? &sums->loss : &sums->of[threadIdx.x - 1], all = *to;
    for (int64_t p = 0; p < n_pair; p++) all += part[p * N_PART + threadIdx.x];
    *to = all;
}

extern "C" ml_status ml_cuda_sum_sequences(ml_ctx *ctx, const float *logp, const int32_t *target, const int32_t *seq,
                                           int64_t n_seq, double *sum)
{
    pairs w = { logp, target, seq, NULL, NULL, NULL };
    if (n_seq > 0) ML_LAUNCH(ctx->device, sum_sequences, (unsigned)n_seq, THREADS, 0, w, sum);
    return ml_queued(ctx);
}

extern "C" ml_status ml_cuda_dpo(ml_ctx *ctx, const ml_dpo_terms *terms, const float *logp, const int32_t *target,
                                 const int32_t *seq, int64_t n_seq, const double *reference, float *seed,
                                 ml_stage_sums *sums)
{
    int64_t n_pair = n_seq / 2;
    ml_dpo_terms t = *terms;
    if (n_pair == 0) return ml_queued(ctx);
    ml_ctx_mark mark = ml_ctx_get_mark(ctx);
    double *part = (double *)ml_ctx_scratch_data(ctx, (size_t)(n_pair * N_PART) * sizeof *part);
    pairs w = { logp, target, seq, reference, seed, part };
    if (part) {
        ML_LAUNCH(ctx->device, pair_losses, (unsigned)n_pair, THREADS, 0, w, t);
        ML_LAUNCH(ctx->device, add_pairs, 1, WARP, 0, part, n_pair, sums);
    }
    ml_ctx_release(ctx, mark);
    return ml_queued(ctx);
}
