/* The accepted (token, k) pairs sorted by expert, stably, with all counts on the device. */
#ifndef ML_OPS_CUDA_SORT_CUH
#define ML_OPS_CUDA_SORT_CUH

#include "ops/cuda/common.cuh"

typedef struct {
    int32_t *offset; /* [n_expert + 1] where each expert's rows begin */
    int32_t *flat;   /* [n_token * top_k] token * top_k + k of each row; beyond offset[n_expert] unset */
} ml_cuda_sort;

/* id [n_token, top_k], rows id_stride apart, -1 for "not accepted".  `offset` and `flat` are used where given, else
 * made in scratch.  Ids outside -1 .. n_expert - 1 are reported and count as -1. */
ml_status ml_cuda_sort_make(ml_ctx *ctx, const int32_t *id, int64_t id_stride, int64_t n_token, int64_t top_k,
                            int64_t n_expert, int32_t *offset, int32_t *flat, ml_cuda_sort *out);

#endif
