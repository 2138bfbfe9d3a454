/* y = x / sqrt(mean(x^2) + eps) * w over groups of columns (Zhang and Sennrich, arXiv:1910.07467).
 *
 * The gain's gradient is a sum over all rows: each block of ROWS_PER_TASK rows makes its own sum, and the blocks
 * are added in order, so the order is one whatever the number of threads. */
#include "ops/cpu/cpu.h"

#include "base/thread.h"
#include "ops/cpu/rowops.h"

#include <string.h>

enum { ROWS_PER_TASK = 32 };

typedef struct {
    const ml_row_ops *ops;
    const ml_tensor *x, *gain, *y, *rstd;
    float eps;
    const float *dy;
    float *dx;
    float *dgain; /* [blocks, d], or NULL */
} rmsnorm_work;

static void forward_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const rmsnorm_work *w = arg;
    int64_t d = w->gain->dim[0], n_group = w->x->dim[1] / d;
    for (int64_t t = begin; t < end; t++) {
        const float *x = ml_f32(w->x) + t * w->x->stride;
        float *y = ml_f32(w->y) + t * w->y->stride, *rstd = ml_f32(w->rstd) + t * w->rstd->stride;
        for (int64_t g = 0; g < n_group; g++) {
            rstd[g] = w->ops->rmsnorm(y + g * d, x + g * d, ml_f32(w->gain), w->eps, d);
        }
    }
}

static void backward_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const rmsnorm_work *w = arg;
    int64_t d = w->gain->dim[0], n_group = w->x->dim[1] / d;
    float *dgain = w->dgain ? w->dgain + begin / ROWS_PER_TASK * d : NULL;
    if (dgain) memset(dgain, 0, (size_t)d * sizeof *dgain);
    for (int64_t t = begin; t < end; t++) {
        const float *x = ml_f32(w->x) + t * w->x->stride, *dy = w->dy + t * w->y->stride;
        const float *rstd = ml_f32(w->rstd) + t * w->rstd->stride;
        float *dx = w->dx ? w->dx + t * w->x->stride : NULL;
        for (int64_t g = 0; g < n_group; g++) {
            w->ops->rmsnorm_backward(dx ? dx + g * d : NULL, dgain, x + g * d, ml_f32(w->gain), dy + g * d, rstd[g], d);
        }
    }
}

ml_status ml_cpu_rmsnorm_forward(ml_ctx *ctx, const ml_op_args *args)
{
    (void)ctx;
    const ml_rmsnorm_param *param = args->param;
    rmsnorm_work work = { .ops = ml_row_ops_get(),
                          .x = args->in[0],
                          .gain = args->in[1],
                          .y = args->out[0],
                          .rstd = args->save[0],
                          .eps = param->eps };
    ml_parallel_for(work.x->dim[0], ROWS_PER_TASK, forward_rows, &work);
    return ML_OK;
}

ml_status ml_cpu_rmsnorm_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    rmsnorm_work work = { .ops = ml_row_ops_get(),
                          .x = args->in[0],
                          .gain = args->in[1],
                          .y = args->out[0],
                          .rstd = args->save[0],
                          .dy = grads->out[0],
                          .dx = grads->in[0] };
    int64_t n = work.x->dim[0], n_block = (n + ROWS_PER_TASK - 1) / ROWS_PER_TASK, d = work.gain->dim[0];
    float *dgain = grads->in[1];
    if (dgain) {
        work.dgain = ml_ctx_scratch(ctx, (size_t)(n_block * d) * sizeof(float));
        if (!work.dgain) return ML_ENOMEM;
    }
    ml_parallel_for(n, ROWS_PER_TASK, backward_rows, &work);
    for (int64_t b = 0; dgain && b < n_block; b++) work.ops->add(dgain, dgain, work.dgain + b * d, 1.0f, d);
    return ML_OK;
}
