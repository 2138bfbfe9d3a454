/* Row kernels for machines with AVX2. */
#define ROW_OPS_TABLE ml_row_ops_avx2
#include "ops/cpu/rowops_body.h"
