/* Newton-Schulz iteration towards the nearest semi-orthogonal matrix, Muon's step (arXiv:2502.16982, section 2.1).
 *
 *     X = U / (|U|_F + 1e-7);  n_step times:  S = X X^T;  X <- a X + (b S + c S S) X
 *     (a, b, c) = (3.4445, -4.7750, 2.0315);  with X transposed when it has more rows than columns
 * Singular values in [0.002, 1] land in about [0.68, 1.20] after five steps; singular vectors stay. */
#ifndef ML_OPTIM_NEWTON_SCHULZ_H
#define ML_OPTIM_NEWTON_SCHULZ_H

#include <stdbool.h>
#include <stdint.h>

/* Floats of scratch that one [rows, cols] needs. */
int64_t ml_newton_schulz_scratch(int64_t rows, int64_t cols);

/* u [rows, cols] <- its orthogonalisation, in place; an all-zero u stays zero.  `serial` keeps it on the calling
 * thread, for matrices that are themselves tasks of an ml_parallel_for; the bits are the same either way.  scratch is
 * 64-byte aligned. */
void ml_newton_schulz(float *u, int64_t rows, int64_t cols, int n_step, float *scratch, bool serial);

#endif
