/* The searches for machines with AVX2. */
#define QUANTIZE_K_TABLE ml_quantize_k_avx2
#include "tensor/quantize_k_body.h"
