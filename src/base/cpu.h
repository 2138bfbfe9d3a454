/* Which instruction set the kernels may use, found once at run time.
 * MOONLIGHT_ISA=scalar|neondot|avx2|avxvnni|avx512|avx512vnni|avx512bf16 lowers it (never raises it), so that every
 * kernel can be tested on one machine. */
#ifndef ML_BASE_CPU_H
#define ML_BASE_CPU_H

#include "base/status.h"

/* By preference.  A kernel for one of x86-64's runs on those that come later, except that an AVX-512 machine need not
 * have the 256-bit AVX-VNNI: ask for what is needed with isa >= ..., and for AVXVNNI with ==. */
typedef enum {
    ML_ISA_SCALAR = 0,
    ML_ISA_NEONDOT, /* 64-bit Arm with the byte products of ARMv8.2; x86-64 machines have none of it */
    ML_ISA_AVX2,    /* AVX2 + FMA + F16C */
    ML_ISA_AVXVNNI, /* the same and the 256-bit byte products of AVX-VNNI */
    ML_ISA_AVX512,  /* AVX-512 F, BW, DQ, VL */
    ML_ISA_AVX512VNNI,
    ML_ISA_AVX512BF16, /* VNNI, and products of pairs of bf16 */
    ML_N_ISA,
} ml_isa;

ml_isa ml_cpu_isa(void);
/* Tests: choose one that the machine has; anything else becomes the next lower one that it has. */
void ml_cpu_set_isa(ml_isa isa);
/* ML_EINVAL, with the names there are, for a MOONLIGHT_ISA that is none of them; ml_cpu_isa ignores it. */
ml_status ml_cpu_check_wish(ml_error *err);
const char *ml_isa_name(ml_isa isa);

#endif
