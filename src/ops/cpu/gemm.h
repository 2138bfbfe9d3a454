/* fp32 matrix products on the CPU: our own, so that the order of summation is ours.
 *
 * The k dimension is cut into blocks of 512.  Per element of C, in this order:
 *     for each block:  s = +0;  for k in the block, ascending: s = fma(a[k], b[k], s);
 *                      c = (first block and not accumulate) ? s : c + s
 * So its bits depend on its row of A and its column of B alone: not on m or n, the number of threads, the tile
 * it fell in, or the instruction set (scalar, AVX2 and AVX-512 agree bit for bit).
 *
 * A product allocates nothing and cannot fail.  m, n or k may be 0; k = 0 is the empty sum.
 *
 * Operands are stored row by row and may be gathered: `row` lists which stored rows form the matrix.  That is
 * how experts read their tokens without a copy: the gather happens while packing. */
#ifndef ML_OPS_CPU_GEMM_H
#define ML_OPS_CPU_GEMM_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    const float *data;
    int64_t stride;     /* elements from one stored row to the next */
    const int32_t *row; /* NULL, or: row i of the matrix is stored row row[i] */
    bool transpose;     /* use the transpose of the stored (and gathered) matrix */
} ml_gemm_operand;

typedef struct {
    int64_t m, n, k;
    ml_gemm_operand a; /* after transposing: [m, k] */
    ml_gemm_operand b; /* after transposing: [k, n].  A weight [n, k] is b with transpose = true */
    float *c;          /* [m, n], rows c_stride apart */
    int64_t c_stride;
    const int32_t *c_row; /* NULL, or: row i of the product goes to row c_row[i] of c (all different) */
    bool accumulate;      /* c += product instead of c = product */
} ml_gemm;

/* All threads on one product. */
void ml_gemm_run(const ml_gemm *g);
/* On the calling thread only: for products that are themselves tasks of an ml_parallel_for. */
void ml_gemm_run_serial(const ml_gemm *g);

#endif
