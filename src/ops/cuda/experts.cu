/* A layer of experts by fp32 activations; ops/cuda/experts_bf16.cu is the other way.  With token[row] = flat[row] /
 * top_k:
 *
 *   forward     pre = x[token] gate_up_e^T                 [rows, f or 2 f]  kept
 *               a   = prob * act(gate) [* up]              [rows, f]         scratch
 *               z   = a down_e^T                           [rows, d]         scratch;  y[t] = its rows of z, by expert
 *   backward    da  = dy[token] down_e;  dprob = <da, act>;  pre becomes its own gradient, da becomes a
 *               d(down_e) += dy[token]^T a;  d(gate_up_e) += dpre^T x[token]
 *               z   = dpre gate_up_e;  dx[t] += its rows of z, by expert
 * Low-rank terms (experts_terms.cuh) are added to pre and z, and going back to a (as da) and z; with magnitudes pre and
 * z are multiplied where they are read. No atomic additions: y and dx are gathered by token, so every sum has one
 * order. */
#include "ops/cuda/experts_decode.cuh"
#include "ops/cuda/experts_terms.cuh"

enum { THREADS = 256, WARPS = THREADS / WARP };

typedef struct {
    ml_cuda_experts e;
    int64_t n_col; /* of pre: f or 2 f */
    float *pre, *a, *z;
    ml_cuda_terms t;
    float *share; /* going back, of gate and up with magnitudes: ds u of each element of pre */
} layer;

static __global__ void activate(layer l)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, r = i / l.e.f, c = i % l.e.f;
    if (r >= l.e.offset[l.e.n_expert]) return;
    const float *pre = l.pre + r * l.n_col;
    float g = pre[c], u = l.e.has_up ? pre[l.e.f + c] : 1.0f;
    if (l.t.gate.m || l.t.up.m) {
        int64_t expert = ml_expert_of(&l.e, r);
        g *= ml_term_factor(&l.t.gate, expert, c);
        u *= ml_term_factor(&l.t.up, expert, c);
    }
    l.a[i] = ml_prob_at(&l.e, r) * ml_activate(l.e.activation == ML_ACT_RELU, g) * u;
}

/* Of gate or up: u becomes du, and (with magnitudes) what its row adds to dm, but for the norm, is kept. */
static __device__ __forceinline__ void pull(float *u, float *share, float ds, float factor)
{
    if (share) *share = ds * *u;
    *u = ds * factor;
}

/* One warp for each row; as activate_gradient in ops/cpu/rowops_body.h. */
static __global__ void __launch_bounds__(THREADS) activate_backward(layer l)
{
    int64_t r = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    if (r >= l.e.offset[l.e.n_expert]) return;
    float *pre = l.pre + r * l.n_col, *da = l.a + r * l.e.f, prob = ml_prob_at(&l.e, r), sum = 0;
    int64_t expert = l.share ? ml_expert_of(&l.e, r) : 0;
    for (int64_t c = threadIdx.x % WARP; c < l.e.f; c += WARP) {
        float *gate = pre + c, *up = l.e.has_up ? pre + l.e.f + c : NULL, g = *gate, u = up ? *up : 1.0f;
        float by_gate = 1, by_up = 1, act, slope, d = prob * da[c];
        if (l.share) {
            g *= by_gate = ml_term_factor(&l.t.gate, expert, c);
            u *= by_up = ml_term_factor(&l.t.up, expert, c);
        }
        if (l.e.activation == ML_ACT_SILU) {
            float s = ml_sigmoid(g);
            act = g * s;
            slope = s + act * (1.0f - s);
        } else {
            act = fmaxf(0.0f, g);
            slope = g > 0.0f ? 1.0f : 0.0f;
        }
        sum = fmaf(da[c], act * u, sum);
        pull(gate, l.share ? l.share + r * l.n_col + c : NULL, d * u * slope, by_gate);
        if (up) pull(up, l.share ? l.share + r * l.n_col + l.e.f + c : NULL, d * act, by_up);
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

static ml_status describe(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads, layer *l)
{
    memset(l, 0, sizeof *l);
    ML_TRY(ml_cuda_experts_describe(ctx, args, &l->e));
    ML_TRY(ml_cuda_terms_describe(ctx, args, grads, &l->e, &l->t));
    int64_t n_row = l->e.n_row;
    l->n_col = args->save[2]->dim[1];
    l->pre = ml_f32(args->save[2]);
    l->a = (float *)ml_ctx_scratch_data(ctx, (size_t)(n_row * l->e.f) * sizeof *l->a);
    l->z = (float *)ml_ctx_scratch_data(ctx, (size_t)(n_row * l->e.d) * sizeof *l->z);
    if (!l->a || !l->z) return ML_ENOMEM;
    if (!grads || (!l->t.gate.m && !l->t.up.m)) return ML_OK;
    l->share = (float *)ml_ctx_scratch_data(ctx, (size_t)(n_row * l->n_col) * sizeof *l->share);
    return l->share ? ML_OK : ML_ENOMEM;
}

/* c [rows, n] (+)= a [rows, k] times each expert's matrix */
static void multiply_rows(ml_ctx *ctx, const layer *l, ml_cuda_operand a, const ml_cuda_weight *w, bool transpose,
                          int64_t n, int64_t k, float *c, int64_t c_stride, bool accumulate)
{
    ml_cuda_gemm g = ml_cuda_experts_rows(&l->e, a, ml_cuda_weight_operand(w, transpose), n, k);
    g.c = c;
    g.c_stride = c_stride;
    g.accumulate = accumulate;
    ml_cuda_gemm_run(ctx, &g);
}

/* u of down: z = a down^T + h b^T */
static void multiply_down(ml_ctx *ctx, const layer *l, bool keeps_h)
{
    const ml_cuda_experts *e = &l->e;
    ml_cuda_operand a = ml_cuda_operand_make(l->a, e->f, false);
    multiply_rows(ctx, l, a, &e->down, true, e->d, e->f, l->z, e->d, false);
    if (keeps_h) {
        ml_cuda_term_add_kept(ctx, e, &l->t, &l->t.down, l->z, e->d);
    } else {
        ml_cuda_term_add(ctx, e, &l->t, &l->t.down, a, l->z, e->d);
    }
}

static ml_status forward(ml_ctx *ctx, const ml_op_args *args)
{
    layer l;
    ML_TRY(describe(ctx, args, NULL, &l));
    const ml_cuda_experts *e = &l.e;
    ML_TRY(ml_cuda_experts_sort(ctx, args, e));
    if (e->n_row == 0) return ml_queued(ctx);
    ml_cuda_experts_list(ctx, e);
    bool fused = is_fused(&l);
    ml_cuda_operand x = ml_cuda_experts_gathered(e, e->x.data, e->x.stride);
    multiply_rows(ctx, &l, x, &e->gate, true, fused ? 2 * e->f : e->f, e->d, l.pre, l.n_col, false);
    if (e->has_up && !fused) multiply_rows(ctx, &l, x, &e->up, true, e->f, e->d, l.pre + e->f, l.n_col, false);
    ml_cuda_term_add(ctx, e, &l.t, &l.t.gate, x, l.pre, l.n_col);
    ml_cuda_term_add(ctx, e, &l.t, &l.t.up, x, l.pre + e->f, l.n_col);
    ML_LAUNCH(ctx->device, activate, blocks_for(e->n_row * e->f), THREADS, 0, l);
    multiply_down(ctx, &l, false);
    if (l.t.down.m) ml_cuda_term_scale(ctx, e, &l.t.down, ml_cuda_operand_make(l.z, e->d, false), l.z);
    ML_LAUNCH(ctx->device, combine, blocks_for(e->n_token * e->d), THREADS, 0, l, ml_rows_of(args->out[0]), false);
    return ml_queued(ctx);
}

/* Gradients of gate, up and x from dpre. */
static void projection_backward(ml_ctx *ctx, const layer *l, const ml_op_args *args, const ml_op_grads *grads)
{
    const ml_cuda_experts *e = &l->e;
    const ml_tensor *gate = args->in[3], *up = args->in[4];
    float *dgate = grads->in[3], *dup = grads->in[4];
    ml_cuda_operand x = ml_cuda_experts_gathered(e, e->x.data, e->x.stride);
    ml_cuda_operand dpre = ml_cuda_operand_make(l->pre, l->n_col, false);
    ml_cuda_operand dpre_up = ml_cuda_operand_make(l->pre + e->f, l->n_col, false);
    bool fused_gradient = dgate && dup == dgate + e->f * e->d && gate->stride == up->stride;
    if (dgate) {
        ml_cuda_experts_add_gradient(ctx, e, dpre, x, fused_gradient ? 2 * e->f : e->f, e->d, dgate, gate->stride);
    }
    if (dup && !fused_gradient) ml_cuda_experts_add_gradient(ctx, e, dpre_up, x, e->f, e->d, dup, up->stride);
    ml_cuda_term_pull(ctx, e, &l->t, &l->t.gate, dpre);
    ml_cuda_term_pull(ctx, e, &l->t, &l->t.up, dpre_up);
    ml_cuda_term_add_gradients(ctx, e, &l->t, &l->t.gate, dpre, x);
    ml_cuda_term_add_gradients(ctx, e, &l->t, &l->t.up, dpre_up, x);
    if (!grads->in[0]) return;
    bool fused = is_fused(l);
    multiply_rows(ctx, l, dpre, &e->gate, false, e->d, fused ? 2 * e->f : e->f, l->z, e->d, false);
    if (e->has_up && !fused) multiply_rows(ctx, l, dpre_up, &e->up, false, e->d, e->f, l->z, e->d, true);
    ml_cuda_term_add_input(ctx, e, &l->t, &l->t.gate, l->z, e->d);
    ml_cuda_term_add_input(ctx, e, &l->t, &l->t.up, l->z, e->d);
    ML_LAUNCH(ctx->device, combine, blocks_for(e->n_token * e->d), THREADS, 0, *l,
              ml_rows_like(args->in[0], grads->in[0]), true);
}

/* dm of all three, when pre and a are what activate_backward left. */
static void add_magnitudes(ml_ctx *ctx, const layer *l, ml_cuda_operand dy)
{
    const ml_cuda_experts *e = &l->e;
    ml_cuda_operand share = ml_cuda_operand_make(l->share, l->n_col, false), share_up = share;
    if (l->share) {
        ml_cuda_term_add_magnitudes(ctx, e, &l->t.gate, share, NULL, 0);
        share_up.data += e->f;
        ml_cuda_term_add_magnitudes(ctx, e, &l->t.up, share_up, NULL, 0);
    }
    if (!l->t.down.m || !l->t.down.dm) return;
    multiply_down(ctx, l, true);
    ml_cuda_term_add_magnitudes(ctx, e, &l->t.down, dy, l->z, e->d);
}

static ml_status backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    layer l;
    ML_TRY(ml_cuda_experts_check(ctx, args, grads));
    ML_TRY(describe(ctx, args, grads, &l));
    const ml_cuda_experts *e = &l.e;
    l.e.dprob = grads->in[2];
    if (e->n_row == 0) return ML_OK;
    ml_cuda_experts_list(ctx, e);
    ml_cuda_operand dy = ml_cuda_experts_gathered(e, grads->out[0], args->out[0]->stride), du = dy;
    ml_cuda_operand a = ml_cuda_operand_make(l.a, e->f, false);
    if (l.t.down.m) {
        float *scaled = (float *)ml_ctx_scratch_data(ctx, (size_t)(e->n_row * e->d) * sizeof *scaled);
        if (!scaled) return ML_ENOMEM;
        ml_cuda_term_scale(ctx, e, &l.t.down, dy, scaled);
        du = ml_cuda_operand_make(scaled, e->d, false);
    }
    multiply_rows(ctx, &l, du, &e->down, false, e->f, e->d, l.a, e->f, false);
    ml_cuda_term_pull(ctx, e, &l.t, &l.t.down, du);
    ml_cuda_term_add_input(ctx, e, &l.t, &l.t.down, l.a, e->f);
    ML_LAUNCH(ctx->device, activate_backward, (unsigned)ml_n_blocks(e->n_row, WARPS), THREADS, 0, l);
    if (grads->in[5]) {
        ml_cuda_experts_add_gradient(ctx, e, du, a, e->d, e->f, grads->in[5], args->in[5]->stride);
    }
    ml_cuda_term_add_gradients(ctx, e, &l.t, &l.t.down, du, a);
    add_magnitudes(ctx, &l, dy);
    projection_backward(ctx, &l, args, grads);
    return ml_queued(ctx);
}

static ml_status forward_all(ml_ctx *ctx, const ml_op_args *args)
{
    return ctx->precision == ML_PRECISION_BF16 ? ml_cuda_experts_forward_bf16(ctx, args) : forward(ctx, args);
}

static ml_tensor rows_from(const ml_tensor *t, int64_t first, int64_t n)
{
    ml_tensor part = *t;
    part.data = (char *)t->data + (size_t)(first * t->stride) * 4; /* fp32 and int32 alike */
    part.dim[0] = n;
    return part;
}

/* The phase of a token decides how it is computed. */
extern "C" ml_status ml_cuda_experts_forward(ml_ctx *ctx, const ml_op_args *args)
{
    int64_t n = args->in[0]->dim[0], n_decode = ctx->n_decode < n ? ctx->n_decode : n;
    if (n_decode == 0) return forward_all(ctx, args);
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
        ml_ctx_mark mark = ml_ctx_get_mark(ctx);
        ML_TRY(phase == 0 ? ml_cuda_experts_decode(ctx, &some, NULL) : forward_all(ctx, &some));
        ml_ctx_release(ctx, mark);
    }
    return ML_OK;
}

extern "C" ml_status ml_cuda_experts_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    return ctx->precision == ML_PRECISION_BF16 ? ml_cuda_experts_backward_bf16(ctx, args, grads)
                                               : backward(ctx, args, grads);
}

extern "C" ml_status ml_cuda_experts_lora_forward(ml_ctx *ctx, const ml_op_args *args)
{
    return forward(ctx, args);
}

extern "C" ml_status ml_cuda_experts_lora_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    return backward(ctx, args, grads);
}
