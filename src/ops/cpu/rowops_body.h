/* The row kernels, compiled once for each instruction set by a file that defines ROW_OPS_TABLE. */
#include "ops/cpu/rowops.h"

#include "ops/cpu/vmath.h"

static void add(float *y, const float *a, const float *b, float scale, int64_t n)
{
    vf s = vf_set1(scale);
    int64_t i = 0;
    for (; i + VF_LANES <= n; i += VF_LANES) vf_store(y + i, vf_load(a + i) + s * vf_load(b + i));
    if (i < n) vf_store_first(y + i, vf_load_first(a + i, n - i) + s * vf_load_first(b + i, n - i), n - i);
}

static void swiglu(float *y, const float *gate, const float *up, int64_t n)
{
    int64_t i = 0;
    for (; i + VF_LANES <= n; i += VF_LANES) {
        vf g = vf_load(gate + i);
        vf_store(y + i, g * vf_sigmoid(g) * vf_load(up + i));
    }
    if (i < n) {
        vf g = vf_load_first(gate + i, n - i);
        vf_store_first(y + i, g * vf_sigmoid(g) * vf_load_first(up + i, n - i), n - i);
    }
}

/* silu'(g) = s + g s (1 - s) with s = sigmoid(g) */
VF_INLINE void swiglu_gradient(vf g, vf u, vf dy, vf *dg, vf *du)
{
    vf s = vf_sigmoid(g), silu = g * s;
    *dg = dy * u * (s + silu * (vf_set1(1.0f) - s));
    *du = dy * silu;
}

static void swiglu_backward(float *dgate, float *dup, const float *gate, const float *up, const float *dy, int64_t n)
{
    vf dg, du;
    int64_t i = 0;
    for (; i + VF_LANES <= n; i += VF_LANES) {
        swiglu_gradient(vf_load(gate + i), vf_load(up + i), vf_load(dy + i), &dg, &du);
        vf_store(dgate + i, vf_load(dgate + i) + dg);
        vf_store(dup + i, vf_load(dup + i) + du);
    }
    int64_t m = n - i;
    if (m == 0) return;
    swiglu_gradient(vf_load_first(gate + i, m), vf_load_first(up + i, m), vf_load_first(dy + i, m), &dg, &du);
    vf_store_first(dgate + i, vf_load_first(dgate + i, m) + dg, m);
    vf_store_first(dup + i, vf_load_first(dup + i, m) + du, m);
}

static float rmsnorm(float *y, const float *x, const float *gain, float eps, int64_t n)
{
    vf sum = vf_set1(0.0f);
    int64_t i = 0;
    for (; i + VF_LANES <= n; i += VF_LANES) sum = vf_fma(vf_load(x + i), vf_load(x + i), sum);
    if (i < n) sum = vf_fma(vf_load_first(x + i, n - i), vf_load_first(x + i, n - i), sum);
    float rstd = 1.0f / sqrtf(vf_sum(sum) / (float)n + eps);
    vf r = vf_set1(rstd);
    for (i = 0; i + VF_LANES <= n; i += VF_LANES) vf_store(y + i, vf_load(x + i) * r * vf_load(gain + i));
    if (i < n) vf_store_first(y + i, vf_load_first(x + i, n - i) * r * vf_load_first(gain + i, n - i), n - i);
    return rstd;
}

static void rmsnorm_backward(float *dx, float *dgain, const float *x, const float *gain, const float *dy, float rstd,
                             int64_t n)
{
    vf sum = vf_set1(0.0f), r = vf_set1(rstd);
    for (int64_t i = 0; i < n; i += VF_LANES) {
        int64_t m = n - i < VF_LANES ? n - i : VF_LANES;
        vf u = vf_load_first(x + i, m) * r, g = vf_load_first(dy + i, m);
        if (dgain) vf_store_first(dgain + i, vf_fma(g, u, vf_load_first(dgain + i, m)), m);
        sum = vf_fma(vf_load_first(gain + i, m) * g, u, sum);
    }
    if (!dx) return;
    vf mean = vf_set1(vf_sum(sum) / (float)n);
    for (int64_t i = 0; i < n; i += VF_LANES) {
        int64_t m = n - i < VF_LANES ? n - i : VF_LANES;
        vf u = vf_load_first(x + i, m) * r, g = vf_load_first(gain + i, m) * vf_load_first(dy + i, m);
        vf_store_first(dx + i, vf_load_first(dx + i, m) + r * (g - u * mean), m);
    }
}

/* Every lane beside its partner's: (1, 0, 3, 2, ...). */
VF_INLINE vf swap_pairs(vf v)
{
#if defined(__AVX512F__)
    return __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
#elif defined(__AVX2__) && defined(__FMA__)
    return __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6);
#else
    return __builtin_shufflevector(v, v, 1, 0, 3, 2);
#endif
}

static void rotate_pairs(float *x, const float *even, const float *odd, int64_t n)
{
    int64_t i = 0;
    for (; i + VF_LANES <= n; i += VF_LANES) {
        vf v = vf_load(x + i);
        vf_store(x + i, v * vf_load(even + i) + swap_pairs(v) * vf_load(odd + i));
    }
    int64_t m = n - i;
    if (m == 0) return;
    vf v = vf_load_first(x + i, m);
    vf_store_first(x + i, v * vf_load_first(even + i, m) + swap_pairs(v) * vf_load_first(odd + i, m), m);
}

static void rotate_halves(float *x, const float *even, const float *odd, int64_t n)
{
    int64_t half = n / 2;
    for (int64_t i = 0; i < half; i += VF_LANES) {
        int64_t m = half - i < VF_LANES ? half - i : VF_LANES, j = half + i;
        vf a = vf_load_first(x + i, m), b = vf_load_first(x + j, m);
        vf_store_first(x + i, a * vf_load_first(even + i, m) + b * vf_load_first(odd + i, m), m);
        vf_store_first(x + j, b * vf_load_first(even + j, m) + a * vf_load_first(odd + j, m), m);
    }
}

static void rotate(float *x, const float *even, const float *odd, bool interleaved, int64_t n)
{
    if (interleaved) {
        rotate_pairs(x, even, odd, n);
    } else {
        rotate_halves(x, even, odd, n);
    }
}

static void to_f32(ml_dtype dtype, const void *src, float *dst, int64_t n)
{
    const uint16_t *half = src;
    int64_t i = 0;
#if defined(__F16C__)
    if (dtype == ML_F16) {
        for (; i + 8 <= n; i += 8) {
            _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(half + i))));
        }
    }
#endif
    if (dtype == ML_BF16) {
        for (; i < n; i++) dst[i] = ml_bf16_to_f32(half[i]);
    }
    if (i < n) ml_convert_to_f32(dtype, (const char *)src + (size_t)i * ml_dtype_size(dtype), dst + i, n - i);
}

/* In the functions below silu and has_up are constants wherever they are inlined. */
VF_INLINE vf activated(bool silu, vf g)
{
    if (silu) return g * vf_sigmoid(g);
    return vf_max(vf_set1(0.0f), g);
}

VF_INLINE void activate_row(bool silu, bool has_up, const float *gate, const float *up, float prob, float *a, int64_t n)
{
    vf p = vf_set1(prob);
    int64_t i = 0;
    for (; i + VF_LANES <= n; i += VF_LANES) {
        vf y = p * activated(silu, vf_load(gate + i));
        if (has_up) y = y * vf_load(up + i);
        vf_store(a + i, y);
    }
    if (i == n) return;
    vf y = p * activated(silu, vf_load_first(gate + i, n - i));
    if (has_up) y = y * vf_load_first(up + i, n - i);
    vf_store_first(a + i, y, n - i);
}

static void activate(ml_activation activation, const float *gate, const float *up, float prob, float *a, int64_t n)
{
    bool silu = activation == ML_ACT_SILU;
    if (silu && up) activate_row(true, true, gate, up, prob, a, n);
    if (silu && !up) activate_row(true, false, gate, up, prob, a, n);
    if (!silu && up) activate_row(false, true, gate, up, prob, a, n);
    if (!silu && !up) activate_row(false, false, gate, up, prob, a, n);
}

/* g, u, d are gate, up and da of activate_backward (u = 1 without up); the terms of d/dprob are added to sum. */
VF_INLINE void activate_gradient(bool silu, vf prob, vf *g, vf *u, vf *d, vf *sum)
{
    vf one = vf_set1(1.0f), zero = vf_set1(0.0f), da = prob * *d, dact = da * *u, act;
    if (silu) { /* as swiglu_gradient */
        vf s = vf_sigmoid(*g);
        act = *g * s;
        *g = dact * (s + act * (one - s));
    } else {
        act = vf_max(zero, *g);
        *g = (vf)((vi)(*g > zero) & (vi)dact);
    }
    vf a = act * *u;
    *sum = vf_fma(*d, a, *sum);
    *u = da * act;
    *d = prob * a;
}

VF_INLINE float activate_backward_row(bool silu, bool has_up, float *gate, float *up, float prob, float *da, int64_t n)
{
    vf p = vf_set1(prob), sum = vf_set1(0.0f), u;
    int64_t i = 0;
    for (; i + VF_LANES <= n; i += VF_LANES) {
        vf g = vf_load(gate + i), d = vf_load(da + i);
        u = vf_set1(1.0f);
        if (has_up) u = vf_load(up + i);
        activate_gradient(silu, p, &g, &u, &d, &sum);
        vf_store(gate + i, g);
        if (has_up) vf_store(up + i, u);
        vf_store(da + i, d);
    }
    int64_t m = n - i;
    if (m == 0) return vf_sum(sum);
    vf g = vf_load_first(gate + i, m), d = vf_load_first(da + i, m);
    u = vf_set1(1.0f);
    if (has_up) u = vf_load_first(up + i, m);
    activate_gradient(silu, p, &g, &u, &d, &sum);
    vf_store_first(gate + i, g, m);
    if (has_up) vf_store_first(up + i, u, m);
    vf_store_first(da + i, d, m);
    return vf_sum(sum);
}

static float activate_backward(ml_activation activation, float *gate, float *up, float prob, float *da, int64_t n)
{
    if (activation == ML_ACT_SILU) {
        return up ? activate_backward_row(true, true, gate, up, prob, da, n)
                  : activate_backward_row(true, false, gate, up, prob, da, n);
    }
    return up ? activate_backward_row(false, true, gate, up, prob, da, n)
              : activate_backward_row(false, false, gate, up, prob, da, n);
}

static float largest(const float *v, int64_t n)
{
    vf max = vf_set1(v[0]);
    float lane[VF_LANES];
    int64_t i = 0;
    for (; i + VF_LANES <= n; i += VF_LANES) max = vf_max(max, vf_load(v + i));
    vf_store(lane, max);
    if (i < n) vf_store_first(lane, vf_max(max, vf_load_first(v + i, n - i)), n - i);
    float m = lane[0];
    for (i = 1; i < VF_LANES; i++) m = lane[i] > m ? lane[i] : m;
    return m;
}

static void max_sum_exp(float *v, const float *b, int64_t n, float *max, float *sum)
{
    if (b) add(v, v, b, 1.0f, n);
    float last[VF_LANES] = { 0 };
    vf m = vf_set1(*max = largest(v, n)), total = vf_set1(0.0f);
    int64_t i = 0;
    for (; i + VF_LANES <= n; i += VF_LANES) total += vf_exp(vf_load(v + i) - m);
    if (i < n) vf_store_first(last, vf_exp(vf_load_first(v + i, n - i) - m), n - i);
    *sum = vf_sum(total + vf_load(last));
}

static void softmax_backward(float *v, const float *b, float lse, float g, int64_t n)
{
    if (b) add(v, v, b, 1.0f, n);
    vf l = vf_set1(lse), scale = vf_set1(-g);
    int64_t i = 0;
    for (; i + VF_LANES <= n; i += VF_LANES) vf_store(v + i, scale * vf_exp(vf_load(v + i) - l));
    if (i < n) vf_store_first(v + i, scale * vf_exp(vf_load_first(v + i, n - i) - l), n - i);
}

const ml_row_ops ROW_OPS_TABLE = {
    .add = add,
    .swiglu = swiglu,
    .swiglu_backward = swiglu_backward,
    .rmsnorm = rmsnorm,
    .rmsnorm_backward = rmsnorm_backward,
    .rotate = rotate,
    .activate = activate,
    .activate_backward = activate_backward,
    .max_sum_exp = max_sum_exp,
    .softmax_backward = softmax_backward,
    .to_f32 = to_f32,
};
