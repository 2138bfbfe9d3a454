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

/* Bytes of files that a cgroup's memory.stat counts. */
static int64_t read_file_pages(const char *path)
{
    int64_t sum = 0;
    char line[256];
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file)) {
        long long n;
        if (sscanf(line, "inactive_file %lld", &n) == 1 || sscanf(line, "active_file %lld", &n) == 1) sum += n;
    }
    if (file) fclose(file);
    return sum;
}

/* One of two names: version 2's, version 1's. */
static int64_t read_either(const char *folder, const char *name, const char *old_name)
{
    char path[512];
    snprintf(path, sizeof path, "%.400s/%s", folder, name);
    int64_t n = read_number(path);
    if (n >= 0) return n;
    snprintf(path, sizeof path, "%.400s/%s", folder, old_name);
    return read_number(path);
}

int64_t ml_memory_available_in_cgroup(const char *folder)
{
    char stat[512];
    int64_t limit = read_either(folder, "memory.max", "memory.limit_in_bytes");
    int64_t used = read_either(folder, "memory.current", "memory.usage_in_bytes");
    if (limit < 0 || used < 0) return INT64_MAX;
    snprintf(stat, sizeof stat, "%.400s/memory.stat", folder);
    int64_t files = read_file_pages(stat);
    used -= files < used ? files : used;
    return limit > used ? limit - used : 0;
}

/* The least that a cgroup and those around it leave: "root/path", "root/pa", ... "root". */
static int64_t least_available(const char *root, const char *path)
{
    char folder[600];
    int64_t least = INT64_MAX;
    snprintf(folder, sizeof folder, "%s%.500s", root, path);
    while (strlen(folder) >= strlen(root)) {
        int64_t here = ml_memory_available_in_cgroup(folder);
        if (here < least) least = here;
        *strrchr(folder, '/') = 0;
    }
    return least;
}

static int64_t available_in_cgroups(void)
{
    char line[512];
    int64_t least = least_available("/sys/fs/cgroup", ""); /* of a container */
    FILE *file = fopen("/proc/self/cgroup", "re");
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        const char *old = strstr(line, ":memory:");
        int64_t here = INT64_MAX;
        if (!strncmp(line, "0::/", 4)) here = least_available("/sys/fs/cgroup", line + 3);
        if (old) here = least_available("/sys/fs/cgroup/memory", old + strlen(":memory:"));
        if (here < least) least = here;
    }
    if (file) fclose(file);
    return least;
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
    int64_t limited = available_in_cgroups();
    return limited < available ? limited : available;
}
