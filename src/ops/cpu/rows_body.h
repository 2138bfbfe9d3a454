/* The row kernels, in C that the compiler turns into vector code of the including file's instruction set.
 * The includer defines ML_ROW_KERNELS, the name of the table. */
#include "ops/cpu/rows.h"

#include <math.h>
#include <string.h>

enum { LANES = 16 };

/* exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2)/2: Taylor to r^7, error below 1 ulp of the result.
 * Below -87.3 exactly 0 (no denormals reach a matrix product); above 88.3 clamped, finite; NaN stays NaN. */
static inline float exp_of(float x)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    float c = x > 88.3f ? 88.3f : x;
    c = c < -87.3f ? -87.3f : c;
    float n = fmaf(c, 1.44269504f, magic) - magic;
    float r = fmaf(n, -0.693359375f, c); /* ln 2 in two parts, the first exact in 9 bits */
    r = fmaf(n, 2.12194440e-4f, r);
    float p = 1.0f / 5040;
    p = fmaf(p, r, 1.0f / 720);
    p = fmaf(p, r, 1.0f / 120);
    p = fmaf(p, r, 1.0f / 24);
    p = fmaf(p, r, 1.0f / 6);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    float y = p * power;
    return x < -87.3f ? 0.0f : y;
}

static inline float sigmoid_of(float x)
{
    return 1.0f / (1.0f + exp_of(-x));
}

static inline float add_lanes(float *lane)
{
    for (int width = LANES / 2; width > 0; width /= 2) {
        for (int j = 0; j < width; j++) lane[j] += lane[j + width];
    }
    return lane[0];
}

static inline float activation_of(bool silu, float g)
{
    return silu ? g * sigmoid_of(g) : (g < 0 ? 0.0f : g);
}

/* silu and has_up are constants where this is inlined. */
static inline __attribute__((always_inline)) void activate_row(bool silu, bool has_up, const float *restrict gate,
                                                               const float *restrict up, float prob, float *restrict a,
                                                               int64_t n)
{
    for (int64_t i = 0; i < n; i++) a[i] = prob * (activation_of(silu, gate[i]) * (has_up ? up[i] : 1.0f));
}

static void activate(ml_activation activation, const float *gate, const float *up, float prob, float *a, int64_t n)
{
    if (activation == ML_ACT_SILU && up) activate_row(true, true, gate, up, prob, a, n);
    if (activation == ML_ACT_SILU && !up) activate_row(true, false, gate, up, prob, a, n);
    if (activation == ML_ACT_RELU && up) activate_row(false, true, gate, up, prob, a, n);
    if (activation == ML_ACT_RELU && !up) activate_row(false, false, gate, up, prob, a, n);
}

/* One element of activate_backward; returns its term of d/dprob. */
static inline __attribute__((always_inline)) float back_one(bool silu, bool has_up, float *gate, float *up, float prob,
                                                            float *da)
{
    float g = *gate, u = has_up ? *up : 1.0f, d = *da * prob;
    float s = silu ? sigmoid_of(g) : 0.0f;
    float act = silu ? g * s : (g < 0 ? 0.0f : g);
    float slope = silu ? s * fmaf(g, 1.0f - s, 1.0f) : (g <= 0 ? 0.0f : 1.0f);
    float a = act * u, term = *da * a;
    *gate = d * u * slope;
    if (has_up) *up = d * act;
    *da = prob * a;
    return term;
}

static inline __attribute__((always_inline)) float
back_row(bool silu, bool has_up, float *restrict gate, float *restrict up, float prob, float *restrict da, int64_t n)
{
    float lane[LANES] = { 0 };
    int64_t whole = n - n % LANES;
    for (int64_t i = 0; i < whole; i += LANES) {
        for (int64_t j = 0; j < LANES; j++) {
            lane[j] += back_one(silu, has_up, gate + i + j, has_up ? up + i + j : NULL, prob, da + i + j);
        }
    }
    for (int64_t i = whole; i < n; i++) {
        lane[i - whole] += back_one(silu, has_up, gate + i, has_up ? up + i : NULL, prob, da + i);
    }
    return add_lanes(lane);
}

static float activate_backward(ml_activation activation, float *gate, float *up, float prob, float *da, int64_t n)
{
    if (activation == ML_ACT_SILU && up) return back_row(true, true, gate, up, prob, da, n);
    if (activation == ML_ACT_SILU) return back_row(true, false, gate, up, prob, da, n);
    return up ? back_row(false, true, gate, up, prob, da, n) : back_row(false, false, gate, up, prob, da, n);
}

static inline float larger(float a, float b)
{
    return a > b ? a : b;
}

static void max_sum_exp(float *restrict v, const float *restrict b, int64_t n, float *max, float *sum)
{
    if (b) {
        for (int64_t i = 0; i < n; i++) v[i] += b[i];
    }
    float lane[LANES];
    int64_t whole = n - n % LANES;
    for (int64_t j = 0; j < LANES; j++) lane[j] = v[0];
    for (int64_t i = 0; i < whole; i += LANES) {
        for (int64_t j = 0; j < LANES; j++) lane[j] = larger(v[i + j], lane[j]);
    }
    for (int64_t i = whole; i < n; i++) lane[0] = larger(v[i], lane[0]);
    float m = lane[0];
    for (int64_t j = 1; j < LANES; j++) m = larger(m, lane[j]);

    memset(lane, 0, sizeof lane);
    for (int64_t i = 0; i < whole; i += LANES) {
        for (int64_t j = 0; j < LANES; j++) lane[j] += exp_of(v[i + j] - m);
    }
    for (int64_t i = whole; i < n; i++) lane[i - whole] += exp_of(v[i] - m);
    *max = m;
    *sum = add_lanes(lane);
}

static void softmax_backward(float *restrict v, const float *restrict b, int64_t n, float lse, float g)
{
    if (b) {
        for (int64_t i = 0; i < n; i++) v[i] = -g * exp_of(v[i] + b[i] - lse);
    } else {
        for (int64_t i = 0; i < n; i++) v[i] = -g * exp_of(v[i] - lse);
    }
}

const ml_row_kernels ML_ROW_KERNELS = { activate, activate_backward, max_sum_exp, softmax_backward };
