/* Threads: one parallel loop, on a pool that grows to what is asked of it.  The default count respects the affinity
 * mask, the cgroup's CPU quota and OMP_NUM_THREADS.  A loop that begins while another caller's runs is serial. */
#ifndef ML_BASE_THREAD_H
#define ML_BASE_THREAD_H

#include "moonlight.h" /* ml_thread_set_count */

/* Threads that ml_parallel_for uses; at least 1. */
int ml_thread_count(void);

/* `thread` is in [0, ml_thread_count()): the index of a per-thread scratch area. */
typedef void (*ml_task_fn)(void *arg, int64_t begin, int64_t end, int thread);

/* Call fn on disjoint ranges of at most `grain` (>= 1) that cover [0, n), dynamically scheduled.  Which thread
 * gets which range is not fixed, so fn's result for a range must not depend on it.  Range boundaries are
 * multiples of grain.  Returns when all are done.  Runs serially when called from inside another. */
void ml_parallel_for(int64_t n, int64_t grain, ml_task_fn fn, void *arg);
/* The same with ranges of one or more grains, long at first and one grain at the end: for work that likes long runs of
 * memory and must still end on all threads together. */
void ml_parallel_for_guided(int64_t n, int64_t grain, ml_task_fn fn, void *arg);

#endif
