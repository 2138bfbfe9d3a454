/* Row kernels for any machine, and the choice among the copies. */
#define ROW_OPS_TABLE ml_row_ops_scalar
#include "ops/cpu/rowops_body.h"

#include "base/cpu.h"

const ml_row_ops *ml_row_ops_get(void)
{
#if defined(__x86_64__)
    if (ml_cpu_isa() >= ML_ISA_AVX512) return &ml_row_ops_avx512;
    if (ml_cpu_isa() >= ML_ISA_AVX2) return &ml_row_ops_avx2;
#endif
    return &ml_row_ops_scalar;
}
