/* Panels of 12 x 32: 24 accumulators, two vectors of B and one broadcast element of A. */
#include "ops/cpu/gemm_kernel.h"

#include <immintrin.h>

enum { MR = 12, NR = 32, LANES = 16 };

/* 16 rows of 16 in registers -> their transpose. */
static inline __attribute__((always_inline)) void transpose_16(__m512 *r)
{
    __m512 t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) { /* pairs of rows: 32-bit interleave */
        t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* fours: 64-bit interleave; r[4i + c] has column c, 4+c, 8+c, 12+c of four rows */
        __m512d a = _mm512_castps_pd(t[4 * i]), b = _mm512_castps_pd(t[4 * i + 2]);
        __m512d c = _mm512_castps_pd(t[4 * i + 1]), d = _mm512_castps_pd(t[4 * i + 3]);
        r[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
        r[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        r[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(c, d));
        r[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(c, d));
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) { /* a 4 x 4 transpose of 128-bit blocks */
        __m512 low0 = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x88), high0 = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xdd);
        __m512 low1 = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x88);
        __m512 high1 = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xdd);
        t[c] = _mm512_shuffle_f32x4(low0, low1, 0x88);
        t[4 + c] = _mm512_shuffle_f32x4(high0, high1, 0x88);
        t[8 + c] = _mm512_shuffle_f32x4(low0, low1, 0xdd);
        t[12 + c] = _mm512_shuffle_f32x4(high0, high1, 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) r[i] = t[i];
}

static inline __mmask16 first(int64_t n)
{
    return (__mmask16)(n <= 0 ? 0 : n >= LANES ? 0xffff : (1u << n) - 1);
}

/* Up to 16 lines of a panel: columns [begin, begin + 16) of it. */
static void pack_16_lines(float *panel, int width, const float *const *line, int n_line, int n_store, int64_t k)
{
    __mmask16 store = first(n_store);
    for (int64_t p = 0; p < k; p += LANES) {
        __m512 r[16];
        if (n_line >= LANES && k - p >= LANES) {
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) r[i] = _mm512_loadu_ps(line[i] + p);
        } else {
            __mmask16 load = first(k - p);
#pragma GCC unroll 16
            for (int i = 0; i < LANES; i++) {
                r[i] = i < n_line ? _mm512_maskz_loadu_ps(load, line[i] + p) : _mm512_setzero_ps();
            }
        }
        transpose_16(r);
        int n = k - p < LANES ? (int)(k - p) : LANES;
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) {
            if (i < n) _mm512_mask_storeu_ps(panel + (p + i) * width, store, r[i]);
        }
    }
}

static void pack_across(float *panel, int width, const float *const *line, int n_line, int64_t k)
{
    for (int i = 0; i < width; i += LANES) pack_16_lines(panel + i, width, line + i, n_line - i, width - i, k);
}

static void pack_along(float *panel, int64_t panel_size, int width, const float *src, int64_t n)
{
    __mmask16 mask0 = first(width), mask1 = first(width - LANES);
    for (; n >= width; n -= width, src += width, panel += panel_size) {
        _mm512_mask_storeu_ps(panel, mask0, _mm512_maskz_loadu_ps(mask0, src));
        if (width > LANES) _mm512_mask_storeu_ps(panel + LANES, mask1, _mm512_maskz_loadu_ps(mask1, src + LANES));
    }
    if (n <= 0) return;
    _mm512_mask_storeu_ps(panel, mask0, _mm512_maskz_loadu_ps(first(n), src));
    if (width > LANES)
        _mm512_mask_storeu_ps(panel + LANES, mask1, _mm512_maskz_loadu_ps(first(n - LANES), src + LANES));
}

/* `rows` and `vectors` are constants at every call: the loops over them unroll and acc lives in registers. */
static inline __attribute__((always_inline)) void product(int rows, int vectors, int64_t k, const float *a,
                                                          const float *b, float *const *c, int64_t col, int cols,
                                                          bool add)
{
    __m512 acc[MR][2];
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++) {
        acc[i][0] = acc[i][1] = _mm512_setzero_ps();
        _mm_prefetch((const char *)(c[i] + col), _MM_HINT_T0);
        _mm_prefetch((const char *)(c[i] + col + cols - 1), _MM_HINT_T0);
    }
    for (int64_t p = 0; p < k; p++) {
        __m512 b0 = _mm512_load_ps(b), b1 = vectors > 1 ? _mm512_load_ps(b + LANES) : b0;
#pragma GCC unroll 12
        for (int i = 0; i < rows; i++) {
            __m512 x = _mm512_set1_ps(a[i]);
            acc[i][0] = _mm512_fmadd_ps(x, b0, acc[i][0]);
            if (vectors > 1) acc[i][1] = _mm512_fmadd_ps(x, b1, acc[i][1]);
        }
        a += MR;
        b += NR;
    }
    __mmask16 mask0 = first(cols), mask1 = first(cols - LANES);
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++) {
        float *to = c[i] + col;
        if (add) {
            acc[i][0] = _mm512_add_ps(_mm512_maskz_loadu_ps(mask0, to), acc[i][0]);
            if (vectors > 1) acc[i][1] = _mm512_add_ps(_mm512_maskz_loadu_ps(mask1, to + LANES), acc[i][1]);
        }
        _mm512_mask_storeu_ps(to, mask0, acc[i][0]);
        if (vectors > 1) _mm512_mask_storeu_ps(to + LANES, mask1, acc[i][1]);
    }
}

#define EDGE(rows_)                                                                                                    \
    case rows_:                                                                                                        \
        if (cols > LANES) {                                                                                            \
            product(rows_, 2, k, a, b, c, col, cols, add);                                                             \
        } else {                                                                                                       \
            product(rows_, 1, k, a, b, c, col, cols, add);                                                             \
        }                                                                                                              \
        break

static void multiply(int64_t k, const float *a, const float *b, float *const *c, int64_t col, int rows, int cols,
                     bool add)
{
    switch (rows) {
        EDGE(1);
        EDGE(2);
        EDGE(3);
        EDGE(4);
        EDGE(5);
        EDGE(6);
        EDGE(7);
        EDGE(8);
        EDGE(9);
        EDGE(10);
        EDGE(11);
        EDGE(12);
    }
}

const ml_gemm_kernel ml_gemm_kernel_avx512 = {
    .mr = MR, .nr = NR, .pack_across = pack_across, .pack_along = pack_along, .multiply = multiply
};
