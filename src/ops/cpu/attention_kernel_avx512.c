/* Attention kernels for machines with AVX-512. */
#define ATTENTION_KERNEL_TABLE ml_attention_kernel_avx512
#include "ops/cpu/attention_kernel_body.h"
