/* The kernels of decoding for machines with AVX2. */
#define ROWS_KERNEL_TABLE ml_rows_kernel_avx2
#include "ops/cpu/attention_kernel_rows_body.h"
