/* y[t] = table[id[t]].
 *
 * Backward: a thread owns a range of columns and walks all tokens in order, so rows picked more than once are
 * summed in the order of the tokens. */
#include "ops/cpu/cpu.h"

#include "base/thread.h"
#include "ops/cpu/rowops.h"
#include "tensor/blocks.h"

#include <assert.h>

enum { ROWS_PER_TASK = 64, COLS_PER_TASK = 32 };

typedef struct {
    const ml_row_ops *ops;
    const ml_tensor *table, *id, *y;
    const float *dy;
    float *dtable;
} embedding_work;

static void forward_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const embedding_work *w = arg;
    int64_t d = w->table->dim[1];
    size_t row_bytes = ml_dtype_row_bytes(w->table->dtype, w->table->stride);
    for (int64_t t = begin; t < end; t++) {
        const char *row = (const char *)w->table->data + (size_t)ml_i32(w->id)[t] * row_bytes;
        float *y = ml_f32(w->y) + t * w->y->stride;
        if (ml_dtype_is_block(w->table->dtype)) {
            ml_dequantize(w->table->dtype, row, y, d);
        } else {
            w->ops->to_f32(w->table->dtype, row, y, d);
        }
    }
}

static void backward_cols(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const embedding_work *w = arg;
    for (int64_t t = 0; t < w->id->dim[0]; t++) {
        float *dst = w->dtable + ml_i32(w->id)[t] * w->table->stride + begin;
        w->ops->add(dst, dst, w->dy + t * w->y->stride + begin, 1.0f, end - begin);
    }
}

ml_status ml_cpu_embedding_forward(ml_ctx *ctx, const ml_op_args *args)
{
    embedding_work work = { .ops = ml_row_ops_get(), .table = args->in[0], .id = args->in[1], .y = args->out[0] };
    assert(work.table->layout == ML_LAYOUT_ROWS && !work.table->part);
    const int32_t *id = ml_i32(work.id);
    for (int64_t t = 0; t < work.id->dim[0]; t++) {
        if (id[t] >= 0 && id[t] < work.table->dim[0]) continue;
        return ml_ctx_fail(ctx, ML_EINVAL,
                           "token id %d at position %lld of the batch is outside the table of %lld rows", id[t],
                           (long long)t, (long long)work.table->dim[0]);
    }
    ml_parallel_for(work.id->dim[0], ROWS_PER_TASK, forward_rows, &work);
    return ML_OK;
}

ml_status ml_cpu_embedding_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    (void)ctx;
    embedding_work work = { .ops = ml_row_ops_get(),
                            .table = args->in[0],
                            .id = args->in[1],
                            .y = args->out[0],
                            .dy = grads->out[0],
                            .dtable = grads->in[0] };
    if (work.dtable) ml_parallel_for(work.table->dim[1], COLS_PER_TASK, backward_cols, &work);
    return ML_OK;
}
