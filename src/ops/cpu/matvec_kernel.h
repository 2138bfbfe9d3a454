/* What matvec.c needs from one instruction set: tiles of dot products that share their loads. */
#ifndef ML_OPS_CPU_MATVEC_KERNEL_H
#define ML_OPS_CPU_MATVEC_KERNEL_H

#include "tensor/dtype.h"

enum { ML_MATVEC_MAX_TILE = 16, ML_MATVEC_N_TILE = 3 };

/* out[t * n_row + i] = dot(x[t], w[i]) over k, for every t < n_token and i < n_row of the tile's type. */
typedef void (*ml_matvec_tile_fn)(int64_t k, const float *const *x, const void *const *w, float *out);

typedef struct {
    int n_token, n_row;                /* n_token * n_row <= ML_MATVEC_MAX_TILE */
    ml_matvec_tile_fn run[ML_N_DTYPE]; /* NULL for types that are no weights */
} ml_matvec_tile;

typedef struct {
    ml_matvec_tile tile[ML_MATVEC_N_TILE]; /* by descending n_token; the last has n_token = 1 */
    float (*dot)(const float *a, const float *b, int64_t n);
} ml_matvec_kernel;

extern const ml_matvec_kernel ml_matvec_kernel_scalar, ml_matvec_kernel_avx2, ml_matvec_kernel_avx512;

#endif
