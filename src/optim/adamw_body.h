/* The body of AdamW's update, compiled once for each instruction set under the name ML_ADAMW_UPDATE.
 * Rows of LANES elements are what the compiler turns into vectors; each lane keeps its own sum of squares in fp32
 * for one CHUNK, which is then added up in double. */
#include "optim/adamw.h"

#include <math.h>

enum { LANES = 16, CHUNK = 1024 };

static inline float update_element(const ml_adamw *a, float *value, float grad, float *m, float *v)
{
    float g = grad * a->grad_scale;
    *m = a->beta1 * *m + (1.0f - a->beta1) * g;
    *v = a->beta2 * *v + (1.0f - a->beta2) * (g * g);
    float update = (*m * a->unbias) / (sqrtf(*v) * a->correction + a->eps);
    *value = *value * a->decay - a->lr * update;
    return update * update;
}

double ML_ADAMW_UPDATE(const ml_adamw *a, float *restrict value, const float *restrict grad, float *restrict m,
                       float *restrict v, int64_t n)
{
    const ml_adamw c = *a;
    double total = 0.0;
    int64_t i = 0;
    while (n - i >= LANES) {
        float sum[LANES] = { 0.0f };
        int64_t end = n - i < CHUNK ? i + (n - i) / LANES * LANES : i + CHUNK;
        for (; i < end; i += LANES)
            for (int j = 0; j < LANES; j++)
                sum[j] += update_element(&c, value + i + j, grad[i + j], m + i + j, v + i + j);
        for (int j = 0; j < LANES; j++) total += (double)sum[j];
    }
    for (; i < n; i++) total += (double)update_element(&c, value + i, grad[i], m + i, v + i);
    return total;
}
