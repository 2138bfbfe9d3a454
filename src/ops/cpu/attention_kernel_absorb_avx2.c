/* Products with stored matrices for machines with AVX2. */
#define ABSORB_KERNEL_TABLE ml_absorb_kernel_avx2
#include "ops/cpu/attention_kernel_absorb_body.h"
