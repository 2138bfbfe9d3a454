/* A pool of threads that take ranges from one job at a time.
 *
 * A job is announced by a word: its number, and how many workers it wants.  Worker i joins when i is below that.  The
 * caller takes ranges as well, and returns when every worker it wanted has left; until then the job's fields stay.
 * Those who wait spin for a while, since the next loop of a forward pass comes within microseconds, and then sleep, so
 * that a core somebody else needs is not held. */
#include "base/thread.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_THREAD = 1024, SPINS = 4000 /* of some 10 to 40 ns */ };

typedef struct {
    int64_t n, grain, n_range;
    int64_t share; /* 0, or: a thread takes 1 / share of the ranges that are left at once */
    ml_task_fn fn;
    void *arg;
    atomic_llong next; /* range that nobody has taken */
    atomic_int n_left; /* workers that have not left */
} job;

static struct {
    pthread_mutex_t busy;  /* held while a job runs: another caller's loop is serial meanwhile */
    pthread_mutex_t sleep; /* guards what follows */
    pthread_cond_t wake, done;
    int n_sleeping;
    atomic_bool caller_sleeps;
    atomic_ullong word; /* number << 16 | workers wanted */
    int n_worker;
    job current;
} pool = { .busy = PTHREAD_MUTEX_INITIALIZER,
           .sleep = PTHREAD_MUTEX_INITIALIZER,
           .wake = PTHREAD_COND_INITIALIZER,
           .done = PTHREAD_COND_INITIALIZER };

static int chosen_count; /* 0: default */
static _Thread_local bool in_loop;

/* ---- how many ---- */

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
    static atomic_int cached;
    int n = atomic_load(&cached);
    if (n) return n;
    cpu_set_t set;
    n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    int quota = cgroup_cpu_quota();
    if (quota && quota < n) n = quota;
    /* What other programs of this kind are told. */
    const char *wanted = getenv("OMP_NUM_THREADS");
    int asked = wanted ? atoi(wanted) : 0;
    if (asked > 0) n = asked;
    n = n < 1 ? 1 : n > MAX_THREAD ? MAX_THREAD : n;
    atomic_store(&cached, n);
    return n;
}

int ml_thread_count(void)
{
    return chosen_count ? chosen_count : default_count();
}

void ml_thread_set_count(int n)
{
    chosen_count = n < 0 ? 0 : n > MAX_THREAD ? MAX_THREAD : n;
}

/* ---- the pool ---- */

static void spin_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* How many ranges from *i on are the caller's; 0 when there are none left. */
static int64_t claim(job *j, long long *i)
{
    if (!j->share) {
        *i = atomic_fetch_add_explicit(&j->next, 1, memory_order_relaxed);
        return *i < j->n_range;
    }
    *i = atomic_load_explicit(&j->next, memory_order_relaxed);
    for (;;) {
        int64_t left = j->n_range - *i, n = left / j->share;
        if (left <= 0) return 0;
        if (n < 1) n = 1;
        if (atomic_compare_exchange_weak_explicit(&j->next, i, *i + n, memory_order_relaxed, memory_order_relaxed)) {
            return n;
        }
    }
}

static void take_ranges(job *j, int thread)
{
    in_loop = true;
    long long i;
    for (int64_t n; (n = claim(j, &i)) > 0;) {
        int64_t begin = i * j->grain, end = begin + n * j->grain;
        j->fn(j->arg, begin, end < j->n ? end : j->n, thread);
    }
    in_loop = false;
}

/* The next word after `seen`. */
static unsigned long long wait_for_word(unsigned long long seen)
{
    for (int i = 0; i < SPINS; i++) {
        unsigned long long word = atomic_load_explicit(&pool.word, memory_order_acquire);
        if (word != seen) return word;
        spin_pause();
    }
    pthread_mutex_lock(&pool.sleep);
    pool.n_sleeping++;
    while (atomic_load(&pool.word) == seen) pthread_cond_wait(&pool.wake, &pool.sleep);
    pool.n_sleeping--;
    pthread_mutex_unlock(&pool.sleep);
    return atomic_load_explicit(&pool.word, memory_order_acquire);
}

static void *work(void *arg)
{
    int worker = (int)(intptr_t)arg;
    /* A worker is born before the job that wants it is announced. */
    unsigned long long seen = 0;
    for (;;) {
        seen = wait_for_word(seen);
        if (worker >= (int)(seen & 0xffff)) continue;
        take_ranges(&pool.current, worker + 1);
        if (atomic_fetch_sub(&pool.current.n_left, 1) > 1) continue;
        if (!atomic_load(&pool.caller_sleeps)) continue;
        pthread_mutex_lock(&pool.sleep);
        pthread_cond_signal(&pool.done);
        pthread_mutex_unlock(&pool.sleep);
    }
    return NULL;
}

/* The child of a fork has the caller's thread alone. */
static void forget_workers(void)
{
    pool.n_worker = 0;
    pool.n_sleeping = 0;
    atomic_store(&pool.word, 0);
    pthread_mutex_init(&pool.busy, NULL);
    pthread_mutex_init(&pool.sleep, NULL);
    pthread_cond_init(&pool.wake, NULL);
    pthread_cond_init(&pool.done, NULL);
}

/* Up to n workers; how many there are.  Called with `busy` held. */
static int need_workers(int n)
{
    static bool registered;
    if (!registered) registered = pthread_atfork(NULL, NULL, forget_workers) == 0;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, (size_t)8 << 20); /* kernels keep tiles on the stack */
    while (pool.n_worker < n) {
        pthread_t id;
        /* A new worker must not take part in a job that was announced before it came. */
        atomic_store(&pool.word, 0);
        if (pthread_create(&id, &attr, work, (void *)(intptr_t)pool.n_worker) != 0) break;
        pool.n_worker++;
    }
    pthread_attr_destroy(&attr);
    return pool.n_worker < n ? pool.n_worker : n;
}

static void announce(int n_worker)
{
    static unsigned long long number;
    atomic_store(&pool.word, ++number << 16 | (unsigned long long)n_worker);
    pthread_mutex_lock(&pool.sleep);
    if (pool.n_sleeping) pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.sleep);
}

static void wait_for_workers(void)
{
    atomic_int *left = &pool.current.n_left;
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(left, memory_order_acquire) == 0) return;
        spin_pause();
    }
    pthread_mutex_lock(&pool.sleep);
    atomic_store(&pool.caller_sleeps, true);
    while (atomic_load(left) > 0) pthread_cond_wait(&pool.done, &pool.sleep);
    atomic_store(&pool.caller_sleeps, false);
    pthread_mutex_unlock(&pool.sleep);
}

static void run_serially(int64_t n, int64_t grain, ml_task_fn fn, void *arg)
{
    for (int64_t begin = 0; begin < n; begin += grain) {
        fn(arg, begin, begin + grain < n ? begin + grain : n, 0);
    }
}

static void run(int64_t n, int64_t grain, bool guided, ml_task_fn fn, void *arg)
{
    if (n <= 0) return;
    if (grain < 1) grain = 1;
    int64_t n_range = (n + grain - 1) / grain;
    int n_thread = ml_thread_count();
    if (n_thread > n_range) n_thread = (int)n_range;
    if (n_thread <= 1 || in_loop || pthread_mutex_trylock(&pool.busy) != 0) {
        run_serially(n, guided ? n : grain, fn, arg);
        return;
    }
    int n_worker = need_workers(n_thread - 1);
    job *j = &pool.current;
    j->n = n;
    j->grain = grain;
    j->n_range = n_range;
    j->share = guided ? 2 * n_thread : 0;
    j->fn = fn;
    j->arg = arg;
    atomic_store_explicit(&j->next, 0, memory_order_relaxed);
    atomic_store_explicit(&j->n_left, n_worker, memory_order_relaxed);
    announce(n_worker);
    take_ranges(j, 0);
    wait_for_workers();
    pthread_mutex_unlock(&pool.busy);
}

void ml_parallel_for(int64_t n, int64_t grain, ml_task_fn fn, void *arg)
{
    run(n, grain, false, fn, arg);
}

void ml_parallel_for_guided(int64_t n, int64_t grain, ml_task_fn fn, void *arg)
{
    run(n, grain, true, fn, arg);
}
