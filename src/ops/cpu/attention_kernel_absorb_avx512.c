/* Products with stored matrices for machines with AVX-512. */
#define ABSORB_KERNEL_TABLE ml_absorb_kernel_avx512
#include "ops/cpu/attention_kernel_absorb_body.h"
