/* Packing buffers of the matrix product: one pair per thread, mapped on its first product and unmapped when it
 * ends.  They come from the kernel, not from ml_alloc, because a product runs inside a training step and must
 * not fail: where no memory can be mapped, a small static pair serves, with the same results, slower. */
#ifndef ML_OPS_CPU_GEMM_MEMORY_H
#define ML_OPS_CPU_GEMM_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

enum {
    ML_GEMM_K_BLOCK = 512,      /* part of the numerical contract (gemm.h): changing it changes bits */
    ML_GEMM_M_BLOCK = 192,      /* most rows of A packed at once: 384 KiB, in L2 */
    ML_GEMM_N_BLOCK = 1024,     /* most columns of a whole block of B packed at once: 2 MiB, in L3 */
    ML_GEMM_SMALL_M_BLOCK = 12, /* the same of the small pair; multiples of every mr and nr */
    ML_GEMM_SMALL_N_BLOCK = 32,
};

typedef struct {
    float *a, *b;             /* 64-byte aligned */
    int64_t m_block, n_block; /* room for m_block * K_BLOCK and n_block * K_BLOCK floats */
} ml_gemm_memory;

/* The calling thread's. */
ml_gemm_memory ml_gemm_memory_get(void);
/* Tests: every thread uses its small pair. */
void ml_gemm_memory_force_small(bool small);

#endif
