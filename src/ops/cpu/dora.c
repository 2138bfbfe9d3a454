/* The magnitudes of an adapter, in place: y[t, j] = g[j] * y[t, j] + bias[j], g = m / norm.
 *   save: u [rows, n], y as it came, while recording
 * Going back, in place in the gradient that y and its view share:  dm[j] += sum over rows of dy u / norm;  dy *= g.
 * The sum runs down the rows in their order. */
#include "ops/cpu/cpu.h"

#include "base/thread.h"

#include <stdbool.h>
#include <string.h>

enum { ROWS_PER_TASK = 16, COLUMNS_PER_TASK = 128 };

typedef struct {
    const float *m, *norm, *bias;
    const int32_t *row; /* NULL: all */
    int64_t n, stride;  /* columns; from row to row of y */
    float *y;           /* or its gradient */
    float *u;           /* NULL: not kept */
    float *dm;          /* NULL: not wanted */
    int64_t n_row;
} dora_work;

static float factor(const dora_work *w, int64_t j)
{
    return w->m && w->norm[j] > 0 ? w->m[j] / w->norm[j] : 1.0f;
}

static void scale_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const dora_work *w = arg;
    for (int64_t i = begin; i < end; i++) {
        float *y = w->y + (w->row ? w->row[i] : i) * w->stride;
        if (w->u) memcpy(w->u + i * w->n, y, (size_t)w->n * sizeof *y);
        for (int64_t j = 0; j < w->n; j++) y[j] *= factor(w, j);
        for (int64_t j = 0; j < w->n && w->bias; j++) y[j] += w->bias[j];
    }
}

static dora_work describe(const ml_op_args *args)
{
    const ml_tensor *y = args->in[0];
    return (dora_work){ .m = ml_f32(args->in[1]),
                        .norm = ml_f32(args->in[2]),
                        .bias = ml_f32(args->in[3]),
                        .row = ml_i32(args->in[4]),
                        .n = y->dim[1],
                        .stride = y->stride,
                        .y = ml_f32(y),
                        .n_row = args->in[4] ? args->in[4]->dim[0] : y->dim[0] };
}

ml_status ml_cpu_dora_forward(ml_ctx *ctx, const ml_op_args *args)
{
    (void)ctx;
    dora_work work = describe(args);
    if (args->save[0]->dim[0] > 0) work.u = ml_f32(args->save[0]);
    ml_parallel_for(work.n_row, ROWS_PER_TASK, scale_rows, &work);
    return ML_OK;
}

/* Columns [begin, end) of dm, then of dy. */
static void pull_columns(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const dora_work *w = arg;
    float sum[COLUMNS_PER_TASK] = { 0 };
    for (int64_t i = 0; i < w->n_row; i++) {
        float *dy = w->y + (w->row ? w->row[i] : i) * w->stride;
        const float *u = w->u + i * w->n;
        for (int64_t j = begin; j < end; j++) {
            if (w->dm) sum[j - begin] += dy[j] * u[j];
            dy[j] *= factor(w, j);
        }
    }
    for (int64_t j = begin; j < end && w->dm; j++) {
        if (w->norm[j] > 0) w->dm[j] += sum[j - begin] / w->norm[j];
    }
}

ml_status ml_cpu_dora_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    (void)ctx;
    dora_work work = describe(args);
    if (!work.m || !grads->out[0]) return ML_OK;
    work.y = grads->out[0];
    work.u = ml_f32(args->save[0]);
    work.dm = grads->in[1];
    ml_parallel_for(work.n, COLUMNS_PER_TASK, pull_columns, &work);
    return ML_OK;
}
