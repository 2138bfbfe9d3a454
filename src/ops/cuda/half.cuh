/* Operands of bf16 products: elements that are not bf16 yet, or lie where 16-byte copies cannot begin, are rounded once
 * into scratch. */
#ifndef ML_OPS_CUDA_HALF_CUH
#define ML_OPS_CUDA_HALF_CUH

#include "ops/cuda/gemm.cuh"

enum { ML_HALF_CHUNK = 8 /* elements in 16 bytes */ };

static inline int64_t ml_round_to_chunk(int64_t n)
{
    return (n + ML_HALF_CHUNK - 1) / ML_HALF_CHUNK * ML_HALF_CHUNK;
}

/* Make o->half what 16-byte copies can read: rows and products begin at multiples of 16 bytes.  Where o has that
 * already, nothing happens; else n_row x n_col stored elements of each of n_product matrices go into scratch, rows in
 * the order of o->row, which is NULL afterwards. */
ml_status ml_cuda_half_operand(ml_ctx *ctx, ml_cuda_operand *o, int64_t n_product, int64_t n_row, int64_t n_col);
/* The same of a matrix that several products read, where products are in bf16; in fp32 nothing happens. */
static inline ml_status ml_cuda_round_shared(ml_ctx *ctx, ml_cuda_operand *o, int64_t n_row, int64_t n_col)
{
    return ctx->precision == ML_PRECISION_BF16 ? ml_cuda_half_operand(ctx, o, 1, n_row, n_col) : ML_OK;
}

#endif
