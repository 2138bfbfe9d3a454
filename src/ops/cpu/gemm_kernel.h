/* What gemm.c needs from one instruction set: packing of panels and the product of two panels.
 *
 *   A panel [k, mr]: column p holds rows i .. i+mr of A         a[p * mr + i]
 *   B panel [k, nr]: row p holds columns j .. j+nr of B          b[p * nr + j]
 *
 * Rows or columns past the edge are packed as zeros; what is computed from them is never stored.  There is no
 * padding along k, so the chain of an element is the same in every kernel. */
#ifndef ML_OPS_CPU_GEMM_KERNEL_H
#define ML_OPS_CPU_GEMM_KERNEL_H

#include <stdbool.h>
#include <stdint.h>

enum { ML_GEMM_MAX_PANEL = 32 }; /* largest mr or nr of any kernel */

typedef struct {
    int mr, nr;
    /* panel[p * width + i] = line[i][p] for i < n_line, 0 for n_line <= i < width; p in [0, k). */
    void (*pack_across)(float *panel, int width, const float *const *line, int n_line, int64_t k);
    /* One stored row, n elements, spread over panels: panel j gets elements j * width .. at j * panel_size, zeros
     * after the last one. */
    void (*pack_along)(float *panel, int64_t panel_size, int width, const float *src, int64_t n);
    /* c[i][col + j] (+)= sum over p of a[p * mr + i] * b[p * nr + j] for i < rows <= mr, j < cols <= nr: a chain
     * of fused multiply-adds from +0 in order of p, stored, or with `add` added to what is there. */
    void (*multiply)(int64_t k, const float *a, const float *b, float *const *c, int64_t col, int rows, int cols,
                     bool add);
} ml_gemm_kernel;

extern const ml_gemm_kernel ml_gemm_kernel_scalar, ml_gemm_kernel_avx2, ml_gemm_kernel_avx512;

#endif
