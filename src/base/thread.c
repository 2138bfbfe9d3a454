#include "base/thread.h"

#include <sched.h>
#include <stdio.h>

#ifdef _OPENMP
#include <omp.h>
#endif

static int chosen_count; /* 0: default */

/* CPUs that the cgroup's quota is worth, rounded up; 0 when there is no quota. */
static int cgroup_cpu_quota(void)
{
    long long quota = -1, period = 0;
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (file) {
        if (fscanf(file, "%lld %lld", &quota, &period) != 2) quota = -1;
        fclose(file);
    }
    if (quota <= 0 || period <= 0) return 0;
    long long n = (quota + period - 1) / period;
    return n < 1 ? 1 : n > 4096 ? 4096 : (int)n;
}

static int default_count(void)
{
#ifdef _OPENMP
    static int cached;
    if (cached) return cached;
    int n = omp_get_max_threads();
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) < n) n = CPU_COUNT(&set);
    int quota = cgroup_cpu_quota();
    if (quota && quota < n) n = quota;
    cached = n < 1 ? 1 : n;
    return cached;
#else
    (void)cgroup_cpu_quota;
    return 1;
#endif
}

int ml_thread_count(void)
{
    return chosen_count ? chosen_count : default_count();
}

void ml_thread_set_count(int n)
{
#ifdef _OPENMP
    chosen_count = n < 0 ? 0 : n;
#else
    (void)n;
    chosen_count = 0;
#endif
}

void ml_parallel_for(int64_t n, int64_t grain, ml_task_fn fn, void *arg)
{
    if (n <= 0) return;
    if (grain < 1) grain = 1;
#ifdef _OPENMP
    int n_threads = ml_thread_count();
    int64_t n_ranges = (n + grain - 1) / grain;
    if (n_threads > 1 && n_ranges > 1 && !omp_in_parallel()) {
        if (n_threads > n_ranges) n_threads = (int)n_ranges;
#pragma omp parallel for num_threads(n_threads) schedule(dynamic, 1)
        for (int64_t i = 0; i < n_ranges; i++) {
            int64_t begin = i * grain;
            int64_t end = begin + grain < n ? begin + grain : n;
            fn(arg, begin, end, omp_get_thread_num());
        }
        return;
    }
#endif
    for (int64_t begin = 0; begin < n; begin += grain) {
        fn(arg, begin, begin + grain < n ? begin + grain : n, 0);
    }
}
