/* The kernels of decoding, compiled once for each instruction set by a file that defines ROWS_KERNEL_TABLE. */
#include "ops/cpu/attention_kernel_rows.h"

#include "ops/cpu/attention_kernel_fetch.h"
#include "ops/cpu/attention_kernel_load.h"

#include <stdbool.h>

enum {
    KEYS = ML_ROWS_KEYS,
    KEY_GROUP = 8,
    /* Accumulators of a tile: enough to hide the latency of a fused multiply-add, few enough for the registers. */
    SCORE_ROWS = VF_LANES == 16 ? 4 : 2,
    SCORE_KEYS = 4,
    VALUE_ROWS = VF_LANES == 16 ? 8 : 4,
    VALUE_VECTORS = 2,
    FETCH_COLUMNS = 32, /* of a score tile, for every turn of fetching */
};

/* ---- rows to fp32 and back ---- */

VF_INLINE void load_row(ml_dtype dtype, const char *src, float *dst, int64_t n)
{
    int64_t j = 0;
    for (; j + VF_LANES <= n; j += VF_LANES) vf_store(dst + j, load_stored(dtype, src, j));
    if (j < n) {
        vf_store(dst + j, load_stored_first(dtype, src, j, n - j));
        j += VF_LANES;
    }
    for (; j < ml_rows_pad(n); j += VF_LANES) vf_store(dst + j, vf_set1(0.0f));
}

static void load(ml_dtype dtype, const void *src, float *dst, int64_t n)
{
    switch (dtype) {
    case ML_F16: load_row(ML_F16, src, dst, n); break;
    case ML_BF16: load_row(ML_BF16, src, dst, n); break;
    case ML_Q8_0: load_row(ML_Q8_0, src, dst, n); break;
    default: load_row(ML_F32, src, dst, n);
    }
}

static bool all_fit_a_half(const float *x, int64_t n)
{
    int outside = 0;
    for (int64_t i = 0; i < n; i++) outside |= !(fabsf(x[i]) <= 65504.0f);
    return !outside;
}

static void store_f16(const float *x, char *dst, int64_t n)
{
    int64_t i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16) {
        __m256i half = _mm512_cvtps_ph(vf_load(x + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm256_storeu_si256((__m256i *)(void *)(dst + 2 * i), half);
    }
#elif defined(__F16C__)
    for (; i + 8 <= n; i += 8) {
        __m128i half = _mm256_cvtps_ph(vf_load(x + i), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128((__m128i *)(void *)(dst + 2 * i), half);
    }
#endif
    for (; i < n; i++) {
        uint16_t half = ml_f32_to_f16(x[i]);
        memcpy(dst + 2 * i, &half, sizeof half);
    }
}

/* One block: d = max |x| / 127, codes rounded to nearest with halves away from zero. */
static void store_q8_block(const float *x, char *dst)
{
    float largest = 0;
    for (int j = 0; j < Q8_LENGTH; j++) largest = fabsf(x[j]) > largest ? fabsf(x[j]) : largest;
    float d = largest / 127;
    uint16_t half = ml_f32_to_f16(d);
    float inverse = ml_f16_to_f32(half) == 0 ? 0 : 1 / d;
    memcpy(dst, &half, sizeof half);
    for (int j = 0; j < Q8_LENGTH; j++) {
        float v = x[j] * inverse;
        int whole = (int)v;
        float rest = v - (float)whole;
        whole += (rest >= 0.5f) - (rest <= -0.5f);
        dst[2 + j] = (char)(signed char)whole;
    }
}

static bool store(ml_dtype dtype, const float *src, void *dst, int64_t n)
{
    char *to = dst;
    if (dtype == ML_F32) {
        memcpy(to, src, (size_t)n * sizeof *src);
        return true;
    }
    if (dtype == ML_BF16) {
        for (int64_t i = 0; i < n; i++) {
            uint16_t half = ml_f32_to_bf16(src[i]);
            memcpy(to + 2 * i, &half, sizeof half);
        }
        return true;
    }
    if (!all_fit_a_half(src, n)) return false;
    if (dtype == ML_F16) {
        store_f16(src, to, n);
    } else {
        for (int64_t i = 0; i < n; i += Q8_LENGTH) store_q8_block(src + i, to + i / Q8_LENGTH * Q8_BYTES);
    }
    return true;
}

/* ---- scores ---- */

/* out[i] = the sum of the lanes of the i-th vector: lanes 8 apart first (of 16), then 4, 2, 1. */
VF_INLINE void store_four_sums(float *out, vf a, vf b, vf c, vf d)
{
#if defined(__AVX512F__)
    vf ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    vf cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    /* four lanes for each of a, b, c, d */
    vf four = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    vf two = _mm512_add_ps(four, _mm512_permute_ps(four, 0x4e));
    vf one = _mm512_add_ps(two, _mm512_permute_ps(two, 0xb1));
    _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, one)));
#elif defined(__AVX2__) && defined(__FMA__)
    __m256 ab = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    __m256 cd = _mm256_add_ps(_mm256_permute2f128_ps(c, d, 0x20), _mm256_permute2f128_ps(c, d, 0x31));
    /* halves: a and b, c and d; then pairs of lanes a, c | b, d */
    __m256 two = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    __m256 one = _mm256_add_ps(two, _mm256_permute_ps(two, 0xb1)); /* a a c c | b b d d */
    __m128 ac = _mm256_castps256_ps128(one), bd = _mm256_extractf128_ps(one, 1);
    _mm_storeu_ps(out, _mm_blend_ps(ac, bd, 0xa)); /* a b c d: even lanes of the one, odd of the other */
#else
    out[0] = vf_sum(a);
    out[1] = vf_sum(b);
    out[2] = vf_sum(c);
    out[3] = vf_sum(d);
#endif
}

/* n_row x n_key dot products; dtype, n_row and n_key (4 or 8) are constants after inlining. */
VF_INLINE void score_tile(ml_dtype dtype, int n_row, int n_key, const ml_rows_keys *p, int64_t row, int64_t key,
                          fetcher *f, float *s)
{
    vf sum[4][8];
    const float *q = p->q + row * p->q_stride;
    const char *const *k = p->row + key;
#pragma GCC unroll 4
    for (int r = 0; r < n_row; r++) {
#pragma GCC unroll 8
        for (int i = 0; i < n_key; i++) sum[r][i] = vf_set1(0.0f);
    }
    for (int64_t c = 0; c < p->columns; c += VF_LANES) {
        vf x[8];
#pragma GCC unroll 8
        for (int i = 0; i < n_key; i++) x[i] = load_stored(dtype, k[i], c);
        if (c % FETCH_COLUMNS == 0) fetch_lines(f);
#pragma GCC unroll 4
        for (int r = 0; r < n_row; r++) {
            vf y = vf_load(q + r * p->q_stride + c);
#pragma GCC unroll 8
            for (int i = 0; i < n_key; i++) sum[r][i] = vf_fma(y, x[i], sum[r][i]);
        }
    }
    s += row * KEYS + key;
#pragma GCC unroll 4
    for (int r = 0; r < n_row; r++) {
#pragma GCC unroll 2
        for (int i = 0; i < n_key; i += 4) {
            store_four_sums(s + r * KEYS + i, sum[r][i], sum[r][i + 1], sum[r][i + 2], sum[r][i + 3]);
        }
    }
}

/* All keys, a group after the other, with all rows. */
VF_INLINE void score_all(ml_dtype dtype, const ml_rows_keys *p, int64_t n_row, fetcher *f, float *s)
{
    for (int64_t key = 0; key < p->n; key += KEY_GROUP) {
        int64_t r = 0;
        for (; r + SCORE_ROWS <= n_row; r += SCORE_ROWS) {
            for (int i = 0; i < KEY_GROUP; i += SCORE_KEYS) {
                score_tile(dtype, SCORE_ROWS, SCORE_KEYS, p, r, key + i, f, s);
            }
        }
        for (; r < n_row; r++) score_tile(dtype, 1, KEY_GROUP, p, r, key, f, s);
    }
}

static void scores(const ml_rows_keys *p, int64_t n_row, const ml_rows_ahead *ahead, float *s)
{
    int64_t n_tile = n_row / SCORE_ROWS * (KEY_GROUP / SCORE_KEYS) + n_row % SCORE_ROWS;
    int64_t n_turn = (p->n + KEY_GROUP - 1) / KEY_GROUP * n_tile * ((p->columns + FETCH_COLUMNS - 1) / FETCH_COLUMNS);
    fetcher f = begin_fetching(ahead, n_turn);
    switch (p->dtype) {
    case ML_F16: score_all(ML_F16, p, n_row, &f, s); break;
    case ML_BF16: score_all(ML_BF16, p, n_row, &f, s); break;
    case ML_Q8_0: score_all(ML_Q8_0, p, n_row, &f, s); break;
    default: score_all(ML_F32, p, n_row, &f, s);
    }
}

/* ---- softmax ---- */

/* Far below any score, yet finite: the difference of two maxima is never infinity - infinity. */
static const float lowest = -1e30f;

static void begin(const ml_rows_state *state, int64_t n_row)
{
    for (int64_t r = 0; r < n_row; r++) {
        state->max[r] = lowest;
        state->sum[r] = 0;
    }
    memset(state->out, 0, (size_t)(n_row * state->out_stride) * sizeof *state->out);
}

VF_INLINE float largest_lane(vf v)
{
    float lane[VF_LANES], m;
    vf_store(lane, v);
    m = lane[0];
    for (int i = 1; i < VF_LANES; i++) m = lane[i] > m ? lane[i] : m;
    return m;
}

/* e^x by the same function as the vectors' */
VF_INLINE float exp_of(float x)
{
    float lane[VF_LANES];
    vf_store(lane, vf_exp(vf_set1(x)));
    return lane[0];
}

VF_INLINE void scale_row(float *out, float factor, int64_t n)
{
    vf f = vf_set1(factor);
    for (int64_t c = 0; c < n; c += VF_LANES) vf_store(out + c, f * vf_load(out + c));
}

static void softmax(const ml_rows_state *state, float *s, int64_t n_row, int64_t n_key)
{
    int64_t n_pad = (n_key + VF_LANES - 1) / VF_LANES * VF_LANES;
    for (int64_t r = 0; r < n_row; r++) {
        float *x = s + r * KEYS, old = state->max[r];
        for (int64_t i = n_key; i < n_pad; i++) x[i] = -INFINITY;
        vf m = vf_set1(old), total = vf_set1(0.0f);
        for (int64_t i = 0; i < n_pad; i += VF_LANES) m = vf_max(m, vf_load(x + i));
        float largest = largest_lane(m), factor = 1;
        if (largest != old) factor = exp_of(old - largest);
        for (int64_t i = 0; i < n_pad; i += VF_LANES) {
            vf p = vf_exp(vf_load(x + i) - vf_set1(largest));
            vf_store(x + i, p);
            total += p;
        }
        state->max[r] = largest;
        state->sum[r] = state->sum[r] * factor + vf_sum(total);
        if (factor != 1) scale_row(state->out + r * state->out_stride, factor, state->out_stride);
    }
}

static void merge(const ml_rows_state *total, const ml_rows_state *part, int64_t r)
{
    float a = total->max[r], b = part->max[r], largest = a > b ? a : b;
    float keep = exp_of(a - largest), take = exp_of(b - largest);
    total->max[r] = largest;
    total->sum[r] = total->sum[r] * keep + part->sum[r] * take;
    float *to = total->out + r * total->out_stride;
    const float *from = part->out + r * part->out_stride;
    vf k = vf_set1(keep), t = vf_set1(take);
    for (int64_t c = 0; c < total->out_stride; c += VF_LANES) {
        vf_store(to + c, vf_fma(vf_load(from + c), t, vf_load(to + c) * k));
    }
}

/* ---- values ---- */

/* n_row x n_vector accumulators; dtype, n_row and n_vector are constants after inlining. */
VF_INLINE void value_tile(ml_dtype dtype, int n_row, int n_vector, const float *s, const ml_rows_values *p,
                          int64_t column, float *out)
{
    vf sum[8][8];
    int64_t stride = p->columns;
#pragma GCC unroll 8
    for (int r = 0; r < n_row; r++) {
#pragma GCC unroll 8
        for (int j = 0; j < n_vector; j++) sum[r][j] = vf_load(out + r * stride + column + j * VF_LANES);
    }
    for (int64_t i = 0; i < p->n; i++) {
        vf x[8];
#pragma GCC unroll 8
        for (int j = 0; j < n_vector; j++) x[j] = load_stored(dtype, p->row[i], column + j * VF_LANES);
#pragma GCC unroll 8
        for (int r = 0; r < n_row; r++) {
            vf prob = vf_set1(s[r * KEYS + i]);
#pragma GCC unroll 8
            for (int j = 0; j < n_vector; j++) sum[r][j] = vf_fma(prob, x[j], sum[r][j]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < n_row; r++) {
#pragma GCC unroll 8
        for (int j = 0; j < n_vector; j++) vf_store(out + r * stride + column + j * VF_LANES, sum[r][j]);
    }
}

/* All columns for n_row rows, n_vector vectors at a time. */
VF_INLINE void value_rows(ml_dtype dtype, int n_row, int n_vector, const float *s, const ml_rows_values *p, float *out)
{
    int64_t c = 0;
    for (; c + n_vector * VF_LANES <= p->columns; c += n_vector * VF_LANES) {
        value_tile(dtype, n_row, n_vector, s, p, c, out);
    }
    for (; c < p->columns; c += VF_LANES) value_tile(dtype, n_row, 1, s, p, c, out);
}

VF_INLINE void value_all(ml_dtype dtype, const ml_rows_values *p, const float *s, int64_t n_row, float *out)
{
    int64_t r = 0;
    for (; r + VALUE_ROWS <= n_row; r += VALUE_ROWS) {
        value_rows(dtype, VALUE_ROWS, VALUE_VECTORS, s + r * KEYS, p, out + r * p->columns);
    }
    if (VALUE_ROWS > 4 && r + 4 <= n_row) {
        value_rows(dtype, 4, 4, s + r * KEYS, p, out + r * p->columns);
        r += 4;
    }
    for (; r + 2 <= n_row; r += 2) value_rows(dtype, 2, 4, s + r * KEYS, p, out + r * p->columns);
    if (r < n_row) value_rows(dtype, 1, 8, s + r * KEYS, p, out + r * p->columns);
}

static void values(const ml_rows_values *p, const float *s, int64_t n_row, const ml_rows_state *state)
{
    switch (p->dtype) {
    case ML_F16: value_all(ML_F16, p, s, n_row, state->out); break;
    case ML_BF16: value_all(ML_BF16, p, s, n_row, state->out); break;
    case ML_Q8_0: value_all(ML_Q8_0, p, s, n_row, state->out); break;
    default: value_all(ML_F32, p, s, n_row, state->out);
    }
}

const ml_rows_kernel ROWS_KERNEL_TABLE = {
    .load = load,
    .scores = scores,
    .softmax = softmax,
    .values = values,
    .begin = begin,
    .merge = merge,
    .store = store,
};
