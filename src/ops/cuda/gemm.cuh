/* Matrix products on a device: what ops/cpu/gemm.h does there, for many products at once, and for groups whose sizes
 * only the device knows.
 *
 *   c[i, j] (+)= sum over l of a[i, l] * b[l, j]
 *
 * In ML_PRECISION_F32, l ascends and each product is added by one fused operation.  In ML_PRECISION_BF16 operands are
 * rounded to bf16 (once, into scratch, where they are not bf16 already), and the matrix unit adds in fp32: the same
 * bits every time, in an order of its own.
 *
 * An operand's stored rows are `stride` apart; `row`, where given, says which stored row stands for row r.
 *   a: stored [m, k], or [k, m] when transposed;   b: stored [k, n], or [n, k] when transposed;   c: [m, n]
 *
 * Products are numbered 0 .. n_product - 1 (experts, matrices of a stack): product p has its operands p * `product`
 * elements on.  With `offset` [n_product + 1], in device memory,
 *   GROUP_ROWS   product p has rows offset[p] .. offset[p + 1] of a (not transposed) and c, which are then not
 * `product` apart; m is the number of all rows, or more GROUP_INNER  product p sums over l = offset[p] .. offset[p +
 * 1]: these rows of a (transposed) and b (not transposed); k is the number of all rows, or more */
#ifndef ML_OPS_CUDA_GEMM_CUH
#define ML_OPS_CUDA_GEMM_CUH

#include "ops/cuda/common.cuh"

typedef enum { ML_GROUP_NONE, ML_GROUP_ROWS, ML_GROUP_INNER } ml_cuda_grouping;

/* Elements are fp32 (data) or bf16 (half); where both are given they are the same matrix, and bf16 products read half.
 */
typedef struct {
    const float *data;
    const uint16_t *half;
    int64_t stride, product;
    bool transpose;
    const int32_t *row;
} ml_cuda_operand;

typedef struct {
    int64_t m, n, k, n_product;
    ml_cuda_operand a, b;
    float *c; /* or, bf16: */
    uint16_t *c_half;
    int64_t c_stride, c_product;
    const int32_t *c_row; /* NULL, or the stored row of c for each row of the result */
    bool accumulate;
    float alpha, beta; /* c = alpha a b + beta d, with d laid out as c; or (beta 0) + what c has, with accumulate */
    const float *d;    /* or, bf16: */
    const uint16_t *d_half;
    bool exact; /* in fp32 whatever the context's precision */
    ml_cuda_grouping grouping;
    const int32_t *offset;
} ml_cuda_gemm;

/* n_product 1, alpha 1, and nothing else set. */
static inline ml_cuda_gemm ml_cuda_gemm_make(int64_t m, int64_t n, int64_t k)
{
    ml_cuda_gemm g;
    memset(&g, 0, sizeof g);
    g.m = m;
    g.n = n;
    g.k = k;
    g.n_product = 1;
    g.alpha = 1;
    return g;
}

static inline ml_cuda_operand ml_cuda_operand_make(const float *data, int64_t stride, bool transpose)
{
    ml_cuda_operand o;
    memset(&o, 0, sizeof o);
    o.data = data;
    o.stride = stride;
    o.transpose = transpose;
    return o;
}

/* bf16 elements. */
static inline ml_cuda_operand ml_cuda_operand_half(const uint16_t *half, int64_t stride, bool transpose)
{
    ml_cuda_operand o = ml_cuda_operand_make(NULL, stride, transpose);
    o.half = half;
    return o;
}

/* Queue it.  Failures (no scratch) are the context's. */
void ml_cuda_gemm_run(ml_ctx *ctx, const ml_cuda_gemm *g);

#endif
