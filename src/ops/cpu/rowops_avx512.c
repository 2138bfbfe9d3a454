/* Row kernels for machines with AVX-512. */
#define ROW_OPS_TABLE ml_row_ops_avx512
#include "ops/cpu/rowops_body.h"
