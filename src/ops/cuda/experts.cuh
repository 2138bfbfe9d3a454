/* What the ways to compute a layer of experts on a device share: its rows, and products of them.
 *
 * Rows are the accepted (token, k) pairs sorted by expert (ops/cuda/sort.cuh); how many each expert has is known to the
 * device alone, so memory and launches are for n_row, the rows if all pairs are accepted. */
#ifndef ML_OPS_CUDA_EXPERTS_CUH
#define ML_OPS_CUDA_EXPERTS_CUH

#include "ops/cuda/rows.cuh"
#include "ops/cuda/weight.cuh"

typedef struct {
    int64_t n_token, top_k, n_expert, d, f, n_row;
    const int32_t *offset; /* [n_expert + 1] the rows of each expert */
    const int32_t *flat;   /* [n_row] token * top_k + k */
    int32_t *token;        /* [n_row], 0 beyond the accepted ones */
    int32_t *rows;         /* [tokens, top_k] the rows of each token, ascending, then -1 */
    ml_rows x, prob;
    ml_activation activation;
    bool has_up;
    ml_cuda_weight gate, up, down;
    float *dprob; /* NULL, or laid out as prob */
} ml_cuda_experts;

/* The layer of an operator's arguments, its weights readable; nothing is queued for its rows yet. */
ml_status ml_cuda_experts_describe(ml_ctx *ctx, const ml_op_args *args, ml_cuda_experts *l);
/* Going forward: sort.  Nothing may be queued for a layer without rows. */
ml_status ml_cuda_experts_sort(ml_ctx *ctx, const ml_op_args *args, const ml_cuda_experts *l);
/* token and rows of a sorted layer. */
void ml_cuda_experts_list(ml_ctx *ctx, const ml_cuda_experts *l);
/* Weights that are to be trained must be fp32 in one piece. */
ml_status ml_cuda_experts_check(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads);

/* `data` of each row's token. */
static inline ml_cuda_operand ml_cuda_experts_gathered(const ml_cuda_experts *l, const float *data, int64_t stride)
{
    ml_cuda_operand o = ml_cuda_operand_make(data, stride, false);
    o.row = l->token;
    return o;
}

static __device__ __forceinline__ float ml_prob_at(const ml_cuda_experts *l, int64_t r)
{
    return l->prob.data[l->flat[r] / l->top_k * l->prob.stride + l->flat[r] % l->top_k];
}

/* Whose row r is. */
static __device__ __forceinline__ int64_t ml_expert_of(const ml_cuda_experts *l, int64_t r)
{
    int64_t low = 0, high = l->n_expert; /* offset[low] <= r < offset[high] */
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (l->offset[middle] <= r) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The product [rows, n] of a [rows, k] with each expert's matrix in b; what becomes of it is to be filled in. */
ml_cuda_gemm ml_cuda_experts_rows(const ml_cuda_experts *l, ml_cuda_operand a, ml_cuda_operand b, int64_t n, int64_t k);
/* dw_e [m, n] += a[rows of e]^T b[rows of e] */
void ml_cuda_experts_add_gradient(ml_ctx *ctx, const ml_cuda_experts *l, ml_cuda_operand a, ml_cuda_operand b,
                                  int64_t m, int64_t n, float *dw, int64_t dw_product);

/* experts without low-rank terms, in bf16 (experts_bf16.cu): args->save[2] is bf16 then. */
ml_status ml_cuda_experts_forward_bf16(ml_ctx *ctx, const ml_op_args *args);
ml_status ml_cuda_experts_backward_bf16(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads);

#endif
