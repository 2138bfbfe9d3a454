/* The scale that loses least: x is approximated by integer codes times a scale, plus a minimum or not, so that the
 * weighted squared error is small.  Candidates are tried one after the other, each with the scale (and minimum) that
 * least squares gives for its codes; the first of the best is kept. */
#ifndef ML_TENSOR_QUANTIZE_SEARCH_H
#define ML_TENSOR_QUANTIZE_SEARCH_H

/* Nearest integer, ties to even, of |v| < 2^22. */
static inline float ml_quantize_round(float v)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: its sum with v has no fraction bits */
    return (v + magic) - magic;
}

static inline float ml_quantize_clamp(float v, float low, float high)
{
    v = v < low ? low : v;
    return v > high ? high : v;
}

/* weight[i] for n elements (n a multiple of 8): with importance, that times sqrt(2 mean_square + x^2); without, the
 * root mean square of these n plus |x|: large weights count more, since they carry the large products. */
void ml_quantize_weights(int n, const float *x, const float *importance, float mean_square, float *weight);

/* x ~ scale q, q in [-n_level, n_level - 1]; returns the scale, which may be negative (the code -n_level then serves
 * the positive extreme).  n <= 32, a multiple of 8. */
float ml_quantize_search_scale(int n, const float *x, const float *weight, int n_level);

/* x ~ scale q + min, q in [0, n_level]; scale >= 0; min <= 0 if min_negative. */
void ml_quantize_search_affine(int n, const float *x, const float *weight, int n_level, int min_negative, float *scale,
                               float *min);

#endif
