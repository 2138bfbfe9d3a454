#include "ops/cuda/sequences.cuh"

static __global__ void check(const int32_t *seq, int64_t n_seq, int64_t n_token, ml_fault *fault)
{
    bool good = seq[0] == 0 && seq[n_seq] == n_token;
    for (int64_t s = 0; s < n_seq; s++) good = good && seq[s] <= seq[s + 1];
    if (!good) ml_report(fault, ML_FAULT_SEQUENCES, seq[n_seq], n_token);
}

void ml_cuda_check_sequences(ml_ctx *ctx, const int32_t *seq, int64_t n_seq, int64_t n_token)
{
    ML_LAUNCH(ctx->device, check, 1, 1, 0, seq, n_seq, n_token, ctx->device->fault);
}
