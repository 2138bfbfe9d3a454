/* Tiles of 4 x 4, 2 x 8 and 1 x 16 (tokens x weight rows): 16 dot products, one register of 16 lanes each. */
#include "ops/cpu/matvec_kernel.h"
#include "ops/cpu/reduce_avx512.h"

#include <immintrin.h>

enum { LANES = 16, TILE = 16 };

/* Elements [j, j + 16) of a row, those outside `mask` zero. */
static inline __attribute__((always_inline)) __m512 load(ml_dtype dtype, const void *row, int64_t j, __mmask16 mask)
{
    const uint16_t *half = row;
    switch (dtype) {
    case ML_BF16:
        return _mm512_castsi512_ps(
            _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, half + j)), 16));
    case ML_F16: return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, half + j));
    default: return _mm512_maskz_loadu_ps(mask, (const float *)row + j);
    }
}

static inline __attribute__((always_inline)) void step(ml_dtype dtype, int n_token, int n_row, const float *const *x,
                                                       const void *const *w, int64_t j, __mmask16 mask, __m512 *acc)
{
    __m512 xs[4];
#pragma GCC unroll 4
    for (int t = 0; t < n_token; t++) xs[t] = _mm512_maskz_loadu_ps(mask, x[t] + j);
#pragma GCC unroll 16
    for (int i = 0; i < n_row; i++) {
        __m512 ws = load(dtype, w[i], j, mask);
#pragma GCC unroll 4
        for (int t = 0; t < n_token; t++) acc[t * n_row + i] = _mm512_fmadd_ps(xs[t], ws, acc[t * n_row + i]);
    }
}

/* dtype, n_token and n_row are constants at every call. */
static inline __attribute__((always_inline)) void tile(ml_dtype dtype, int n_token, int n_row, int64_t k,
                                                       const float *const *x, const void *const *w, float *out)
{
    __m512 acc[TILE];
#pragma GCC unroll 16
    for (int i = 0; i < TILE; i++) acc[i] = _mm512_setzero_ps();
    int64_t j = 0;
    for (; j + LANES <= k; j += LANES) step(dtype, n_token, n_row, x, w, j, 0xffff, acc);
    if (j < k) step(dtype, n_token, n_row, x, w, j, (__mmask16)((1u << (k - j)) - 1), acc);
    _mm512_storeu_ps(out, reduce_16(acc));
}

#define TILE_FUNCTION(name, dtype, n_token, n_row)                                                                     \
    static void name(int64_t k, const float *const *x, const void *const *w, float *out)                               \
    {                                                                                                                  \
        tile(dtype, n_token, n_row, k, x, w, out);                                                                     \
    }

TILE_FUNCTION(four_f32, ML_F32, 4, 4)
TILE_FUNCTION(four_bf16, ML_BF16, 4, 4)
TILE_FUNCTION(four_f16, ML_F16, 4, 4)
TILE_FUNCTION(two_f32, ML_F32, 2, 8)
TILE_FUNCTION(two_bf16, ML_BF16, 2, 8)
TILE_FUNCTION(two_f16, ML_F16, 2, 8)
TILE_FUNCTION(one_f32, ML_F32, 1, 16)
TILE_FUNCTION(one_bf16, ML_BF16, 1, 16)
TILE_FUNCTION(one_f16, ML_F16, 1, 16)

static float dot(const float *a, const float *b, int64_t n)
{
    __m512 sum = _mm512_setzero_ps();
    int64_t j = 0;
    for (; j + LANES <= n; j += LANES) sum = _mm512_fmadd_ps(_mm512_loadu_ps(a + j), _mm512_loadu_ps(b + j), sum);
    if (j < n) {
        __mmask16 mask = (__mmask16)((1u << (n - j)) - 1);
        sum = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, a + j), _mm512_maskz_loadu_ps(mask, b + j), sum);
    }
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(sum), _mm512_extractf32x8_ps(sum, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

const ml_matvec_kernel ml_matvec_kernel_avx512 = {
    .tile = { { 4, 4, { [ML_F32] = four_f32, [ML_BF16] = four_bf16, [ML_F16] = four_f16 } },
              { 2, 8, { [ML_F32] = two_f32, [ML_BF16] = two_bf16, [ML_F16] = two_f16 } },
              { 1, 16, { [ML_F32] = one_f32, [ML_BF16] = one_bf16, [ML_F16] = one_f16 } } },
    .dot = dot,
};
