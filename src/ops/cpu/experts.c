/* A layer of experts: dispatch, expert networks, combine, without a copy of x or of y per (token, expert).
 *
 * The accepted (token, k) pairs are sorted by expert, stably: "rows".  Expert e owns rows offset[e] .. offset[e+1].
 *
 *   forward      pre  = x[token[row]] gate_up_e^T      [rows, f or 2 f]  kept
 *                a    = prob * act(gate) [* up]        [rows, f]         scratch
 *                y[token[row]] += a down_e^T           expert after expert, so every sum has one order
 *   backward     da   = dy[token[row]] down_e          [rows, f]         scratch
 *   (SonicMoE,   dprob[row] = <da, act>;  pre becomes its own gradient, da becomes a
 *   2512.14080)  d(down_e)    += dy[token]^T a
 *                d(gate_up_e) += dpre^T x[token]
 *                dx[token]    += dpre gate_up_e        expert after expert
 *
 * The first product and the activation run in tiles of rows of one expert, so that pre-activations are still in
 * cache when they are activated; the others use all threads on one expert at a time. */
#include "ops/cpu/cpu.h"

#include "base/thread.h"
#include "ops/cpu/gemm.h"
#include "ops/cpu/matvec.h"
#include "ops/cpu/rowops.h"

#include <string.h>

enum {
    FAST_HIDDEN = 128, /* in fast mode: hidden columns of a task of the first product */
    FAST_COLUMNS = 32, /* columns of y of a task of the second */
    FAST_ROWS = 64,    /* rows it takes at once */
};

typedef struct {
    int64_t n_row, n_expert, top_k, d, f;
    const int32_t *offset; /* [n_expert + 1] */
    const int32_t *flat;   /* [n_row] token * top_k + k */
    const int32_t *token;  /* [n_row] */
    float *pre;            /* [n_row, n_col] */
    int64_t n_col;         /* f, or 2 f: gate | up */
    float *a;              /* [n_row, f] */
    const ml_tensor *x, *prob, *gate, *up, *down, *y;
    bool fast;                    /* products for inference */
    int64_t n_part, part_columns; /* forward: parts that the hidden columns of a tile are cut into */
    const float *dy;
    int64_t dy_stride;
    float *dprob; /* NULL: not wanted */
    ml_activation activation;
    const ml_row_ops *row_ops;
    int64_t tile_rows;
    int32_t *first_tile; /* [n_expert + 1] tiles of the experts before */
} layer;

/* Counting sort of the accepted pairs by expert.  Fills offset and flat. */
static ml_status sort_by_expert(ml_ctx *ctx, const ml_tensor *id, int64_t n_expert, int32_t *offset, int32_t *flat)
{
    int64_t n_token = id->dim[0], top_k = id->dim[1];
    if (n_token * top_k > INT32_MAX) {
        return ml_ctx_fail(ctx, ML_EINVAL, "experts: %lld tokens with %lld experts each are too many for one batch",
                           (long long)n_token, (long long)top_k);
    }
    memset(offset, 0, (size_t)(n_expert + 1) * sizeof *offset);
    for (int64_t t = 0; t < n_token; t++) {
        const int32_t *chosen = ml_i32(id) + t * id->stride;
        for (int64_t k = 0; k < top_k; k++) {
            bool again = false;
            for (int64_t j = 0; j < k; j++) again = again || chosen[j] == chosen[k];
            if (chosen[k] < -1 || chosen[k] >= n_expert || (again && chosen[k] >= 0)) {
                return ml_ctx_fail(ctx, ML_EINVAL, "experts: token %lld chooses expert %d of %lld%s", (long long)t,
                                   (int)chosen[k], (long long)n_expert, again ? " twice" : "");
            }
            if (chosen[k] >= 0) offset[chosen[k] + 1]++;
        }
    }
    for (int64_t e = 0; e < n_expert; e++) offset[e + 1] += offset[e];
    for (int64_t t = 0; t < n_token; t++) {
        const int32_t *chosen = ml_i32(id) + t * id->stride;
        for (int64_t k = 0; k < top_k; k++) {
            if (chosen[k] >= 0) flat[offset[chosen[k]]++] = (int32_t)(t * top_k + k);
        }
    }
    /* offset[e] moved to the end of expert e, the beginning of e + 1: shift back. */
    memmove(offset + 1, offset, (size_t)n_expert * sizeof *offset);
    offset[0] = 0;
    return ML_OK;
}

/* Cut the experts' rows into tiles: enough for all threads, large enough to pay for packing the weight. */
static bool cut_tiles(ml_ctx *ctx, layer *l)
{
    enum { MIN_ROWS = 64, MAX_ROWS = 512 };
    int64_t rows = l->n_row / (4 * ml_thread_count()) / MIN_ROWS * MIN_ROWS;
    l->tile_rows = rows < MIN_ROWS ? MIN_ROWS : rows > MAX_ROWS ? MAX_ROWS : rows;
    l->first_tile = ml_ctx_scratch(ctx, (size_t)(l->n_expert + 1) * sizeof *l->first_tile);
    if (!l->first_tile) return false;
    l->first_tile[0] = 0;
    for (int64_t e = 0; e < l->n_expert; e++) {
        int64_t n = l->offset[e + 1] - l->offset[e];
        l->first_tile[e + 1] = l->first_tile[e] + (int32_t)((n + l->tile_rows - 1) / l->tile_rows);
    }
    return true;
}

typedef struct {
    int64_t expert, begin, n;
} tile;

static tile find_tile(const layer *l, int64_t i)
{
    int64_t low = 0, high = l->n_expert; /* first_tile[low] <= i < first_tile[high] */
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (l->first_tile[middle] <= i) {
            low = middle;
        } else {
            high = middle;
        }
    }
    int64_t begin = l->offset[low] + (i - l->first_tile[low]) * l->tile_rows, end = l->offset[low + 1];
    return (tile){ low, begin, end - begin < l->tile_rows ? end - begin : l->tile_rows };
}

static bool has_f32_weights(const layer *l)
{
    return l->gate->dtype == ML_F32 && l->down->dtype == ML_F32 && (!l->up || l->up->dtype == ML_F32);
}

/* What both directions need: the description of the layer, with token and a in scratch. */
static ml_status describe(ml_ctx *ctx, const ml_op_args *args, layer *l)
{
    const ml_tensor *gate = args->in[3];
    const ml_experts_param *param = args->param;
    *l = (layer){ .n_expert = gate->dim[0],
                  .top_k = args->in[1]->dim[1],
                  .f = gate->dim[1],
                  .d = gate->dim[2],
                  .offset = ml_i32(args->save[0]),
                  .flat = ml_i32(args->save[1]),
                  .pre = ml_f32(args->save[2]),
                  .n_col = args->save[2]->dim[1],
                  .x = args->in[0],
                  .prob = args->in[2],
                  .gate = gate,
                  .up = args->in[4],
                  .down = args->in[5],
                  .y = args->out[0],
                  .activation = param->activation,
                  .row_ops = ml_row_ops_get() };
    l->n_row = l->offset[l->n_expert];
    int32_t *token = ml_ctx_scratch(ctx, (size_t)l->n_row * sizeof *token);
    l->a = ml_ctx_scratch(ctx, (size_t)(l->n_row * l->f) * sizeof *l->a);
    if (!token || !l->a || !cut_tiles(ctx, l)) return ML_ENOMEM;
    for (int64_t r = 0; r < l->n_row; r++) token[r] = (int32_t)(l->flat[r] / l->top_k);
    l->token = token;
    return ML_OK;
}

/* Expert's matrix in memory laid out as w: w itself or its gradient. */
static float *expert_of(const ml_tensor *w, float *data, int64_t expert)
{
    return data + expert * w->stride;
}

/* Row `row` of an expert's matrix, of any float type. */
static const void *row_of(const ml_tensor *w, int64_t expert, int64_t row)
{
    return (const char *)w->data + (size_t)(expert * w->stride + row * w->dim[2]) * ml_dtype_size(w->dtype);
}

/* Gate and up lie one after the other in every expert: one matrix of 2 f rows. */
static bool is_fused(const layer *l, const float *gate, const float *up)
{
    return up && up == gate + l->f * l->d && l->gate->stride == l->up->stride;
}

static float prob_of(const layer *l, int64_t row)
{
    int64_t flat = l->flat[row];
    return ml_f32(l->prob)[flat / l->top_k * l->prob->stride + flat % l->top_k];
}

/* pre[rows of the tile] = x gate_up^T */
static void project(const layer *l, tile t)
{
    ml_gemm g = { .m = t.n,
                  .n = is_fused(l, ml_f32(l->gate), ml_f32(l->up)) ? 2 * l->f : l->f,
                  .k = l->d,
                  .a = { .data = ml_f32(l->x), .stride = l->x->stride, .row = l->token + t.begin },
                  .b = { .data = expert_of(l->gate, ml_f32(l->gate), t.expert), .stride = l->d, .transpose = true },
                  .c = l->pre + t.begin * l->n_col,
                  .c_stride = l->n_col };
    ml_gemm_run_serial(&g);
    if (!l->up || g.n != l->f) return;
    g.b.data = expert_of(l->up, ml_f32(l->up), t.expert);
    g.c += l->f;
    ml_gemm_run_serial(&g);
}

/* The same for columns column .. column + n of gate and up, by the products for inference. */
static void project_fast(const layer *l, tile t, int64_t column, int64_t n)
{
    ml_matvec p = { .n_token = t.n,
                    .n = n,
                    .k = l->d,
                    .x = ml_f32(l->x),
                    .x_stride = l->x->stride,
                    .x_row = l->token + t.begin,
                    .w_dtype = l->gate->dtype,
                    .w = row_of(l->gate, t.expert, column),
                    .w_stride = l->d,
                    .y = l->pre + t.begin * l->n_col + column,
                    .y_stride = l->n_col };
    ml_matvec_run_serial(&p);
    if (!l->up) return;
    p.w_dtype = l->up->dtype;
    p.w = row_of(l->up, t.expert, column);
    p.y += l->f;
    ml_matvec_run_serial(&p);
}

/* Tasks are tiles, and within a tile parts of `part_columns` hidden columns. */
static void forward_tiles(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const layer *l = arg;
    for (int64_t i = begin; i < end; i++) {
        tile t = find_tile(l, i / l->n_part);
        int64_t column = i % l->n_part * l->part_columns;
        int64_t n = l->f - column < l->part_columns ? l->f - column : l->part_columns;
        if (l->fast) {
            project_fast(l, t, column, n);
        } else {
            project(l, t);
        }
        for (int64_t r = t.begin; r < t.begin + t.n; r++) {
            const float *gate = l->pre + r * l->n_col + column, *up = l->up ? gate + l->f : NULL;
            l->row_ops->activate(l->activation, gate, up, prob_of(l, r), l->a + r * l->f + column, n);
        }
    }
}

/* A product whose rows or inner dimension are the rows of one expert. */
typedef void (*expert_product_fn)(const layer *l, int64_t expert, int64_t begin, int64_t n, void *arg);

static void for_each_expert(const layer *l, expert_product_fn product, void *arg)
{
    for (int64_t e = 0; e < l->n_expert; e++) {
        int64_t n = l->offset[e + 1] - l->offset[e];
        if (n > 0) product(l, e, l->offset[e], n, arg);
    }
}

/* y[token] += a down^T */
static void add_down(const layer *l, int64_t expert, int64_t begin, int64_t n, void *arg)
{
    (void)arg;
    ml_gemm g = { .m = n,
                  .n = l->d,
                  .k = l->f,
                  .a = { .data = l->a + begin * l->f, .stride = l->f },
                  .b = { .data = expert_of(l->down, ml_f32(l->down), expert), .stride = l->f, .transpose = true },
                  .c = ml_f32(l->y),
                  .c_stride = l->y->stride,
                  .c_row = l->token + begin,
                  .accumulate = true };
    ml_gemm_run(&g);
}

/* The same by the products for inference: a task owns columns begin .. end of y, and goes through the experts. */
static void add_down_fast(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const layer *l = arg;
    float part[FAST_ROWS * FAST_COLUMNS];
    ml_matvec p = { .n = end - begin,
                    .k = l->f,
                    .x_stride = l->f,
                    .w_dtype = l->down->dtype,
                    .w_stride = l->f,
                    .y = part,
                    .y_stride = FAST_COLUMNS };
    for (int64_t e = 0; e < l->n_expert; e++) {
        p.w = row_of(l->down, e, begin);
        for (int64_t row = l->offset[e]; row < l->offset[e + 1]; row += FAST_ROWS) {
            p.n_token = l->offset[e + 1] - row < FAST_ROWS ? l->offset[e + 1] - row : FAST_ROWS;
            p.x = l->a + row * l->f;
            ml_matvec_run_serial(&p);
            for (int64_t r = 0; r < p.n_token; r++) {
                float *y = ml_f32(l->y) + l->token[row + r] * l->y->stride + begin;
                for (int64_t j = 0; j < p.n; j++) y[j] += part[r * FAST_COLUMNS + j];
            }
        }
    }
}

/* Which products run depends on the mode and the weights' types alone, so a token's bits do not depend on the
 * batch. */
static bool is_fast(const ml_ctx *ctx, const layer *l)
{
    return ctx->mode == ML_MODE_FAST || !has_f32_weights(l);
}

ml_status ml_cpu_experts_forward(ml_ctx *ctx, const ml_op_args *args)
{
    ml_tensor *y = args->out[0];
    ML_TRY(sort_by_expert(ctx, args->in[1], args->in[3]->dim[0], ml_i32(args->save[0]), ml_i32(args->save[1])));
    layer l;
    ML_TRY(describe(ctx, args, &l));
    l.fast = is_fast(ctx, &l);
    l.part_columns = l.fast && l.f > FAST_HIDDEN ? FAST_HIDDEN : l.f;
    l.n_part = l.f ? (l.f + l.part_columns - 1) / l.part_columns : 0;
    for (int64_t t = 0; t < y->dim[0]; t++) memset(ml_f32(y) + t * y->stride, 0, (size_t)l.d * sizeof(float));
    ml_parallel_for(l.first_tile[l.n_expert] * l.n_part, 1, forward_tiles, &l);
    if (l.fast) {
        ml_parallel_for(l.d, FAST_COLUMNS, add_down_fast, &l);
    } else {
        for_each_expert(&l, add_down, NULL);
    }
    return ML_OK;
}

static void backward_tiles(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const layer *l = arg;
    for (int64_t i = begin; i < end; i++) {
        tile t = find_tile(l, i);
        ml_gemm g = { .m = t.n,
                      .n = l->f,
                      .k = l->d,
                      .a = { .data = l->dy, .stride = l->dy_stride, .row = l->token + t.begin },
                      .b = { .data = expert_of(l->down, ml_f32(l->down), t.expert), .stride = l->f },
                      .c = l->a + t.begin * l->f,
                      .c_stride = l->f };
        ml_gemm_run_serial(&g);
        for (int64_t r = t.begin; r < t.begin + t.n; r++) {
            float *pre = l->pre + r * l->n_col;
            float dprob = l->row_ops->activate_backward(l->activation, pre, l->up ? pre + l->f : NULL, prob_of(l, r),
                                                        l->a + r * l->f, l->f);
            int64_t token = l->token[r], k = l->flat[r] % l->top_k;
            if (l->dprob) l->dprob[token * l->prob->stride + k] += dprob;
        }
    }
}

/* d(down) += dy[token]^T a */
static void add_down_gradient(const layer *l, int64_t expert, int64_t begin, int64_t n, void *arg)
{
    ml_gemm g = { .m = l->d,
                  .n = l->f,
                  .k = n,
                  .a = { .data = l->dy, .stride = l->dy_stride, .row = l->token + begin, .transpose = true },
                  .b = { .data = l->a + begin * l->f, .stride = l->f },
                  .c = expert_of(l->down, arg, expert),
                  .c_stride = l->f,
                  .accumulate = true };
    ml_gemm_run(&g);
}

typedef struct {
    const ml_tensor *w; /* gate or up */
    float *dw;
    int64_t first, n_col; /* its columns of pre */
    float *dx;
} projection;

/* d(gate_up) += dpre^T x[token] */
static void add_projection_gradient(const layer *l, int64_t expert, int64_t begin, int64_t n, void *arg)
{
    const projection *p = arg;
    ml_gemm g = { .m = p->n_col,
                  .n = l->d,
                  .k = n,
                  .a = { .data = l->pre + begin * l->n_col + p->first, .stride = l->n_col, .transpose = true },
                  .b = { .data = ml_f32(l->x), .stride = l->x->stride, .row = l->token + begin },
                  .c = expert_of(p->w, p->dw, expert),
                  .c_stride = l->d,
                  .accumulate = true };
    ml_gemm_run(&g);
}

/* dx[token] += dpre gate_up */
static void add_input_gradient(const layer *l, int64_t expert, int64_t begin, int64_t n, void *arg)
{
    const projection *p = arg;
    ml_gemm g = { .m = n,
                  .n = l->d,
                  .k = p->n_col,
                  .a = { .data = l->pre + begin * l->n_col + p->first, .stride = l->n_col },
                  .b = { .data = expert_of(p->w, ml_f32(p->w), expert), .stride = l->d },
                  .c = p->dx,
                  .c_stride = l->x->stride,
                  .c_row = l->token + begin,
                  .accumulate = true };
    ml_gemm_run(&g);
}

/* Gradients of gate and up (each may be unwanted) and of x from dpre. */
static void projection_backward(const layer *l, const ml_op_grads *grads)
{
    float *dgate = grads->in[3], *dup = grads->in[4];
    if (dgate && is_fused(l, dgate, dup)) {
        projection both = { .w = l->gate, .dw = dgate, .n_col = 2 * l->f };
        for_each_expert(l, add_projection_gradient, &both);
    } else {
        projection gate = { .w = l->gate, .dw = dgate, .n_col = l->f };
        projection up = { .w = l->up, .dw = dup, .first = l->f, .n_col = l->f };
        if (dgate) for_each_expert(l, add_projection_gradient, &gate);
        if (dup) for_each_expert(l, add_projection_gradient, &up);
    }
    if (!grads->in[0]) return;
    bool fused = is_fused(l, ml_f32(l->gate), ml_f32(l->up));
    projection gate = { .w = l->gate, .n_col = fused ? 2 * l->f : l->f, .dx = grads->in[0] };
    for_each_expert(l, add_input_gradient, &gate);
    if (!l->up || fused) return;
    projection up = { .w = l->up, .first = l->f, .n_col = l->f, .dx = grads->in[0] };
    for_each_expert(l, add_input_gradient, &up);
}

ml_status ml_cpu_experts_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    layer l;
    ML_TRY(describe(ctx, args, &l));
    if (!has_f32_weights(&l)) {
        return ml_ctx_fail(ctx, ML_EINVAL, "experts: weights of type %s have no backward pass: train with f32 weights",
                           ml_dtype_name(l.gate->dtype != ML_F32 ? l.gate->dtype : l.down->dtype));
    }
    l.dy = grads->out[0];
    l.dy_stride = args->out[0]->stride;
    l.dprob = grads->in[2];
    ml_parallel_for(l.first_tile[l.n_expert], 1, backward_tiles, &l);
    if (grads->in[5]) for_each_expert(&l, add_down_gradient, grads->in[5]);
    projection_backward(&l, grads);
    return ML_OK;
}
