/* Decoding over q8_0 in integers: the specification, and the choice among the kernels. */
#include "ops/cpu/attention_kernel_q8.h"

#include "base/cpu.h"
#include "ops/cpu/attention_kernel_load.h"

#include <math.h>

enum { HEADS = ML_Q8_HEADS, KEYS = ML_Q8_KEYS, BLOCK = ML_Q8_BLOCK };

static const float tiny = 0x1p-100f, unit = 1.0f / 32767;

static int16_t to_nearest(float x)
{
    return fabsf(x) < 32768 ? (int16_t)lrintf(x) : 0; /* nothing is larger, but the NaN of a NaN probability */
}

static int code_at(const char *row, int64_t column)
{
    return (signed char)row[column / BLOCK * Q8_BYTES + 2 + column % BLOCK];
}

static void pack(const float *q, int64_t q_stride, int64_t n_row, int64_t columns, int16_t *packed, float *scale)
{
    for (int64_t h = 0; h < HEADS; h++) {
        float largest = 0, zero = 0;
        for (int64_t c = 0; h < n_row && c < columns; c++) {
            float x = fabsf(q[h * q_stride + c]);
            zero += x * 0; /* NaN for an infinity, too */
            largest = x > largest ? x : largest;
        }
        bool is_zero = !(largest >= tiny) || zero != 0;
        scale[h] = zero != 0 ? NAN : is_zero ? 0 : largest * unit;
        float inverse = is_zero ? 0 : 32767 / largest;
        for (int64_t c = 0; c < columns; c++) {
            packed[c / 2 * 2 * HEADS + 2 * h + c % 2] = is_zero ? 0 : to_nearest(q[h * q_stride + c] * inverse);
        }
    }
}

static void scales(const char *const *row, int64_t n, int64_t columns, float *d)
{
    for (int64_t b = 0; b < columns / BLOCK; b++) {
        for (int64_t i = 0; i < KEYS; i++) d[b * KEYS + i] = i < n ? half_at(row[i] + b * Q8_BYTES) : 0;
    }
}

static void scores(const ml_q8_rows *p, const int16_t *packed, const float *scale, int64_t n_row,
                   const ml_rows_ahead *ahead, float *s)
{
    (void)ahead; /* memory is not what limits this one */
    for (int64_t h = 0; h < n_row; h++) {
        for (int64_t i = 0; i < p->n; i++) {
            float t = 0;
            for (int64_t b = 0; b < p->columns / BLOCK; b++) {
                int32_t sum = 0;
                for (int64_t c = b * BLOCK; c < (b + 1) * BLOCK; c++) {
                    sum += packed[c / 2 * 2 * HEADS + 2 * h + c % 2] * code_at(p->row[i], c);
                }
                t = fmaf((float)sum, p->d[b * KEYS + i], t);
            }
            s[h * KEYS + i] = scale[h] * t;
        }
    }
}

/* The largest of x[0 .. n), or 0; and what brings it to `to`. */
static float largest_of(const float *x, int64_t n, float to, float *inverse)
{
    float largest = 0;
    for (int64_t i = 0; i < n; i++) largest = x[i] > largest ? x[i] : largest;
    *inverse = largest >= tiny ? to / largest : 0;
    return largest;
}

static void values(const ml_q8_rows *v, const float *p, int64_t n_row, float *out, int64_t out_stride)
{
    for (int64_t h = 0; h < n_row; h++, p += KEYS, out += out_stride) {
        float p_inverse, largest_p = largest_of(p, v->n, 1, &p_inverse);
        for (int64_t b = 0; b < v->columns / BLOCK; b++) {
            const float *d = v->d + b * KEYS;
            float d_inverse, factor = largest_p * (largest_of(d, v->n, 32767, &d_inverse) * unit);
            int32_t sum[BLOCK] = { 0 };
            for (int64_t i = 0; i < v->n; i++) {
                int32_t w = to_nearest((p[i] * p_inverse) * (d[i] * d_inverse));
                for (int64_t j = 0; j < BLOCK; j++) sum[j] += w * code_at(v->row[i], b * BLOCK + j);
            }
            for (int64_t j = 0; j < BLOCK; j++) out[b * BLOCK + j] = fmaf((float)sum[j], factor, out[b * BLOCK + j]);
        }
    }
}

const ml_q8_kernel ml_q8_kernel_scalar = { .pack = pack, .scales = scales, .scores = scores, .values = values };

const ml_q8_kernel *ml_q8_kernel_get(void)
{
#if defined(__x86_64__)
    if (ml_cpu_isa() >= ML_ISA_AVX512VNNI) return &ml_q8_kernel_avx512vnni;
    if (ml_cpu_isa() >= ML_ISA_AVX512) return &ml_q8_kernel_avx512;
    if (ml_cpu_isa() == ML_ISA_AVXVNNI) return &ml_q8_kernel_avxvnni;
    if (ml_cpu_isa() >= ML_ISA_AVX2) return &ml_q8_kernel_avx2;
#endif
    return &ml_q8_kernel_scalar;
}
