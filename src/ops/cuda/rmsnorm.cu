/* y = x rstd w over groups of columns, rstd = 1 / sqrt(mean(x^2) + eps); and the same of a sum x = a + b, one group in
 * a row, made by the threads that take its norm: add and rmsnorm in one reading of a and b, with their bits.
 *   u = x rstd;  dx += rstd (w dy - u mean(w dy u));  dw += sum over rows and groups of dy u
 * A group belongs to the threads of one row of a block (a warp, or the whole block); each holds Q pieces of four
 * columns in registers, so that x and dy are read once.  Going backward these threads walk `per` groups in order and
 * keep their columns' part of dw; the parts are then added in order (ops/cuda/sums.cuh). */
#include "ops/cuda/pieces.cuh"
#include "ops/cuda/sums.cuh"

enum { THREADS = 256, MANY_THREADS = 1024, MAX_Q = 4, MAX_PART = 1024, MIN_PER = 8 };

typedef struct {
    ml_rows x, y, rstd; /* y: dy going backward (data NULL: none arrived at a sum's norm) */
    ml_rows a, b;       /* of the sum: its terms; their gradients going backward, where wanted */
    const float *w;
    float *dx, *part;           /* part [n_part, d]; either may be NULL */
    bool dx_stays;              /* of the sum: its gradient is the heir's */
    int64_t d, n_group, n, per; /* n: groups of all rows */
    float eps;
    bool aligned;
} operands;

/* Where group i lies in x and y. */
typedef struct {
    int64_t row, group, x, y;
} place;

static __device__ __forceinline__ place find(const operands &m, int64_t i)
{
    place p;
    p.row = i / m.n_group;
    p.group = i % m.n_group;
    p.x = p.row * m.x.stride + p.group * m.d;
    p.y = p.row * m.y.stride + p.group * m.d;
    return p;
}

/* Over the threads of a group. */
static __device__ __forceinline__ float sum_group(float v, float *shared)
{
    return blockDim.x == WARP ? ml_warp_sum(v) : ml_block_sum(v, shared);
}

static __device__ __forceinline__ float dot(float4 a, float4 b, float sum)
{
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

static __device__ __forceinline__ float4 multiply(float4 a, float4 b, float factor)
{
    float4 v;
    v.x = a.x * factor * b.x;
    v.y = a.y * factor * b.y;
    v.z = a.z * factor * b.z;
    v.w = a.w * factor * b.w;
    return v;
}

static __device__ __forceinline__ float4 add_terms(const operands &m, int64_t row, int64_t c)
{
    float4 v = ml_piece_load(m.a.data + row * m.a.stride + c, m.d - c, m.aligned);
    float4 b = ml_piece_load(m.b.data + row * m.b.stride + c, m.d - c, m.aligned);
    v.x += b.x;
    v.y += b.y;
    v.z += b.z;
    v.w += b.w;
    return v;
}

/* The sum's gradient is what arrived there (dx) and what comes through the norm: rstd slope. */
static __device__ __forceinline__ void add_to_terms(const operands &m, const place &p, int64_t c, float4 slope,
                                                    float rstd)
{
    int64_t n_left = m.d - c;
    float4 v = ml_piece_load(m.dx + p.x + c, m.dx ? n_left : 0, m.aligned);
    v.x += rstd * slope.x;
    v.y += rstd * slope.y;
    v.z += rstd * slope.z;
    v.w += rstd * slope.w;
    if (m.dx_stays) ml_piece_store(m.dx + p.x + c, v, n_left, m.aligned);
    if (m.a.data) ml_piece_add(m.a.data + p.row * m.a.stride + c, v, 1, n_left, m.aligned);
    if (m.b.data) ml_piece_add(m.b.data + p.row * m.b.stride + c, v, 1, n_left, m.aligned);
}

template <int Q, bool SUM> static __global__ void __launch_bounds__(MANY_THREADS) forward(operands m)
{
    __shared__ float shared[MANY_THREADS / WARP];
    int64_t i = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (i >= m.n) return; /* a whole warp, or no thread at all */
    place p = find(m, i);
    float4 x[Q];
    float sum = 0;
#pragma unroll
    for (int q = 0; q < Q; q++) {
        int64_t c = (int64_t)(q * blockDim.x + threadIdx.x) * ML_PIECE;
        x[q] = SUM ? add_terms(m, p.row, c) : ml_piece_load(m.x.data + p.x + c, m.d - c, m.aligned);
        if (SUM) ml_piece_store(m.x.data + p.x + c, x[q], m.d - c, m.aligned);
    }
#pragma unroll
    for (int q = 0; q < Q; q++) sum = dot(x[q], x[q], sum);
    float rstd = 1.0f / sqrtf(sum_group(sum, shared) / (float)m.d + m.eps);
#pragma unroll
    for (int q = 0; q < Q; q++) {
        int64_t c = (int64_t)(q * blockDim.x + threadIdx.x) * ML_PIECE;
        float4 w = ml_piece_load(m.w + c, m.d - c, m.aligned);
        ml_piece_store(m.y.data + p.y + c, multiply(x[q], w, rstd), m.d - c, m.aligned);
    }
    if (threadIdx.x == 0) m.rstd.data[p.row * m.rstd.stride + p.group] = rstd;
}

template <int Q, bool SUM> static __global__ void __launch_bounds__(MANY_THREADS) backward(operands m)
{
    __shared__ float shared[MANY_THREADS / WARP];
    int64_t part = (int64_t)blockIdx.x * blockDim.y + threadIdx.y, first = part * m.per;
    int64_t end = first + m.per < m.n ? first + m.per : m.n;
    if (first >= m.n) return;
    float4 dw[Q];
#pragma unroll
    for (int q = 0; q < Q; q++) dw[q].x = dw[q].y = dw[q].z = dw[q].w = 0;
    for (int64_t i = first; i < end; i++) {
        place p = find(m, i);
        float rstd = m.rstd.data[p.row * m.rstd.stride + p.group], sum = 0;
        float4 u[Q], slope[Q];
#pragma unroll
        for (int q = 0; q < Q; q++) {
            int64_t c = (int64_t)(q * blockDim.x + threadIdx.x) * ML_PIECE;
            u[q] = ml_piece_load(m.x.data + p.x + c, m.d - c, m.aligned);
            slope[q] = ml_piece_load(m.y.data + p.y + c, SUM && !m.y.data ? 0 : m.d - c, m.aligned);
        }
#pragma unroll
        for (int q = 0; q < Q; q++) {
            int64_t c = (int64_t)(q * blockDim.x + threadIdx.x) * ML_PIECE;
            float4 w = ml_piece_load(m.w + c, m.d - c, m.aligned);
            u[q].x *= rstd, u[q].y *= rstd, u[q].z *= rstd, u[q].w *= rstd;
            dw[q].x = fmaf(slope[q].x, u[q].x, dw[q].x);
            dw[q].y = fmaf(slope[q].y, u[q].y, dw[q].y);
            dw[q].z = fmaf(slope[q].z, u[q].z, dw[q].z);
            dw[q].w = fmaf(slope[q].w, u[q].w, dw[q].w);
            slope[q] = multiply(slope[q], w, 1);
            sum = dot(slope[q], u[q], sum);
        }
        if (!SUM && !m.dx) continue;
        float mean = sum_group(sum, shared) / (float)m.d;
#pragma unroll
        for (int q = 0; q < Q; q++) {
            int64_t c = (int64_t)(q * blockDim.x + threadIdx.x) * ML_PIECE;
            slope[q].x -= u[q].x * mean;
            slope[q].y -= u[q].y * mean;
            slope[q].z -= u[q].z * mean;
            slope[q].w -= u[q].w * mean;
            if (SUM)
                add_to_terms(m, p, c, slope[q], rstd);
            else
                ml_piece_add(m.dx + p.x + c, slope[q], rstd, m.d - c, m.aligned);
        }
    }
    if (!m.part) return;
#pragma unroll
    for (int q = 0; q < Q; q++) {
        int64_t c = (int64_t)(q * blockDim.x + threadIdx.x) * ML_PIECE;
        ml_piece_store(m.part + part * m.d + c, dw[q], m.d - c, m.aligned);
    }
}

/* Threads of a group, groups of a block, pieces of a thread. */
typedef struct {
    unsigned x, y;
    int q;
} sizes;

static ml_status choose(ml_ctx *ctx, int64_t d, sizes *s)
{
    int64_t n_piece = ml_pieces_of(d);
    s->x = (unsigned)ml_n_blocks(n_piece, WARP) * WARP;
    if (n_piece > THREADS) s->x = THREADS;
    if (n_piece > 2 * THREADS) s->x = MANY_THREADS;
    s->y = s->x == WARP ? THREADS / WARP : 1;
    s->q = (int)ml_n_blocks(n_piece, s->x);
    if (s->q <= MAX_Q) return ML_OK;
    return ml_ctx_fail(ctx, ML_EINVAL, "rmsnorm on the GPU: expected at most %d columns, found %lld",
                       MANY_THREADS * MAX_Q * ML_PIECE, (long long)d);
}

static operands describe(const ml_tensor *x, const ml_tensor *w, const ml_tensor *y, const ml_op_args *args)
{
    operands m;
    memset(&m, 0, sizeof m);
    m.x = ml_rows_of(x);
    m.y = ml_rows_of(y);
    m.rstd = ml_rows_of(args->save[0]);
    m.w = ml_f32(w);
    m.d = w->dim[0];
    m.n_group = m.x.n_col / m.d;
    m.n = ml_tensor_count(x) / m.d;
    m.eps = ((const ml_rmsnorm_param *)args->param)->eps;
    m.aligned = ml_pieces_aligned(m.x) && ml_pieces_aligned(m.y) && (uintptr_t)m.w % 16 == 0 && m.d % ML_PIECE == 0;
    return m;
}

template <bool SUM> static ml_status run_forward(ml_ctx *ctx, const operands &m)
{
    sizes s;
    if (m.n == 0) return ML_OK;
    ML_TRY(choose(ctx, m.d, &s));
    auto *rmsnorm_forward = s.q > 2 ? forward<4, SUM> : s.q > 1 ? forward<2, SUM> : forward<1, SUM>;
    ML_LAUNCH(ctx->device, rmsnorm_forward, (unsigned)ml_n_blocks(m.n, s.y), dim3(s.x, s.y), 0, m);
    return ml_queued(ctx);
}

/* dw: NULL, or where the gain's gradient is added. */
template <bool SUM> static ml_status run_backward(ml_ctx *ctx, operands m, float *dw)
{
    sizes s;
    if (m.n == 0) return ML_OK;
    ML_TRY(choose(ctx, m.d, &s));
    m.per = ml_n_blocks(m.n, MAX_PART);
    if (m.per < MIN_PER) m.per = MIN_PER;
    m.aligned = m.aligned && ml_pieces_aligned(m.y) && (uintptr_t)m.dx % 16 == 0;
    int64_t n_part = ml_n_blocks(m.n, m.per);
    if (dw) {
        m.part = (float *)ml_ctx_scratch_data(ctx, (size_t)(n_part * m.d) * sizeof *m.part);
        if (!m.part) return ML_ENOMEM;
    }
    auto *rmsnorm_backward = s.q > 2 ? backward<4, SUM> : s.q > 1 ? backward<2, SUM> : backward<1, SUM>;
    ML_LAUNCH(ctx->device, rmsnorm_backward, (unsigned)ml_n_blocks(n_part, s.y), dim3(s.x, s.y), 0, m);
    if (!m.part) return ml_queued(ctx);
    ml_rows parts;
    parts.data = m.part;
    parts.n_col = parts.stride = m.d;
    ml_cuda_add_column_sums(ctx, parts, n_part, dw);
    return ml_queued(ctx);
}

extern "C" ml_status ml_cuda_rmsnorm_forward(ml_ctx *ctx, const ml_op_args *args)
{
    return run_forward<false>(ctx, describe(args->in[0], args->in[1], args->out[0], args));
}

extern "C" ml_status ml_cuda_rmsnorm_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    if (!grads->in[0] && !grads->in[1]) return ML_OK;
    operands m = describe(args->in[0], args->in[1], args->out[0], args);
    m.y.data = grads->out[0];
    m.dx = grads->in[0];
    return run_backward<false>(ctx, m, grads->in[1]);
}

static operands describe_sum(const ml_op_args *args, float *a, float *b)
{
    operands m = describe(args->out[0], args->in[2], args->out[1], args);
    m.a = ml_rows_like(args->in[0], a);
    m.b = ml_rows_like(args->in[1], b);
    m.aligned = m.aligned && ml_pieces_aligned(m.a) && ml_pieces_aligned(m.b);
    return m;
}

extern "C" ml_status ml_cuda_add_rmsnorm_forward(ml_ctx *ctx, const ml_op_args *args)
{
    return run_forward<true>(ctx, describe_sum(args, ml_f32(args->in[0]), ml_f32(args->in[1])));
}

extern "C" ml_status ml_cuda_add_rmsnorm_backward(ml_ctx *ctx, const ml_op_args *args, const ml_op_grads *grads)
{
    operands m = describe_sum(args, grads->in[0], grads->in[1]);
    m.y.data = grads->out[1];
    m.dx = grads->out[0];
    m.dx_stays = m.dx && m.b.data == m.dx;
    if (m.dx_stays) m.b.data = NULL;
    return run_backward<true>(ctx, m, grads->in[2]);
}
