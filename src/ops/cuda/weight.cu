/* One thread for each element: which block it lies in, then what tensor/blocks.h says. */
#include "ops/cuda/weight.cuh"

#include "ops/cuda/blocks.cuh"
#include "ops/cuda/half.cuh"
#include "ops/cuda/mma.cuh"

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

/* The same rounded to bf16: one thread for eight elements of a row, rows `stride` apart, zero beyond n_col. */
static __global__ void dequantize_half(ml_dtype dtype, const uint8_t *src, int64_t row_bytes, int64_t n_matrix_row,
                                       int64_t n_col, int64_t n, uint16_t *dst)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, n_chunk = (n_col + ML_HALF_CHUNK - 1) / ML_HALF_CHUNK;
    if (i >= n) return;
    int64_t row = i / n_chunk, first = i % n_chunk * ML_HALF_CHUNK;
    const uint8_t *from = src + row / n_matrix_row * row_bytes;
    int64_t at = row % n_matrix_row * n_col + first;
    uint32_t packed[ML_HALF_CHUNK / 2];
#pragma unroll
    for (int c = 0; c < ML_HALF_CHUNK; c += 2) {
        float low = first + c < n_col ? ml_block_element(dtype, from, at + c) : 0.0f;
        float high = first + c + 1 < n_col ? ml_block_element(dtype, from, at + c + 1) : 0.0f;
        packed[c / 2] = ml_pack_bf16(low, high);
    }
    uint4 all;
    all.x = packed[0], all.y = packed[1], all.z = packed[2], all.w = packed[3];
    *(uint4 *)(void *)(dst + i * ML_HALF_CHUNK) = all;
}

/* One tensor without parts to `dst`, contiguous, or to `half`, rows of n_col elements padded to whole chunks. */
static ml_status read_one(ml_ctx *ctx, const ml_tensor *w, int64_t n_col, float *dst, uint16_t *half)
{
    ML_TRY(ml_cuda_weight_check(ctx, w));
    int64_t per_row = ml_tensor_row_count(w), n = ml_tensor_count(w);
    int64_t row_bytes = (int64_t)ml_dtype_row_bytes(w->dtype, w->stride);
    if (n == 0) return ML_OK;
    if (half) {
        n = n / n_col * ml_n_blocks(n_col, ML_HALF_CHUNK);
        ML_LAUNCH(ctx->device, dequantize_half, (unsigned)ml_n_blocks(n, THREADS), THREADS, 0, w->dtype,
                  (const uint8_t *)w->data, row_bytes, per_row / n_col, n_col, n, half);
    } else {
        ML_LAUNCH(ctx->device, dequantize, (unsigned)ml_n_blocks(n, THREADS), THREADS, 0, w->dtype,
                  (const uint8_t *)w->data, row_bytes, per_row, n, dst);
    }
    return ml_queued(ctx);
}

/* Is there something that products can read as it is? */
static bool reads_in_place(const ml_tensor *w, bool halves)
{
    return !w->part && (w->dtype == ML_F32 || (w->dtype == ML_BF16 && halves));
}

static ml_status read_weight(ml_ctx *ctx, const ml_tensor *w, bool halves, ml_cuda_weight *out)
{
    int64_t n_col = w->dim[w->n_dim - 1];
    bool is_matrix = w->n_dim == 2;
    memset(out, 0, sizeof *out);
    out->stride = w->stride;
    out->row_stride = is_matrix ? w->stride : n_col;
    if (reads_in_place(w, halves)) {
        out->data = w->dtype == ML_F32 ? ml_f32(w) : NULL;
        out->half = w->dtype == ML_F32 ? w->half : (const uint16_t *)w->data;
        return ML_OK;
    }
    int64_t n_row = n_col ? ml_tensor_count(w) / n_col : 0, row = halves ? ml_round_to_chunk(n_col) : n_col;
    void *copy = ml_ctx_scratch_data(ctx, (size_t)(n_row * row) * (halves ? 2 : 4));
    if (!copy) return ML_ENOMEM;
    out->data = halves ? NULL : (float *)copy;
    out->half = halves ? (uint16_t *)copy : NULL;
    out->row_stride = row;
    out->stride = is_matrix ? row : w->dim[1] * row;
    for (int64_t i = 0; i < (w->part ? w->n_part : 1); i++) {
        const ml_tensor *one = w->part ? &w->part[i] : w;
        ML_TRY(read_one(ctx, one, n_col, halves ? NULL : (float *)copy, halves ? (uint16_t *)copy : NULL));
        copy = (char *)copy + (n_col ? ml_tensor_count(one) / n_col : 0) * row * (halves ? 2 : 4);
    }
    return ml_queued(ctx);
}

ml_status ml_cuda_weight_read(ml_ctx *ctx, const ml_tensor *w, ml_cuda_weight *out)
{
    return read_weight(ctx, w, ctx->precision == ML_PRECISION_BF16, out);
}

ml_status ml_cuda_weight_read_exact(ml_ctx *ctx, const ml_tensor *w, ml_cuda_weight *out)
{
    return read_weight(ctx, w, false, out);
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
