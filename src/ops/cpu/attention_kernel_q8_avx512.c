/* Decoding over q8_0 in integers for machines with AVX-512. */
#define Q8_KERNEL_TABLE ml_q8_kernel_avx512
#include "ops/cpu/attention_kernel_q8_body.h"
