/* What the kernels of attention share: its operands, as each launch takes them, and the two implementations.
 *   attention.cu   fp32, one warp for a row: the reference
 *   flash*.cu      ML_PRECISION_BF16, in tiles on the matrix unit */
#ifndef ML_OPS_CUDA_ATTENTION_CUH
#define ML_OPS_CUDA_ATTENTION_CUH

#include "ops/cuda/rows.cuh"

typedef struct {
    ml_rows q, k, v, k_shared, y, lse;
    const int32_t *seq;
    int64_t n_seq, n_token;
    ml_attention_param p;
    const float *dy, *delta; /* delta [n_head, n_token] */
    float *dq, *dk, *dv;
    float *dk_shared; /* [n_kv_head, n_token, d_shared] */
} ml_cuda_attention;

/* Whether a block of the context's device has the shared memory that tiles of such heads take, forward and backward. */
bool ml_cuda_flash_fits(ml_ctx *ctx, int64_t d_qk, int64_t d_v);
/* y and lse. */
ml_status ml_cuda_flash_forward(ml_ctx *ctx, const ml_cuda_attention *w);
/* dq, dk, dv and dk_shared, those of them that are there (dk_shared is written, the others are added to); delta is not
 * read. */
ml_status ml_cuda_flash_backward(ml_ctx *ctx, const ml_cuda_attention *w);

#endif
