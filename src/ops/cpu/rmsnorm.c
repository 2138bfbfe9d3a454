/* y = x / sqrt(mean(x^2) + eps) * w over groups of columns (Zhang and Sennrich, arXiv:1910.07467), and the same of a
 * sum x = a + b that is made on the way, one group in a row: a row of it is still in the cache when its norm is taken.
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
    const ml_tensor *a, *b; /* of the sum; NULL: x is given */
    const ml_tensor *x, *gain, *y, *rstd;
    float eps;
    const float *dy;
    float *dx;
    float *da, *db; /* get what dx has in the end; NULL: not wanted */
    float *dgain;   /* [blocks, d], or NULL */
} rmsnorm_work;

static void forward_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const rmsnorm_work *w = arg;
    int64_t d = w->gain->dim[0], n_group = w->x->dim[1] / d;
    for (int64_t t = begin; t < end; t++) {
        float *x = ml_f32(w->x) + t * w->x->stride;
        float *y = ml_f32(w->y) + t * w->y->stride, *rstd = ml_f32(w->rstd) + t * w->rstd->stride;
        if (w->a) w->ops->add(x, ml_f32(w->a) + t * w->a->stride, ml_f32(w->b) + t * w->b->stride, 1.0f, d);
        for (int64_t g = 0; g < n_group; g++) {
            rstd[g] = w->ops->rmsnorm(y + g * d, x + g * d, ml_f32(w->gain), w->eps, d);
        }
    }
}

static void add_row(const rmsnorm_work *w, float *to, const ml_tensor *like, int64_t t, const float *dx)
{
    float *row = to ? to + t * like->stride : NULL;
    if (row) w->ops->add(row, row, dx, 1.0f, like->dim[1]);
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
        add_row(w, w->da, w->a, t, dx);
        add_row(w, w->db, w->b, t, dx);
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

static ml_status run_backward(ml_ctx *ctx, rmsnorm_work *work, float *dgain)
{
    int64_t n = work->x->dim[0], n_block = (n + ROWS_PER_TASK - 1) / ROWS_PER_TASK, d = work->gain->dim[0];
    if (dgain) {
        work->dgain = ml_ctx_scratch(ctx, (size_t)(n_block * d) * sizeof(float));
        if (!work->dgain) return ML_ENOMEM;
    }
    ml_parallel_for(n, ROWS_PER_TASK, backward_rows, work);
    for (int64_t b = 0; dgain && b < n_block; b++) work->ops->add(dgain, dgain, work->dgain + b * d, 1.0f, d);
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
    return run_backward(ctx, &work, grads->in[1]);
}

ml_status ml_cpu_add_rmsnorm_forward(ml_ctx *ctx, const ml_op_args *args)
{
    (void)ctx;
    const ml_rmsnorm_param *param = args->param;
    rmsnorm_work work = { .ops = ml_row_ops_get(),
                          .a = args->in[0],
                          .b = args->in[1],
                          .x = args->out[0],
                          .gain = args->in[2],
                          .y = args->out[1],
                          .rstd = args->save[0],
                          .eps = param->eps };
    ml_parallel_for(work.x->dim[0], ROWS_PER_TASK, forward_rows, &work);
    return ML_OK;
}

/* Zeros in the place of a gradient that did not arrive. */
static float *nothing_arrived(ml_ctx *ctx, const ml_tensor *x)
{
    size_t n_bytes = (size_t)ml_tensor_count(x) * sizeof(float);
    float *zero = ml_ctx_scratch(ctx, n_bytes);
    if (zero) memset(zero, 0, n_bytes);
    return zero;
}

ml_status ml_cpu_add_rmsnorm_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    rmsnorm_work work = { .ops = ml_row_ops_get(),
                          .a = args->in[0],
                          .b = args->in[1],
                          .x = args->out[0],
                          .gain = args->in[2],
                          .y = args->out[1],
                          .rstd = args->save[0],
                          .dy = grads->out[1] ? grads->out[1] : nothing_arrived(ctx, args->out[1]),
                          .dx = grads->out[0] ? grads->out[0] : nothing_arrived(ctx, args->out[0]),
                          .da = grads->in[0],
                          .db = grads->in[1] };
    if (!work.dx || !work.dy) return ML_ENOMEM;
    if (work.db == work.dx) work.db = NULL; /* the sum's gradient is b's from now on */
    return run_backward(ctx, &work, grads->in[2]);
}
