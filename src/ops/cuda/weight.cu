/* One thread for each element: which block it lies in, then what tensor/blocks.h says. */
#include "ops/cuda/weight.cuh"

#include "ops/cuda/blocks.cuh"

enum { THREADS = 256 };

ml_status ml_cuda_weight_check(ml_ctx *ctx, const ml_tensor *w)
{
    if (w->dtype != ML_I32 && w->layout == ML_LAYOUT_ROWS) return ML_OK;
    return ml_ctx_fail(ctx, ML_EINVAL, "a weight on the GPU: expected a float or block type in rows, found %s%s",
                       ml_dtype_name(w->dtype), w->layout == ML_LAYOUT_ROWS ? "" : ", repacked for the processor");
}

static __global__ void dequantize(ml_dtype dtype, const uint8_t *src, int64_t row_bytes, int64_t n_col, int64_t n,
                                  float *dst)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) dst[i] = ml_block_element(dtype, src + i / n_col * row_bytes, i % n_col);
}

/* One tensor without parts to `dst`, contiguous. */
static ml_status read_one(ml_ctx *ctx, const ml_tensor *w, float *dst)
{
    ML_TRY(ml_cuda_weight_check(ctx, w));
    int64_t n_col = ml_tensor_row_count(w), n = ml_tensor_count(w);
    if (n == 0) return ML_OK;
    ML_LAUNCH(ctx->device, dequantize, (unsigned)ml_n_blocks(n, THREADS), THREADS, 0, w->dtype,
              (const uint8_t *)w->data, (int64_t)ml_dtype_row_bytes(w->dtype, w->stride), n_col, n, dst);
    return ml_queued(ctx);
}

ml_status ml_cuda_weight_read(ml_ctx *ctx, const ml_tensor *w, ml_cuda_weight *out)
{
    out->data = ml_f32(w);
    out->stride = w->stride;
    if (w->dtype == ML_F32 && !w->part) return ML_OK;
    float *copy = (float *)ml_ctx_scratch_data(ctx, (size_t)ml_tensor_count(w) * sizeof *copy);
    if (!copy) return ML_ENOMEM;
    out->data = copy;
    out->stride = ml_tensor_row_count(w);
    if (!w->part) return read_one(ctx, w, copy);
    for (int64_t i = 0; i < w->n_part; i++) {
        ML_TRY(read_one(ctx, &w->part[i], copy));
        copy += ml_tensor_count(&w->part[i]);
    }
    return ml_queued(ctx);
}

static __global__ void pick(ml_dtype dtype, const uint8_t *table, int64_t row_bytes, int64_t n_row, int64_t n_col,
                            const int32_t *id, int64_t n, float *y, int64_t y_stride, ml_fault *fault)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n * n_col) return;
    int64_t t = i / n_col, c = i % n_col;
    int32_t row = id[t];
    bool inside = row >= 0 && row < n_row;
    if (!inside) ml_report(fault, ML_FAULT_TOKEN_ID, row, t);
    y[t * y_stride + c] = inside ? ml_block_element(dtype, table + row * row_bytes, c) : __uint_as_float(0x7fc00000u);
}

ml_status ml_cuda_weight_pick(ml_ctx *ctx, const ml_tensor *table, const int32_t *id, int64_t n, float *y,
                              int64_t y_stride)
{
    ML_TRY(ml_cuda_weight_check(ctx, table));
    int64_t n_col = table->dim[1];
    if (n * n_col == 0) return ML_OK;
    ML_LAUNCH(ctx->device, pick, (unsigned)ml_n_blocks(n * n_col, THREADS), THREADS, 0, table->dtype,
              (const uint8_t *)table->data, (int64_t)ml_dtype_row_bytes(table->dtype, table->stride), table->dim[0],
              n_col, id, n, y, y_stride, ctx->device->fault);
    return ml_queued(ctx);
}
