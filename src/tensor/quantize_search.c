#include "tensor/quantize_search.h"

#include <math.h>

enum { LANES = 8, MAX_N = 32 };

/* Sums run over lanes of their own so that they are vectors; the order is fixed. */
static float sum_lanes(const float *s)
{
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

static float sum_2(int n, const float *a, const float *b)
{
    float s[LANES] = { 0 };
    for (int i = 0; i < n; i += LANES) {
        for (int l = 0; l < LANES; l++) s[l] += a[i + l] * b[i + l];
    }
    return sum_lanes(s);
}

static float sum_3(int n, const float *a, const float *b, const float *c)
{
    float s[LANES] = { 0 };
    for (int i = 0; i < n; i += LANES) {
        for (int l = 0; l < LANES; l++) s[l] += a[i + l] * b[i + l] * c[i + l];
    }
    return sum_lanes(s);
}

void ml_quantize_weights(int n, const float *x, const float *importance, float mean_square, float *weight)
{
    if (importance) {
        for (int i = 0; i < n; i++) weight[i] = importance[i] * sqrtf(2 * mean_square + x[i] * x[i]);
    } else {
        float rms = sqrtf(sum_2(n, x, x) / (float)n);
        for (int i = 0; i < n; i++) weight[i] = rms + fabsf(x[i]);
    }
}

float ml_quantize_search_scale(int n, const float *x, const float *weight, int n_level)
{
    float extreme = 0;
    for (int i = 0; i < n; i++) {
        if (fabsf(x[i]) > fabsf(extreme)) extreme = x[i];
    }
    if (fabsf(extreme) < 1e-30f) return 0;
    float best = -1, scale = 0, low = (float)-n_level, high = (float)(n_level - 1);
    for (int step = -9; step <= 9; step++) {
        float inverse = -((float)n_level + 0.1f * (float)step) / extreme, q[MAX_N];
        for (int i = 0; i < n; i++) q[i] = ml_quantize_clamp(ml_quantize_round(inverse * x[i]), low, high);
        float xq = sum_3(n, weight, x, q), qq = sum_3(n, weight, q, q);
        if (qq > 0 && xq * (xq / qq) > best) { /* the error is sum w x^2 - xq^2 / qq */
            best = xq * (xq / qq);
            scale = xq / qq;
        }
    }
    /* All weights zero: nothing to choose by. */
    return best >= 0 && scale != 0 ? scale : extreme / low;
}

static float affine_error(int n, const float *x, const float *weight, const float *q, float scale, float min)
{
    float s[LANES] = { 0 };
    for (int i = 0; i < n; i += LANES) {
        for (int l = 0; l < LANES; l++) {
            float d = scale * q[i + l] + min - x[i + l];
            s[l] += weight[i + l] * d * d;
        }
    }
    return sum_lanes(s);
}

void ml_quantize_search_affine(int n, const float *x, const float *weight, int n_level, int min_negative, float *scale,
                               float *min)
{
    float low = x[0], high = x[0], q[MAX_N];
    const float one[MAX_N] = { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                               1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 };
    for (int i = 1; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    if (min_negative && low > 0) low = 0;
    *scale = 0;
    *min = low;
    if (!(high - low > 1e-30f)) return;
    float w1 = sum_2(n, weight, one), wx = sum_2(n, weight, x), best = -1;
    *scale = (high - low) / (float)n_level;
    for (int step = 0; step <= 20; step++) {
        float inverse = ((float)n_level - 1 + 0.1f * (float)step) / (high - low);
        for (int i = 0; i < n; i++) {
            q[i] = ml_quantize_clamp(ml_quantize_round(inverse * (x[i] - low)), 0, (float)n_level);
        }
        float wq = sum_2(n, weight, q), wqq = sum_3(n, weight, q, q), wxq = sum_3(n, weight, x, q);
        float det = w1 * wqq - wq * wq;
        if (!(det > 0)) continue;
        float s = (w1 * wxq - wx * wq) / det, m = (wqq * wx - wq * wxq) / det;
        if (min_negative && m > 0) {
            m = 0;
            s = wxq / wqq;
        }
        float error = affine_error(n, x, weight, q, s, m);
        if (s > 0 && isfinite(s) && isfinite(m) && (best < 0 || error < best)) {
            best = error;
            *scale = s;
            *min = m;
        }
    }
}
