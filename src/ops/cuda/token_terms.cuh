/* Terms of rows that each have their own (ops/token_terms.h):
 *
 *   h[r, p]  = scale * a x[r]                                    a warp for each of its numbers
 *   y[r, p]  = (m / norm) * (y[r, p] + b h[r, p]) (+ bias)       a thread for each column
 *
 * for each part p of y's columns.  Launches are for the largest rank that a row may have; blocks of rows without a term
 * end at once. */
#ifndef ML_OPS_CUDA_TOKEN_TERMS_CUH
#define ML_OPS_CUDA_TOKEN_TERMS_CUH

#include "ops/cuda/common.cuh"

extern "C" {
#include "ops/token_terms.h"
}

typedef struct {
    ml_token_part part[ML_TOKEN_PARTS];
    int n_part;
    int64_t n_row;
    const int32_t *token;  /* [n_row] whose row it is, or NULL: row r is token r's */
    const int32_t *expert; /* [n_row] which of the term's matrices, or NULL: the only one */
    const int32_t *n_used; /* NULL, or how many rows there are, of n_row at most; there */
    const float *x;        /* [n_row], or where x_by_token [tokens] */
    int64_t x_stride;
    bool x_by_token;
    float *y; /* [n_row] */
    int64_t y_stride;
    const float *bias; /* of y's columns, or NULL */
} ml_cuda_token_rows;

/* Queue both; h is scratch. */
ml_status ml_cuda_token_rows_run(ml_ctx *ctx, const ml_cuda_token_rows *w);

static __device__ __forceinline__ const ml_token_term *ml_find_term(const ml_token_terms &t, int64_t token)
{
    const ml_token_term *table = t.most_rank > 0 ? t.of_token[token] : NULL;
    return table && table[t.at].a ? table + t.at : NULL;
}

/* The factor of output j, counted over all of the term's matrices. */
static __device__ __forceinline__ float ml_token_factor(const ml_token_term *t, int64_t j)
{
    return t->m && t->norm[j] > 0 ? t->m[j] / t->norm[j] : 1.0f;
}

#endif
