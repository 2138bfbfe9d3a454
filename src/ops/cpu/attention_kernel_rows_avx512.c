/* The kernels of decoding for machines with AVX-512. */
#define ROWS_KERNEL_TABLE ml_rows_kernel_avx512
#include "ops/cpu/attention_kernel_rows_body.h"
