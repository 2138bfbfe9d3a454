#include "ops/cpu/weight.h"

#include "base/thread.h"
#include "ops/cpu/matvec.h"
#include "tensor/blocks.h"

#include <assert.h>

enum { DEQUANTIZED_ROWS = 32 }; /* of a task in exact mode */

ml_weight_input ml_weight_input_make(const ml_ctx *ctx, const float *x, int64_t n_row, int64_t k, int64_t stride)
{
    return (ml_weight_input){ .x = x, .n_row = n_row, .k = k, .stride = stride, .exact = ctx->mode == ML_MODE_EXACT };
}

static int rounding_of(ml_dtype dtype)
{
    return ml_dtype_block_length(dtype) == 256;
}

static ml_status round_to_bf16(ml_ctx *ctx, ml_weight_input *in)
{
    if (in->bx.x) return ML_OK;
    void *memory = ml_ctx_scratch(ctx, ml_bf16_input_bytes(in->n_row, in->k) + 1);
    if (!memory) return ctx->error.code;
    in->bx = ml_bf16_input_make(in->x, in->stride, in->n_row, in->k, memory);
    return ML_OK;
}

static ml_status prepare_for(ml_ctx *ctx, ml_weight_input *in, const ml_tensor *w)
{
    if (w->dtype == ML_BF16 && !in->exact) return round_to_bf16(ctx, in);
    if (!ml_dtype_is_block(w->dtype)) return ML_OK;
    if (in->exact) {
        if (in->k <= ML_WEIGHT_MAX_K && w->layout == ML_LAYOUT_ROWS) return ML_OK;
        return ml_ctx_fail(ctx, ML_EINVAL,
                           "exact products with weights of type %s: expected rows of at most %d, found %s of %lld",
                           ml_dtype_name(w->dtype), ML_WEIGHT_MAX_K,
                           w->layout == ML_LAYOUT_ROWS ? "rows" : "repacked rows", (long long)in->k);
    }
    int i = rounding_of(w->dtype);
    if (in->rounded[i]) return ML_OK;
    void *memory = ml_ctx_scratch(ctx, ml_qx_bytes(w->dtype, in->n_row, in->k));
    if (!memory) return ctx->error.code;
    in->qx[i] = ml_qx_make(w->dtype, in->x, in->stride, in->n_row, in->k, memory);
    in->rounded[i] = true;
    return ML_OK;
}

ml_status ml_weight_input_prepare(ml_ctx *ctx, ml_weight_input *in, const ml_tensor *w)
{
    if (!w->part) return prepare_for(ctx, in, w);
    for (int64_t i = 0; i < w->n_part; i++) ML_TRY(prepare_for(ctx, in, &w->part[i]));
    return ML_OK;
}

ml_tensor ml_weight_matrix(const ml_tensor *w, int64_t i)
{
    if (w->part) return w->part[i];
    ml_tensor m = *w;
    m.n_dim = 2;
    m.dim[0] = w->dim[1];
    m.dim[1] = m.stride = w->dim[2];
    m.dim[2] = 1;
    m.data = (char *)w->data + (size_t)i * ml_dtype_row_bytes(w->dtype, w->stride);
    return m;
}

static ml_matvec float_product(const ml_weight_input *in, const int32_t *row, int64_t n_token, const ml_tensor *w,
                               int64_t first, int64_t n, float *y, int64_t y_stride)
{
    return (ml_matvec){ .n_token = n_token,
                        .n = n,
                        .k = in->k,
                        .x = in->x,
                        .x_stride = in->stride,
                        .x_row = row,
                        .w_dtype = w->dtype,
                        .w = (const char *)w->data + (size_t)first * ml_dtype_row_bytes(w->dtype, w->stride),
                        .w_stride = w->stride,
                        .y = y,
                        .y_stride = y_stride };
}

static ml_bf16_matmul bf16_product(const ml_weight_input *in, const int32_t *row, int64_t n_token, const ml_tensor *w,
                                   int64_t first, int64_t n, float *y, int64_t y_stride)
{
    return (ml_bf16_matmul){ .n_token = n_token,
                             .n = n,
                             .k = in->k,
                             .x = &in->bx,
                             .x_row = row,
                             .w = (const uint16_t *)w->data + first * w->stride,
                             .w_stride = w->stride,
                             .y = y,
                             .y_stride = y_stride };
}

/* Rows first .. of a matrix in rows lie together; of panels, from a whole panel on. */
static const void *block_rows(const ml_tensor *w, int64_t first)
{
    assert(w->layout == ML_LAYOUT_ROWS || first % ML_Q_ROWS == 0);
    return (const char *)w->data + (size_t)first * ml_dtype_row_bytes(w->dtype, w->dim[1]);
}

static ml_qmatmul block_product(const ml_weight_input *in, const int32_t *row, int64_t n_token, const ml_tensor *w,
                                int64_t first, int64_t n, float *y, int64_t y_stride)
{
    return (ml_qmatmul){ .n_token = n_token,
                         .n = n,
                         .k = in->k,
                         .x = &in->qx[rounding_of(w->dtype)],
                         .x_row = row,
                         .w_dtype = w->dtype,
                         .w_layout = w->layout,
                         .w = block_rows(w, first),
                         .y = y,
                         .y_stride = y_stride };
}

static void exact_block_product(const ml_weight_input *in, const int32_t *row, int64_t n_token, const ml_tensor *w,
                                int64_t first, int64_t n, float *y, int64_t y_stride)
{
    float buffer[ML_WEIGHT_MAX_K]; // [n_row, k]
    int64_t step = in->k > 0 ? ML_WEIGHT_MAX_K / in->k : n;
    for (int64_t i = 0; i < n; i += step) {
        int64_t n_row = n - i < step ? n - i : step;
        ml_dequantize(w->dtype, block_rows(w, first + i), buffer, n_row * in->k);
        ml_tensor rows = ml_tensor_describe(ML_F32, 2, (int64_t[]){ n_row, in->k }, buffer);
        ml_matvec p = float_product(in, row, n_token, &rows, 0, n_row, y + i, y_stride);
        ml_matvec_run_serial(&p);
    }
}

void ml_weight_product_serial(const ml_weight_input *in, const int32_t *row, int64_t n_token, const ml_tensor *w,
                              int64_t first, int64_t n, float *y, int64_t y_stride)
{
    if (w->dtype == ML_BF16 && !in->exact) {
        ml_bf16_matmul p = bf16_product(in, row, n_token, w, first, n, y, y_stride);
        ml_bf16_matmul_run_serial(&p);
    } else if (!ml_dtype_is_block(w->dtype)) {
        ml_matvec p = float_product(in, row, n_token, w, first, n, y, y_stride);
        ml_matvec_run_serial(&p);
    } else if (in->exact) {
        exact_block_product(in, row, n_token, w, first, n, y, y_stride);
    } else {
        ml_qmatmul p = block_product(in, row, n_token, w, first, n, y, y_stride);
        ml_qmatmul_run_serial(&p);
    }
}

typedef struct {
    const ml_weight_input *in;
    const ml_tensor *w;
    float *y;
    int64_t y_stride;
} exact_work;

static void run_exact(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const exact_work *p = arg;
    exact_block_product(p->in, NULL, p->in->n_row, p->w, begin, end - begin, p->y + begin, p->y_stride);
}

static void run_matrix(const ml_weight_input *in, const ml_tensor *w, float *y, int64_t y_stride)
{
    if (w->dtype == ML_BF16 && !in->exact) {
        ml_bf16_matmul p = bf16_product(in, NULL, in->n_row, w, 0, w->dim[0], y, y_stride);
        ml_bf16_matmul_run(&p);
    } else if (!ml_dtype_is_block(w->dtype)) {
        ml_matvec p = float_product(in, NULL, in->n_row, w, 0, w->dim[0], y, y_stride);
        ml_matvec_run(&p);
    } else if (in->exact) {
        exact_work work = { in, w, y, y_stride };
        ml_parallel_for(w->dim[0], DEQUANTIZED_ROWS, run_exact, &work);
    } else {
        ml_qmatmul p = block_product(in, NULL, in->n_row, w, 0, w->dim[0], y, y_stride);
        ml_qmatmul_run(&p);
    }
}

/* Are all parts multiplied by ops/cpu/qmatmul.h? */
static bool has_block_parts(const ml_weight_input *in, const ml_tensor *w)
{
    bool all = !in->exact && w->n_part <= ML_Q_MAX_LIST;
    for (int64_t i = 0; i < w->n_part; i++) all = all && ml_dtype_is_block(w->part[i].dtype);
    return all;
}

void ml_weight_product(const ml_weight_input *in, const ml_tensor *w, float *y, int64_t y_stride)
{
    if (!w->part) {
        run_matrix(in, w, y, y_stride);
        return;
    }
    ml_qmatmul list[ML_Q_MAX_LIST];
    bool blocks = has_block_parts(in, w);
    for (int64_t i = 0; i < w->n_part; i++) {
        const ml_tensor *part = &w->part[i];
        if (blocks) {
            list[i] = block_product(in, NULL, in->n_row, part, 0, part->dim[0], y, y_stride);
        } else {
            run_matrix(in, part, y, y_stride);
        }
        y += part->dim[0];
    }
    if (blocks) ml_qmatmul_run_list(list, (int)w->n_part);
}
