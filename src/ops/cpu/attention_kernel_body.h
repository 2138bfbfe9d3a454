/* The attention kernels, compiled once for each instruction set by a file that defines ATTENTION_KERNEL_TABLE. */
#include "ops/cpu/attention_kernel.h"

#include "ops/cpu/vmath.h"

enum {
    LANES = ML_ATTENTION_LANES,
    /* A tile of the product holds TILE_ROWS x TILE_VECTORS accumulators: enough to hide the latency of a fused
     * multiply-add and few enough for the registers (32 with AVX-512, else 16). */
    TILE_VECTORS = VF_LANES == 16 ? 4 : 2,
    N_ACCUMULATOR = VF_LANES == 16 ? 16 : 8,
};

/* One tile: n_row x n_vector accumulators, both constants after inlining.  `last` is the number of lanes of the last
 * vector, or VF_LANES as a constant. */
VF_INLINE void product_tile(const ml_attention_product *p, int n_row, int n_vector, int64_t i0, int64_t j0,
                            int64_t last)
{
    vf sum[8][4];
    const float *a = p->a + i0 * p->a_row, *b = p->b + j0;
    float *c = p->c + i0 * p->c_stride + j0;
    int64_t a_row = p->a_row, a_col = p->a_col, b_stride = p->b_stride;
#pragma GCC unroll 8
    for (int i = 0; i < n_row; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < n_vector; j++) {
            const float *from = c + i * p->c_stride + j * VF_LANES;
            sum[i][j] = !p->accumulate ? vf_set1(0.0f) : j == n_vector - 1 ? vf_load_first(from, last) : vf_load(from);
        }
    }
    for (int64_t k = 0; k < p->k; k++, a += a_col, b += b_stride) {
        vf row[4];
#pragma GCC unroll 4
        for (int j = 0; j < n_vector; j++) {
            row[j] = j == n_vector - 1 && last != VF_LANES ? vf_load_first(b + j * VF_LANES, last)
                                                           : vf_load(b + j * VF_LANES);
        }
#pragma GCC unroll 8
        for (int i = 0; i < n_row; i++) {
            vf x = vf_set1(a[i * a_row]);
#pragma GCC unroll 4
            for (int j = 0; j < n_vector; j++) sum[i][j] = vf_fma(x, row[j], sum[i][j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < n_row; i++) {
#pragma GCC unroll 4
        for (int j = 0; j < n_vector; j++) {
            float *to = c + i * p->c_stride + j * VF_LANES;
            if (j == n_vector - 1 && last != VF_LANES) {
                vf_store_first(to, sum[i][j], last);
            } else {
                vf_store(to, sum[i][j]);
            }
        }
    }
}

/* All rows of one panel of n_vector vectors. */
VF_INLINE void product_panel(const ml_attention_product *p, int n_vector, int64_t j0, int64_t last)
{
    int64_t i = 0;
    if (8 * n_vector <= N_ACCUMULATOR) {
        for (; i + 8 <= p->m; i += 8) product_tile(p, 8, n_vector, i, j0, last);
    }
    for (; i + 4 <= p->m; i += 4) product_tile(p, 4, n_vector, i, j0, last);
    for (; i < p->m; i++) product_tile(p, 1, n_vector, i, j0, last);
}

static void product_panel_full(const ml_attention_product *p, int64_t n_vector, int64_t j0)
{
    switch (n_vector) {
    case 1: product_panel(p, 1, j0, VF_LANES); break;
    case 2: product_panel(p, 2, j0, VF_LANES); break;
#if defined(__AVX512F__)
    case 3: product_panel(p, 3, j0, VF_LANES); break;
    case 4: product_panel(p, 4, j0, VF_LANES); break;
#endif
    default: __builtin_unreachable();
    }
}

static void product_panel_partial(const ml_attention_product *p, int64_t n_vector, int64_t j0, int64_t last)
{
    switch (n_vector) {
    case 1: product_panel(p, 1, j0, last); break;
    case 2: product_panel(p, 2, j0, last); break;
#if defined(__AVX512F__)
    case 3: product_panel(p, 3, j0, last); break;
    case 4: product_panel(p, 4, j0, last); break;
#endif
    default: __builtin_unreachable();
    }
}

static void product(const ml_attention_product *p)
{
    for (int64_t j = 0; j < p->n; j += TILE_VECTORS * VF_LANES) {
        int64_t n = p->n - j;
        if (n > TILE_VECTORS * VF_LANES) n = TILE_VECTORS * VF_LANES;
        int64_t n_vector = (n + VF_LANES - 1) / VF_LANES, last = n - (n_vector - 1) * VF_LANES;
        if (last == VF_LANES) {
            product_panel_full(p, n_vector, j);
        } else {
            product_panel_partial(p, n_vector, j, last);
        }
    }
}

static void pack(float *dst, const float *rows, int64_t stride, int64_t n, int64_t d, float scale)
{
    for (int64_t i = 0; i < n; i++) {
        const float *row = rows + i * stride;
        for (int64_t c = 0; c < d; c++) dst[c * LANES + i] = scale * row[c];
    }
    for (int64_t c = 0; c < d; c++) {
        for (int64_t i = n; i < ml_attention_pad(n); i++) dst[c * LANES + i] = 0;
    }
}

static void unpack(float *rows, int64_t stride, const float *lanes, const float *factor, int64_t n, int64_t d,
                   bool accumulate)
{
    for (int64_t i = 0; i < n; i++) {
        float *row = rows + i * stride, f = factor ? factor[i] : 1.0f;
        if (accumulate) {
            for (int64_t c = 0; c < d; c++) row[c] += f * lanes[c * LANES + i];
        } else {
            for (int64_t c = 0; c < d; c++) row[c] = f * lanes[c * LANES + i];
        }
    }
}

/* Far below any score, yet finite: the difference of two maxima is never infinity - infinity. */
static const float lowest = -1e30f;

static void begin(const ml_attention_state *state)
{
    for (int i = 0; i < LANES; i++) {
        state->max[i] = lowest;
        state->sum[i] = 0;
    }
    memset(state->ot, 0, (size_t)(state->d_v * LANES) * sizeof *state->ot);
}

/* x where key position k is seen by the lane, else `other`. */
VF_INLINE vf where_seen(vi last, int64_t k, vf x, vf other)
{
    vi seen = last >= vi_set1((int32_t)k);
    return (vf)((seen & (vi)x) | (~seen & (vi)other));
}

/* Does every lane of the vector see all keys up to position k?  Lanes beyond the queries hold anything. */
static bool all_seen(const int32_t *last, int64_t k, int64_t n)
{
    bool all = true;
    for (int64_t i = 0; i < n && i < VF_LANES; i++) all = all && last[i] >= k;
    return all;
}

VF_INLINE void rescale(const ml_attention_state *state, int64_t lane, vf factor)
{
    for (int64_t c = 0; c < state->d_v; c++) {
        float *o = state->ot + c * LANES + lane;
        vf_store(o, vf_load(o) * factor);
    }
}

/* Per lane, of n_key scores and x; four chains hide the latency. */
VF_INLINE vf largest_score(const float *column, int64_t n_key, vf x)
{
    vf a = x, b = x, c = x, d = x;
    int64_t k = 0;
    for (; k + 4 <= n_key; k += 4) {
        a = vf_max(a, vf_load(column + k * LANES));
        b = vf_max(b, vf_load(column + (k + 1) * LANES));
        c = vf_max(c, vf_load(column + (k + 2) * LANES));
        d = vf_max(d, vf_load(column + (k + 3) * LANES));
    }
    for (; k < n_key; k++) a = vf_max(a, vf_load(column + k * LANES));
    return vf_max(vf_max(a, b), vf_max(c, d));
}

static void softmax(const ml_attention_state *state, float *s, int64_t n_key, int64_t k0, const int32_t *last,
                    int64_t n_lane)
{
    for (int64_t lane = 0; lane < n_lane; lane += VF_LANES) {
        float *column = s + lane;
        vi seen = vi_load(last + lane);
        if (!all_seen(last + lane, k0 + n_key - 1, n_lane - lane)) {
            for (int64_t k = 0; k < n_key; k++) {
                float *x = column + k * LANES;
                vf_store(x, where_seen(seen, k0 + k, vf_load(x), vf_set1(-INFINITY)));
            }
        }
        vf old = vf_load(state->max + lane), largest = largest_score(column, n_key, old);
        vf factor = vf_exp(old - largest), sum = vf_load(state->sum + lane) * factor;
        for (int64_t k = 0; k < n_key; k++) {
            vf p = vf_exp(vf_load(column + k * LANES) - largest);
            vf_store(column + k * LANES, p);
            sum = sum + p;
        }
        vf_store(state->max + lane, largest);
        vf_store(state->sum + lane, sum);
        rescale(state, lane, factor);
    }
}

static void merge(const ml_attention_state *total, const ml_attention_state *part, int64_t n_lane)
{
    for (int64_t lane = 0; lane < n_lane; lane += VF_LANES) {
        vf a = vf_load(total->max + lane), b = vf_load(part->max + lane), largest = vf_max(a, b);
        vf keep = vf_exp(a - largest), take = vf_exp(b - largest);
        vf_store(total->max + lane, largest);
        vf_store(total->sum + lane, vf_fma(vf_load(part->sum + lane), take, vf_load(total->sum + lane) * keep));
        for (int64_t c = 0; c < total->d_v; c++) {
            float *o = total->ot + c * LANES + lane;
            vf_store(o, vf_fma(vf_load(part->ot + c * LANES + lane), take, vf_load(o) * keep));
        }
    }
}

static void gradient(float *s, float *dp, const float *lse, const float *delta, float scale, int64_t n_key, int64_t k0,
                     const int32_t *last, int64_t n_lane)
{
    const vf zero = vf_set1(0.0f), factor = vf_set1(scale);
    for (int64_t lane = 0; lane < n_lane; lane += VF_LANES) {
        vi seen = vi_load(last + lane);
        vf l = vf_load(lse + lane), d = vf_load(delta + lane);
        bool mask = !all_seen(last + lane, k0 + n_key - 1, n_lane - lane);
        for (int64_t k = 0; k < n_key; k++) {
            float *x = s + k * LANES + lane, *dx = dp + k * LANES + lane;
            vf p = vf_exp(vf_load(x) - l);
            if (mask) p = where_seen(seen, k0 + k, p, zero);
            vf_store(x, p);
            vf_store(dx, p * (vf_load(dx) - d) * factor);
        }
    }
}

const ml_attention_kernel ATTENTION_KERNEL_TABLE = {
    .product = product,
    .pack = pack,
    .unpack = unpack,
    .begin = begin,
    .softmax = softmax,
    .merge = merge,
    .gradient = gradient,
};
