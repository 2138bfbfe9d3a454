/* The low-rank term of an adapter, in place: y += h b^T, h = scale * dropout(x) a^T.
 *   y, x [tokens, n], [tokens, k], both perhaps column views; a [r, k], b [n, r]; row: which tokens, or all
 *   save: h [rows, r]
 * Going back the gradient of y stays as it is; with dh = scale * dy b
 *   db += dy^T h;   da += dh^T dropout(x);   dx += dropout(dh a)
 * All products are ops/cpu/gemm.h's, whose bits for a token depend on nothing but the token. */
#include "ops/cpu/cpu.h"

#include "base/thread.h"
#include "ops/cpu/dropout.h"
#include "ops/cpu/gemm.h"

#include <stdbool.h>

enum { ROWS_PER_TASK = 16 };

/* Rows of x with elements dropped, or the gradient of such rows added to that of x. */
typedef struct {
    const ml_lora_param *param;
    const int32_t *row; /* NULL: all */
    int64_t k;
    const float *x;
    int64_t x_stride;
    float *dropped; /* [rows, k] */
    float *dx;      /* NULL going forward */
} dropout_work;

static void drop_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const dropout_work *w = arg;
    for (int64_t i = begin; i < end; i++) {
        int64_t t = w->row ? w->row[i] : i;
        float *here = w->dropped + i * w->k;
        if (w->dx) {
            ml_dropout_row(w->param->dropout, w->param->seed, t, 0, w->k, here, true, w->dx + t * w->x_stride);
        } else {
            ml_dropout_row(w->param->dropout, w->param->seed, t, 0, w->k, w->x + t * w->x_stride, false, here);
        }
    }
}

typedef struct {
    const ml_lora_param *param;
    ml_tensor *y, *x, *a, *b, *h;
    const int32_t *row;
    int64_t n, r, k;       /* rows, rank, columns of x */
    ml_gemm_operand input; /* dropout(x): [n, k] */
    dropout_work dropout;
} term;

static ml_status describe(ml_ctx *ctx, const ml_op_args *args, term *t)
{
    *t = (term){ .param = args->param,
                 .y = args->in[0],
                 .x = args->in[1],
                 .a = args->in[2],
                 .b = args->in[3],
                 .h = args->save[0],
                 .row = ml_i32(args->in[4]) };
    t->n = t->h->dim[0];
    t->r = t->h->dim[1];
    t->k = t->x->dim[1];
    t->input = (ml_gemm_operand){ .data = ml_f32(t->x), .stride = t->x->stride, .row = t->row };
    if (!(t->param->dropout > 0)) return ML_OK;
    t->dropout =
        (dropout_work){ .param = t->param, .row = t->row, .k = t->k, .x = ml_f32(t->x), .x_stride = t->x->stride };
    t->dropout.dropped = ml_ctx_scratch(ctx, (size_t)(t->n * t->k) * sizeof(float));
    if (!t->dropout.dropped) return ML_ENOMEM;
    ml_parallel_for(t->n, ROWS_PER_TASK, drop_rows, &t->dropout);
    t->input = (ml_gemm_operand){ .data = t->dropout.dropped, .stride = t->k };
    return ML_OK;
}

static void scale_all(float *x, int64_t n, float scale)
{
    for (int64_t i = 0; i < n; i++) x[i] *= scale;
}

ml_status ml_cpu_lora_forward(ml_ctx *ctx, const ml_op_args *args)
{
    term t;
    ML_TRY(describe(ctx, args, &t));
    ml_gemm down = { .m = t.n,
                     .n = t.r,
                     .k = t.k,
                     .a = t.input,
                     .b = { .data = ml_f32(t.a), .stride = t.a->stride, .transpose = true },
                     .c = ml_f32(t.h),
                     .c_stride = t.r };
    ml_gemm_run(&down);
    scale_all(ml_f32(t.h), t.n * t.r, t.param->scale);
    ml_gemm up = { .m = t.n,
                   .n = t.y->dim[1],
                   .k = t.r,
                   .a = { .data = ml_f32(t.h), .stride = t.r },
                   .b = { .data = ml_f32(t.b), .stride = t.b->stride, .transpose = true },
                   .c = ml_f32(t.y),
                   .c_stride = t.y->stride,
                   .c_row = t.row,
                   .accumulate = true };
    ml_gemm_run(&up);
    return ML_OK;
}

/* dx += dropout(dh a) */
static void add_input_gradient(term *t, const float *dh, float *dx)
{
    bool drops = t->dropout.dropped != NULL;
    ml_gemm g = { .m = t->n,
                  .n = t->k,
                  .k = t->r,
                  .a = { .data = dh, .stride = t->r },
                  .b = { .data = ml_f32(t->a), .stride = t->a->stride },
                  .c = drops ? t->dropout.dropped : dx,
                  .c_stride = drops ? t->k : t->x->stride,
                  .c_row = drops ? NULL : t->row,
                  .accumulate = !drops };
    ml_gemm_run(&g);
    if (!drops) return;
    t->dropout.dx = dx;
    ml_parallel_for(t->n, ROWS_PER_TASK, drop_rows, &t->dropout);
}

ml_status ml_cpu_lora_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    term t;
    ML_TRY(describe(ctx, args, &t));
    ml_gemm_operand dy = { .data = grads->out[0], .stride = t.y->stride, .row = t.row };
    if (!dy.data) return ML_OK;
    float *dh = ml_ctx_scratch(ctx, (size_t)(t.n * t.r) * sizeof *dh); // [rows, r]
    if (!dh) return ML_ENOMEM;
    ml_gemm back = { .m = t.n,
                     .n = t.r,
                     .k = t.y->dim[1],
                     .a = dy,
                     .b = { .data = ml_f32(t.b), .stride = t.b->stride },
                     .c = dh,
                     .c_stride = t.r };
    ml_gemm_run(&back);
    scale_all(dh, t.n * t.r, t.param->scale);
    if (grads->in[3]) { /* db [n, r] += dy^T h */
        ml_gemm g = { .m = t.y->dim[1],
                      .n = t.r,
                      .k = t.n,
                      .a = dy,
                      .b = { .data = ml_f32(t.h), .stride = t.r },
                      .c = grads->in[3],
                      .c_stride = t.b->stride,
                      .accumulate = true };
        g.a.transpose = true;
        ml_gemm_run(&g);
    }
    if (grads->in[2]) { /* da [r, k] += dh^T dropout(x) */
        ml_gemm g = { .m = t.r,
                      .n = t.k,
                      .k = t.n,
                      .a = { .data = dh, .stride = t.r, .transpose = true },
                      .b = t.input,
                      .c = grads->in[2],
                      .c_stride = t.a->stride,
                      .accumulate = true };
        ml_gemm_run(&g);
    }
    if (grads->in[1]) add_input_gradient(&t, dh, grads->in[1]);
    return ML_OK;
}
