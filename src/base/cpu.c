#include "base/cpu.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

static ml_isa chosen = (ml_isa)-1;

#if defined(__x86_64__)
/* The two that not every compiler's own query knows: leaf 1, ECX bit 29, and leaf 7, sub-leaf 1, EAX bit 4.  Both
 * need the system to keep AVX registers, which "avx2" below asks. */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & 1u << 29);
}

static bool has_avx_vnni(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4);
}
#endif

static bool machine_has(ml_isa isa)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    switch (isa) {
    case ML_ISA_AVX2: return avx2;
    case ML_ISA_AVXVNNI: return avx2 && has_avx_vnni();
    case ML_ISA_AVX512: return avx512;
    case ML_ISA_AVX512VNNI: return avx512 && __builtin_cpu_supports("avx512vnni");
    case ML_ISA_AVX512BF16:
        return avx512 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
    default: return isa == ML_ISA_SCALAR;
    }
#elif defined(__aarch64__) && defined(__linux__)
    return isa == ML_ISA_SCALAR || (isa == ML_ISA_NEONDOT && (getauxval(AT_HWCAP) & HWCAP_ASIMDDP));
#else
    return isa == ML_ISA_SCALAR;
#endif
}

void ml_cpu_set_isa(ml_isa isa)
{
    while (!machine_has(isa)) isa--;
    chosen = isa;
}

/* What MOONLIGHT_ISA names, if anything; false when it is no name. */
static bool read_wish(ml_isa *out)
{
    const char *wish = getenv("MOONLIGHT_ISA");
    if (!wish || !*wish) return true;
    for (int i = ML_ISA_SCALAR; i < ML_N_ISA; i++) {
        if (strcmp(wish, ml_isa_name((ml_isa)i)) != 0) continue;
        *out = (ml_isa)i;
        return true;
    }
    return false;
}

ml_status ml_cpu_check_wish(ml_error *err)
{
    ml_isa ignored;
    char names[128] = "";
    if (read_wish(&ignored)) return ML_OK;
    for (int i = ML_ISA_SCALAR; i < ML_N_ISA; i++) {
        size_t n = strlen(names);
        snprintf(names + n, sizeof names - n, "%s%s", i ? ", " : "", ml_isa_name((ml_isa)i));
    }
    return ml_fail(err, ML_EINVAL, "MOONLIGHT_ISA: expected one of %s, found \"%.40s\"", names,
                   getenv("MOONLIGHT_ISA"));
}

ml_isa ml_cpu_isa(void)
{
    if (chosen == (ml_isa)-1) {
        ml_isa isa = ML_N_ISA - 1;
        (void)read_wish(&isa);
        ml_cpu_set_isa(isa);
    }
    return chosen;
}

const char *ml_isa_name(ml_isa isa)
{
    static const char *const names[] = { "scalar", "neondot", "avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16" };
    return names[isa];
}
