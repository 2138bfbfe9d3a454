/* Hopper's matrix unit and barriers in shared memory, for src/ops/cuda/wgmma.cuh.
 *
 * Products are computed as late as their wait allows (with the first order of threads) or at once (with the second),
 * from what then lies where the operands' descriptors say, as the PTX ISA defines these: a buffer that is filled again
 * too early shows in the numbers.  A barrier that nobody ends stops the program. */
#ifndef ML_TESTS_EMULATE_HOPPER_H
#define ML_TESTS_EMULATE_HOPPER_H

#include "cuda_runtime.h"

/* c (+)= a b of n_column columns; a in shared memory, or where a_registers is not NULL in registers, which are read
 * when the product is computed, as the unit may do. */
void ml_emulated_wgmma(float (*c)[4], int n_column, uint64_t a, const uint32_t *a_registers, uint64_t b, bool a_outer,
                       bool b_outer, bool add);
void ml_emulated_wgmma_commit();
void ml_emulated_wgmma_wait(int n_open);
void ml_emulated_barrier_init(uint64_t *barrier, unsigned n);
void ml_emulated_barrier_arrive(uint64_t *barrier);
void ml_emulated_barrier_wait(uint64_t *barrier, unsigned parity);

#endif
