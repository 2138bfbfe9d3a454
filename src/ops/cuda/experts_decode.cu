/* Which experts there are to compute only the device knows: rows (token, k) are sorted by expert, and the i-th of as
 * many block rows as can be needed finds the i-th expert that has rows (ops/cuda/matvec.cuh).
 *
 *     sort      offset [n_expert + 1], flat [rows]
 *     list      token, expert and weight of each row, the row of each (token, k)
 *     gate, up  a[row] = prob * act(gate_e x[token]) [* up_e x[token]]
 *     down      z[row] = down_e a[row]
 *     combine   y[token] = its rows of z added in their order, which is that of expert ids
 *
 * With low-rank terms gate and up go to pre, which gets the terms and is activated by a kernel of its own, and z gets
 * that of down; rows without a term have the same bits as without all that.  Weights in parts of several types (a
 * layer whose gate and up are stored in two, say) are copied into scratch, for products of all rows at once. */
#include "ops/cuda/experts_decode.cuh"

#include "ops/cuda/matvec.cuh"
#include "ops/cuda/rows.cuh"
#include "ops/cuda/sort.cuh"
#include "ops/cuda/weight.cuh"

enum { THREADS = 256, GATE = 3, UP = 4, DOWN = 5 /* of the operator's inputs */ };

typedef struct {
    int64_t n_token, top_k, n_expert, d, f, n_row;
    const int32_t *offset, *flat;
    int32_t *token, *expert, *row; /* row: [tokens, top_k], -1 where no expert was accepted */
    float *factor, *pre, *a, *z;   /* pre: [rows, n_pre] */
    int64_t n_pre;
    bool has_up;
    ml_activation activation;
    ml_rows prob, y;
} layer;

static __global__ void __launch_bounds__(THREADS) list(layer l)
{
    int64_t n_used = l.offset[l.n_expert];
    for (int64_t i = threadIdx.x; i < l.n_row; i += THREADS) l.row[i] = -1;
    __syncthreads();
    for (int64_t r = threadIdx.x; r < n_used; r += THREADS) {
        int32_t pair = l.flat[r];
        l.token[r] = pair / (int32_t)l.top_k;
        l.factor[r] = l.prob.data[pair / l.top_k * l.prob.stride + pair % l.top_k];
        l.row[pair] = (int32_t)r;
    }
    for (int64_t r = n_used + threadIdx.x; r < l.n_row; r += THREADS) l.token[r] = 0; /* copied with the others */
    for (int64_t e = threadIdx.x; l.expert && e < l.n_expert; e += THREADS) {
        for (int32_t r = l.offset[e]; r < l.offset[e + 1]; r++) l.expert[r] = (int32_t)e;
    }
}

static __global__ void __launch_bounds__(THREADS) activate(layer l)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, r = i / l.f, c = i % l.f;
    if (r >= l.offset[l.n_expert]) return;
    const float *pre = l.pre + r * l.n_pre + c;
    l.a[i] = ml_expert_activation(l.activation, l.factor + r, pre[0], l.has_up, l.has_up ? pre[l.f] : 1.0f);
}

static __global__ void __launch_bounds__(THREADS) combine(layer l)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= l.n_token * l.d) return;
    int64_t t = i / l.d, c = i % l.d;
    const int32_t *row = l.row + t * l.top_k;
    float sum = 0;
    for (int64_t n = 0, last = -1; n < l.top_k; n++) {
        int64_t next = l.n_row;
        for (int64_t k = 0; k < l.top_k; k++) {
            if (row[k] > last && row[k] < next) next = row[k];
        }
        if (next == l.n_row) break;
        sum += l.z[next * l.d + c];
        last = next;
    }
    l.y.data[t * l.y.stride + c] = sum;
}

/* Do the weights lie so that they can be read in place: not in parts of several types? */
static bool is_in_place(const ml_op_args *args)
{
    const ml_tensor *gate = args->in[GATE], *up = args->in[UP], *down = args->in[DOWN];
    if (gate->part || down->part || gate->layout != ML_LAYOUT_ROWS || down->layout != ML_LAYOUT_ROWS) return false;
    return !up || (!up->part && up->dtype == gate->dtype && up->layout == ML_LAYOUT_ROWS);
}

/* ---- in place ---- */

/* Of every expert's matrix [n, k]. */
static ml_cuda_matvec describe(const layer *l, const ml_tensor *w)
{
    ml_cuda_matvec m = ml_cuda_matvec_make(w);
    m.n = w->dim[1];
    m.product_bytes = (int64_t)ml_dtype_row_bytes(w->dtype, w->stride);
    m.n_product = l->n_expert;
    m.offset = l->offset;
    m.n_row = l->n_row;
    m.n_most = l->n_token;
    return m;
}

/* Into pre where there is one, else activated into a. */
static void multiply_gate_up(ml_ctx *ctx, const layer *l, const ml_op_args *args)
{
    const ml_tensor *x = args->in[0], *up = args->in[UP];
    ml_cuda_matvec m = describe(l, args->in[GATE]);
    m.w_up = up ? (const uint8_t *)up->data : NULL;
    m.up_product_bytes = up ? (int64_t)ml_dtype_row_bytes(up->dtype, up->stride) : 0;
    m.x = ml_f32(x);
    m.x_stride = x->stride;
    m.x_row = l->token;
    m.y = l->pre ? l->pre : l->a;
    m.y_stride = l->pre ? l->n_pre : l->f;
    m.y_up = l->pre && up ? l->pre + l->f : NULL;
    m.activate = !l->pre;
    m.activation = l->activation;
    m.factor = l->factor;
    ml_cuda_matvec_run(ctx, &m);
}

static void multiply_down(ml_ctx *ctx, const layer *l, const ml_op_args *args)
{
    ml_cuda_matvec m = describe(l, args->in[DOWN]);
    m.x = l->a;
    m.x_stride = l->f;
    m.y = l->z;
    m.y_stride = l->d;
    ml_cuda_matvec_run(ctx, &m);
}

/* ---- by way of scratch ---- */

static ml_status multiply_copy(ml_ctx *ctx, const layer *l, const ml_tensor *w, ml_cuda_operand x, float *y,
                               int64_t y_stride)
{
    ml_cuda_weight weight;
    ml_ctx_mark mark = ml_ctx_get_mark(ctx);
    ML_TRY(ml_cuda_weight_read(ctx, w, &weight));
    ml_cuda_gemm g = ml_cuda_gemm_make(l->n_row, w->dim[1], w->dim[2]);
    g.n_product = l->n_expert;
    g.a = x;
    g.b = ml_cuda_weight_operand(&weight, true);
    g.c = y;
    g.c_stride = y_stride;
    g.grouping = ML_GROUP_ROWS;
    g.offset = l->offset;
    ml_cuda_gemm_run(ctx, &g);
    ml_ctx_release(ctx, mark); /* what comes next in the queue may use the copy's memory again */
    return ml_queued(ctx);
}

static ml_status multiply_gate_up_copies(ml_ctx *ctx, const layer *l, const ml_op_args *args)
{
    ml_cuda_operand x = ml_cuda_operand_make(ml_f32(args->in[0]), args->in[0]->stride, false);
    x.row = l->token;
    ML_TRY(multiply_copy(ctx, l, args->in[GATE], x, l->pre, l->n_pre));
    return l->has_up ? multiply_copy(ctx, l, args->in[UP], x, l->pre + l->f, l->n_pre) : ML_OK;
}

/* ---- terms ---- */

static ml_cuda_token_rows rows_of(const layer *l, const float *x, int64_t x_stride, bool x_by_token, float *y,
                                  int64_t y_stride)
{
    ml_cuda_token_rows w;
    memset(&w, 0, sizeof w);
    w.n_row = l->n_row;
    w.token = l->token;
    w.expert = l->expert;
    w.n_used = l->offset + l->n_expert;
    w.x = x;
    w.x_stride = x_stride;
    w.x_by_token = x_by_token;
    w.y = y;
    w.y_stride = y_stride;
    return w;
}

static void add_part(ml_cuda_token_rows *w, const ml_token_terms *terms, int64_t column, int64_t n)
{
    ml_token_part *p = &w->part[w->n_part++];
    p->terms = *terms;
    p->column = column;
    p->n = n;
}

static ml_status add_gate_up(ml_ctx *ctx, const layer *l, const ml_op_args *args, const ml_token_terms terms[3])
{
    const ml_tensor *x = args->in[0];
    ml_cuda_token_rows w = rows_of(l, ml_f32(x), x->stride, true, l->pre, l->n_pre);
    add_part(&w, &terms[0], 0, l->f);
    if (l->has_up) add_part(&w, &terms[1], l->f, l->f);
    return ml_cuda_token_rows_run(ctx, &w);
}

static ml_status add_down(ml_ctx *ctx, const layer *l, const ml_token_terms terms[3])
{
    ml_cuda_token_rows w = rows_of(l, l->a, l->f, false, l->z, l->d);
    add_part(&w, &terms[2], 0, l->d);
    return ml_cuda_token_rows_run(ctx, &w);
}

/* ---- all ---- */

static ml_status make_layer(ml_ctx *ctx, const ml_op_args *args, layer *l)
{
    const ml_tensor *id = args->in[1], *gate = args->in[GATE];
    memset(l, 0, sizeof *l);
    l->n_token = id->dim[0];
    l->top_k = id->dim[1];
    l->n_expert = gate->dim[0];
    l->f = gate->dim[1];
    l->d = gate->dim[2];
    l->n_row = l->n_token * l->top_k;
    l->prob = ml_rows_of(args->in[2]);
    l->y = ml_rows_of(args->out[0]);
    l->has_up = args->in[UP] != NULL;
    l->n_pre = l->has_up ? 2 * l->f : l->f;
    l->activation = ((const ml_experts_param *)args->param)->activation;
    if (l->n_row > INT32_MAX) return ml_ctx_fail(ctx, ML_EINVAL, "experts: too many tokens for one batch");
    return ML_OK;
}

static bool allocate(ml_ctx *ctx, layer *l, bool has_pre)
{
    size_t n = (size_t)l->n_row;
    l->token = (int32_t *)ml_ctx_scratch_data(ctx, n * sizeof *l->token);
    l->row = (int32_t *)ml_ctx_scratch_data(ctx, n * sizeof *l->row);
    l->factor = (float *)ml_ctx_scratch_data(ctx, n * sizeof *l->factor);
    l->a = (float *)ml_ctx_scratch_data(ctx, n * (size_t)l->f * sizeof *l->a);
    l->z = (float *)ml_ctx_scratch_data(ctx, n * (size_t)l->d * sizeof *l->z);
    if (has_pre) {
        l->expert = (int32_t *)ml_ctx_scratch_data(ctx, n * sizeof *l->expert);
        l->pre = (float *)ml_ctx_scratch_data(ctx, n * (size_t)l->n_pre * sizeof *l->pre);
        if (!l->expert || !l->pre) return false;
    }
    return l->token && l->row && l->factor && l->a && l->z;
}

ml_status ml_cuda_experts_decode(ml_ctx *ctx, const ml_op_args *args, const ml_token_terms terms[3])
{
    layer l;
    ML_TRY(make_layer(ctx, args, &l));
    if (l.n_row == 0) return ML_OK;
    ml_cuda_sort sort;
    ML_TRY(ml_cuda_sort_make(ctx, ml_i32(args->in[1]), args->in[1]->stride, l.n_token, l.top_k, l.n_expert, NULL, NULL,
                             &sort));
    l.offset = sort.offset;
    l.flat = sort.flat;
    bool in_place = is_in_place(args);
    if (!allocate(ctx, &l, terms || !in_place)) return ML_ENOMEM;
    ML_LAUNCH(ctx->device, list, 1, THREADS, 0, l);
    if (in_place) {
        multiply_gate_up(ctx, &l, args);
    } else {
        ML_TRY(multiply_gate_up_copies(ctx, &l, args));
    }
    if (terms) ML_TRY(add_gate_up(ctx, &l, args, terms));
    if (l.pre) {
        ML_LAUNCH(ctx->device, activate, (unsigned)ml_n_blocks(l.n_row * l.f, THREADS), THREADS, 0, l);
    }
    if (in_place) {
        multiply_down(ctx, &l, args);
    } else {
        ML_TRY(multiply_copy(ctx, &l, args->in[DOWN], ml_cuda_operand_make(l.a, l.f, false), l.z, l.d));
    }
    if (terms) ML_TRY(add_down(ctx, &l, terms));
    ML_LAUNCH(ctx->device, combine, (unsigned)ml_n_blocks(l.n_token * l.d, THREADS), THREADS, 0, l);
    return ml_queued(ctx);
}

/* The first n rows. */
static ml_tensor first_rows(const ml_tensor *t, int64_t n)
{
    ml_tensor part = *t;
    part.dim[0] = n;
    return part;
}

extern "C" ml_status ml_cuda_token_terms_experts(ml_ctx *ctx, ml_tensor *y, ml_tensor *x, ml_tensor *id,
                                                 ml_tensor *prob, ml_tensor *gate, ml_tensor *up, ml_tensor *down,
                                                 const ml_experts_param *param, const ml_token_terms terms[3],
                                                 int64_t n_row)
{
    ml_tensor some[4] = { first_rows(x, n_row), first_rows(id, n_row), first_rows(prob, n_row), first_rows(y, n_row) };
    ml_op_args args;
    memset(&args, 0, sizeof args);
    for (int i = 0; i < 3; i++) args.in[i] = &some[i];
    args.in[GATE] = gate;
    args.in[UP] = up;
    args.in[DOWN] = down;
    args.out[0] = &some[3];
    args.param = param;
    ml_ctx_mark mark = ml_ctx_get_mark(ctx);
    ML_TRY(ml_cuda_experts_decode(ctx, &args, terms));
    ml_ctx_release(ctx, mark);
    return ml_queued(ctx);
}
