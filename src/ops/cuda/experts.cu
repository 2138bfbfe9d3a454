/* A layer of experts.  Rows are the accepted (token, k) pairs sorted by expert (ops/cuda/sort.cuh); how many each has
 * is known to the device alone.  With token[row] = flat[row] / top_k:
 *
 *   forward     pre = x[token] gate_up_e^T                 [rows, f or 2 f]  kept
 *               a   = prob * act(gate) [* up]              [rows, f]         scratch
 *               z   = a down_e^T                           [rows, d]         scratch;  y[t] = its rows of z, by expert
 *   backward    da  = dy[token] down_e;  dprob = <da, act>;  pre becomes its own gradient, da becomes a
 *               d(down_e) += dy[token]^T a;  d(gate_up_e) += dpre^T x[token]
 *               z   = dpre gate_up_e;  dx[t] += its rows of z, by expert
 * No atomic additions: y and dx are gathered by token, so every sum has one order. */
#include "ops/cuda/gemm.cuh"
#include "ops/cuda/experts_decode.cuh"
#include "ops/cuda/rows.cuh"
#include "ops/cuda/sort.cuh"
#include "ops/cuda/weight.cuh"

enum { THREADS = 256, WARPS = THREADS / WARP };

typedef struct {
    int64_t n_token, top_k, n_expert, d, f, n_col, n_row; /* n_row: rows if all pairs are accepted */
    const int32_t *offset, *flat;
    int32_t *token; /* [n_row], 0 beyond the accepted ones */
    int32_t *rows;  /* [tokens, top_k] the rows of each token, ascending, then -1 */
    ml_rows x, prob;
    float *pre, *a, *z;
    ml_activation activation;
    bool has_up;
    ml_cuda_weight gate, up, down;
    float *dprob; /* NULL, or laid out as prob */
} layer;

static __global__ void clear_rows(layer l)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < l.n_row) l.rows[i] = -1;
}

static __global__ void list_rows(layer l)
{
    int64_t r = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (r >= l.n_row) return;
    bool used = r < l.offset[l.n_expert];
    l.token[r] = used ? (int32_t)(l.flat[r] / l.top_k) : 0;
    if (used) l.rows[l.flat[r]] = (int32_t)r;
}

/* Of one token: rows in ascending order (insertion), -1 last. */
static __global__ void order_rows(layer l)
{
    int64_t t = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (t >= l.n_token) return;
    int32_t *row = l.rows + t * l.top_k;
    for (int64_t i = 1; i < l.top_k; i++) {
        int32_t v = row[i];
        int64_t j = i;
        for (; j > 0 && (uint32_t)row[j - 1] > (uint32_t)v; j--) row[j] = row[j - 1];
        row[j] = v;
    }
}

static __device__ __forceinline__ float prob_at(const layer *l, int64_t r)
{
    return l->prob.data[l->flat[r] / l->top_k * l->prob.stride + l->flat[r] % l->top_k];
}

static __global__ void activate(layer l)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, r = i / l.f, c = i % l.f;
    if (r >= l.offset[l.n_expert]) return;
    const float *pre = l.pre + r * l.n_col;
    float g = pre[c], act = l.activation == ML_ACT_SILU ? g * ml_sigmoid(g) : fmaxf(0.0f, g);
    float v = prob_at(&l, r) * act;
    l.a[i] = l.has_up ? v * pre[l.f + c] : v;
}

/* One warp for each row; as activate_gradient in ops/cpu/rowops_body.h. */
static __global__ void __launch_bounds__(THREADS) activate_backward(layer l)
{
    int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    if (r >= l.offset[l.n_expert]) return;
    float *pre = l.pre + r * l.n_col, *da = l.a + r * l.f, prob = prob_at(&l, r), sum = 0;
    for (int64_t c = threadIdx.x % WARP; c < l.f; c += WARP) {
        float g = pre[c], u = l.has_up ? pre[l.f + c] : 1.0f, d = prob * da[c], dact = d * u, act;
        if (l.activation == ML_ACT_SILU) {
            float s = ml_sigmoid(g);
            act = g * s;
            pre[c] = dact * (s + act * (1.0f - s));
        } else {
            act = fmaxf(0.0f, g);
            pre[c] = g > 0.0f ? dact : 0.0f;
        }
        sum = fmaf(da[c], act * u, sum);
        if (l.has_up) pre[l.f + c] = d * act;
        da[c] = prob * act * u;
    }
    sum = ml_warp_sum(sum);
    if (l.dprob && threadIdx.x % WARP == 0) {
        l.dprob[l.flat[r] / l.top_k * l.prob.stride + l.flat[r] % l.top_k] += sum;
    }
}

/* y[t] (+)= the rows of z that belong to token t */
static __global__ void combine(layer l, ml_rows y, bool accumulate)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= l.n_token * l.d) return;
    int64_t t = i / l.d, c = i % l.d;
    float sum = 0;
    for (int64_t k = 0; k < l.top_k; k++) {
        int32_t r = l.rows[t * l.top_k + k];
        if (r >= 0) sum += l.z[r * l.d + c];
    }
    float *to = y.data + t * y.stride + c;
    *to = accumulate ? *to + sum : sum;
}

static unsigned blocks_for(int64_t n)
{
    return (unsigned)ml_n_blocks(n, THREADS);
}

/* Gate and up lie one after the other in every expert: one matrix of 2 f rows. */
static bool is_fused(const layer *l)
{
    return l->has_up && l->up.data == l->gate.data + l->f * l->d && l->gate.stride == l->up.stride;
}

static ml_status describe(ml_ctx *ctx, const ml_op_args *args, layer *l)
{
    const ml_tensor *id = args->in[1], *gate = args->in[3];
    memset(l, 0, sizeof *l);
    l->n_token = id->dim[0];
    l->top_k = id->dim[1];
    l->n_expert = gate->dim[0];
    l->f = gate->dim[1];
    l->d = gate->dim[2];
    l->n_row = l->n_token * l->top_k;
    l->n_col = args->save[2]->dim[1];
    l->offset = ml_i32(args->save[0]);
    l->flat = ml_i32(args->save[1]);
    l->pre = ml_f32(args->save[2]);
    l->x = ml_rows_of(args->in[0]);
    l->prob = ml_rows_of(args->in[2]);
    l->activation = ((const ml_experts_param *)args->param)->activation;
    l->has_up = args->in[4] != NULL;
    if (l->n_row > INT32_MAX) {
        return ml_ctx_fail(ctx, ML_EINVAL, "experts: %lld tokens with %lld experts each are too many for one batch",
                           (long long)l->n_token, (long long)l->top_k);
    }
    ML_TRY(ml_cuda_weight_read(ctx, gate, &l->gate));
    if (l->has_up) ML_TRY(ml_cuda_weight_read(ctx, args->in[4], &l->up));
    ML_TRY(ml_cuda_weight_read(ctx, args->in[5], &l->down));
    l->token = (int32_t *)ml_ctx_scratch_data(ctx, (size_t)l->n_row * sizeof *l->token);
    l->rows = (int32_t *)ml_ctx_scratch_data(ctx, (size_t)l->n_row * sizeof *l->rows);
    l->a = (float *)ml_ctx_scratch_data(ctx, (size_t)(l->n_row * l->f) * sizeof *l->a);
    l->z = (float *)ml_ctx_scratch_data(ctx, (size_t)(l->n_row * l->d) * sizeof *l->z);
    return l->token && l->rows && l->a && l->z ? ML_OK : ML_ENOMEM;
}

static void make_lists(ml_ctx *ctx, const layer *l)
{
    if (l->n_row == 0) return;
    ML_LAUNCH(ctx->device, clear_rows, blocks_for(l->n_row), THREADS, 0, *l);
    ML_LAUNCH(ctx->device, list_rows, blocks_for(l->n_row), THREADS, 0, *l);
    ML_LAUNCH(ctx->device, order_rows, blocks_for(l->n_token), THREADS, 0, *l);
}

/* c [rows, n] (+)= a [rows, k] times each expert's matrix */
static void multiply_rows(ml_ctx *ctx, const layer *l, ml_cuda_operand a, const ml_cuda_weight *w, int64_t w_stride,
                          bool transpose, int64_t n, int64_t k, float *c, int64_t c_stride, bool accumulate)
{
    ml_cuda_gemm g = ml_cuda_gemm_make(l->n_row, n, k);
    g.n_product = l->n_expert;
    g.a = a;
    g.b = ml_cuda_operand_make(w->data, w_stride, transpose);
    g.b.product = w->stride;
    g.c = c;
    g.c_stride = c_stride;
    g.accumulate = accumulate;
    g.grouping = ML_GROUP_ROWS;
    g.offset = l->offset;
    ml_cuda_gemm_run(ctx, &g);
}

/* dw_e [m, n] += a[rows of e]^T b[rows of e] */
static void multiply_inner(ml_ctx *ctx, const layer *l, ml_cuda_operand a, ml_cuda_operand b, int64_t m, int64_t n,
                           float *dw, int64_t dw_product)
{
    ml_cuda_gemm g = ml_cuda_gemm_make(m, n, 0);
    g.n_product = l->n_expert;
    g.a = a;
    g.a.transpose = true;
    g.b = b;
    g.c = dw;
    g.c_stride = n;
    g.c_product = dw_product;
    g.accumulate = true;
    g.grouping = ML_GROUP_INNER;
    g.offset = l->offset;
    ml_cuda_gemm_run(ctx, &g);
}

static ml_cuda_operand gathered(const layer *l, const float *data, int64_t stride)
{
    ml_cuda_operand o = ml_cuda_operand_make(data, stride, false);
    o.row = l->token;
    return o;
}

static ml_status forward(ml_ctx *ctx, const ml_op_args *args)
{
    const ml_tensor *id = args->in[1];
    layer l;
    ML_TRY(describe(ctx, args, &l));
    ml_cuda_sort sort;
    ML_TRY(ml_cuda_sort_make(ctx, ml_i32(id), id->stride, l.n_token, l.top_k, l.n_expert, ml_i32(args->save[0]),
                             ml_i32(args->save[1]), &sort));
    if (l.n_row == 0) return ml_queued(ctx);
    make_lists(ctx, &l);
    bool fused = is_fused(&l);
    ml_cuda_operand x = gathered(&l, l.x.data, l.x.stride);
    multiply_rows(ctx, &l, x, &l.gate, l.d, true, fused ? 2 * l.f : l.f, l.d, l.pre, l.n_col, false);
    if (l.has_up && !fused) {
        multiply_rows(ctx, &l, x, &l.up, l.d, true, l.f, l.d, l.pre + l.f, l.n_col, false);
    }
    ML_LAUNCH(ctx->device, activate, blocks_for(l.n_row * l.f), THREADS, 0, l);
    multiply_rows(ctx, &l, ml_cuda_operand_make(l.a, l.f, false), &l.down, l.f, true, l.d, l.f, l.z, l.d, false);
    ML_LAUNCH(ctx->device, combine, blocks_for(l.n_token * l.d), THREADS, 0, l, ml_rows_of(args->out[0]), false);
    return ml_queued(ctx);
}

static ml_tensor rows_from(const ml_tensor *t, int64_t first, int64_t n)
{
    ml_tensor part = *t;
    part.data = (char *)t->data + (size_t)(first * t->stride) * 4; /* fp32 and int32 alike */
    part.dim[0] = n;
    return part;
}

extern "C" ml_status ml_cuda_experts_forward(ml_ctx *ctx, const ml_op_args *args)
{
    int64_t n = args->in[0]->dim[0], n_decode = ctx->n_decode < n ? ctx->n_decode : n;
    if (n_decode == 0) return forward(ctx, args);
    for (int phase = 0; phase < 2; phase++) {
        ml_op_args some = *args;
        ml_tensor in[3], out;
        int64_t first = phase ? n_decode : 0, n_some = phase ? n - n_decode : n_decode;
        for (int i = 0; i < 3; i++) {
            in[i] = rows_from(args->in[i], first, n_some);
            some.in[i] = &in[i];
        }
        out = rows_from(args->out[0], first, n_some);
        some.out[0] = &out;
        if (n_some == 0) continue;
        bool direct = phase == 0 && ml_cuda_experts_can_decode(&some);
        ml_ctx_mark mark = ml_ctx_get_mark(ctx);
        ML_TRY((direct ? ml_cuda_experts_decode : forward)(ctx, &some));
        ml_ctx_release(ctx, mark);
    }
    return ML_OK;
}

/* Gradients of gate, up and x from dpre. */
static void projection_backward(ml_ctx *ctx, const layer *l, const ml_op_args *args, const ml_op_grads *grads)
{
    const ml_tensor *gate = args->in[3], *up = args->in[4];
    float *dgate = grads->in[3], *dup = grads->in[4];
    ml_cuda_operand x = gathered(l, l->x.data, l->x.stride), dpre = ml_cuda_operand_make(l->pre, l->n_col, false);
    bool fused_gradient = dgate && dup == dgate + l->f * l->d && gate->stride == up->stride;
    if (dgate) multiply_inner(ctx, l, dpre, x, fused_gradient ? 2 * l->f : l->f, l->d, dgate, gate->stride);
    ml_cuda_operand dpre_up = ml_cuda_operand_make(l->pre + l->f, l->n_col, false);
    if (dup && !fused_gradient) multiply_inner(ctx, l, dpre_up, x, l->f, l->d, dup, up->stride);
    if (!grads->in[0]) return;
    bool fused = is_fused(l);
    multiply_rows(ctx, l, dpre, &l->gate, l->d, false, l->d, fused ? 2 * l->f : l->f, l->z, l->d, false);
    if (l->has_up && !fused) multiply_rows(ctx, l, dpre_up, &l->up, l->d, false, l->d, l->f, l->z, l->d, true);
    ML_LAUNCH(ctx->device, combine, blocks_for(l->n_token * l->d), THREADS, 0, *l,
              ml_rows_like(args->in[0], grads->in[0]), true);
}

static bool is_plain_f32(const ml_tensor *w)
{
    return !w || (w->dtype == ML_F32 && !w->part);
}

extern "C" ml_status ml_cuda_experts_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    const ml_tensor *gate = args->in[3], *down = args->in[5];
    if ((grads->in[3] && !is_plain_f32(gate)) || (grads->in[4] && !is_plain_f32(args->in[4])) ||
        (grads->in[5] && !is_plain_f32(down))) {
        return ml_ctx_fail(ctx, ML_EINVAL, "experts: weights of type %s cannot be trained: expected f32",
                           ml_dtype_name(gate->dtype != ML_F32 ? gate->dtype : down->dtype));
    }
    layer l;
    ML_TRY(describe(ctx, args, &l));
    l.dprob = grads->in[2];
    if (l.n_row == 0) return ML_OK;
    make_lists(ctx, &l);
    ml_cuda_operand dy = gathered(&l, grads->out[0], args->out[0]->stride);
    multiply_rows(ctx, &l, dy, &l.down, l.f, false, l.f, l.d, l.a, l.f, false);
    ML_LAUNCH(ctx->device, activate_backward, (unsigned)ml_n_blocks(l.n_row, WARPS), THREADS, 0, l);
    if (grads->in[5]) {
        multiply_inner(ctx, &l, dy, ml_cuda_operand_make(l.a, l.f, false), l.d, l.f, grads->in[5], down->stride);
    }
    projection_backward(ctx, &l, args, grads);
    return ml_queued(ctx);
}
