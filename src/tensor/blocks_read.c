/* Reading block types on any machine, and the choice among the copies. */
#define BLOCK_READ_TABLE ml_block_read_scalar
#include "tensor/blocks_read_body.h"

#include "base/cpu.h"

const int8_t ml_iq4_values[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };

ml_block_read_fn ml_block_read_get(ml_dtype dtype)
{
#if defined(__x86_64__)
    if (ml_cpu_isa() >= ML_ISA_AVX512) return ml_block_read_avx512[dtype];
    if (ml_cpu_isa() >= ML_ISA_AVX2) return ml_block_read_avx2[dtype];
#endif
    return ml_block_read_scalar[dtype];
}
