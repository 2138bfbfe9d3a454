/* Rows of fp32 numbers as a kernel takes them: elements are numbered row by row, whatever lies between rows. */
#ifndef ML_OPS_CUDA_ROWS_CUH
#define ML_OPS_CUDA_ROWS_CUH

#include "ops/cuda/common.cuh"

enum { ML_ROWS_THREADS = 256 };

typedef struct {
    float *data;
    int64_t n_col, stride;
} ml_rows;

/* `data` laid out as x. */
static inline ml_rows ml_rows_like(const ml_tensor *x, float *data)
{
    ml_rows r;
    r.data = data;
    r.n_col = ml_tensor_row_count(x);
    r.stride = x->stride;
    return r;
}

static inline ml_rows ml_rows_of(const ml_tensor *x)
{
    return ml_rows_like(x, ml_f32(x));
}

static __device__ __forceinline__ float *ml_at(ml_rows r, int64_t i)
{
    return r.data + i / r.n_col * r.stride + i % r.n_col;
}

#endif
