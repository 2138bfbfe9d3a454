/* Monotonic time for measuring, in seconds. */
#ifndef ML_BASE_CLOCK_H
#define ML_BASE_CLOCK_H

#include <time.h>

static inline double ml_clock_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#endif
