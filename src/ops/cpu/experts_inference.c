/* A layer of experts by the products of inference.
 *
 *   pre[row] = x[token[row]] gate_up_e^T     a task: a tile of rows of one expert, some hidden columns
 *   a[row]   = prob * act(gate) [* up]       the same task
 *   y[token[row]] += a[row] down_e^T         a task owns some columns of y and goes through the experts in order
 *
 * An element of y is the sum over its experts by ascending id, each term a product that does not depend on the other
 * rows; so a token's bits depend on nothing but the token. */
#include "ops/cpu/experts_lora.h"

#include "base/thread.h"
#include "ops/cpu/weight.h"

enum {
    TASKS = 8, /* a thread, at least: the last ones even out */
    MIN_COLUMNS = 64,
    MAX_COLUMNS = 512,
    ROWS = 32,     /* of `a` that a task of the second product takes at once */
    FEW_ROWS = 64, /* up to which reading the weights is the cost: long runs of them, whose ends are cut small */
};

typedef struct {
    const ml_experts_layer *l;
    ml_weight_input x, a;
    int64_t hidden, n_part; /* hidden columns of a task; tasks of a tile */
    int64_t columns;        /* of y that a task owns */
    ml_experts_see_fn *see; /* NULL: the products of down go into y */
    void *see_arg;
} inference;

/* Columns of a task when n of them are cut for n_tile tiles: long runs of weights where that leaves enough tasks.
 * Whole tiles of the kernels, of 32 rows. */
static int64_t columns_per_task(int64_t n, int64_t n_tile)
{
    int64_t n_task = TASKS * ml_thread_count(), n_part = n_tile > 0 ? (n_task + n_tile - 1) / n_tile : 1;
    int64_t columns = ((n + n_part - 1) / n_part + MIN_COLUMNS - 1) / MIN_COLUMNS * MIN_COLUMNS;
    return columns > MAX_COLUMNS ? MAX_COLUMNS : columns < MIN_COLUMNS ? MIN_COLUMNS : columns;
}

/* What the terms of gate and up add to columns [column, column + n) of a tile. */
static void add_terms(const ml_experts_layer *l, ml_experts_tile t, int64_t column, int64_t n, float *pre)
{
    if (!l->adapter) return;
    ml_experts_term_add(l, &l->adapter->gate, t.expert, t.begin, t.n, column, n, pre, l->n_col, NULL);
    ml_experts_term_add(l, &l->adapter->up, t.expert, t.begin, t.n, column, n, pre + l->f, l->n_col, NULL);
}

static void begin_inputs(void *arg, int64_t begin, int64_t end, int thread)
{
    const ml_experts_layer *l = arg;
    for (int64_t i = begin; i < end; i++) {
        ml_experts_tile t = ml_experts_find_tile(l, i);
        ml_experts_term_begin(l, &l->adapter->gate, t, thread);
        ml_experts_term_begin(l, &l->adapter->up, t, thread);
    }
}

static void begin_down(void *arg, int64_t begin, int64_t end, int thread)
{
    const ml_experts_layer *l = arg;
    for (int64_t i = begin; i < end; i++) {
        ml_experts_term_begin(l, &l->adapter->down, ml_experts_find_tile(l, i), thread);
    }
}

/* Hidden columns [column, column + n) of the rows of a tile. */
static void make_hidden_columns(const inference *w, const ml_experts_tile *t, int64_t column, int64_t n)
{
    const ml_experts_layer *l = w->l;
    const int32_t *token = l->token + t->begin;
    float *pre = l->pre + t->begin * l->n_col + column;
    ml_tensor m = ml_weight_matrix(l->gate, t->expert);
    ml_weight_product_serial(&w->x, token, t->n, &m, column, n, pre, l->n_col);
    if (l->up) {
        m = ml_weight_matrix(l->up, t->expert);
        ml_weight_product_serial(&w->x, token, t->n, &m, column, n, pre + l->f, l->n_col);
    }
    add_terms(l, *t, column, n, pre);
    for (int64_t r = t->begin; r < t->begin + t->n; r++) ml_experts_activate(l, t->expert, r, column, n);
}

/* Parts of one tile that follow each other are done together. */
static void make_hidden(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const inference *w = arg;
    for (int64_t i = begin, next; i < end; i = next) {
        ml_experts_tile t = ml_experts_find_tile(w->l, i / w->n_part);
        next = (i / w->n_part + 1) * w->n_part;
        if (next > end) next = end;
        int64_t column = i % w->n_part * w->hidden, n = (next - i) * w->hidden;
        make_hidden_columns(w, &t, column, n < w->l->f - column ? n : w->l->f - column);
    }
}

/* A block of the products of down: into y, or shown. */
static void take_down(const inference *w, int64_t begin, int64_t n, int64_t e, int64_t row, int64_t n_row, float *part)
{
    const ml_experts_layer *l = w->l;
    bool scales = l->adapter && l->adapter->down.m;
    if (scales) ml_experts_term_add(l, &l->adapter->down, e, row, n_row, begin, n, part, n, NULL);
    if (w->see) {
        w->see(w->see_arg, begin, n, e, row, n_row, part);
        return;
    }
    for (int64_t r = 0; r < n_row; r++) {
        float *y = ml_f32(l->y) + l->token[row + r] * l->y->stride + begin;
        if (scales) {
            ml_experts_add_down_row(l, e, begin, n, part + r * n, y);
        } else {
            for (int64_t j = 0; j < n; j++) y[j] += part[r * n + j];
        }
    }
}

static void add_down_columns(const inference *w, int64_t begin, int64_t n)
{
    const ml_experts_layer *l = w->l;
    float part[ROWS * MAX_COLUMNS];
    int32_t index[ROWS];
    for (int64_t e = 0; e < l->n_expert; e++) {
        if (l->offset[e] == l->offset[e + 1]) continue;
        ml_tensor m = ml_weight_matrix(l->down, e);
        for (int64_t row = l->offset[e]; row < l->offset[e + 1]; row += ROWS) {
            int64_t n_row = l->offset[e + 1] - row < ROWS ? l->offset[e + 1] - row : ROWS;
            for (int64_t r = 0; r < n_row; r++) index[r] = (int32_t)(row + r);
            ml_weight_product_serial(&w->a, index, n_row, &m, begin, n, part, n);
            take_down(w, begin, n, e, row, n_row, part);
        }
        if (!l->adapter || l->adapter->down.m) continue;
        int64_t row = l->offset[e];
        ml_experts_term_add(l, &l->adapter->down, e, row, l->offset[e + 1] - row, begin, n, ml_f32(l->y) + begin,
                            l->y->stride, l->token + row);
    }
}

static void add_down(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    for (; begin < end; begin += MAX_COLUMNS) {
        add_down_columns(arg, begin, end - begin < MAX_COLUMNS ? end - begin : MAX_COLUMNS);
    }
}

/* The inputs of every expert's products: its rows of x for gate and up, those of `a` for down. */
static void show_inputs(const ml_observer *o, const ml_experts_layer *l)
{
    for (int64_t e = 0; e < l->n_expert; e++) {
        int64_t begin = l->offset[e], n = l->offset[e + 1] - begin;
        if (!n) continue;
        o->see(o->arg, l->gate, e, ml_f32(l->x), l->token + begin, n, l->d, l->x->stride);
        o->see(o->arg, l->down, e, l->a + begin * l->f, NULL, n, l->f, l->f);
    }
}

static ml_status run_down(ml_ctx *ctx, inference *w, bool few)
{
    const ml_experts_layer *l = w->l;
    w->a = ml_weight_input_make(ctx, l->a, l->n_row, l->f, l->f);
    ML_TRY(ml_weight_input_prepare(ctx, &w->a, l->down));
    (few ? ml_parallel_for_guided : ml_parallel_for)(l->d, w->columns, add_down, w);
    return ML_OK;
}

ml_status ml_experts_run_down(ml_ctx *ctx, const ml_experts_layer *l, ml_experts_see_fn *see, void *arg)
{
    inference w = { .l = l, .columns = columns_per_task(l->d, 1), .see = see, .see_arg = arg };
    return run_down(ctx, &w, false);
}

ml_status ml_experts_run_inference(ml_ctx *ctx, const ml_experts_layer *l)
{
    int64_t n_tile = l->first_tile[l->n_expert];
    bool few = l->n_row <= FEW_ROWS;
    void (*run)(int64_t n, int64_t grain, ml_task_fn fn, void *arg) = few ? ml_parallel_for_guided : ml_parallel_for;
    inference w = { .l = l,
                    .hidden = few ? MIN_COLUMNS : columns_per_task(l->f, n_tile),
                    .columns = few ? MIN_COLUMNS : columns_per_task(l->d, 1) };
    w.n_part = (l->f + w.hidden - 1) / w.hidden;
    w.x = ml_weight_input_make(ctx, ml_f32(l->x), l->x->dim[0], l->d, l->x->stride);
    ML_TRY(ml_weight_input_prepare(ctx, &w.x, l->gate));
    if (l->up) ML_TRY(ml_weight_input_prepare(ctx, &w.x, l->up));
    void *layer = (void *)(uintptr_t)l;
    if (l->adapter) ml_parallel_for(n_tile, 1, begin_inputs, layer);
    run(n_tile * w.n_part, 1, make_hidden, &w);
    if (l->adapter) ml_parallel_for(n_tile, 1, begin_down, layer);
    if (ctx->observer) show_inputs(ctx->observer, l);
    return run_down(ctx, &w, few);
}
