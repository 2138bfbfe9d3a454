/* Rows of fp32 numbers four at a time, in 16-byte pieces where they lie so: what kernels that only move memory work on.
 * A thread has one piece of every operand, and rows are as many pieces as it takes, the last one perhaps shorter. */
#ifndef ML_OPS_CUDA_PIECES_CUH
#define ML_OPS_CUDA_PIECES_CUH

#include "ops/cuda/rows.cuh"

enum { ML_PIECE = 4 };

/* Pieces of a row. */
static __host__ __device__ inline int64_t ml_pieces_of(int64_t n_col)
{
    return (n_col + ML_PIECE - 1) / ML_PIECE;
}

/* Whether every piece of every row lies on 16 bytes. */
static inline bool ml_pieces_aligned(ml_rows r)
{
    return (uintptr_t)r.data % 16 == 0 && r.stride % ML_PIECE == 0;
}

/* Blocks of ML_ROWS_THREADS for n_row rows of n_col columns; fails where pieces cannot be numbered in 32 bits. */
static inline ml_status ml_piece_blocks(ml_ctx *ctx, int64_t n_row, int64_t n_col, unsigned *n_block)
{
    int64_t n = n_row * ml_pieces_of(n_col);
    *n_block = (unsigned)ml_n_blocks(n, ML_ROWS_THREADS);
    if (n <= UINT32_MAX - ML_ROWS_THREADS) return ML_OK;
    return ml_ctx_fail(ctx, ML_EINVAL,
                       "%lld rows of %lld columns are too many for one launch on the GPU: use a "
                       "smaller batch",
                       (long long)n_row, (long long)n_col);
}

/* The piece of this thread: its row and first column.  False: none. */
static __device__ __forceinline__ bool ml_piece_find(int64_t n_row, int64_t n_col, int64_t *row, int64_t *column)
{
    unsigned i = blockIdx.x * ML_ROWS_THREADS + threadIdx.x, n_piece = (unsigned)ml_pieces_of(n_col);
    *row = i / n_piece;
    *column = (int64_t)(i % n_piece) * ML_PIECE;
    return *row < n_row;
}

/* Up to n_left numbers, zeros beyond. */
static __device__ __forceinline__ float4 ml_piece_load(const float *from, int64_t n_left, bool aligned)
{
    if (aligned && n_left >= ML_PIECE) return *(const float4 *)(const void *)from;
    float4 v;
    v.x = n_left > 0 ? from[0] : 0.0f;
    v.y = n_left > 1 ? from[1] : 0.0f;
    v.z = n_left > 2 ? from[2] : 0.0f;
    v.w = n_left > 3 ? from[3] : 0.0f;
    return v;
}

static __device__ __forceinline__ void ml_piece_store(float *to, float4 v, int64_t n_left, bool aligned)
{
    if (aligned && n_left >= ML_PIECE) {
        *(float4 *)(void *)to = v;
        return;
    }
    if (n_left > 0) to[0] = v.x;
    if (n_left > 1) to[1] = v.y;
    if (n_left > 2) to[2] = v.z;
    if (n_left > 3) to[3] = v.w;
}

/* to += scale * v */
static __device__ __forceinline__ void ml_piece_add(float *to, float4 v, float scale, int64_t n_left, bool aligned)
{
    float4 sum = ml_piece_load(to, n_left, aligned);
    sum.x += scale * v.x;
    sum.y += scale * v.y;
    sum.z += scale * v.z;
    sum.w += scale * v.w;
    ml_piece_store(to, sum, n_left, aligned);
}

#endif
