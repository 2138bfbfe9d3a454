/* Products with stored matrices for any machine, and the choice among the copies. */
#define ABSORB_KERNEL_TABLE ml_absorb_kernel_scalar
#include "ops/cpu/attention_kernel_absorb_body.h"

#include "base/cpu.h"

const ml_absorb_kernel *ml_absorb_kernel_get(void)
{
#if defined(__x86_64__)
    if (ml_cpu_isa() >= ML_ISA_AVX512) return &ml_absorb_kernel_avx512;
    if (ml_cpu_isa() >= ML_ISA_AVX2) return &ml_absorb_kernel_avx2;
#endif
    return &ml_absorb_kernel_scalar;
}
