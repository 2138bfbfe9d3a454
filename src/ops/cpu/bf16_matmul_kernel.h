/* What bf16_matmul.c needs from one instruction set: tiles of dot products that share their loads. */
#ifndef ML_OPS_CPU_BF16_MATMUL_KERNEL_H
#define ML_OPS_CPU_BF16_MATMUL_KERNEL_H

#include "ops/cpu/bf16_matmul.h"

enum {
    ML_BF16_STEP = 32 /* columns */,
    ML_BF16_MAX_TOKEN = 6,
    ML_BF16_MAX_ROW = 8,
    ML_BF16_MAX_OUT = 32,
    ML_BF16_N_TILE = 4
};

/* out[t * n_row + i] = x[t] . w[i] over k columns, for the tile's tokens and rows.  Of every line of w, the one that
 * lies `ahead` bytes further on is asked for (0: none). */
typedef void (*ml_bf16_tile_fn)(int64_t k, const uint16_t *const *x, const uint16_t *const *w, int64_t ahead,
                                float *out);

typedef struct {
    int n_token, n_row; /* out has room for ML_BF16_MAX_OUT */
    ml_bf16_tile_fn run;
} ml_bf16_tile;

typedef struct {
    ml_bf16_tile tile[ML_BF16_N_TILE]; /* by descending n_token; the last has n_token = 1 */
} ml_bf16_kernel;

extern const ml_bf16_kernel ml_bf16_kernel_scalar, ml_bf16_kernel_avx2, ml_bf16_kernel_avx512,
    ml_bf16_kernel_avx512bf16;

#endif
