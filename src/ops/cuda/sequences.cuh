/* Which sequence of a ragged batch a token belongs to. */
#ifndef ML_OPS_CUDA_SEQUENCES_CUH
#define ML_OPS_CUDA_SEQUENCES_CUH

#include "ops/cuda/common.cuh"

/* Report offsets that do not rise from 0 to n_token. */
void ml_cuda_check_sequences(ml_ctx *ctx, const int32_t *seq, int64_t n_seq, int64_t n_token);

/* The number s of the sequence of a token, seq[s] <= token < seq[s + 1] (empty sequences hold none), and its bounds; of
 * offsets that ml_cuda_check_sequences reports, bounds that stay inside the batch. */
static __device__ __forceinline__ int64_t ml_find_sequence(const int32_t *seq, int64_t n_seq, int64_t n_token,
                                                           int64_t token, int64_t *begin, int64_t *end)
{
    int64_t low = 0, high = n_seq;
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (seq[middle] <= token) {
            low = middle;
        } else {
            high = middle;
        }
    }
    int64_t first = seq[low], last = seq[low + 1];
    *begin = first < 0 ? 0 : first > token ? token : first;
    *end = last <= token ? token + 1 : last > n_token ? n_token : last;
    return low;
}

#endif
