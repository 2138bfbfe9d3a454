#include "base/cpu.h"

#include <stdlib.h>
#include <string.h>

static ml_isa chosen = (ml_isa)-1;

static ml_isa machine_isa(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return ML_ISA_SCALAR;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
        return ML_ISA_AVX512;
    }
    return ML_ISA_AVX2;
#else
    return ML_ISA_SCALAR;
#endif
}

void ml_cpu_set_isa(ml_isa isa)
{
    ml_isa best = machine_isa();
    chosen = isa < best ? isa : best;
}

ml_isa ml_cpu_isa(void)
{
    if (chosen == (ml_isa)-1) {
        ml_isa isa = ML_ISA_AVX512;
        const char *wish = getenv("MOONLIGHT_ISA");
        for (int i = ML_ISA_SCALAR; wish && i <= (int)ML_ISA_AVX512; i++) {
            if (!strcmp(wish, ml_isa_name((ml_isa)i))) isa = (ml_isa)i;
        }
        ml_cpu_set_isa(isa);
    }
    return chosen;
}

const char *ml_isa_name(ml_isa isa)
{
    static const char *const names[] = { "scalar", "avx2", "avx512" };
    return names[isa];
}
