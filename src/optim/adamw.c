#define ML_ADAMW_UPDATE ml_adamw_update_scalar
#include "optim/adamw_body.h"

#include "base/cpu.h"

double ml_adamw_update(const ml_adamw *a, float *value, const float *grad, float *m, float *v, int64_t n)
{
    if (ml_cpu_isa() >= ML_ISA_AVX512) return ml_adamw_update_avx512(a, value, grad, m, v, n);
    if (ml_cpu_isa() >= ML_ISA_AVX2) return ml_adamw_update_avx2(a, value, grad, m, v, n);
    return ml_adamw_update_scalar(a, value, grad, m, v, n);
}
