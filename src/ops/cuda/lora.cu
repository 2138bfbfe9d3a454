/* The low-rank term of an adapter, in place: y += h b^T, h = scale dropout(x) a^T; going back, with dh = scale dy b
 *   db += dy^T h;   da += dh^T dropout(x);   dx += dropout(dh a) */
#include "ops/cuda/dropout.cuh"
#include "ops/cuda/gemm.cuh"
#include "ops/cuda/rows.cuh"

typedef struct {
    ml_lora_param p;
    ml_rows y, x, a, b;
    float *h; /* [n, r] */
    const int32_t *row;
    int64_t n, r;
    float *dropped; /* NULL without dropout; [n, k] */
} term;

/* dropped = dropout(x); or, going back, dx += dropout(dropped) */
static __global__ void drop(term t, float *dx)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, k = t.x.n_col, j = i % k;
    if (i >= t.n * k) return;
    int64_t row = t.row ? t.row[i / k] : i / k;
    bool stays = ml_stays(t.p.dropout, t.p.seed, row, j);
    float scale = stays ? 1.0f / (1.0f - t.p.dropout) : 0.0f;
    if (dx) {
        if (stays) dx[row * t.x.stride + j] += t.dropped[i] * scale;
    } else {
        t.dropped[i] = stays ? t.x.data[row * t.x.stride + j] * scale : 0.0f;
    }
}

static void run_drop(ml_ctx *ctx, const term *t, float *dx)
{
    int64_t n = t->n * t->x.n_col;
    if (n == 0) return;
    ML_LAUNCH(ctx->device, drop, (unsigned)ml_n_blocks(n, ML_ROWS_THREADS), ML_ROWS_THREADS, 0, *t, dx);
}

static ml_status describe(ml_ctx *ctx, const ml_op_args *args, term *t)
{
    memset(t, 0, sizeof *t);
    t->p = *(const ml_lora_param *)args->param;
    t->y = ml_rows_of(args->in[0]);
    t->x = ml_rows_of(args->in[1]);
    t->a = ml_rows_of(args->in[2]);
    t->b = ml_rows_of(args->in[3]);
    t->row = ml_i32(args->in[4]);
    t->h = ml_f32(args->save[0]);
    t->n = args->save[0]->dim[0];
    t->r = args->save[0]->dim[1];
    if (!(t->p.dropout > 0)) return ML_OK;
    t->dropped = (float *)ml_ctx_scratch_data(ctx, (size_t)(t->n * t->x.n_col) * sizeof *t->dropped);
    if (!t->dropped) return ML_ENOMEM;
    run_drop(ctx, t, NULL);
    return ML_OK;
}

/* dropout(x), transposed or not */
static ml_cuda_operand input_of(const term *t)
{
    ml_cuda_operand o =
        ml_cuda_operand_make(t->dropped ? t->dropped : t->x.data, t->dropped ? t->x.n_col : t->x.stride, false);
    if (!t->dropped) o.row = t->row;
    return o;
}

extern "C" ml_status ml_cuda_lora_forward(ml_ctx *ctx, const ml_op_args *args)
{
    term t;
    ML_TRY(describe(ctx, args, &t));
    ml_cuda_gemm down = ml_cuda_gemm_make(t.n, t.r, t.x.n_col);
    down.a = input_of(&t);
    down.b = ml_cuda_operand_make(t.a.data, t.a.stride, true);
    down.c = t.h;
    down.c_stride = t.r;
    down.alpha = t.p.scale;
    ml_cuda_gemm_run(ctx, &down);
    ml_cuda_gemm up = ml_cuda_gemm_make(t.n, t.y.n_col, t.r);
    up.a = ml_cuda_operand_make(t.h, t.r, false);
    up.b = ml_cuda_operand_make(t.b.data, t.b.stride, true);
    up.c = t.y.data;
    up.c_stride = t.y.stride;
    up.c_row = t.row;
    up.accumulate = true;
    ml_cuda_gemm_run(ctx, &up);
    return ml_queued(ctx);
}

extern "C" ml_status ml_cuda_lora_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    term t;
    if (!grads->out[0]) return ML_OK;
    ML_TRY(describe(ctx, args, &t));
    ml_cuda_operand dy = ml_cuda_operand_make(grads->out[0], t.y.stride, false);
    dy.row = t.row;
    float *dh = (float *)ml_ctx_scratch_data(ctx, (size_t)(t.n * t.r) * sizeof *dh); // [n, r]
    if (!dh) return ML_ENOMEM;
    ml_cuda_gemm back = ml_cuda_gemm_make(t.n, t.r, t.y.n_col);
    back.a = dy;
    back.b = ml_cuda_operand_make(t.b.data, t.b.stride, false);
    back.c = dh;
    back.c_stride = t.r;
    back.alpha = t.p.scale;
    ml_cuda_gemm_run(ctx, &back);
    if (grads->in[3]) {
        ml_cuda_gemm g = ml_cuda_gemm_make(t.y.n_col, t.r, t.n);
        g.a = dy;
        g.a.transpose = true;
        g.b = ml_cuda_operand_make(t.h, t.r, false);
        g.c = grads->in[3];
        g.c_stride = t.b.stride;
        g.accumulate = true;
        ml_cuda_gemm_run(ctx, &g);
    }
    if (grads->in[2]) {
        ml_cuda_gemm g = ml_cuda_gemm_make(t.r, t.x.n_col, t.n);
        g.a = ml_cuda_operand_make(dh, t.r, true);
        g.b = input_of(&t);
        g.c = grads->in[2];
        g.c_stride = t.a.stride;
        g.accumulate = true;
        ml_cuda_gemm_run(ctx, &g);
    }
    if (!grads->in[1]) return ml_queued(ctx);
    ml_cuda_gemm g = ml_cuda_gemm_make(t.n, t.x.n_col, t.r);
    g.a = ml_cuda_operand_make(dh, t.r, false);
    g.b = ml_cuda_operand_make(t.a.data, t.a.stride, false);
    g.c = t.dropped ? t.dropped : grads->in[1];
    g.c_stride = t.dropped ? t.x.n_col : t.x.stride;
    g.c_row = t.dropped ? NULL : t.row;
    g.accumulate = !t.dropped;
    ml_cuda_gemm_run(ctx, &g);
    if (t.dropped) run_drop(ctx, &t, grads->in[1]);
    return ml_queued(ctx);
}
