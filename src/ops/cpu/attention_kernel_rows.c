/* The kernels of decoding for any machine, and the choice among the copies. */
#define ROWS_KERNEL_TABLE ml_rows_kernel_scalar
#include "ops/cpu/attention_kernel_rows_body.h"

#include "base/cpu.h"

const ml_rows_kernel *ml_rows_kernel_get(void)
{
#if defined(__x86_64__)
    if (ml_cpu_isa() >= ML_ISA_AVX512) return &ml_rows_kernel_avx512;
    if (ml_cpu_isa() >= ML_ISA_AVX2) return &ml_rows_kernel_avx2;
#endif
    return &ml_rows_kernel_scalar;
}
