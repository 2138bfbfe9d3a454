/* Rotary position embedding (Su et al., arXiv:2104.09864), in place:
 *   (a, b) -> magnitude * (a cos - b sin, a sin + b cos),  angle = position * inv_freq[pair]
 * Its backward is the rotation by the opposite angle, in place in the gradient that x and its view share.
 *
 * Angles reach thousands of radians, where fp32 keeps only three decimals of them: they are made in double and
 * only sine and cosine are rounded.  The table has one row per position when positions are fewer than tokens
 * (packed sequences restart at 0), else one per token.
 *   row: [even: cos cos ...][odd: what multiplies the partner], each in the layout of the columns */
#include "ops/cpu/cpu.h"

#include "base/thread.h"
#include "ops/cpu/rowops.h"

#include <math.h>

enum { ROWS_PER_TASK = 32 };

typedef struct {
    const ml_row_ops *ops;
    const ml_rope_param *param;
    const int32_t *pos; /* [tokens] */
    float *table;       /* [rows, 2, n_rot] */
    bool by_position;   /* row of the table: the position, else the token */
    double direction;   /* 1 forward, -1 backward */
    float *x;
    int64_t stride;
} rope_work;

static void fill_table(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const rope_work *w = arg;
    const ml_rope_param *p = w->param;
    int64_t n = p->n_rot, half = n / 2;
    for (int64_t row = begin; row < end; row++) {
        float *even = w->table + row * 2 * n, *odd = even + n;
        double position = w->by_position ? (double)row : (double)w->pos[row];
        for (int64_t i = 0; i < half; i++) {
            double angle = position * (double)p->inv_freq[i];
            float c = (float)((double)p->magnitude * cos(angle));
            float s = (float)((double)p->magnitude * w->direction * sin(angle));
            int64_t a = p->interleaved ? 2 * i : i, b = p->interleaved ? 2 * i + 1 : i + half;
            even[a] = even[b] = c;
            odd[a] = -s;
            odd[b] = s;
        }
    }
}

static void rotate_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const rope_work *w = arg;
    const ml_rope_param *p = w->param;
    for (int64_t t = begin; t < end; t++) {
        const float *even = w->table + (w->by_position ? w->pos[t] : t) * 2 * p->n_rot;
        float *x = w->x + t * w->stride + p->offset;
        for (int64_t h = 0; h < p->n_head; h++) {
            w->ops->rotate(x + h * p->d_head, even, even + p->n_rot, p->interleaved, p->n_rot);
        }
    }
}

static ml_status rotate_all(ml_ctx *ctx, const ml_op_args *args, float *x, double direction)
{
    const ml_tensor *pos = args->in[1];
    rope_work work = { .ops = ml_row_ops_get(),
                       .param = args->param,
                       .pos = ml_i32(pos),
                       .direction = direction,
                       .x = x,
                       .stride = args->in[0]->stride };
    int64_t n = pos->dim[0], largest = -1;
    for (int64_t t = 0; t < n; t++) {
        if (work.pos[t] < 0) return ml_ctx_fail(ctx, ML_EINVAL, "rope: position %d is negative", work.pos[t]);
        if (work.pos[t] > largest) largest = work.pos[t];
    }
    work.by_position = largest + 1 <= n;
    int64_t n_row = work.by_position ? largest + 1 : n;
    work.table = ml_ctx_scratch(ctx, (size_t)(n_row * 2 * work.param->n_rot) * sizeof(float));
    if (!work.table) return ML_ENOMEM;
    ml_parallel_for(n_row, ROWS_PER_TASK, fill_table, &work);
    ml_parallel_for(n, ROWS_PER_TASK, rotate_rows, &work);
    return ML_OK;
}

ml_status ml_cpu_rope_forward(ml_ctx *ctx, const ml_op_args *args)
{
    return rotate_all(ctx, args, ml_f32(args->in[0]), 1);
}

ml_status ml_cpu_rope_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    return grads->in[0] ? rotate_all(ctx, args, grads->in[0], -1) : ML_OK;
}
