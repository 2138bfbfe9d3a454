/* How much memory this process uses and may still have. */
#ifndef ML_BASE_MEMORY_H
#define ML_BASE_MEMORY_H

#include <stdint.h>

/* Bytes resident now, and the largest they ever were; 0 where the system does not say. */
int64_t ml_memory_resident(void);
int64_t ml_memory_peak(void);
/* Bytes that can still be taken without swapping: the kernel's MemAvailable, or what the limit of this process's
 * cgroup, or of one around it, leaves when that is less; INT64_MAX where neither is known.  Files in the page cache can
 * be dropped and count as available. */
int64_t ml_memory_available(void);
/* What the cgroup (of either version) in this folder leaves; INT64_MAX when it has no limit. */
int64_t ml_memory_available_in_cgroup(const char *folder);

#endif
