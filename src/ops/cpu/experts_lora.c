#include "ops/cpu/experts_lora.h"

#include "base/thread.h"
#include "ops/cpu/cpu.h"
#include "ops/cpu/dropout.h"
#include "ops/cpu/gemm.h"

#include <string.h>

enum {
    COLUMNS = 256, /* of dx that a task owns */
    ROWS = 64,     /* of an expert that its gradients take at once: no more than a tile has, whatever the threads */
};

static const float *matrix(const ml_tensor *t, int64_t expert)
{
    return ml_f32(t) + expert * t->stride;
}

static int64_t rank_of(const ml_experts_term *t)
{
    return t->a->dim[1];
}

/* The input of a row: of x by token, of a by row. */
static const float *input_of(const ml_experts_layer *l, const ml_experts_term *t, int64_t row)
{
    return t->is_down ? l->a + row * l->f : ml_f32(l->x) + l->token[row] * l->x->stride;
}

/* dropout(input) of n rows from `row` on. */
static ml_gemm_operand input_rows(const ml_experts_layer *l, const ml_experts_term *t, int64_t row, int64_t n,
                                  int thread)
{
    const ml_experts_adapter *a = l->adapter;
    int64_t k = t->a->dim[2];
    if (!(a->dropout > 0)) {
        if (t->is_down) return (ml_gemm_operand){ .data = l->a + row * l->f, .stride = l->f };
        return (ml_gemm_operand){ .data = ml_f32(l->x), .stride = l->x->stride, .row = l->token + row };
    }
    float *to = a->dropped + thread * a->dropped_count;
    for (int64_t i = 0; i < n; i++) {
        ml_dropout_row(a->dropout, t->seed, l->flat[row + i], 0, k, input_of(l, t, row + i), false, to + i * k);
    }
    return (ml_gemm_operand){ .data = to, .stride = k };
}

static void scale_rows(float *x, int64_t n_row, int64_t stride, int64_t n, float scale)
{
    for (int64_t i = 0; i < n_row; i++) {
        for (int64_t j = 0; j < n; j++) x[i * stride + j] *= scale;
    }
}

void ml_experts_term_begin(const ml_experts_layer *l, const ml_experts_term *t, ml_experts_tile tile, int thread)
{
    if (!t->a) return;
    const ml_experts_adapter *adapter = l->adapter;
    int64_t r = rank_of(t), k = t->a->dim[2];
    float *h = t->h + tile.begin * adapter->h_stride;
    ml_gemm g = { .m = tile.n,
                  .n = r,
                  .k = k,
                  .a = input_rows(l, t, tile.begin, tile.n, thread),
                  .b = { .data = matrix(t->a, tile.expert), .stride = k, .transpose = true },
                  .c = h,
                  .c_stride = adapter->h_stride };
    ml_gemm_run_serial(&g);
    scale_rows(h, tile.n, adapter->h_stride, r, adapter->scale);
}

void ml_experts_term_add(const ml_experts_layer *l, const ml_experts_term *t, int64_t expert, int64_t row,
                         int64_t n_row, int64_t first, int64_t n, float *out, int64_t stride, const int32_t *out_row)
{
    if (!t->a) return;
    int64_t r = rank_of(t), h_stride = l->adapter->h_stride;
    ml_gemm g = { .m = n_row,
                  .n = n,
                  .k = r,
                  .a = { .data = t->h + row * h_stride, .stride = h_stride },
                  .b = { .data = matrix(t->b, expert) + first * r, .stride = r, .transpose = true },
                  .c = out,
                  .c_stride = stride,
                  .c_row = out_row,
                  .accumulate = true };
    ml_gemm_run_serial(&g);
}

/* The gradient of a term's output: of gate and up it lies in pre. */
static ml_gemm_operand output_gradient(const ml_experts_layer *l, const ml_experts_term *t, int64_t row)
{
    if (t->is_down) {
        ml_gemm_operand dy = { .data = NULL };
        dy.data = ml_experts_down_gradient(l, row, &dy.stride, &dy.row);
        return dy;
    }
    int64_t first = t == &l->adapter->up ? l->f : 0;
    return (ml_gemm_operand){ .data = l->pre + row * l->n_col + first, .stride = l->n_col };
}

/* out += dropout(dh a_e), columns [first, first + n), of rows in memory of the term's input. */
static void add_input_gradient(const ml_experts_layer *l, const ml_experts_term *t, ml_experts_tile tile, int64_t first,
                               int64_t n, float *out, int64_t stride, const int32_t *out_row, int thread)
{
    const ml_experts_adapter *adapter = l->adapter;
    int64_t k = t->a->dim[2];
    bool drops = adapter->dropout > 0;
    float *product = drops ? adapter->dropped + thread * adapter->dropped_count : out;
    ml_gemm g = { .m = tile.n,
                  .n = n,
                  .k = rank_of(t),
                  .a = { .data = t->dh + tile.begin * adapter->h_stride, .stride = adapter->h_stride },
                  .b = { .data = matrix(t->a, tile.expert) + first, .stride = k },
                  .c = product,
                  .c_stride = drops ? n : stride,
                  .c_row = drops ? NULL : out_row,
                  .accumulate = !drops };
    ml_gemm_run_serial(&g);
    for (int64_t i = 0; i < tile.n && drops; i++) {
        float *to = out + (out_row ? out_row[i] : i) * stride;
        ml_dropout_row(adapter->dropout, t->seed, l->flat[tile.begin + i], first, n, product + i * n, true, to);
    }
}

void ml_experts_term_pull(const ml_experts_layer *l, const ml_experts_term *t, ml_experts_tile tile, int thread)
{
    if (!t->a) return;
    const ml_experts_adapter *adapter = l->adapter;
    int64_t r = rank_of(t);
    float *dh = t->dh + tile.begin * adapter->h_stride;
    ml_gemm g = { .m = tile.n,
                  .n = r,
                  .k = t->b->dim[1],
                  .a = output_gradient(l, t, tile.begin),
                  .b = { .data = matrix(t->b, tile.expert), .stride = r },
                  .c = dh,
                  .c_stride = adapter->h_stride };
    ml_gemm_run_serial(&g);
    scale_rows(dh, tile.n, adapter->h_stride, r, adapter->scale);
    if (!t->is_down) return;
    add_input_gradient(l, t, tile, 0, l->f, l->a + tile.begin * l->f, l->f, NULL, thread);
}

/* ---- magnitudes ---- */

enum { PIECE = 256 }; /* columns of a row that are scaled at once */

static void scale(const ml_experts_term *t, int64_t expert, int64_t first, int64_t n, const float *x, float *out)
{
    for (int64_t j = 0; j < n; j++) out[j] = ml_experts_factor(t, expert, first + j) * x[j];
}

void ml_experts_activate(const ml_experts_layer *l, int64_t expert, int64_t row, int64_t column, int64_t n)
{
    const ml_experts_adapter *adapter = l->adapter;
    const float *gate = l->pre + row * l->n_col + column, *up = l->up ? gate + l->f : NULL;
    float *a = l->a + row * l->f + column, prob = ml_experts_prob(l, row), scaled[2][PIECE];
    if (!adapter || (!adapter->gate.m && !adapter->up.m)) {
        l->row_ops->activate(l->activation, gate, up, prob, a, n);
        return;
    }
    for (int64_t j = 0; j < n; j += PIECE) {
        int64_t some = n - j < PIECE ? n - j : PIECE;
        if (adapter->gate.m) scale(&adapter->gate, expert, column + j, some, gate + j, scaled[0]);
        if (adapter->up.m) scale(&adapter->up, expert, column + j, some, up + j, scaled[1]);
        l->row_ops->activate(l->activation, adapter->gate.m ? scaled[0] : gate + j,
                             adapter->up.m ? scaled[1] : (up ? up + j : NULL), prob, a + j, some);
    }
}

void ml_experts_add_down_row(const ml_experts_layer *l, int64_t expert, int64_t column, int64_t n, const float *u,
                             float *out)
{
    const ml_experts_term *t = &l->adapter->down;
    for (int64_t j = 0; j < n; j++) out[j] += ml_experts_factor(t, expert, column + j) * u[j];
}

void ml_experts_scale_pre(const ml_experts_layer *l, int64_t expert, int64_t row)
{
    const ml_experts_adapter *adapter = l->adapter;
    float *pre = l->pre + row * l->n_col;
    if (!adapter->share) return;
    memcpy(adapter->share + row * l->n_col, pre, (size_t)l->n_col * sizeof *pre);
    if (adapter->gate.m) scale(&adapter->gate, expert, 0, l->f, pre, pre);
    if (adapter->up.m) scale(&adapter->up, expert, 0, l->f, pre + l->f, pre + l->f);
}

static void pull_row(const ml_experts_term *t, int64_t expert, int64_t n, float *gradient, float *share)
{
    if (!t->m) return;
    const float *norm = ml_f32(t->norm) + expert * t->norm->stride;
    for (int64_t j = 0; j < n; j++) share[j] = norm[j] > 0 ? gradient[j] * share[j] / norm[j] : 0;
    scale(t, expert, 0, n, gradient, gradient);
}

void ml_experts_pull_pre(const ml_experts_layer *l, int64_t expert, int64_t row)
{
    const ml_experts_adapter *adapter = l->adapter;
    float *pre = l->pre + row * l->n_col;
    if (!adapter->share) return;
    float *share = adapter->share + row * l->n_col;
    pull_row(&adapter->gate, expert, l->f, pre, share);
    if (l->up) pull_row(&adapter->up, expert, l->f, pre + l->f, share + l->f);
}

void ml_experts_scale_dy(const ml_experts_layer *l, ml_experts_tile tile)
{
    const ml_experts_adapter *adapter = l->adapter;
    if (!adapter->du) return;
    for (int64_t row = tile.begin; row < tile.begin + tile.n; row++) {
        scale(&adapter->down, tile.expert, 0, l->d, l->dy + l->token[row] * l->dy_stride, adapter->du + row * l->d);
    }
}

const float *ml_experts_down_gradient(const ml_experts_layer *l, int64_t row, int64_t *stride, const int32_t **index)
{
    bool scaled = l->adapter && l->adapter->du;
    *stride = scaled ? l->d : l->dy_stride;
    *index = scaled ? NULL : l->token + row;
    return scaled ? l->adapter->du + row * l->d : l->dy;
}

/* dm of gate and up of an expert: its rows' shares, in their order. */
static void add_shares(const ml_experts_layer *l, const ml_experts_term *t, int64_t expert, int64_t first)
{
    if (!t->m || !t->dm) return;
    float *dm = t->dm + expert * t->m->stride;
    for (int64_t row = l->offset[expert]; row < l->offset[expert + 1]; row++) {
        const float *share = l->adapter->share + row * l->n_col + first;
        for (int64_t j = 0; j < l->f; j++) dm[j] += share[j];
    }
}

/* dm of down, rows of a block: u is made as going forward, of the activations that the way back left in a. */
static void add_down_share(void *arg, int64_t column, int64_t n, int64_t expert, int64_t row, int64_t n_row,
                           const float *u)
{
    const ml_experts_layer *l = arg;
    const ml_experts_term *t = &l->adapter->down;
    float *dm = t->dm + expert * t->m->stride + column;
    const float *norm = ml_f32(t->norm) + expert * t->norm->stride + column;
    for (int64_t r = 0; r < n_row; r++) {
        const float *dy = l->dy + l->token[row + r] * l->dy_stride + column;
        for (int64_t j = 0; j < n; j++) dm[j] += norm[j] > 0 ? dy[j] * u[r * n + j] / norm[j] : 0;
    }
}

/* da_e += dh^T dropout(input);  db_e += dout^T h */
static void add_term_gradients(const ml_experts_layer *l, const ml_experts_term *t, ml_experts_tile tile, int thread)
{
    if (!t->a) return;
    int64_t r = rank_of(t), k = t->a->dim[2], n_out = t->b->dim[1], h_stride = l->adapter->h_stride;
    if (t->db) {
        ml_gemm g = { .m = n_out,
                      .n = r,
                      .k = tile.n,
                      .a = output_gradient(l, t, tile.begin),
                      .b = { .data = t->h + tile.begin * h_stride, .stride = h_stride },
                      .c = t->db + tile.expert * t->b->stride,
                      .c_stride = r,
                      .accumulate = true };
        g.a.transpose = true;
        ml_gemm_run_serial(&g);
    }
    if (!t->da) return;
    ml_gemm g = { .m = r,
                  .n = k,
                  .k = tile.n,
                  .a = { .data = t->dh + tile.begin * h_stride, .stride = h_stride, .transpose = true },
                  .b = input_rows(l, t, tile.begin, tile.n, thread),
                  .c = t->da + tile.expert * t->a->stride,
                  .c_stride = k,
                  .accumulate = true };
    ml_gemm_run_serial(&g);
}

static void finish_experts(void *arg, int64_t begin, int64_t end, int thread)
{
    const ml_experts_layer *l = arg;
    for (int64_t e = begin; e < end; e++) {
        add_shares(l, &l->adapter->gate, e, 0);
        add_shares(l, &l->adapter->up, e, l->f);
        for (int64_t row = l->offset[e]; row < l->offset[e + 1]; row += ROWS) {
            int64_t n = l->offset[e + 1] - row < ROWS ? l->offset[e + 1] - row : ROWS;
            ml_experts_tile part = { e, row, n };
            add_term_gradients(l, &l->adapter->gate, part, thread);
            add_term_gradients(l, &l->adapter->up, part, thread);
            add_term_gradients(l, &l->adapter->down, part, thread);
        }
    }
}

typedef struct {
    const ml_experts_layer *l;
    float *dx;
} input_work;

static void finish_columns(void *arg, int64_t begin, int64_t end, int thread)
{
    const input_work *w = arg;
    const ml_experts_layer *l = w->l;
    for (int64_t i = 0; i < l->first_tile[l->n_expert]; i++) {
        ml_experts_tile tile = ml_experts_find_tile(l, i);
        const ml_experts_term *term[2] = { &l->adapter->gate, &l->adapter->up };
        for (int j = 0; j < 2; j++) {
            if (!term[j]->a) continue;
            add_input_gradient(l, term[j], tile, begin, end - begin, w->dx + begin, l->x->stride, l->token + tile.begin,
                               thread);
        }
    }
}

ml_status ml_experts_adapter_finish(ml_ctx *ctx, const ml_experts_layer *l, float *dx)
{
    const ml_experts_term *down = &l->adapter->down;
    if (down->m && down->dm) {
        ML_TRY(ml_experts_run_down(ctx, l, add_down_share, (void *)(uintptr_t)l));
    }
    ml_parallel_for(l->n_expert, 1, finish_experts, (void *)(uintptr_t)l);
    input_work work = { l, dx };
    if (dx) ml_parallel_for(l->d, COLUMNS, finish_columns, &work);
    return ML_OK;
}

/* ---- set-up ---- */

static ml_experts_term make_term(const ml_op_args *args, const ml_op_grads *grads, int slot, int64_t *h, uint64_t seed)
{
    const ml_tensor *a = args->in[slot];
    if (!a) return (ml_experts_term){ 0 };
    ml_experts_term t = { .a = a, .b = args->in[slot + 1], .h = ml_f32(args->save[3]) + *h, .is_down = slot == 10 };
    t.seed = ml_rng_mix(seed + (uint64_t)slot);
    t.m = args->in[slot + 6];
    t.norm = args->in[slot + 7];
    if (grads) {
        t.da = grads->in[slot];
        t.db = grads->in[slot + 1];
        t.dm = grads->in[slot + 6];
    }
    *h += a->dim[1];
    return t;
}

static ml_status make_gradients(ml_ctx *ctx, const ml_op_args *args, const ml_experts_layer *l,
                                ml_experts_adapter *adapter)
{
    ml_experts_term *term[3] = { &adapter->gate, &adapter->up, &adapter->down };
    float *dh = ml_ctx_scratch(ctx, (size_t)(l->n_row * adapter->h_stride) * sizeof *dh);
    if (!dh) return ML_ENOMEM;
    for (int i = 0; i < 3; i++) {
        if (term[i]->a) term[i]->dh = dh + (term[i]->h - ml_f32(args->save[3]));
    }
    if (adapter->gate.m || adapter->up.m) {
        adapter->share = ml_ctx_scratch(ctx, (size_t)(l->n_row * l->n_col) * sizeof(float));
        if (!adapter->share) return ML_ENOMEM;
    }
    return ML_OK;
}

ml_status ml_experts_adapter_make(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads, ml_experts_layer *l)
{
    l->adapter = NULL;
    if (!args->in[6] && !args->in[8] && !args->in[10]) return ML_OK;
    const ml_experts_lora_param *param = args->param;
    ml_experts_adapter *adapter = ml_ctx_scratch(ctx, sizeof *adapter);
    if (!adapter) return ML_ENOMEM;
    int64_t h = 0;
    *adapter = (ml_experts_adapter){ .scale = param->scale, .dropout = param->dropout };
    adapter->gate = make_term(args, grads, 6, &h, param->seed);
    adapter->up = make_term(args, grads, 8, &h, param->seed);
    adapter->down = make_term(args, grads, 10, &h, param->seed);
    adapter->h_stride = h;
    if (grads) ML_TRY(make_gradients(ctx, args, l, adapter));
    bool keeps = grads || (l->down->dtype == ML_F32 && !l->down->part);
    if (adapter->down.m && keeps) {
        adapter->du = ml_ctx_scratch(ctx, (size_t)(l->n_row * l->d) * sizeof(float));
        if (!adapter->du) return ML_ENOMEM;
    }
    if (adapter->dropout > 0) {
        adapter->dropped_count = l->tile_rows * (l->d > l->f ? l->d : l->f);
        adapter->dropped = ml_ctx_scratch(ctx, (size_t)(ml_thread_count() * adapter->dropped_count) * sizeof(float));
        if (!adapter->dropped) return ML_ENOMEM;
    }
    l->adapter = adapter;
    return ML_OK;
}

ml_status ml_cpu_experts_lora_forward(ml_ctx *ctx, const ml_op_args *args)
{
    return ml_cpu_experts_forward(ctx, args);
}

ml_status ml_cpu_experts_lora_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    return ml_cpu_experts_backward(ctx, args, grads);
}
