/* A layer of experts by fp32 activations; ops/cuda/experts_bf16.cu is the other way.  With token[row] = flat[row] /
 * top_k:
 *
 *   forward     pre = x[token] gate_up_e^T                 [rows, f or 2 f]  kept
 *               a   = prob * act(gate) [* up]              [rows, f]         scratch
 *               z   = a down_e^T                           [rows, d]         scratch;  y[t] = its rows of z, by expert
 *   backward    da  = dy[token] down_e;  dprob = <da, act>;  pre becomes its own gradient, da becomes a
 *               d(down_e) += dy[token]^T a;  d(gate_up_e) += dpre^T x[token]
 *               z   = dpre gate_up_e;  dx[t] += its rows of z, by expert
 * No atomic additions: y and dx are gathered by token, so every sum has one order. */
#include "ops/cuda/experts.cuh"
#include "ops/cuda/experts_decode.cuh"

enum { THREADS = 256, WARPS = THREADS / WARP };

typedef struct {
    ml_cuda_experts e;
    int64_t n_col; /* of pre: f or 2 f */
    float *pre, *a, *z;
} layer;

static __global__ void activate(layer l)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, r = i / l.e.f, c = i % l.e.f;
    if (r >= l.e.offset[l.e.n_expert]) return;
    const float *pre = l.pre + r * l.n_col;
    float g = pre[c], act = l.e.activation == ML_ACT_SILU ? g * ml_sigmoid(g) : fmaxf(0.0f, g);
    float v = ml_prob_at(&l.e, r) * act;
    l.a[i] = l.e.has_up ? v * pre[l.e.f + c] : v;
}

/* One warp for each row; as activate_gradient in ops/cpu/rowops_body.h. */
static __global__ void __launch_bounds__(THREADS) activate_backward(layer l)
{
    int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    if (r >= l.e.offset[l.e.n_expert]) return;
    float *pre = l.pre + r * l.n_col, *da = l.a + r * l.e.f, prob = ml_prob_at(&l.e, r), sum = 0;
    for (int64_t c = threadIdx.x % WARP; c < l.e.f; c += WARP) {
        float g = pre[c], u = l.e.has_up ? pre[l.e.f + c] : 1.0f, d = prob * da[c], dact = d * u, act;
        if (l.e.activation == ML_ACT_SILU) {
            float s = ml_sigmoid(g);
            act = g * s;
            pre[c] = dact * (s + act * (1.0f - s));
        } else {
            act = fmaxf(0.0f, g);
            pre[c] = g > 0.0f ? dact : 0.0f;
        }
        sum = fmaf(da[c], act * u, sum);
        if (l.e.has_up) pre[l.e.f + c] = d * act;
        da[c] = prob * act * u;
    }
    sum = ml_warp_sum(sum);
    if (l.e.dprob && threadIdx.x % WARP == 0) {
        l.e.dprob[l.e.flat[r] / l.e.top_k * l.e.prob.stride + l.e.flat[r] % l.e.top_k] += sum;
    }
}

/* y[t] (+)= the rows of z that belong to token t */
static __global__ void combine(layer l, ml_rows y, bool accumulate)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= l.e.n_token * l.e.d) return;
    int64_t t = i / l.e.d, c = i % l.e.d;
    float sum = 0;
    for (int64_t k = 0; k < l.e.top_k; k++) {
        int32_t r = l.e.rows[t * l.e.top_k + k];
        if (r >= 0) sum += l.z[r * l.e.d + c];
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
    const ml_cuda_weight *gate = &l->e.gate, *up = &l->e.up;
    return gate->data && up->data && up->data == gate->data + l->e.f * l->e.d && gate->stride == up->stride;
}

static ml_status describe(ml_ctx *ctx, const ml_op_args *args, layer *l)
{
    ML_TRY(ml_cuda_experts_describe(ctx, args, &l->e));
    int64_t n_row = l->e.n_row;
    l->n_col = args->save[2]->dim[1];
    l->pre = ml_f32(args->save[2]);
    l->a = (float *)ml_ctx_scratch_data(ctx, (size_t)(n_row * l->e.f) * sizeof *l->a);
    l->z = (float *)ml_ctx_scratch_data(ctx, (size_t)(n_row * l->e.d) * sizeof *l->z);
    return l->a && l->z ? ML_OK : ML_ENOMEM;
}

/* c [rows, n] (+)= a [rows, k] times each expert's matrix */
static void multiply_rows(ml_ctx *ctx, const layer *l, ml_cuda_operand a, const ml_cuda_weight *w, bool transpose,
                          int64_t n, int64_t k, float *c, int64_t c_stride, bool accumulate)
{
    ml_cuda_gemm g = ml_cuda_gemm_make(l->e.n_row, n, k);
    g.n_product = l->e.n_expert;
    g.a = a;
    g.b = ml_cuda_weight_operand(w, transpose);
    g.c = c;
    g.c_stride = c_stride;
    g.accumulate = accumulate;
    g.grouping = ML_GROUP_ROWS;
    g.offset = l->e.offset;
    ml_cuda_gemm_run(ctx, &g);
}

/* dw_e [m, n] += a[rows of e]^T b[rows of e] */
static void multiply_inner(ml_ctx *ctx, const layer *l, ml_cuda_operand a, ml_cuda_operand b, int64_t m, int64_t n,
                           float *dw, int64_t dw_product)
{
    ml_cuda_gemm g = ml_cuda_gemm_make(m, n, l->e.n_row);
    g.n_product = l->e.n_expert;
    g.a = a;
    g.a.transpose = true;
    g.b = b;
    g.c = dw;
    g.c_stride = n;
    g.c_product = dw_product;
    g.accumulate = true;
    g.grouping = ML_GROUP_INNER;
    g.offset = l->e.offset;
    ml_cuda_gemm_run(ctx, &g);
}

static ml_status forward(ml_ctx *ctx, const ml_op_args *args)
{
    if (ctx->precision == ML_PRECISION_BF16) return ml_cuda_experts_forward_bf16(ctx, args);
    layer l;
    ML_TRY(describe(ctx, args, &l));
    ML_TRY(ml_cuda_experts_sort(ctx, args, &l.e));
    if (l.e.n_row == 0) return ml_queued(ctx);
    ml_cuda_experts_list(ctx, &l.e);
    bool fused = is_fused(&l);
    ml_cuda_operand x = ml_cuda_experts_gathered(&l.e, l.e.x.data, l.e.x.stride);
    multiply_rows(ctx, &l, x, &l.e.gate, true, fused ? 2 * l.e.f : l.e.f, l.e.d, l.pre, l.n_col, false);
    if (l.e.has_up && !fused) {
        multiply_rows(ctx, &l, x, &l.e.up, true, l.e.f, l.e.d, l.pre + l.e.f, l.n_col, false);
    }
    ML_LAUNCH(ctx->device, activate, blocks_for(l.e.n_row * l.e.f), THREADS, 0, l);
    multiply_rows(ctx, &l, ml_cuda_operand_make(l.a, l.e.f, false), &l.e.down, true, l.e.d, l.e.f, l.z, l.e.d, false);
    ML_LAUNCH(ctx->device, combine, blocks_for(l.e.n_token * l.e.d), THREADS, 0, l, ml_rows_of(args->out[0]), false);
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
    ml_cuda_operand x = ml_cuda_experts_gathered(&l->e, l->e.x.data, l->e.x.stride),
                    dpre = ml_cuda_operand_make(l->pre, l->n_col, false);
    bool fused_gradient = dgate && dup == dgate + l->e.f * l->e.d && gate->stride == up->stride;
    if (dgate) multiply_inner(ctx, l, dpre, x, fused_gradient ? 2 * l->e.f : l->e.f, l->e.d, dgate, gate->stride);
    ml_cuda_operand dpre_up = ml_cuda_operand_make(l->pre + l->e.f, l->n_col, false);
    if (dup && !fused_gradient) multiply_inner(ctx, l, dpre_up, x, l->e.f, l->e.d, dup, up->stride);
    if (!grads->in[0]) return;
    bool fused = is_fused(l);
    multiply_rows(ctx, l, dpre, &l->e.gate, false, l->e.d, fused ? 2 * l->e.f : l->e.f, l->z, l->e.d, false);
    if (l->e.has_up && !fused) multiply_rows(ctx, l, dpre_up, &l->e.up, false, l->e.d, l->e.f, l->z, l->e.d, true);
    ML_LAUNCH(ctx->device, combine, blocks_for(l->e.n_token * l->e.d), THREADS, 0, *l,
              ml_rows_like(args->in[0], grads->in[0]), true);
}

extern "C" ml_status ml_cuda_experts_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    if (ctx->precision == ML_PRECISION_BF16) return ml_cuda_experts_backward_bf16(ctx, args, grads);
    ML_TRY(ml_cuda_experts_check(ctx, args, grads));
    layer l;
    ML_TRY(describe(ctx, args, &l));
    l.e.dprob = grads->in[2];
    if (l.e.n_row == 0) return ML_OK;
    ml_cuda_experts_list(ctx, &l.e);
    ml_cuda_operand dy = ml_cuda_experts_gathered(&l.e, grads->out[0], args->out[0]->stride);
    multiply_rows(ctx, &l, dy, &l.e.down, false, l.e.f, l.e.d, l.a, l.e.f, false);
    ML_LAUNCH(ctx->device, activate_backward, (unsigned)ml_n_blocks(l.e.n_row, WARPS), THREADS, 0, l);
    if (grads->in[5]) {
        multiply_inner(ctx, &l, dy, ml_cuda_operand_make(l.a, l.e.f, false), l.e.d, l.e.f, grads->in[5],
                       args->in[5]->stride);
    }
    projection_backward(ctx, &l, args, grads);
    return ml_queued(ctx);
}
