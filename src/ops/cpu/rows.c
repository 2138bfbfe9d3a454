/* The row kernels for any machine, and the choice between them. */
#define ML_ROW_KERNELS ml_row_kernels_scalar
#include "ops/cpu/rows_body.h"

#include "base/cpu.h"

#if defined(__x86_64__)
extern const ml_row_kernels ml_row_kernels_avx2, ml_row_kernels_avx512;
#endif

const ml_row_kernels *ml_row_kernels_get(void)
{
#if defined(__x86_64__)
    if (ml_cpu_isa() == ML_ISA_AVX512) return &ml_row_kernels_avx512;
    if (ml_cpu_isa() == ML_ISA_AVX2) return &ml_row_kernels_avx2;
#endif
    return &ml_row_kernels_scalar;
}
