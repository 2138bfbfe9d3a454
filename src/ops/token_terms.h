/* Low-rank terms (adapters') of tokens that each have their own, or none, on a device.
 *
 * A pass of generated tokens is one graph, whatever adapters its sequences have; so which term a row has is data: every
 * token points to a table of terms, and kernels look there.  Prompts, whose tokens come in long stretches of one
 * adapter, go through the operators lora, dora and experts_lora instead.
 *
 * A term makes of matrix W, row by row,  (m / norm) * (W + scale * b a);  without magnitudes, and where norm is 0, the
 * factor is 1.  Products and sums are fp32, in one order; a token's bits do not depend on the other tokens, and those
 * of a token without a term are what they are without these calls. */
#ifndef ML_OPS_TOKEN_TERMS_H
#define ML_OPS_TOKEN_TERMS_H

#include "ops/ops.h"

/* In a device's memory, and so is what it points to. */
typedef struct {
    const float *a, *b;    /* [n_matrix, rank, n_in], [n_matrix, n_out, rank]; NULL: there is no term */
    const float *m, *norm; /* [n_matrix, n_out], or NULL */
    int64_t rank, n_in, n_out;
    float scale;
} ml_token_term;

/* Of one matrix, or of the matrices of a layer's experts: token t has of_token[t][at]. */
typedef struct {
    const ml_token_term *const *of_token; /* [tokens], there; NULL entries: none */
    int64_t at;
    int64_t most_rank; /* that any of these terms may have; 0: there is none */
    bool scales;       /* some may have magnitudes */
} ml_token_terms;

/* Columns of a result that are one matrix's. */
typedef struct {
    ml_token_terms terms;
    int64_t column, n;
} ml_token_part;

enum { ML_TOKEN_PARTS = 3 };

#ifdef MOONLIGHT_CUDA
#ifdef __cplusplus
extern "C" {
#endif

/* Of the first n_row tokens: y [tokens, n], the product of x [tokens, k] with the matrices of part[n_part] (which cover
 * the columns), gets their terms; then bias [n], unless that is NULL. */
ml_status ml_cuda_token_terms_linear(ml_ctx *ctx, ml_tensor *y, const ml_tensor *x, const ml_token_part *part,
                                     int n_part, const ml_tensor *bias, int64_t n_row);
/* ml_experts of the first n_row tokens, which are being generated, into y's; terms of gate, up and down. */
ml_status ml_cuda_token_terms_experts(ml_ctx *ctx, ml_tensor *y, ml_tensor *x, ml_tensor *id, ml_tensor *prob,
                                      ml_tensor *gate, ml_tensor *up, ml_tensor *down, const ml_experts_param *param,
                                      const ml_token_terms terms[3], int64_t n_row);

#ifdef __cplusplus
}
#endif
#else

static inline ml_status ml_cuda_token_terms_linear(ml_ctx *ctx, ml_tensor *y, const ml_tensor *x,
                                                   const ml_token_part *part, int n_part, const ml_tensor *bias,
                                                   int64_t n_row)
{
    (void)y, (void)x, (void)part, (void)n_part, (void)bias, (void)n_row;
    return ctx->error.code;
}

static inline ml_status ml_cuda_token_terms_experts(ml_ctx *ctx, ml_tensor *y, ml_tensor *x, ml_tensor *id,
                                                    ml_tensor *prob, ml_tensor *gate, ml_tensor *up, ml_tensor *down,
                                                    const ml_experts_param *param, const ml_token_terms terms[3],
                                                    int64_t n_row)
{
    (void)y, (void)x, (void)id, (void)prob, (void)gate, (void)up, (void)down, (void)param, (void)terms, (void)n_row;
    return ctx->error.code;
}

#endif
#endif
