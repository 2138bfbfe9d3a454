/* Tiles of 2 x 3 and 1 x 4 (tokens x weight rows); a dot product's 16 lanes are two registers of 8. */
#include "ops/cpu/matvec_kernel.h"

#include <immintrin.h>

enum { LANES = 16, HALF = 8, MAX_TILE = 6 };

/* Elements [j, j + 8) of a row. */
static inline __attribute__((always_inline)) __m256 load(ml_dtype dtype, const void *row, int64_t j)
{
    const uint16_t *half = row;
    switch (dtype) {
    case ML_BF16: {
        __m128i bits = _mm_loadu_si128((const __m128i *)(const void *)(half + j));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }
    case ML_F16: return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(half + j)));
    default: return _mm256_loadu_ps((const float *)row + j);
    }
}

static inline __attribute__((always_inline)) float reduce(__m256 low, __m256 high)
{
    __m256 eight = _mm256_add_ps(low, high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline __attribute__((always_inline)) void step(ml_dtype dtype, int n_token, int n_row, const float *const *x,
                                                       const void *const *w, int64_t j, __m256 (*acc)[2])
{
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        __m256 xs[2];
#pragma GCC unroll 2
        for (int t = 0; t < n_token; t++) xs[t] = _mm256_loadu_ps(x[t] + j + h * HALF);
#pragma GCC unroll 4
        for (int i = 0; i < n_row; i++) {
            __m256 ws = load(dtype, w[i], j + h * HALF);
#pragma GCC unroll 2
            for (int t = 0; t < n_token; t++) {
                acc[t * n_row + i][h] = _mm256_fmadd_ps(xs[t], ws, acc[t * n_row + i][h]);
            }
        }
    }
}

/* dtype, n_token and n_row are constants at every call. */
static inline __attribute__((always_inline)) void tile(ml_dtype dtype, int n_token, int n_row, int64_t k,
                                                       const float *const *x, const void *const *w, float *out)
{
    __m256 acc[MAX_TILE][2];
#pragma GCC unroll 6
    for (int i = 0; i < n_token * n_row; i++) acc[i][0] = acc[i][1] = _mm256_setzero_ps();
    int64_t j = 0;
    for (; j + LANES <= k; j += LANES) step(dtype, n_token, n_row, x, w, j, acc);
    if (j < k) { /* the last elements, with zeros behind them */
        float x_tail[2][LANES] = { 0 }, w_tail[4][LANES] = { 0 };
        const float *xs[2];
        const void *ws[4];
        size_t size = dtype == ML_F32 ? 4 : 2;
        for (int t = 0; t < n_token; t++) xs[t] = memcpy(x_tail[t], x[t] + j, (size_t)(k - j) * sizeof(float));
        for (int i = 0; i < n_row; i++) {
            ws[i] = memcpy(w_tail[i], (const char *)w[i] + (size_t)j * size, (size_t)(k - j) * size);
        }
        step(dtype, n_token, n_row, xs, ws, 0, acc);
    }
#pragma GCC unroll 6
    for (int i = 0; i < n_token * n_row; i++) out[i] = reduce(acc[i][0], acc[i][1]);
}

#define TILE_FUNCTION(name, dtype, n_token, n_row)                                                                     \
    static void name(int64_t k, const float *const *x, const void *const *w, float *out)                               \
    {                                                                                                                  \
        tile(dtype, n_token, n_row, k, x, w, out);                                                                     \
    }

TILE_FUNCTION(two_f32, ML_F32, 2, 3)
TILE_FUNCTION(two_bf16, ML_BF16, 2, 3)
TILE_FUNCTION(two_f16, ML_F16, 2, 3)
TILE_FUNCTION(one_f32, ML_F32, 1, 4)
TILE_FUNCTION(one_bf16, ML_BF16, 1, 4)
TILE_FUNCTION(one_f16, ML_F16, 1, 4)

static float dot(const float *a, const float *b, int64_t n)
{
    const void *w = b;
    float sum;
    tile(ML_F32, 1, 1, n, &a, &w, &sum);
    return sum;
}

#define TWO                                                                                                            \
    {                                                                                                                  \
        2, 3,                                                                                                          \
        {                                                                                                              \
            [ML_F32] = two_f32, [ML_BF16] = two_bf16, [ML_F16] = two_f16                                               \
        }                                                                                                              \
    }

const ml_matvec_kernel ml_matvec_kernel_avx2 = {
    .tile = { TWO, TWO, { 1, 4, { [ML_F32] = one_f32, [ML_BF16] = one_bf16, [ML_F16] = one_f16 } } },
    .dot = dot,
};
