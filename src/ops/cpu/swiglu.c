/* y = silu(gate) * up, silu(g) = g / (1 + e^-g). */
#include "ops/cpu/cpu.h"

#include "base/thread.h"
#include "ops/cpu/rowops.h"

enum { ROWS_PER_TASK = 16 };

typedef struct {
    const ml_row_ops *ops;
    const ml_tensor *gate_up, *y;
    const float *dy;
    float *dgate_up;
} swiglu_work;

static void forward_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const swiglu_work *w = arg;
    int64_t f = w->y->dim[1];
    for (int64_t t = begin; t < end; t++) {
        const float *gate = ml_f32(w->gate_up) + t * w->gate_up->stride;
        w->ops->swiglu(ml_f32(w->y) + t * w->y->stride, gate, gate + f, f);
    }
}

static void backward_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const swiglu_work *w = arg;
    int64_t f = w->y->dim[1];
    for (int64_t t = begin; t < end; t++) {
        const float *gate = ml_f32(w->gate_up) + t * w->gate_up->stride;
        float *dgate = w->dgate_up + t * w->gate_up->stride;
        w->ops->swiglu_backward(dgate, dgate + f, gate, gate + f, w->dy + t * w->y->stride, f);
    }
}

ml_status ml_cpu_swiglu_forward(ml_ctx *ctx, const ml_op_args *args)
{
    (void)ctx;
    swiglu_work work = { .ops = ml_row_ops_get(), .gate_up = args->in[0], .y = args->out[0] };
    ml_parallel_for(work.y->dim[0], ROWS_PER_TASK, forward_rows, &work);
    return ML_OK;
}

ml_status ml_cpu_swiglu_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    (void)ctx;
    swiglu_work work = { .ops = ml_row_ops_get(),
                         .gate_up = args->in[0],
                         .y = args->out[0],
                         .dy = grads->out[0],
                         .dgate_up = grads->in[0] };
    if (work.dgate_up) ml_parallel_for(work.y->dim[0], ROWS_PER_TASK, backward_rows, &work);
    return ML_OK;
}
