/* The row kernels for AVX2. */
#if defined(__x86_64__)
#define ML_ROW_KERNELS ml_row_kernels_avx2
#include "ops/cpu/rows_body.h"
#endif
