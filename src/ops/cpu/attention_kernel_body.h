/* The attention kernels, compiled once for each instruction set by a file that defines ATTENTION_KERNEL_TABLE. */
#include "ops/cpu/attention_kernel.h"

#include "ops/cpu/vmath.h"

enum {
    LANES = ML_ATTENTION_LANES,
    /* A tile of the product holds TILE_ROWS x TILE_VECTORS accumulators: enough to hide the latency of a fused
     * multiply-add and few enough for the registers (32 with AVX-512, else 16). */
    TILE_VECTORS = 2,
    TILE_ROWS = VF_LANES == 16  ? 8
                : VF_LANES == 8 ? 6
                                : 4,
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
    for (; i + TILE_ROWS <= p->m; i += TILE_ROWS) product_tile(p, TILE_ROWS, n_vector, i, j0, last);
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

/* ---- rows to lanes and back: VF_LANES x VF_LANES numbers at a time ---- */

/* v[i] lane j <-> v[j] lane i */
VF_INLINE void transpose(vf v[VF_LANES])
{
#if defined(__AVX512F__)
    vf a[16], b[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) { /* pairs of rows: lanes 0 and 1, 2 and 3 of each group of four */
        a[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
        a[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) { /* four rows: b[i + j] has lane j of each group of four lanes */
        b[i] = _mm512_shuffle_ps(a[i], a[i + 2], 0x44);
        b[i + 1] = _mm512_shuffle_ps(a[i], a[i + 2], 0xee);
        b[i + 2] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0x44);
        b[i + 3] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) { /* the groups of four themselves */
        vf low = _mm512_shuffle_f32x4(b[j], b[4 + j], 0x88), high = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0x88);
        v[j] = _mm512_shuffle_f32x4(low, high, 0x88);
        v[8 + j] = _mm512_shuffle_f32x4(low, high, 0xdd);
        low = _mm512_shuffle_f32x4(b[j], b[4 + j], 0xdd);
        high = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0xdd);
        v[4 + j] = _mm512_shuffle_f32x4(low, high, 0x88);
        v[12 + j] = _mm512_shuffle_f32x4(low, high, 0xdd);
    }
#elif defined(__AVX2__) && defined(__FMA__)
    vf a[8], b[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
        b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
        b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
        b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        v[j] = _mm256_permute2f128_ps(b[j], b[4 + j], 0x20);
        v[4 + j] = _mm256_permute2f128_ps(b[j], b[4 + j], 0x31);
    }
#else
    float all[VF_LANES][VF_LANES], turned[VF_LANES][VF_LANES];
    for (int i = 0; i < VF_LANES; i++) vf_store(all[i], v[i]);
    for (int i = 0; i < VF_LANES; i++) {
        for (int j = 0; j < VF_LANES; j++) turned[j][i] = all[i][j];
    }
    for (int i = 0; i < VF_LANES; i++) v[i] = vf_load(turned[i]);
#endif
}

static void pack(float *dst, int64_t dst_stride, const float *const *row, int64_t n, int64_t d, float scale)
{
    vf s = vf_set1(scale);
    for (int64_t i0 = 0; i0 < ml_attention_pad(n); i0 += VF_LANES) {
        int64_t left = n - i0, c = 0;
        for (; c + VF_LANES <= d; c += VF_LANES) {
            vf v[VF_LANES];
#pragma GCC unroll 16
            for (int i = 0; i < VF_LANES; i++) {
                v[i] = vf_set1(0.0f);
                if (i < left) v[i] = s * vf_load(row[i0 + i] + c);
            }
            transpose(v);
#pragma GCC unroll 16
            for (int j = 0; j < VF_LANES; j++) vf_store(dst + (c + j) * dst_stride + i0, v[j]);
        }
        for (; c < d; c++) {
            for (int64_t i = 0; i < VF_LANES; i++) {
                dst[c * dst_stride + i0 + i] = i < left ? scale * row[i0 + i][c] : 0;
            }
        }
    }
}

static void unpack(float *const *row, const float *lanes, const float *factor, int64_t n, int64_t d, bool accumulate)
{
    for (int64_t i0 = 0; i0 < n; i0 += VF_LANES) {
        int64_t left = n - i0 < VF_LANES ? n - i0 : VF_LANES, c = 0;
        for (; c + VF_LANES <= d; c += VF_LANES) {
            vf v[VF_LANES];
#pragma GCC unroll 16
            for (int j = 0; j < VF_LANES; j++) v[j] = vf_load(lanes + (c + j) * LANES + i0);
            transpose(v);
            for (int64_t i = 0; i < left; i++) {
                vf x = vf_set1(factor ? factor[i0 + i] : 1.0f) * v[i];
                if (accumulate) x = vf_load(row[i0 + i] + c) + x;
                vf_store(row[i0 + i] + c, x);
            }
        }
        for (; c < d; c++) {
            for (int64_t i = 0; i < left; i++) {
                float *y = row[i0 + i] + c, f = factor ? factor[i0 + i] : 1.0f, x = f * lanes[c * LANES + i0 + i];
                *y = accumulate ? *y + x : x;
            }
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

/* So it is for most blocks once a few have been seen. */
VF_INLINE bool all_one(vf factor)
{
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask(factor, vf_set1(1.0f), _CMP_NEQ_UQ) == 0;
#elif defined(__AVX2__) && defined(__FMA__)
    return _mm256_movemask_ps(_mm256_cmp_ps(factor, vf_set1(1.0f), _CMP_NEQ_UQ)) == 0;
#else
    float lane[VF_LANES];
    vf_store(lane, factor);
    for (int i = 0; i < VF_LANES; i++) {
        if (!(lane[i] == 1)) return false;
    }
    return true;
#endif
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
        if (!all_one(factor)) rescale(state, lane, factor);
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
    .gradient = gradient,
};
