#include "base/memory.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

int64_t ml_memory_resident(void)
{
    long long size = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file) return 0;
    if (fscanf(file, "%lld %lld", &size, &resident) != 2) resident = 0;
    fclose(file);
    return resident * sysconf(_SC_PAGESIZE);
}

int64_t ml_memory_peak(void)
{
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
    return (int64_t)usage.ru_maxrss * 1024;
}

/* A file that holds one number; -1 when it does not ("max" means no limit). */
static int64_t read_number(const char *path)
{
    long long n = -1;
    FILE *file = fopen(path, "re");
    if (!file) return -1;
    if (fscanf(file, "%lld", &n) != 1) n = -1;
    fclose(file);
    return n;
}

int64_t ml_memory_available(void)
{
    int64_t available = INT64_MAX;
    FILE *file = fopen("/proc/meminfo", "re");
    char line[256];
    while (file && fgets(line, sizeof line, file)) {
        long long kib;
        if (sscanf(line, "MemAvailable: %lld kB", &kib) == 1) available = (int64_t)kib * 1024;
    }
    if (file) fclose(file);
    int64_t limit = read_number("/sys/fs/cgroup/memory.max"), used = read_number("/sys/fs/cgroup/memory.current");
    if (limit >= 0 && used >= 0 && limit - used < available) available = limit > used ? limit - used : 0;
    return available;
}
