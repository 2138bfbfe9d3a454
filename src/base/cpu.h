/* Which instruction set the kernels may use, found once at run time.  MOONLIGHT_ISA=scalar|avx2|avx512
 * lowers it (never raises it), so that every kernel can be tested on one machine. */
#ifndef ML_BASE_CPU_H
#define ML_BASE_CPU_H

typedef enum {
    ML_ISA_SCALAR = 0,
    ML_ISA_AVX2,   /* AVX2 + FMA + F16C */
    ML_ISA_AVX512, /* AVX-512 F, BW, DQ, VL */
} ml_isa;

ml_isa ml_cpu_isa(void);
/* Tests: choose one at or below what the machine has; anything higher is clamped. */
void ml_cpu_set_isa(ml_isa isa);
const char *ml_isa_name(ml_isa isa);

#endif
