#include "ops/cpu/limits.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/thread.h"

#include <string.h>

enum { MAX_THREAD = 1024, READ_BYTES = 512 << 20, READ_TASK = 1 << 16, READ_AHEAD = 4096, ROUNDS = 200000 };

static ml_limits_fn int8_kernel(ml_isa isa)
{
    (void)isa;
#if defined(__x86_64__)
    if (isa >= ML_ISA_AVX512VNNI) return ml_limits_int8_avx512vnni;
    if (isa == ML_ISA_AVXVNNI) return ml_limits_int8_avxvnni;
    if (isa >= ML_ISA_AVX2) return ml_limits_int8_avx2;
#endif
    return ml_limits_int8_scalar;
}

static ml_limits_fn fp32_kernel(ml_isa isa)
{
    (void)isa;
#if defined(__x86_64__)
    if (isa >= ML_ISA_AVX512) return ml_limits_fp32_avx512;
    if (isa >= ML_ISA_AVX2) return ml_limits_fp32_avx2;
#endif
    return ml_limits_fp32_scalar;
}

typedef struct {
    ml_limits_fn kernel;
    double n_mac;             /* of one task */
    uint64_t sum[MAX_THREAD]; /* looked at by nobody, but the compiler cannot know */
} measurement;

static uint64_t read_sums[MAX_THREAD]; /* looked at by nobody, but the compiler cannot know */

/* Lines of 64 bytes, with that much asked for ahead: what the kernels do that read weights. */
static void read_range(void *arg, int64_t begin, int64_t end, int thread)
{
    const char *data = arg;
    uint64_t s[8] = { 0 };
    for (int64_t i = begin; i + 64 <= end; i += 64) {
        uint64_t line[8];
        __builtin_prefetch(data + i + READ_AHEAD);
        memcpy(line, data + i, sizeof line);
        for (int l = 0; l < 8; l++) s[l] += line[l];
    }
    for (int l = 0; l < 8; l++) *(volatile uint64_t *)&read_sums[thread % MAX_THREAD] += s[l];
}

void ml_limits_read(const void *data, size_t n_bytes)
{
    ml_parallel_for_guided((int64_t)n_bytes, READ_TASK, read_range, (void *)(uintptr_t)data);
}

static void run_kernel(void *arg, int64_t begin, int64_t end, int thread)
{
    measurement *m = arg;
    double n_mac = 0;
    float sum = 0;
    for (int64_t i = begin; i < end; i++) sum += m->kernel(ROUNDS, &n_mac);
    m->sum[thread % MAX_THREAD] += (uint64_t)sum;
    if (begin == 0) m->n_mac = n_mac;
}

/* The best of several: work per second. */
static double best_mac_rate(double seconds, ml_limits_fn kernel, measurement *m)
{
    int64_t n = 4 * ml_thread_count();
    double best = 0, end = ml_clock_seconds() + seconds;
    m->kernel = kernel;
    do {
        double start = ml_clock_seconds();
        ml_parallel_for(n, 1, run_kernel, m);
        double rate = m->n_mac * (double)n / (ml_clock_seconds() - start);
        if (rate > best) best = rate;
    } while (ml_clock_seconds() < end);
    return best;
}

static double best_read_rate(double seconds, const void *data)
{
    double best = 0, end = ml_clock_seconds() + seconds;
    do {
        double start = ml_clock_seconds();
        ml_limits_read(data, READ_BYTES);
        double rate = READ_BYTES / (ml_clock_seconds() - start);
        if (rate > best) best = rate;
    } while (ml_clock_seconds() < end);
    return best;
}

ml_status ml_machine_measure(double seconds, ml_machine_limits *out, ml_error *err)
{
    ml_arena buffer; /* in huge pages, as repacked weights are */
    ML_TRY(ml_arena_init(&buffer, READ_BYTES, err));
    measurement *m = ml_calloc(1, sizeof *m);
    if (m) {
        memset(buffer.base, 1, READ_BYTES);
        out->read_bytes = best_read_rate(seconds / 3, buffer.base);
        out->int8_macs = best_mac_rate(seconds / 3, int8_kernel(ml_cpu_isa()), m);
        out->fp32_macs = best_mac_rate(seconds / 3, fp32_kernel(ml_cpu_isa()), m);
    }
    ml_arena_free(&buffer);
    ml_free(m);
    return m ? ML_OK : ml_fail_memory(err, sizeof *m, "measuring the machine");
}
