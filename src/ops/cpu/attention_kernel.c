/* Attention kernels for any machine, and the choice among the copies. */
#define ATTENTION_KERNEL_TABLE ml_attention_kernel_scalar
#include "ops/cpu/attention_kernel_body.h"

#include "base/cpu.h"

const ml_attention_kernel *ml_attention_kernel_get(void)
{
#if defined(__x86_64__)
    if (ml_cpu_isa() >= ML_ISA_AVX512) return &ml_attention_kernel_avx512;
    if (ml_cpu_isa() >= ML_ISA_AVX2) return &ml_attention_kernel_avx2;
#endif
    return &ml_attention_kernel_scalar;
}
