/* A pool of threads that take ranges from one job at a time.
 *
 * A job is announced by a word: its number, how many workers it wants, whether it is closed, and how many workers are
 * inside.  Worker i enters, by adding itself to the word, when i is below the number wanted and the job is open.  The
 * caller takes ranges as well; when there are none left it closes the job and returns when nobody is inside: it waits
 * for who has begun, not for a worker that the system has not run yet.  The job's fields stay while anybody is inside.
 * Those who wait spin for a while, since the next loop of a forward pass comes within microseconds, and then sleep, so
 * that a core somebody else needs is not held.  Each sleeps on a semaphore of its own: waking a worker does not wait
 * for one that was woken before and has not run (as pthread_cond_broadcast may). */
#include "base/thread.h"

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
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
} job;

/* The parts of the word, from the low bits up. */
enum { COUNT_BITS = 11, WANTED_AT = COUNT_BITS, CLOSED_AT = 2 * COUNT_BITS, NUMBER_AT = CLOSED_AT + 1 };
static const unsigned long long INSIDE = (1ull << COUNT_BITS) - 1, CLOSED = 1ull << CLOSED_AT;
_Static_assert(MAX_THREAD < 1 << COUNT_BITS, "as many workers can be counted");

typedef struct {
    atomic_bool asleep; /* whoever makes it false again wakes the sleeper, or is the sleeper and stays awake */
    sem_t wake;
} sleeper;

static struct {
    pthread_mutex_t busy; /* held while a job runs: another caller's loop is serial meanwhile */
    sleeper worker[MAX_THREAD], caller;
    atomic_ullong word; /* see INSIDE .. NUMBER; 0: no job */
    int n_worker;
    job current;
} pool = { .busy = PTHREAD_MUTEX_INITIALIZER };

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

static void wait_for_wake(sleeper *s)
{
    while (sem_wait(&s->wake) != 0) {
    } /* a signal came */
}

static void wake(sleeper *s)
{
    if (atomic_load(&s->asleep) && atomic_exchange(&s->asleep, false)) sem_post(&s->wake);
}

/* The next word whose number is not that of `seen`. */
static unsigned long long wait_for_word(unsigned long long seen, sleeper *me)
{
    unsigned long long number = seen >> NUMBER_AT;
    for (int i = 0; i < SPINS; i++) {
        unsigned long long word = atomic_load_explicit(&pool.word, memory_order_acquire);
        if (word >> NUMBER_AT != number) return word;
        spin_pause();
    }
    for (;;) {
        atomic_store(&me->asleep, true);
        unsigned long long word = atomic_load(&pool.word);
        if (word >> NUMBER_AT == number || !atomic_exchange(&me->asleep, false)) wait_for_wake(me);
        if (word >> NUMBER_AT != number) return word;
    }
}

/* Whether the worker has a place in the job of this word and came before it was closed. */
static bool enter(int worker, unsigned long long word)
{
    unsigned long long now = word;
    while (now >> NUMBER_AT == word >> NUMBER_AT) {
        if (now & CLOSED || worker >= (int)(now >> WANTED_AT & INSIDE)) return false;
        if (atomic_compare_exchange_weak(&pool.word, &now, now + 1)) return true;
    }
    return false;
}

static void leave(void)
{
    unsigned long long before = atomic_fetch_sub(&pool.word, 1);
    if ((before & INSIDE) == 1 && before & CLOSED) wake(&pool.caller);
}

static void *work(void *arg)
{
    int worker = (int)(intptr_t)arg;
    /* A worker is born before the job that wants it is announced. */
    unsigned long long seen = 0;
    for (;;) {
        seen = wait_for_word(seen, &pool.worker[worker]);
        if (!enter(worker, seen)) continue;
        take_ranges(&pool.current, worker + 1);
        leave();
    }
    return NULL;
}

static void start_awake(sleeper *s)
{
    atomic_store(&s->asleep, false);
    sem_init(&s->wake, 0, 0);
}

/* The child of a fork has the caller's thread alone. */
static void forget_workers(void)
{
    pool.n_worker = 0;
    atomic_store(&pool.word, 0);
    pthread_mutex_init(&pool.busy, NULL);
}

/* Up to n workers; how many there are.  Called with `busy` held. */
static int need_workers(int n)
{
    static bool registered;
    if (!registered) registered = pthread_atfork(NULL, NULL, forget_workers) == 0;
    if (pool.n_worker == 0) start_awake(&pool.caller);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, (size_t)8 << 20); /* kernels keep tiles on the stack */
    while (pool.n_worker < n) {
        pthread_t id;
        /* A new worker must not take part in a job that was announced before it came. */
        atomic_store(&pool.word, 0);
        start_awake(&pool.worker[pool.n_worker]);
        if (pthread_create(&id, &attr, work, (void *)(intptr_t)pool.n_worker) != 0) break;
        pool.n_worker++;
    }
    pthread_attr_destroy(&attr);
    return pool.n_worker < n ? pool.n_worker : n;
}

static void announce(int n_worker)
{
    static unsigned long long number;
    atomic_store(&pool.word, ++number << NUMBER_AT | (unsigned long long)n_worker << WANTED_AT);
    for (int i = 0; i < n_worker; i++) wake(&pool.worker[i]);
}

/* Nobody enters any more; returns when the last worker has left. */
static void close_job(void)
{
    if ((atomic_fetch_or(&pool.word, CLOSED) & INSIDE) == 0) return;
    for (int i = 0; i < SPINS; i++) {
        if ((atomic_load_explicit(&pool.word, memory_order_acquire) & INSIDE) == 0) return;
        spin_pause();
    }
    /* A worker that left an earlier job may wake its caller only now. */
    for (bool empty = false; !empty;) {
        atomic_store(&pool.caller.asleep, true);
        empty = (atomic_load(&pool.word) & INSIDE) == 0;
        if (!empty || !atomic_exchange(&pool.caller.asleep, false)) wait_for_wake(&pool.caller);
    }
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
    announce(n_worker);
    take_ranges(j, 0);
    close_job();
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
