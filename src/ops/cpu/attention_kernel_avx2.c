/* Attention kernels for machines with AVX2. */
#define ATTENTION_KERNEL_TABLE ml_attention_kernel_avx2
#include "ops/cpu/attention_kernel_body.h"
