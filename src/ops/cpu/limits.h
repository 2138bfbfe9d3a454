/* What this machine can do at most, measured now: the yardstick of benchmarks. */
#ifndef ML_OPS_CPU_LIMITS_H
#define ML_OPS_CPU_LIMITS_H

#include "base/status.h"

typedef struct {
    double read_bytes; /* per second, from memory */
    double int8_macs;  /* multiply-adds per second of 8-bit integers, in registers */
    double fp32_macs;  /* of floats */
} ml_machine_limits;

/* With the threads and the instruction set in use; takes about `seconds`, the best of several rounds counts.
 * ML_ENOMEM when there is no room for a buffer larger than the caches. */
ml_status ml_machine_measure(double seconds, ml_machine_limits *out, ml_error *err);

/* Read n_bytes once, on all threads, for no other purpose: what read_bytes counts. */
void ml_limits_read(const void *data, size_t n_bytes);

/* Kernels: n rounds of independent products of registers; *n_mac is how many multiply-adds that was.  The result only
 * keeps the compiler from dropping the work. */
typedef float (*ml_limits_fn)(int64_t n, double *n_mac);
float ml_limits_int8_scalar(int64_t n, double *n_mac);
float ml_limits_int8_avx2(int64_t n, double *n_mac);
float ml_limits_int8_avxvnni(int64_t n, double *n_mac);
float ml_limits_int8_avx512vnni(int64_t n, double *n_mac);
float ml_limits_fp32_scalar(int64_t n, double *n_mac);
float ml_limits_fp32_avx2(int64_t n, double *n_mac);
float ml_limits_fp32_avx512(int64_t n, double *n_mac);

#endif
