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
 * cache when they are activated; the others use all threads on one expert at a time.  Inference, and weights of other
 * types or in parts, which are not trained, go forward through experts_inference.c instead, and back through
 * ops/cpu/weight.h. */
#include "ops/cpu/cpu.h"

#include "base/thread.h"
#include "ops/cpu/experts_lora.h"
#include "ops/cpu/gemm.h"
#include "ops/cpu/weight.h"

#include <string.h>

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
static bool cut_tiles(ml_ctx *ctx, ml_experts_layer *l)
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

static bool is_plain_f32(const ml_tensor *w)
{
    return !w || (w->dtype == ML_F32 && !w->part);
}

static bool is_trainable(const ml_experts_layer *l)
{
    return is_plain_f32(l->gate) && is_plain_f32(l->up) && is_plain_f32(l->down);
}

/* What both directions need: the description of the layer, with token and a in scratch.  grads: NULL going forward. */
static ml_status describe(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads, ml_experts_layer *l)
{
    const ml_tensor *gate = args->in[3];
    const ml_experts_param *param = args->param;
    *l = (ml_experts_layer){ .n_expert = gate->dim[0],
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
    return ml_experts_adapter_make(ctx, args, grads, l);
}

/* Expert's matrix in memory laid out as w: w itself or its gradient. */
static float *expert_of(const ml_tensor *w, float *data, int64_t expert)
{
    return data + expert * w->stride;
}

/* Gate and up lie one after the other in every expert: one matrix of 2 f rows. */
static bool is_fused(const ml_experts_layer *l, const float *gate, const float *up)
{
    return up && up == gate + l->f * l->d && l->gate->stride == l->up->stride;
}

/* pre[rows of the tile] = x gate_up^T */
static void project(const ml_experts_layer *l, ml_experts_tile t)
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

/* The terms of gate and up of a tile. */
static void add_terms(const ml_experts_layer *l, ml_experts_tile t, int thread)
{
    const ml_experts_adapter *a = l->adapter;
    float *pre = l->pre + t.begin * l->n_col;
    ml_experts_term_begin(l, &a->gate, t, thread);
    ml_experts_term_begin(l, &a->up, t, thread);
    ml_experts_term_add(l, &a->gate, t.expert, t.begin, t.n, 0, l->f, pre, l->n_col, NULL);
    ml_experts_term_add(l, &a->up, t.expert, t.begin, t.n, 0, l->f, pre + l->f, l->n_col, NULL);
}

static void forward_tiles(void *arg, int64_t begin, int64_t end, int thread)
{
    const ml_experts_layer *l = arg;
    for (int64_t i = begin; i < end; i++) {
        ml_experts_tile t = ml_experts_find_tile(l, i);
        project(l, t);
        if (l->adapter) add_terms(l, t, thread);
        for (int64_t r = t.begin; r < t.begin + t.n; r++) ml_experts_activate(l, t.expert, r, 0, l->f);
        if (l->adapter) ml_experts_term_begin(l, &l->adapter->down, t, thread);
    }
}

/* A product whose rows or inner dimension are the rows of one expert. */
typedef void (*expert_product_fn)(const ml_experts_layer *l, int64_t expert, int64_t begin, int64_t n, void *arg);

static void for_each_expert(const ml_experts_layer *l, expert_product_fn product, void *arg)
{
    for (int64_t e = 0; e < l->n_expert; e++) {
        int64_t n = l->offset[e + 1] - l->offset[e];
        if (n > 0) product(l, e, l->offset[e], n, arg);
    }
}

/* y[token] += g (a down^T + h b^T) with magnitudes: in the blocks of ops/cpu/gemm.h, so that a factor of one and a term
 * of zero change no bit. */
static void add_scaled_down(const ml_experts_layer *l, int64_t expert, int64_t begin, int64_t n)
{
    enum { BLOCK = 512 };
    const ml_experts_adapter *adapter = l->adapter;
    float *u = adapter->du; // [n, d]
    for (int64_t k = 0; k <= l->f; k += BLOCK) {
        bool term = k + BLOCK > l->f;
        ml_gemm g = {
            .m = n,
            .n = l->d,
            .k = term ? l->f - k : BLOCK,
            .a = { .data = l->a + begin * l->f + k, .stride = l->f },
            .b = { .data = expert_of(l->down, ml_f32(l->down), expert) + k, .stride = l->f, .transpose = true },
            .c = u,
            .c_stride = l->d
        };
        ml_gemm_run(&g);
        if (term) ml_experts_term_add(l, &adapter->down, expert, begin, n, 0, l->d, u, l->d, NULL);
        for (int64_t r = 0; r < n; r++) {
            float *y = ml_f32(l->y) + l->token[begin + r] * l->y->stride;
            ml_experts_add_down_row(l, expert, 0, l->d, u + r * l->d, y);
        }
    }
}

/* y[token] += a down^T */
static void add_down(const ml_experts_layer *l, int64_t expert, int64_t begin, int64_t n, void *arg)
{
    (void)arg;
    if (l->adapter && l->adapter->down.m) {
        add_scaled_down(l, expert, begin, n);
        return;
    }
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
    if (!l->adapter) return;
    ml_experts_term_add(l, &l->adapter->down, expert, begin, n, 0, l->d, g.c, g.c_stride, g.c_row);
}

ml_status ml_cpu_experts_forward(ml_ctx *ctx, const ml_op_args *args)
{
    ml_tensor *y = args->out[0];
    ML_TRY(sort_by_expert(ctx, args->in[1], args->in[3]->dim[0], ml_i32(args->save[0]), ml_i32(args->save[1])));
    ml_experts_layer l;
    ML_TRY(describe(ctx, args, NULL, &l));
    for (int64_t t = 0; t < y->dim[0]; t++) memset(ml_f32(y) + t * y->stride, 0, (size_t)l.d * sizeof(float));
    /* Which products run depends on the mode and the weights alone, so a token's bits do not depend on the batch. */
    if (ctx->mode == ML_MODE_FAST || !is_trainable(&l)) return ml_experts_run_inference(ctx, &l);
    ml_parallel_for(l.first_tile[l.n_expert], 1, forward_tiles, &l);
    for_each_expert(&l, add_down, NULL);
    return ML_OK;
}

/* a = dy[token] down_e, the rows of a tile */
static void pull_back(const ml_experts_layer *l, ml_experts_tile t)
{
    ml_weight_back back = { .n_token = t.n, .dx = l->a + t.begin * l->f, .dx_stride = l->f };
    back.dy = ml_experts_down_gradient(l, t.begin, &back.dy_stride, &back.dy_row);
    if (!is_trainable(l)) {
        ml_tensor down = ml_weight_matrix(l->down, t.expert);
        memset(back.dx, 0, (size_t)(t.n * l->f) * sizeof *back.dx);
        ml_weight_back_serial(&back, &down, 0, l->f);
        return;
    }
    ml_gemm g = { .m = t.n,
                  .n = l->f,
                  .k = l->d,
                  .a = { .data = back.dy, .stride = back.dy_stride, .row = back.dy_row },
                  .b = { .data = expert_of(l->down, ml_f32(l->down), t.expert), .stride = l->f },
                  .c = back.dx,
                  .c_stride = back.dx_stride };
    ml_gemm_run_serial(&g);
}

static void backward_tiles(void *arg, int64_t begin, int64_t end, int thread)
{
    const ml_experts_layer *l = arg;
    for (int64_t i = begin; i < end; i++) {
        ml_experts_tile t = ml_experts_find_tile(l, i);
        if (l->adapter) ml_experts_scale_dy(l, t);
        pull_back(l, t);
        if (l->adapter) ml_experts_term_pull(l, &l->adapter->down, t, thread);
        for (int64_t r = t.begin; r < t.begin + t.n; r++) {
            if (l->adapter) ml_experts_scale_pre(l, t.expert, r);
            float *pre = l->pre + r * l->n_col;
            float dprob = l->row_ops->activate_backward(l->activation, pre, l->up ? pre + l->f : NULL,
                                                        ml_experts_prob(l, r), l->a + r * l->f, l->f);
            int64_t token = l->token[r], k = l->flat[r] % l->top_k;
            if (l->dprob) l->dprob[token * l->prob->stride + k] += dprob;
            if (l->adapter) ml_experts_pull_pre(l, t.expert, r);
        }
        if (!l->adapter) continue;
        ml_experts_term_pull(l, &l->adapter->gate, t, thread);
        ml_experts_term_pull(l, &l->adapter->up, t, thread);
    }
}

/* d(down) += dy[token]^T a */
static void add_down_gradient(const ml_experts_layer *l, int64_t expert, int64_t begin, int64_t n, void *arg)
{
    ml_gemm g = { .m = l->d,
                  .n = l->f,
                  .k = n,
                  .a = { .transpose = true },
                  .b = { .data = l->a + begin * l->f, .stride = l->f },
                  .c = expert_of(l->down, arg, expert),
                  .c_stride = l->f,
                  .accumulate = true };
    g.a.data = ml_experts_down_gradient(l, begin, &g.a.stride, &g.a.row);
    ml_gemm_run(&g);
}

typedef struct {
    const ml_tensor *w; /* gate or up */
    float *dw;
    int64_t first, n_col; /* its columns of pre */
    float *dx;
} projection;

/* d(gate_up) += dpre^T x[token] */
static void add_projection_gradient(const ml_experts_layer *l, int64_t expert, int64_t begin, int64_t n, void *arg)
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
static void add_input_gradient(const ml_experts_layer *l, int64_t expert, int64_t begin, int64_t n, void *arg)
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

typedef struct {
    const ml_experts_layer *l;
    float *dx;
} frozen_work;

/* Columns [begin, end) of dx[token] += dpre gate_up, expert after expert, through weights that are not trained. */
static void add_frozen_columns(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const frozen_work *w = arg;
    const ml_experts_layer *l = w->l;
    for (int64_t e = 0; e < l->n_expert; e++) {
        int64_t row = l->offset[e];
        ml_weight_back back = { .n_token = l->offset[e + 1] - row,
                                .dy = l->pre + row * l->n_col,
                                .dy_stride = l->n_col,
                                .dx = w->dx,
                                .dx_stride = l->x->stride,
                                .dx_row = l->token + row };
        if (back.n_token == 0) continue;
        ml_tensor m = ml_weight_matrix(l->gate, e);
        ml_weight_back_serial(&back, &m, begin, end - begin);
        if (!l->up) continue;
        back.dy += l->f;
        m = ml_weight_matrix(l->up, e);
        ml_weight_back_serial(&back, &m, begin, end - begin);
    }
}

/* Gradients of gate and up (each may be unwanted) and of x from dpre. */
static void projection_backward(const ml_experts_layer *l, const ml_op_grads *grads)
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
    if (!is_trainable(l)) {
        frozen_work work = { l, grads->in[0] };
        ml_parallel_for(l->d, ML_WEIGHT_BACK_COLUMNS, add_frozen_columns, &work);
        return;
    }
    bool fused = is_fused(l, ml_f32(l->gate), ml_f32(l->up));
    projection gate = { .w = l->gate, .n_col = fused ? 2 * l->f : l->f, .dx = grads->in[0] };
    for_each_expert(l, add_input_gradient, &gate);
    if (!l->up || fused) return;
    projection up = { .w = l->up, .first = l->f, .n_col = l->f, .dx = grads->in[0] };
    for_each_expert(l, add_input_gradient, &up);
}

static ml_status check_frozen(ml_ctx *ctx, const ml_experts_layer *l, const ml_op_grads *grads)
{
    if (grads->in[3] || grads->in[4] || grads->in[5]) {
        return ml_ctx_fail(ctx, ML_EINVAL, "experts: weights of type %s cannot be trained: expected f32",
                           ml_dtype_name(l->gate->dtype != ML_F32 ? l->gate->dtype : l->down->dtype));
    }
    ML_TRY(ml_weight_back_check(ctx, l->gate));
    if (l->up) ML_TRY(ml_weight_back_check(ctx, l->up));
    return ml_weight_back_check(ctx, l->down);
}

ml_status ml_cpu_experts_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    ml_experts_layer l;
    ML_TRY(describe(ctx, args, grads, &l));
    if (!is_trainable(&l)) ML_TRY(check_frozen(ctx, &l, grads));
    l.dy = grads->out[0];
    l.dy_stride = args->out[0]->stride;
    l.dprob = grads->in[2];
    ml_parallel_for(l.first_tile[l.n_expert], 1, backward_tiles, &l);
    if (grads->in[5]) for_each_expert(&l, add_down_gradient, grads->in[5]);
    projection_backward(&l, grads);
    return l.adapter ? ml_experts_adapter_finish(ctx, &l, grads->in[0]) : ML_OK;
}
