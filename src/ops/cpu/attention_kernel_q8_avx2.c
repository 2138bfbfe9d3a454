/* Decoding over q8_0 in integers for machines with AVX2. */
#define Q8_KERNEL_TABLE ml_q8_kernel_avx2
#include "ops/cpu/attention_kernel_q8_body.h"
