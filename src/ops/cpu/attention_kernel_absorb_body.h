/* Products with stored matrices, compiled once for each instruction set by a file that defines ABSORB_KERNEL_TABLE. */
#include "ops/cpu/attention_kernel_absorb.h"

#include "ops/cpu/attention_kernel_load.h"
#include "tensor/blocks.h"

enum {
    ROWS = ML_ABSORB_ROWS,
    TOKENS = 4,
    AHEAD = 8192, /* bytes between what is multiplied and what is fetched: the latency of memory */
};

/* Four rows at once are four short streams, which hardware does not follow: ask for the lines that lie AHEAD of column
 * j of each.  (Beyond the end of the matrix nothing is read: a prefetch cannot fault.) */
VF_INLINE void fetch_ahead(ml_dtype dtype, int n_row, const char *w, int64_t row_bytes, int64_t j)
{
    int64_t columns_per_line = dtype == ML_F32 ? 16 : 32;
    if (j % columns_per_line) return;
#pragma GCC unroll 4
    for (int i = 0; i < n_row; i++) {
        int64_t at = dtype == ML_Q8_0 ? j / Q8_LENGTH * Q8_BYTES : dtype == ML_F32 ? 4 * j : 2 * j;
        __builtin_prefetch(w + i * row_bytes + at + AHEAD);
    }
}

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define HAS_BLOCK_DOTS 1
#include "ops/cpu/attention_kernel_absorb_blocks.h"
#else
#define HAS_BLOCK_DOTS 0
#endif

typedef enum { DOTS, SUMS } product;

static bool is_direct(product what, ml_dtype dtype)
{
    if (HAS_BLOCK_DOTS && what == DOTS && (dtype == ML_Q5_0 || dtype == ML_Q4_K)) return true;
    return !ml_dtype_is_block(dtype) || dtype == ML_Q8_0;
}

#if defined(__AVX2__) && defined(__FMA__)
VF_INLINE __m128 fold(vf v)
{
#if defined(__AVX512F__)
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
#else
    __m256 eight = v;
#endif
    return _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}
#endif

VF_INLINE float sum_of(vf v)
{
#if defined(__AVX2__) && defined(__FMA__)
    __m128 four = fold(v), two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
    return vf_sum(v);
#endif
}

/* y[i] = sum_of(v[i]), the same additions side by side. */
VF_INLINE void store_four_sums(const vf *v, float *y)
{
#if defined(__AVX2__) && defined(__FMA__)
    __m128 a = fold(v[0]), b = fold(v[1]), c = fold(v[2]), d = fold(v[3]);
    __m128 ab = _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a)); /* a0+a2 a1+a3 b0+b2 b1+b3 */
    __m128 cd = _mm_add_ps(_mm_movelh_ps(c, d), _mm_movehl_ps(d, c));
    _mm_storeu_ps(y, _mm_add_ps(_mm_shuffle_ps(ab, cd, 0x88), _mm_shuffle_ps(ab, cd, 0xdd)));
#else
    for (int i = 0; i < ROWS; i++) y[i] = sum_of(v[i]);
#endif
}

/* ---- dots ---- */

/* n_token x n_row dot products over k columns; dtype, n_token and n_row are constants after inlining. */
VF_INLINE void dot_tile(ml_dtype dtype, int n_token, int n_row, int64_t k, const char *w, int64_t row_bytes,
                        const ml_absorb_operand *o, int64_t token, int64_t row)
{
    vf sum[TOKENS][ROWS];
    const float *x = o->x + token * o->x_stride;
#pragma GCC unroll 4
    for (int t = 0; t < n_token; t++) {
#pragma GCC unroll 4
        for (int i = 0; i < n_row; i++) sum[t][i] = vf_set1(0.0f);
    }
    int64_t j = 0;
#if HAS_BLOCK_DOTS
    if (dtype == ML_Q5_0 || dtype == ML_Q4_K) {
        (dtype == ML_Q5_0 ? dot_tile_q5_0 : dot_tile_q4_k)(n_token, n_row, k, w, row_bytes, x, o->x_stride, sum);
        j = k;
    }
#endif
    for (; j + VF_LANES <= k; j += VF_LANES) {
        vf a[TOKENS];
        fetch_ahead(dtype, n_row, w, row_bytes, j);
#pragma GCC unroll 4
        for (int t = 0; t < n_token; t++) a[t] = vf_load(x + t * o->x_stride + j);
#pragma GCC unroll 4
        for (int i = 0; i < n_row; i++) {
            vf b = load_stored(dtype, w + i * row_bytes, j);
#pragma GCC unroll 4
            for (int t = 0; t < n_token; t++) sum[t][i] = vf_fma(a[t], b, sum[t][i]);
        }
    }
    if (j < k) {
        for (int i = 0; i < n_row; i++) {
            vf b = load_stored_first(dtype, w + i * row_bytes, j, k - j);
            for (int t = 0; t < n_token; t++) {
                sum[t][i] = vf_fma(vf_load_first(x + t * o->x_stride + j, k - j), b, sum[t][i]);
            }
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < n_token; t++) {
        float *y = o->y + (token + t) * o->y_stride + row;
        if (n_row == ROWS) {
            store_four_sums(sum[t], y);
        } else {
            for (int i = 0; i < n_row; i++) y[i] = sum_of(sum[t][i]);
        }
    }
}

/* n_row rows with all tokens. */
VF_INLINE void dot_rows(ml_dtype dtype, int n_row, int64_t k, const char *w, int64_t row_bytes,
                        const ml_absorb_operand *o, int64_t row)
{
    int64_t t = 0;
    if (VF_LANES == 16) {
        for (; t + TOKENS <= o->n_token; t += TOKENS) dot_tile(dtype, TOKENS, n_row, k, w, row_bytes, o, t, row);
    }
    for (; t + 2 <= o->n_token; t += 2) dot_tile(dtype, 2, n_row, k, w, row_bytes, o, t, row);
    if (t < o->n_token) dot_tile(dtype, 1, n_row, k, w, row_bytes, o, t, row);
}

VF_INLINE void dot_all(ml_dtype dtype, const ml_absorb_rows *w, const ml_absorb_operand *o, int64_t first)
{
    int64_t i = 0;
    for (; i + ROWS <= w->n_row; i += ROWS) {
        dot_rows(dtype, ROWS, w->n_column, w->data + i * w->row_bytes, w->row_bytes, o, first + i);
    }
    for (; i < w->n_row; i++) {
        dot_rows(dtype, 1, w->n_column, w->data + i * w->row_bytes, w->row_bytes, o, first + i);
    }
}

/* ---- sums ---- */

/* y += sum of x[i] * w[i] for n_row rows; dtype and n_row are constants after inlining. */
VF_INLINE void sum_rows(ml_dtype dtype, int n_row, int64_t n, const char *w, int64_t row_bytes, const float *x,
                        float *y)
{
    int64_t j = 0;
    for (; j + VF_LANES <= n; j += VF_LANES) {
        vf sum = vf_load(y + j);
        fetch_ahead(dtype, n_row, w, row_bytes, j);
#pragma GCC unroll 4
        for (int i = 0; i < n_row; i++) sum = vf_fma(vf_set1(x[i]), load_stored(dtype, w + i * row_bytes, j), sum);
        vf_store(y + j, sum);
    }
    if (j < n) {
        vf sum = vf_load_first(y + j, n - j);
        for (int i = 0; i < n_row; i++) {
            sum = vf_fma(vf_set1(x[i]), load_stored_first(dtype, w + i * row_bytes, j, n - j), sum);
        }
        vf_store_first(y + j, sum, n - j);
    }
}

/* Rows that belong to x[t][first ..] */
VF_INLINE void sum_all(ml_dtype dtype, const ml_absorb_rows *w, const ml_absorb_operand *o, int64_t first)
{
    int64_t i = 0;
    for (; i + ROWS <= w->n_row; i += ROWS) {
        for (int64_t t = 0; t < o->n_token; t++) {
            sum_rows(dtype, ROWS, w->n_column, w->data + i * w->row_bytes, w->row_bytes,
                     o->x + t * o->x_stride + first + i, o->y + t * o->y_stride);
        }
    }
    for (; i < w->n_row; i++) {
        for (int64_t t = 0; t < o->n_token; t++) {
            sum_rows(dtype, 1, w->n_column, w->data + i * w->row_bytes, w->row_bytes,
                     o->x + t * o->x_stride + first + i, o->y + t * o->y_stride);
        }
    }
}

/* ---- types ---- */

VF_INLINE void run_as(product what, ml_dtype dtype, const ml_absorb_rows *w, const ml_absorb_operand *o, int64_t first)
{
    if (what == DOTS) {
        dot_all(dtype, w, o, first);
    } else {
        sum_all(dtype, w, o, first);
    }
}

/* Block types without kernels: a few rows at a time become fp32. */
VF_INLINE void run_dequantized(product what, const ml_absorb_rows *w, const ml_absorb_operand *o, float *buffer)
{
    int64_t n = w->n_column;
    for (int64_t i = 0; i < w->n_row; i += ROWS) {
        int64_t n_row = w->n_row - i < ROWS ? w->n_row - i : ROWS;
        for (int64_t r = 0; r < n_row; r++) {
            ml_dequantize(w->dtype, w->data + (i + r) * w->row_bytes, buffer + r * n, n);
        }
        ml_absorb_rows plain = { ML_F32, (const char *)buffer, n_row, n, n * (int64_t)sizeof(float) };
        run_as(what, ML_F32, &plain, o, i);
    }
}

VF_INLINE void run(product what, const ml_absorb_rows *w, const ml_absorb_operand *o, float *buffer)
{
    if (!is_direct(what, w->dtype)) {
        run_dequantized(what, w, o, buffer);
        return;
    }
    switch (w->dtype) {
    case ML_F16: run_as(what, ML_F16, w, o, 0); break;
    case ML_BF16: run_as(what, ML_BF16, w, o, 0); break;
    case ML_Q8_0: run_as(what, ML_Q8_0, w, o, 0); break;
    case ML_Q5_0: run_as(what, ML_Q5_0, w, o, 0); break;
    case ML_Q4_K: run_as(what, ML_Q4_K, w, o, 0); break;
    default: run_as(what, ML_F32, w, o, 0);
    }
}

static void dots(const ml_absorb_rows *w, const ml_absorb_operand *o, float *buffer)
{
    run(DOTS, w, o, buffer);
}

static void sums(const ml_absorb_rows *w, const ml_absorb_operand *o, float *buffer)
{
    for (int64_t t = 0; t < o->n_token; t++) {
        memset(o->y + t * o->y_stride, 0, (size_t)w->n_column * sizeof(float));
    }
    run(SUMS, w, o, buffer);
}

const ml_absorb_kernel ABSORB_KERNEL_TABLE = { .dots = dots, .sums = sums };
