/* A layer of experts in bf16: gather, activation and its gradient are parts of the products (product.cuh), so that
 * of each row there are stored, in bf16, its pre-activations (kept), its activations, and SLAB columns of its result at
 * a time: nothing of size rows x d (the idea of SonicMoE, arXiv:2512.14080).
 *
 *   forward     pre | a      = activate(x[token] gate_up_e^T)              one product
 *               z            = SLAB columns of a down_e^T;   y[t] = its rows of z, in the order of experts, in fp32
 *   backward    dpre | a | dprob = activate_back(dy[token] down_e)         one product; dpre in the place of pre
 *               d(down_e) += dy[token]^T a;   d(gate_up_e) += dpre^T x[token]
 *               z            = SLAB columns of dpre gate_up_e;   dx[t] += its rows of z, in the order of experts
 *
 * What this moves beyond the products' own operands: z once out and once in, 2 bytes each of rows x d in all, mostly
 * within the L2 cache (rows x SLAB x 2 bytes exist at a time; 50 MB for 49,152 rows), and y once.  Each sum has one
 * order: no additions by chance. */
#include "ops/cuda/experts.cuh"
#include "ops/cuda/half.cuh"
#include "ops/cuda/product.cuh"

enum { THREADS = 256, SLAB = 512, LEAST_WARP_COLUMNS = 64 };

typedef struct {
    ml_cuda_experts e;
    int64_t f_padded; /* columns of gate or up in a row of pre, and columns of a */
    uint16_t *pre;    /* [n_row, pre_stride] */
    int64_t pre_stride;
    uint16_t *a, *z;                /* [n_row, f_padded], [n_row, SLAB] */
    ml_cuda_operand gate, up, down; /* bf16, of all experts */
} layer;

static ml_status describe(ml_ctx *ctx, const ml_op_args *args, layer *l)
{
    memset(l, 0, sizeof *l);
    ML_TRY(ml_cuda_experts_describe(ctx, args, &l->e));
    const ml_cuda_experts *e = &l->e;
    l->f_padded = ml_round_to_chunk(e->f);
    l->pre = (uint16_t *)args->save[2]->data;
    l->pre_stride = args->save[2]->stride;
    l->a = (uint16_t *)ml_ctx_scratch_data(ctx, (size_t)(e->n_row * l->f_padded) * sizeof *l->a);
    l->z = (uint16_t *)ml_ctx_scratch_data(ctx, (size_t)(e->n_row * SLAB) * sizeof *l->z);
    if (!l->a || !l->z) return ML_ENOMEM;
    l->gate = ml_cuda_weight_operand(&e->gate, false);
    l->up = ml_cuda_weight_operand(&e->up, false);
    l->down = ml_cuda_weight_operand(&e->down, false);
    ML_TRY(ml_cuda_half_operand(ctx, &l->gate, e->n_expert, e->f, e->d));
    if (e->has_up) ML_TRY(ml_cuda_half_operand(ctx, &l->up, e->n_expert, e->f, e->d));
    return ml_cuda_half_operand(ctx, &l->down, e->n_expert, e->d, e->f);
}

/* x or dy [tokens, d], rounded once, as each row's token has it. */
static ml_status gather(ml_ctx *ctx, const layer *l, const float *data, int64_t stride, ml_half_operand *out)
{
    ml_cuda_operand o = ml_cuda_operand_make(data, stride, false);
    ML_TRY(ml_cuda_half_operand(ctx, &o, 1, l->e.n_token, l->e.d));
    o.row = l->e.token;
    *out = ml_half_operand_of(&o);
    return ML_OK;
}

static ml_half_operand rows_of(const uint16_t *data, int64_t stride)
{
    ml_half_operand o = { data, stride, 0, NULL };
    return o;
}

/* A product of each expert's rows with its weight. */
static ml_product by_rows(const layer *l, int64_t n, int64_t k, ml_half_operand a)
{
    ml_product g = ml_product_make(l->e.n_row, n, k);
    g.n_product = (int)l->e.n_expert;
    g.grouping = ML_GROUP_ROWS;
    g.offset = l->e.offset;
    g.a = a;
    return g;
}

static ml_product_experts rows_use(const layer *l)
{
    ml_product_experts e;
    memset(&e, 0, sizeof e);
    e.prob = l->e.prob.data;
    e.prob_stride = l->e.prob.stride;
    e.flat = l->e.flat;
    e.top_k = (int)l->e.top_k;
    e.f = (int)l->e.f;
    e.up_at = (int)l->f_padded;
    e.has_up = l->e.has_up;
    e.is_relu = l->e.activation == ML_ACT_RELU;
    e.pre = l->pre;
    e.pre_stride = l->pre_stride;
    e.a = l->a;
    return e;
}

/* ---- combine ---- */

typedef struct {
    const uint16_t *z; /* [n_row, SLAB] */
    const int32_t *rows;
    int64_t n_token, top_k, first, n_col; /* columns of y */
    ml_rows y;
    bool accumulate, vector; /* rows of y begin at multiples of 16 bytes */
} combination;

/* One thread for eight columns of a token. */
static __global__ void __launch_bounds__(THREADS) combine(combination w)
{
    int64_t n_chunk = (w.n_col + ML_HALF_CHUNK - 1) / ML_HALF_CHUNK, i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= w.n_token * n_chunk) return;
    int64_t t = i / n_chunk, c = i % n_chunk * ML_HALF_CHUNK;
    float sum[ML_HALF_CHUNK] = { 0, 0, 0, 0, 0, 0, 0, 0 };
    for (int64_t k = 0; k < w.top_k; k++) {
        int32_t r = w.rows[t * w.top_k + k];
        if (r < 0) break;
        uint4 v = *(const uint4 *)(const void *)(w.z + (int64_t)r * SLAB + c);
        sum[0] += ml_bf16_low(v.x), sum[1] += ml_bf16_high(v.x);
        sum[2] += ml_bf16_low(v.y), sum[3] += ml_bf16_high(v.y);
        sum[4] += ml_bf16_low(v.z), sum[5] += ml_bf16_high(v.z);
        sum[6] += ml_bf16_low(v.w), sum[7] += ml_bf16_high(v.w);
    }
    float *to = w.y.data + t * w.y.stride + w.first + c;
    if (w.vector && c + ML_HALF_CHUNK <= w.n_col) {
#pragma unroll
        for (int j = 0; j < ML_HALF_CHUNK; j += 4) {
            float4 *four = (float4 *)(void *)(to + j), v;
            v.x = v.y = v.z = v.w = 0;
            if (w.accumulate) v = *four;
            v.x += sum[j], v.y += sum[j + 1], v.z += sum[j + 2], v.w += sum[j + 3];
            *four = v;
        }
        return;
    }
    for (int j = 0; j < ML_HALF_CHUNK && c + j < w.n_col; j++) to[j] = w.accumulate ? to[j] + sum[j] : sum[j];
}

/* y (+)= for each token its rows of a product with d columns: `g` describes all of it, and its b lies so that columns
 * are `b_step` elements apart. */
static void multiply_and_combine(ml_ctx *ctx, const layer *l, ml_product g, int64_t b_step, ml_rows y, bool accumulate)
{
    combination w;
    memset(&w, 0, sizeof w);
    w.z = l->z;
    w.rows = l->e.rows;
    w.n_token = l->e.n_token;
    w.top_k = l->e.top_k;
    w.y = y;
    w.accumulate = accumulate;
    w.vector = (uintptr_t)y.data % 16 == 0 && y.stride % 4 == 0;
    g.c_half = l->z;
    g.c_stride = SLAB;
    g.c_pairs = true;
    for (w.first = 0; w.first < l->e.d; w.first += SLAB) {
        w.n_col = l->e.d - w.first;
        if (w.n_col > SLAB) w.n_col = SLAB;
        ml_product slab = g;
        slab.n = (int)w.n_col;
        slab.b.data += w.first * b_step;
        if (slab.b2.data) slab.b2.data += w.first * b_step;
        ml_product_run(ctx, &slab);
        int64_t n = l->e.n_token * ml_n_blocks(w.n_col, ML_HALF_CHUNK);
        ML_LAUNCH(ctx->device, combine, (unsigned)ml_n_blocks(n, THREADS), THREADS, 0, w);
    }
}

/* ---- forward ---- */

ml_status ml_cuda_experts_forward_bf16(ml_ctx *ctx, const ml_op_args *args)
{
    layer l;
    ml_half_operand x;
    ML_TRY(describe(ctx, args, &l));
    ML_TRY(ml_cuda_experts_sort(ctx, args, &l.e));
    if (l.e.n_row == 0) return ml_queued(ctx);
    ml_cuda_experts_list(ctx, &l.e);
    ML_TRY(gather(ctx, &l, l.e.x.data, l.e.x.stride, &x));
    ml_product up = by_rows(&l, l.e.has_up ? 2 * l.f_padded : l.e.f, l.e.d, x);
    up.b = ml_half_operand_of(&l.gate);
    up.b_transpose = true;
    if (l.e.has_up) {
        up.b2 = ml_half_operand_of(&l.up);
        up.interleave = true;
        up.n_part = (int)l.e.f;
    }
    up.use = ML_ACTIVATE;
    up.e = rows_use(&l);
    if (!ctx->recording) up.e.pre = NULL;
    ml_product_run(ctx, &up);
    ml_product down = by_rows(&l, l.e.d, l.e.f, rows_of(l.a, l.f_padded));
    down.b = ml_half_operand_of(&l.down);
    down.b_transpose = true;
    multiply_and_combine(ctx, &l, down, down.b.stride, ml_rows_of(args->out[0]), false);
    return ml_queued(ctx);
}

/* ---- backward ---- */

typedef struct {
    const float *part; /* [n_part, n_row] */
    int64_t n_part;
    ml_cuda_experts e;
} shares;

static __global__ void __launch_bounds__(THREADS) add_dprob(shares w)
{
    int64_t r = (int64_t)blockIdx.x * THREADS + threadIdx.x, k = w.e.top_k;
    if (r >= w.e.offset[w.e.n_expert]) return;
    float sum = 0;
    for (int64_t p = 0; p < w.n_part; p++) sum += w.part[p * w.e.n_row + r];
    w.e.dprob[w.e.flat[r] / k * w.e.prob.stride + w.e.flat[r] % k] += sum;
}

/* pre becomes its gradient, and a is made again. */
static ml_status pull_back(ml_ctx *ctx, const layer *l, ml_half_operand dy)
{
    int64_t most = ml_n_blocks(l->e.f, LEAST_WARP_COLUMNS);
    shares w;
    memset(&w, 0, sizeof w);
    float *part = (float *)ml_ctx_scratch_data(ctx, (size_t)(most * l->e.n_row) * sizeof *part);
    if (!part) return ML_ENOMEM;
    ml_product g = by_rows(l, l->e.f, l->e.d, dy);
    g.b = ml_half_operand_of(&l->down);
    g.use = ML_ACTIVATE_BACK;
    g.e = rows_use(l);
    g.e.dprob_part = part;
    ml_product_run(ctx, &g);
    if (!l->e.dprob) return ml_queued(ctx);
    w.part = part;
    w.n_part = ml_n_blocks(l->e.f, g.warp_columns);
    w.e = l->e;
    ML_LAUNCH(ctx->device, add_dprob, (unsigned)ml_n_blocks(l->e.n_row, THREADS), THREADS, 0, w);
    return ml_queued(ctx);
}

/* dw_e [m, n] += a[rows of e]^T b[rows of e] */
static void add_gradient(ml_ctx *ctx, const layer *l, ml_half_operand a, ml_half_operand b, int64_t m, int64_t n,
                         float *dw, int64_t dw_product)
{
    if (!dw) return;
    ml_product g = ml_product_make(m, n, l->e.n_row);
    g.n_product = (int)l->e.n_expert;
    g.grouping = ML_GROUP_INNER;
    g.offset = l->e.offset;
    g.a = a;
    g.a_transpose = true;
    g.b = b;
    g.c = dw;
    g.c_stride = n;
    g.c_product = dw_product;
    g.c_pairs = (uintptr_t)dw % 8 == 0 && n % 2 == 0 && dw_product % 2 == 0;
    g.accumulate = true;
    ml_product_run(ctx, &g);
}

ml_status ml_cuda_experts_backward_bf16(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    layer l;
    ml_half_operand x, dy;
    ML_TRY(ml_cuda_experts_check(ctx, args, grads));
    ML_TRY(describe(ctx, args, &l));
    const ml_cuda_experts *e = &l.e;
    if (e->n_row == 0) return ML_OK;
    l.e.dprob = grads->in[2];
    ml_cuda_experts_list(ctx, e);
    ML_TRY(gather(ctx, &l, e->x.data, e->x.stride, &x));
    ML_TRY(gather(ctx, &l, grads->out[0], args->out[0]->stride, &dy));
    ML_TRY(pull_back(ctx, &l, dy));
    add_gradient(ctx, &l, dy, rows_of(l.a, l.f_padded), e->d, e->f, grads->in[5], args->in[5]->stride);
    add_gradient(ctx, &l, rows_of(l.pre, l.pre_stride), x, e->f, e->d, grads->in[3], args->in[3]->stride);
    if (e->has_up) {
        add_gradient(ctx, &l, rows_of(l.pre + l.f_padded, l.pre_stride), x, e->f, e->d, grads->in[4],
                     args->in[4]->stride);
    }
    if (!grads->in[0]) return ml_queued(ctx);
    ml_product g = by_rows(&l, e->d, e->has_up ? l.f_padded + e->f : e->f, rows_of(l.pre, l.pre_stride));
    g.b = ml_half_operand_of(&l.gate);
    if (e->has_up) {
        g.b2 = ml_half_operand_of(&l.up);
        g.split = (int)l.f_padded;
        g.n_part = (int)e->f;
    }
    multiply_and_combine(ctx, &l, g, 1, ml_rows_like(args->in[0], grads->in[0]), true);
    return ml_queued(ctx);
}
