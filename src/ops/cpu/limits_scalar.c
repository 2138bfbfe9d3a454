#include "ops/cpu/limits.h"

enum { N = 8 };

float ml_limits_int8_scalar(int64_t n, double *n_mac)
{
    int32_t sum[N] = { 0 };
    for (int64_t i = 0; i < n; i++) {
        for (int l = 0; l < N; l++) {
            sum[l] += (int8_t)i * (int8_t)(i + l);
            __asm__("" : "+r"(sum[l]));
        }
    }
    *n_mac += (double)n * N;
    int32_t total = 0;
    for (int l = 0; l < N; l++) total += sum[l] & 1;
    return (float)total;
}

float ml_limits_fp32_scalar(int64_t n, double *n_mac)
{
    float sum[N] = { 0 }, x = 0.5f;
    for (int64_t i = 0; i < n; i++) {
        for (int l = 0; l < N; l++) {
            sum[l] = sum[l] * x + 1.0f;
            __asm__("" : "+x"(sum[l]));
        }
    }
    *n_mac += (double)n * N;
    float total = 0;
    for (int l = 0; l < N; l++) total += sum[l];
    return total;
}
