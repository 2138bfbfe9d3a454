#include "ops/cuda/sequences.cuh"

enum { THREADS = 256 };

static __global__ void __launch_bounds__(THREADS)
    check(const int32_t *seq, int64_t n_seq, int64_t n_token, ml_fault *fault)
{
    bool good = threadIdx.x > 0 || (seq[0] == 0 && seq[n_seq] == n_token);
    for (int64_t s = threadIdx.x; s < n_seq; s += THREADS) good = good && seq[s] <= seq[s + 1];
    if (!good) ml_report(fault, ML_FAULT_SEQUENCES, seq[n_seq], n_token);
}

void ml_cuda_check_sequences(ml_ctx *ctx, const int32_t *seq, int64_t n_seq, int64_t n_token)
{
    ML_LAUNCH(ctx->device, check, 1, THREADS, 0, seq, n_seq, n_token, ctx->device->fault);
}
