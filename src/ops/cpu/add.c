/* y = a + scale * b: the residual connection. */
#include "ops/cpu/cpu.h"

#include "base/thread.h"
#include "ops/cpu/rowops.h"

enum { ROWS_PER_TASK = 64 };

typedef struct {
    const ml_row_ops *ops;
    const ml_tensor *a, *b, *y;
    float scale;
} add_work;

static void add_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const add_work *w = arg;
    int64_t n = w->y->dim[1];
    for (int64_t t = begin; t < end; t++) {
        const float *a = ml_f32(w->a) + t * w->a->stride, *b = ml_f32(w->b) + t * w->b->stride;
        float *y = ml_f32(w->y) + t * w->y->stride;
        w->ops->add(y, a, b, w->scale, n);
    }
}

ml_status ml_cpu_add_forward(ml_ctx *ctx, const ml_op_args *args)
{
    (void)ctx;
    const ml_add_param *param = args->param;
    add_work work = { ml_row_ops_get(), args->in[0], args->in[1], args->out[0], param->scale };
    ml_parallel_for(args->out[0]->dim[0], ROWS_PER_TASK, add_rows, &work);
    return ML_OK;
}

typedef struct {
    const ml_row_ops *ops;
    const float *dy;
    float *dx;
    int64_t n, dy_stride, dx_stride;
    float scale;
} accumulate_work;

static void accumulate_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const accumulate_work *w = arg;
    for (int64_t t = begin; t < end; t++) {
        const float *dy = w->dy + t * w->dy_stride;
        float *dx = w->dx + t * w->dx_stride;
        w->ops->add(dx, dx, dy, w->scale, w->n);
    }
}

ml_status ml_cpu_add_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    (void)ctx;
    const ml_add_param *param = args->param;
    for (int i = 0; i < 2; i++) {
        if (!grads->in[i] || grads->in[i] == grads->out[0]) continue; /* b may be the heir of y's gradient */
        accumulate_work work = { .ops = ml_row_ops_get(),
                                 .dy = grads->out[0],
                                 .dx = grads->in[i],
                                 .n = args->out[0]->dim[1],
                                 .dy_stride = args->out[0]->stride,
                                 .dx_stride = args->in[i]->stride,
                                 .scale = i == 0 ? 1.0f : param->scale };
        ml_parallel_for(args->out[0]->dim[0], ROWS_PER_TASK, accumulate_rows, &work);
    }
    return ML_OK;
}
