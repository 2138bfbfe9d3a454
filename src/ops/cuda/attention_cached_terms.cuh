/* Low-rank terms of kv_b in latent attention that is absorbed (ops/cached.h), each token's own.  Row j of kv_b, of
 * factor f_j = m_j / norm_j, is f_j (w_j + s b_j A); for the rows of W_uk[h] and of W_uv[h]
 *
 *     q_abs[t, h] = W_uk[h]^T (f q_nope)[t, h]  +  A^T (s B_uk[h]^T (f q_nope)[t, h])
 *     y[t, h]     = f (W_uv[h] z[t, h]  +  B_uv[h] (s A z[t, h]))
 *
 * where the first products are the plain ones. */
#ifndef ML_OPS_CUDA_ATTENTION_CACHED_TERMS_CUH
#define ML_OPS_CUDA_ATTENTION_CACHED_TERMS_CUH

#include "ops/cuda/token_terms.cuh"

extern "C" {
#include "ops/cached_heads.h"
}

/* Of n tokens. */
typedef struct {
    ml_token_terms terms; /* of_token begins with the first of them */
    const ml_mla_param *p;
    int64_t n;
} ml_cuda_latent_terms;

/* q [n, n_head * (d_nope + n_rot)], rows q_stride apart -> the same where no term has magnitudes; else f q_nope in
 * scratch, laid out as q (rows, columns, alignment), so that products with it go as with q.  NULL without scratch. */
const float *ml_cuda_latent_scale_query(ml_ctx *ctx, const ml_cuda_latent_terms *t, const float *q, int64_t q_stride);
/* q_abs [n, n_head * kv_lora_rank] += what terms make of q (which has its factors). */
void ml_cuda_latent_add_absorbed(ml_ctx *ctx, const ml_cuda_latent_terms *t, const float *q, int64_t q_stride,
                                 float *q_abs);
/* y [n, n_head * d_v] becomes f (y + B_uv (s A z)), z [n, n_head * kv_lora_rank]. */
void ml_cuda_latent_add_projected(ml_ctx *ctx, const ml_cuda_latent_terms *t, const float *z, float *y,
                                  int64_t y_stride);

#endif
