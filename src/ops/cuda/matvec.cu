/* A warp computes OUT neighbouring results of up to ROWS rows of x:
 *
 *     w   OUT rows  | 256 | 256 | 256 | ...     each step of 256: a lane loads its two quads of each of the OUT rows,
 * for the next step while it computes this one; x   ROWS rows | 256 | 256 | 256 | ...     its quads of x come from the
 * caches, and serve OUT rows of w.
 *
 * A lane sums its products in order of steps; lanes are added pairwise.  So a result's order of summation is that of k,
 * whatever ROWS is, and the kernels for 1, 4 and 16 rows agree in bits. */
#include "ops/cuda/matvec.cuh"

#include "ops/cuda/quads.cuh"
#include "ops/cuda/weight.cuh"

enum { OUT = 4, WARPS = 4, THREADS = WARPS * WARP };

/* Any type, wherever its rows and those of x begin: element by element. */
struct quads_any {
    struct raw {
        float w[8];
    };
};

/* What the y-th block row has: its product, and rows begin .. end.  False: nothing. */
static __device__ __forceinline__ bool find_rows(const ml_cuda_matvec *m, int64_t at, int64_t *product, int64_t *begin,
                                                 int64_t *end)
{
    *product = at;
    *begin = 0;
    *end = m->n_row;
    if (!m->offset) return true;
    int lane = (int)threadIdx.x % WARP;
    int64_t before = 0;
    for (int64_t first = 0; first < m->n_product; first += WARP) {
        int64_t p = first + lane;
        bool has = p < m->n_product && m->offset[p] < m->offset[p + 1];
        unsigned mask = __ballot_sync(ALL_LANES, has);
        int n = __popc(mask);
        if (at >= before + n) {
            before += n;
            continue;
        }
        for (; before < at; before++) mask &= mask - 1;
        p = first + __popc((mask & (0u - mask)) - 1); /* the lowest that is left */
        *product = p;
        *begin = m->offset[p];
        *end = m->offset[p + 1];
        return true;
    }
    return false;
}

/* Eight elements of x: at + first, at + second. */
static __device__ __forceinline__ void load_x(const float *a, const float *b, float x[8])
{
    float4 u, v;
    memcpy(&u, __builtin_assume_aligned(a, 16), sizeof u);
    memcpy(&v, __builtin_assume_aligned(b, 16), sizeof v);
    x[0] = u.x, x[1] = u.y, x[2] = u.z, x[3] = u.w;
    x[4] = v.x, x[5] = v.y, x[6] = v.z, x[7] = v.w;
}

static __device__ __forceinline__ void add_products(const float w[8], const float x[8], float *sum)
{
#pragma unroll
    for (int i = 0; i < 8; i++) *sum = fmaf(w[i], x[i], *sum);
}

/* sum[r][o] of n rows, from their quads. */
template <typename Q, int ROWS>
static __device__ __forceinline__ void sum_quads(const ml_cuda_matvec *m, const uint8_t *const row[OUT],
                                                 const float *const x[ROWS], int n, int lane, float sum[ROWS][OUT])
{
    typename Q::raw now[OUT], next[OUT];
    bool have = Q::first(lane) < m->k;
    if (have) {
#pragma unroll
        for (int o = 0; o < OUT; o++) Q::load(row[o], 0, lane, &now[o]);
    }
    for (int64_t p = 0; have; p += ML_QUADS_STEP) {
        bool more = p + ML_QUADS_STEP + Q::first(lane) < m->k;
        if (more) {
#pragma unroll
            for (int o = 0; o < OUT; o++) Q::load(row[o], p + ML_QUADS_STEP, lane, &next[o]);
        }
        float w[OUT][8];
#pragma unroll
        for (int o = 0; o < OUT; o++) Q::get(&now[o], lane, w[o]);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (r < n) {
                float v[8];
                load_x(x[r] + p + Q::first(lane), x[r] + p + Q::second(lane), v);
#pragma unroll
                for (int o = 0; o < OUT; o++) add_products(w[o], v, &sum[r][o]);
            }
        }
        have = more;
        if (more) {
#pragma unroll
            for (int o = 0; o < OUT; o++) now[o] = next[o];
        }
    }
}

template <int ROWS>
static __device__ void sum_elements(const ml_cuda_matvec *m, const uint8_t *const row[OUT], const float *const x[ROWS],
                                    int n, int lane, float sum[ROWS][OUT])
{
    for (int64_t p = 8 * lane; p < m->k; p += ML_QUADS_STEP) {
        for (int i = 0; i < 8 && p + i < m->k; i++) {
            float w[OUT];
#pragma unroll
            for (int o = 0; o < OUT; o++) w[o] = ml_block_element(m->dtype, row[o], p + i);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
#pragma unroll
                for (int o = 0; o < OUT && r < n; o++) sum[r][o] = fmaf(w[o], x[r][p + i], sum[r][o]);
            }
        }
    }
}

template <typename Q, int ROWS> struct summing {
    static __device__ __forceinline__ void run(const ml_cuda_matvec *m, const uint8_t *const row[OUT],
                                               const float *const x[ROWS], int n, int lane, float sum[ROWS][OUT])
    {
        sum_quads<Q, ROWS>(m, row, x, n, lane, sum);
    }
};
template <int ROWS> struct summing<quads_any, ROWS> {
    static __device__ __forceinline__ void run(const ml_cuda_matvec *m, const uint8_t *const row[OUT],
                                               const float *const x[ROWS], int n, int lane, float sum[ROWS][OUT])
    {
        sum_elements<ROWS>(m, row, x, n, lane, sum);
    }
};

/* Lane o of the warp has the sums of its o-th row of w: write what they make. */
static __device__ __forceinline__ void put(const ml_cuda_matvec *m, int64_t product, int64_t r, int64_t first, int lane,
                                           const float sum[OUT])
{
    float *y = m->y + product * m->y_product + r * m->y_stride;
    int n_out = m->w_up ? OUT / 2 : OUT;
    int64_t j = first + lane;
    if (lane >= n_out || j >= m->n) return;
    float v = sum[0], up = sum[OUT / 2];
#pragma unroll
    for (int o = 1; o < OUT; o++) {
        if (lane == o) v = sum[o];
        if (lane + OUT / 2 == o) up = sum[o];
    }
    if (m->y_up) m->y_up[product * m->y_product + r * m->y_stride + j] = up;
    if (m->activate) v = ml_expert_activation(m->activation, m->factor ? m->factor + r : NULL, v, m->w_up != NULL, up);
    y[j] = m->bias ? v + m->bias[j] : v;
}

template <typename Q, int ROWS> static __global__ void __launch_bounds__(THREADS) multiply(ml_cuda_matvec m)
{
    int lane = (int)threadIdx.x % WARP;
    int64_t product, begin, end, n_out = m.w_up ? OUT / 2 : OUT;
    int64_t first = ((int64_t)blockIdx.x * WARPS + threadIdx.x / WARP) * n_out;
    if (first >= m.n || !find_rows(&m, blockIdx.y, &product, &begin, &end)) return;
    const uint8_t *row[OUT];
#pragma unroll
    for (int o = 0; o < OUT; o++) {
        bool second = o >= n_out;
        int64_t j = first + (second ? o - n_out : o);
        if (j >= m.n) j = m.n - 1; /* computed again, and not written */
        row[o] = (second ? m.w_up + product * m.up_product_bytes : m.w + product * m.product_bytes) + j * m.row_bytes;
    }
    for (int64_t r0 = begin; r0 < end; r0 += ROWS) {
        int n = end - r0 < ROWS ? (int)(end - r0) : ROWS;
        const float *x[ROWS];
        float sum[ROWS][OUT];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            int64_t at = r0 + (r < n ? r : 0);
            x[r] = m.x + product * m.x_product + (m.x_row ? m.x_row[at] : at) * m.x_stride;
#pragma unroll
            for (int o = 0; o < OUT; o++) sum[r][o] = 0;
        }
        summing<Q, ROWS>::run(&m, row, x, n, lane, sum);
        __syncwarp();
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (r < n) {
#pragma unroll
                for (int o = 0; o < OUT; o++) sum[r][o] = ml_warp_sum(sum[r][o]);
                put(&m, product, r0 + r, first, lane, sum[r]);
            }
        }
    }
}

template <typename Q> static void launch(ml_ctx *ctx, const ml_cuda_matvec *m)
{
    int64_t n_out = m->w_up ? OUT / 2 : OUT, n_y = m->n_product;
    if (m->offset && m->n_row < n_y) n_y = m->n_row; /* so many products have rows at most */
    dim3 grid((unsigned)ml_n_blocks(m->n, n_out * WARPS), (unsigned)n_y, 1);
    int64_t n_row = m->n_most ? m->n_most : m->n_row; /* of one product */
    if (n_row <= 1) {
        ML_LAUNCH(ctx->device, (multiply<Q, 1>), grid, THREADS, 0, *m);
    } else if (n_row <= 4) {
        ML_LAUNCH(ctx->device, (multiply<Q, 4>), grid, THREADS, 0, *m);
    } else {
        ML_LAUNCH(ctx->device, (multiply<Q, 16>), grid, THREADS, 0, *m);
    }
}

/* Can lanes load 16 bytes of both at once?  Says the same for one row as for many. */
static bool is_aligned(const ml_cuda_matvec *m)
{
    uintptr_t w = (uintptr_t)m->w | (uintptr_t)m->row_bytes | (uintptr_t)m->product_bytes;
    if (m->w_up) w |= (uintptr_t)m->w_up | (uintptr_t)m->up_product_bytes;
    uintptr_t x = (uintptr_t)m->x | (uintptr_t)(m->x_stride * 4) | (uintptr_t)(m->x_product * 4);
    bool narrow = m->dtype == ML_Q8_0 || m->dtype == ML_Q4_0 || m->dtype == ML_Q6_K;
    return m->k % 8 == 0 && x % 16 == 0 && w % (narrow ? 2 : 16) == 0;
}

void ml_cuda_matvec_run(ml_ctx *ctx, const ml_cuda_matvec *m)
{
    if (m->n == 0 || m->n_row == 0 || m->n_product == 0) return;
    if (m->n_product > MAX_GRID_Y) {
        ml_ctx_fail(ctx, ML_EINVAL, "%lld matrices are too many for one product on the GPU", (long long)m->n_product);
        return;
    }
    switch (is_aligned(m) ? m->dtype : ML_N_DTYPE) {
    case ML_F32: launch<ml_quads_f32>(ctx, m); break;
    case ML_BF16: launch<ml_quads_bf16>(ctx, m); break;
    case ML_F16: launch<ml_quads_f16>(ctx, m); break;
    case ML_Q8_0: launch<ml_quads_q8_0>(ctx, m); break;
    case ML_Q4_0: launch<ml_quads_q4_0>(ctx, m); break;
    case ML_Q4_K: launch<ml_quads_q4_k>(ctx, m); break;
    case ML_Q5_K: launch<ml_quads_q5_k>(ctx, m); break;
    case ML_Q6_K: launch<ml_quads_q6_k>(ctx, m); break;
    default: launch<quads_any>(ctx, m);
    }
}

ml_cuda_matvec ml_cuda_matvec_make(const ml_tensor *w)
{
    ml_cuda_matvec m;
    memset(&m, 0, sizeof m);
    m.dtype = w->dtype;
    m.w = (const uint8_t *)w->data;
    m.n = w->dim[0];
    m.k = w->dim[w->n_dim - 1];
    m.row_bytes = (int64_t)ml_dtype_row_bytes(w->dtype, w->n_dim == 2 ? w->stride : m.k);
    m.n_product = 1;
    return m;
}

static ml_status multiply_part(ml_ctx *ctx, const ml_tensor *w, const float *bias, const float *x, int64_t x_stride,
                               int64_t n_row, float *y, int64_t y_stride)
{
    ML_TRY(ml_cuda_weight_check(ctx, w));
    ml_cuda_matvec m = ml_cuda_matvec_make(w);
    m.x = x;
    m.x_stride = x_stride;
    m.y = y;
    m.y_stride = y_stride;
    m.n_row = n_row;
    m.bias = bias;
    ml_cuda_matvec_run(ctx, &m);
    return ml_queued(ctx);
}

ml_status ml_cuda_matvec_linear(ml_ctx *ctx, const ml_tensor *w, const float *bias, const float *x, int64_t x_stride,
                                int64_t n_row, float *y, int64_t y_stride)
{
    if (!w->part) return multiply_part(ctx, w, bias, x, x_stride, n_row, y, y_stride);
    int64_t at = 0;
    for (int64_t i = 0; i < w->n_part; i++) {
        ML_TRY(multiply_part(ctx, &w->part[i], bias ? bias + at : NULL, x, x_stride, n_row, y + at, y_stride));
        at += w->part[i].dim[0];
    }
    return ml_queued(ctx);
}
