/* Panels of 6 x 16: 12 accumulators, two vectors of B and one broadcast element of A. */
#include "ops/cpu/gemm_kernel.h"

#include <immintrin.h>

enum { MR = 6, NR = 16, LANES = 8 };

/* 8 rows of 8 in registers -> their transpose. */
static inline __attribute__((always_inline)) void transpose_8(__m256 *r)
{
    __m256 t[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) { /* r[4i + c] has columns c and 4+c of four rows */
        __m256d a = _mm256_castps_pd(t[4 * i]), b = _mm256_castps_pd(t[4 * i + 2]);
        __m256d c = _mm256_castps_pd(t[4 * i + 1]), d = _mm256_castps_pd(t[4 * i + 3]);
        r[4 * i] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
        r[4 * i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
        r[4 * i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(c, d));
        r[4 * i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(c, d));
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        t[c] = _mm256_permute2f128_ps(r[c], r[4 + c], 0x20);
        t[4 + c] = _mm256_permute2f128_ps(r[c], r[4 + c], 0x31);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) r[i] = t[i];
}

static inline __m256i first(int64_t n)
{
    static const int32_t ones[16] = { -1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0 };
    int64_t use = n < 0 ? 0 : n > LANES ? LANES : n;
    return _mm256_loadu_si256((const __m256i *)(const void *)(ones + LANES - use));
}

/* Up to 8 lines of a panel. */
static void pack_8_lines(float *panel, int width, const float *const *line, int n_line, int n_store, int64_t k)
{
    __m256i store = first(n_store);
    for (int64_t p = 0; p < k; p += LANES) {
        __m256 r[8];
        __m256i load = first(k - p);
        if (n_line >= LANES && k - p >= LANES) {
#pragma GCC unroll 8
            for (int i = 0; i < LANES; i++) r[i] = _mm256_loadu_ps(line[i] + p);
        } else {
#pragma GCC unroll 8
            for (int i = 0; i < LANES; i++) {
                r[i] = i < n_line ? _mm256_maskload_ps(line[i] + p, load) : _mm256_setzero_ps();
            }
        }
        transpose_8(r);
        int n = k - p < LANES ? (int)(k - p) : LANES;
        if (n_store >= LANES && n == LANES) {
#pragma GCC unroll 8
            for (int i = 0; i < LANES; i++) _mm256_storeu_ps(panel + (p + i) * width, r[i]);
        } else {
#pragma GCC unroll 8
            for (int i = 0; i < LANES; i++) {
                if (i < n) _mm256_maskstore_ps(panel + (p + i) * width, store, r[i]);
            }
        }
    }
}

static void pack_across(float *panel, int width, const float *const *line, int n_line, int64_t k)
{
    for (int i = 0; i < width; i += LANES) pack_8_lines(panel + i, width, line + i, n_line - i, width - i, k);
}

static void pack_along(float *panel, int64_t panel_size, int width, const float *src, int64_t n)
{
    __m256i mask0 = first(width), mask1 = first(width - LANES);
    for (; n >= width; n -= width, src += width, panel += panel_size) {
        _mm256_maskstore_ps(panel, mask0, _mm256_maskload_ps(src, mask0));
        if (width > LANES) _mm256_maskstore_ps(panel + LANES, mask1, _mm256_maskload_ps(src + LANES, mask1));
    }
    if (n <= 0) return;
    _mm256_maskstore_ps(panel, mask0, _mm256_maskload_ps(src, first(n)));
    if (width > LANES) _mm256_maskstore_ps(panel + LANES, mask1, _mm256_maskload_ps(src + LANES, first(n - LANES)));
}

/* acc (+)= the first `mask` lanes at `to`; all lanes the quick way. */
static inline __attribute__((always_inline)) void store(float *to, __m256i mask, bool whole, bool add, __m256 acc)
{
    if (whole) {
        if (add) acc = _mm256_add_ps(_mm256_loadu_ps(to), acc);
        _mm256_storeu_ps(to, acc);
    } else {
        if (add) acc = _mm256_add_ps(_mm256_maskload_ps(to, mask), acc);
        _mm256_maskstore_ps(to, mask, acc);
    }
}

/* `rows` and `vectors` are constants at every call: the loops over them unroll and acc lives in registers. */
static inline __attribute__((always_inline)) void product(int rows, int vectors, int64_t k, const float *a,
                                                          const float *b, float *const *c, int64_t col, int cols,
                                                          bool add)
{
    __m256 acc[MR][2];
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) {
        acc[i][0] = acc[i][1] = _mm256_setzero_ps();
        _mm_prefetch((const char *)(c[i] + col), _MM_HINT_T0);
        _mm_prefetch((const char *)(c[i] + col + cols - 1), _MM_HINT_T0);
    }
    for (int64_t p = 0; p < k; p++) {
        __m256 b0 = _mm256_load_ps(b), b1 = vectors > 1 ? _mm256_load_ps(b + LANES) : b0;
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++) {
            __m256 x = _mm256_broadcast_ss(a + i);
            acc[i][0] = _mm256_fmadd_ps(x, b0, acc[i][0]);
            if (vectors > 1) acc[i][1] = _mm256_fmadd_ps(x, b1, acc[i][1]);
        }
        a += MR;
        b += NR;
    }
    __m256i mask0 = first(cols), mask1 = first(cols - LANES);
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) {
        store(c[i] + col, mask0, cols >= LANES, add, acc[i][0]);
        if (vectors > 1) store(c[i] + col + LANES, mask1, cols >= NR, add, acc[i][1]);
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
    }
}

const ml_gemm_kernel ml_gemm_kernel_avx2 = {
    .mr = MR, .nr = NR, .pack_across = pack_across, .pack_along = pack_along, .multiply = multiply
};
