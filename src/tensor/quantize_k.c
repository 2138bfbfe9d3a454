/* The searches for any machine, and the choice among the copies. */
#define QUANTIZE_K_TABLE ml_quantize_k_scalar
#include "tensor/quantize_k_body.h"

#include "base/cpu.h"

const ml_quantize_k *ml_quantize_k_get(void)
{
#if defined(__x86_64__)
    if (ml_cpu_isa() >= ML_ISA_AVX2) return &ml_quantize_k_avx2;
#endif
    return &ml_quantize_k_scalar;
}

void ml_block_put_q4_k(const float *x, const float *importance, uint8_t *b)
{
    ml_quantize_k_get()->q4_k(x, importance, b);
}

void ml_block_put_q5_k(const float *x, const float *importance, uint8_t *b)
{
    ml_quantize_k_get()->q5_k(x, importance, b);
}

void ml_block_put_q6_k(const float *x, const float *importance, uint8_t *b)
{
    ml_quantize_k_get()->q6_k(x, importance, b);
}
