/* The row kernels for AVX-512. */
#if defined(__x86_64__)
#define ML_ROW_KERNELS ml_row_kernels_avx512
#include "ops/cpu/rows_body.h"
#endif
