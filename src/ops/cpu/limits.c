#include "ops/cpu/limits.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/thread.h"

#include <string.h>

enum { MAX_THREAD = 1024, READ_BYTES = 512 << 20, READ_TASK = 1 << 18, ROUNDS = 200000 };

static ml_limits_fn int8_kernel(ml_isa isa)
{
    if (isa == ML_ISA_AVX512VNNI) return ml_limits_int8_avx512vnni;
    if (isa == ML_ISA_AVXVNNI) return ml_limits_int8_avxvnni;
    return isa >= ML_ISA_AVX2 ? ml_limits_int8_avx2 : ml_limits_int8_scalar;
}

static ml_limits_fn fp32_kernel(ml_isa isa)
{
    if (isa >= ML_ISA_AVX512) return ml_limits_fp32_avx512;
    return isa >= ML_ISA_AVX2 ? ml_limits_fp32_avx2 : ml_limits_fp32_scalar;
}

typedef struct {
    const uint64_t *data;
    ml_limits_fn kernel;
    double n_mac;             /* of one task */
    uint64_t sum[MAX_THREAD]; /* looked at by nobody, but the compiler cannot know */
} measurement;

static void read_range(void *arg, int64_t begin, int64_t end, int thread)
{
    measurement *m = arg;
    uint64_t s[8] = { 0 };
    for (int64_t i = begin / 8; i < end / 8; i += 8) {
        for (int l = 0; l < 8; l++) s[l] += m->data[i + l];
    }
    for (int l = 0; l < 8; l++) m->sum[thread % MAX_THREAD] += s[l];
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
static double best_rate(double seconds, int64_t n, int64_t grain, ml_task_fn fn, measurement *m, double work)
{
    double best = 0, end = ml_clock_seconds() + seconds;
    do {
        double start = ml_clock_seconds();
        ml_parallel_for(n, grain, fn, m);
        double rate = (work > 0 ? work : m->n_mac * (double)n) / (ml_clock_seconds() - start);
        if (rate > best) best = rate;
    } while (ml_clock_seconds() < end);
    return best;
}

ml_status ml_machine_measure(double seconds, ml_machine_limits *out, ml_error *err)
{
    uint64_t *buffer = ml_alloc(READ_BYTES);
    measurement *m = ml_calloc(1, sizeof *m);
    ml_status status = ML_OK;
    if (buffer && m) {
        memset(buffer, 1, READ_BYTES);
        m->data = buffer;
        out->read_bytes = best_rate(seconds / 3, READ_BYTES, READ_TASK, read_range, m, READ_BYTES);
        m->kernel = int8_kernel(ml_cpu_isa());
        out->int8_macs = best_rate(seconds / 3, 4 * ml_thread_count(), 1, run_kernel, m, 0);
        m->kernel = fp32_kernel(ml_cpu_isa());
        out->fp32_macs = best_rate(seconds / 3, 4 * ml_thread_count(), 1, run_kernel, m, 0);
    } else {
        status = ml_fail_memory(err, READ_BYTES, "measuring the machine");
    }
    ml_free(buffer);
    ml_free(m);
    return status;
}
