/* The parallel loop: every range once, whatever the number of threads, from inside loops, from several callers, and
 * after a fork. */
#include "base/thread.h"

#include "support/support.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N = 1000 };

typedef struct {
    atomic_int seen[N];
    int64_t n, grain;
    int n_thread;
    atomic_int n_bad; /* ranges or thread numbers that are not as promised */
} visits;

static void visit(void *arg, int64_t begin, int64_t end, int thread)
{
    visits *v = arg;
    int64_t expected = begin + v->grain < v->n ? begin + v->grain : v->n;
    if (thread < 0 || thread >= v->n_thread || begin % v->grain != 0 || end != expected) v->n_bad++;
    for (int64_t i = begin; i < end; i++) v->seen[i]++;
}

static void check_loop(visits *v, int64_t n, int64_t grain)
{
    v->n = n;
    v->grain = grain;
    v->n_thread = ml_thread_count();
    for (int i = 0; i < N; i++) atomic_store(&v->seen[i], 0);
    ml_parallel_for(n, grain, visit, v);
    for (int i = 0; i < N; i++) {
        if (atomic_load(&v->seen[i]) != (i < n)) v->n_bad++;
    }
}

/* Ranges of whole grains, the last one cut at n. */
static void visit_long(void *arg, int64_t begin, int64_t end, int thread)
{
    visits *v = arg;
    if (thread < 0 || thread >= v->n_thread || begin % v->grain != 0 || end <= begin) v->n_bad++;
    if (end > v->n || (end % v->grain != 0 && end != v->n)) v->n_bad++;
    /* A thread takes at most a part of what is left, or one grain. */
    int64_t n_grain = (end - begin + v->grain - 1) / v->grain, left = (v->n - begin + v->grain - 1) / v->grain;
    if (v->n_thread > 1 && n_grain > 1 && 2 * n_grain > left) v->n_bad++;
    for (int64_t i = begin; i < end; i++) v->seen[i]++;
}

static void test_long_ranges_first(void **state)
{
    (void)state;
    static visits v;
    for (int count = 1; count <= 7; count++) {
        ml_thread_set_count(count);
        for (int64_t n = 0; n <= N; n = n * 3 + 1) {
            for (int64_t grain = 1; grain <= 64; grain *= 4) {
                v.n = n;
                v.grain = grain;
                v.n_thread = count;
                for (int i = 0; i < N; i++) atomic_store(&v.seen[i], 0);
                ml_parallel_for_guided(n, grain, visit_long, &v);
                for (int i = 0; i < N; i++) assert_int_equal(atomic_load(&v.seen[i]), i < n);
            }
        }
    }
    assert_int_equal(v.n_bad, 0);
    ml_thread_set_count(1);
}

static void test_every_range_once(void **state)
{
    (void)state;
    static visits v;
    static const int counts[] = { 1, 2, 3, 7, 2, 32, 5 };
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        ml_thread_set_count(counts[c]);
        for (int64_t n = 0; n <= N; n = n * 3 + 1) {
            for (int64_t grain = 1; grain <= 64; grain *= 4) check_loop(&v, n, grain);
        }
        for (int i = 0; i < 300; i++) check_loop(&v, 10, 1); /* one soon after the other */
        usleep(3000);                                        /* time to fall asleep */
    }
    assert_int_equal(v.n_bad, 0);
    ml_thread_set_count(1);
}

static void visit_nested(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    visits *all = arg;
    static visits inner[8];
    for (int64_t i = begin; i < end; i++) {
        check_loop(&inner[i], 50, 3);
        all->n_bad += inner[i].n_bad;
        all->seen[i]++;
    }
}

static void test_loops_inside_loops(void **state)
{
    (void)state;
    static visits v;
    ml_thread_set_count(4);
    ml_parallel_for(8, 1, visit_nested, &v);
    for (int i = 0; i < 8; i++) assert_int_equal(atomic_load(&v.seen[i]), 1);
    assert_int_equal(v.n_bad, 0);
    ml_thread_set_count(1);
}

static void *call_loops(void *arg)
{
    for (int i = 0; i < 200; i++) check_loop(arg, 200, 7);
    return NULL;
}

static void test_several_callers(void **state)
{
    (void)state;
    static visits v[4];
    pthread_t id[4];
    ml_thread_set_count(3);
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&id[i], NULL, call_loops, &v[i]), 0);
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_join(id[i], NULL), 0);
    for (int i = 0; i < 4; i++) assert_int_equal(v[i].n_bad, 0);
    ml_thread_set_count(1);
}

static void test_after_a_fork(void **state)
{
    (void)state;
    static visits v;
    ml_thread_set_count(3);
    check_loop(&v, 100, 1);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        for (int i = 0; i < 20; i++) check_loop(&v, 100, 1);
        _exit(v.n_bad != 0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    check_loop(&v, 100, 1);
    assert_int_equal(v.n_bad, 0);
    ml_thread_set_count(1);
}

/* ---- a worker that does not get to run ---- */

static pthread_t worker_id;
static atomic_bool worker_known, held, release_it;

static void hold(int number)
{
    (void)number;
    atomic_store(&held, true);
    while (!atomic_load(&release_it)) {
    }
}

/* Every thread waits for the other, so that the worker certainly takes part. */
static void meet(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)begin;
    (void)end;
    atomic_int *n_here = arg;
    if (thread == 1) {
        worker_id = pthread_self();
        atomic_store(&worker_known, true);
    }
    atomic_fetch_add(n_here, 1);
    while (atomic_load(n_here) < 2) {
    }
}

/* A loop ends without a worker that was invited and has not begun: here it is in a signal's handler. */
static void test_starved_worker(void **state)
{
    (void)state;
    static visits v;
    static atomic_int n_here;
    struct sigaction action = { .sa_handler = hold }, before;
    ml_thread_set_count(2);
    ml_parallel_for(2, 1, meet, &n_here);
    assert_true(atomic_load(&worker_known));
    usleep(20000); /* it sleeps by now, or will in the handler: either way it has not begun */
    assert_int_equal(sigaction(SIGUSR1, &action, &before), 0);
    assert_int_equal(pthread_kill(worker_id, SIGUSR1), 0);
    while (!atomic_load(&held)) {
    }
    alarm(60); /* ends the test where a loop waits for the worker */
    for (int i = 0; i < 100; i++) check_loop(&v, N, 7);
    alarm(0);
    atomic_store(&release_it, true);
    for (int i = 0; i < 100; i++) check_loop(&v, N, 7);
    atomic_store(&n_here, 0);
    ml_parallel_for(2, 1, meet, &n_here); /* it takes part again */
    assert_int_equal(v.n_bad, 0);
    sigaction(SIGUSR1, &before, NULL);
    ml_thread_set_count(1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_range_once),   cmocka_unit_test(test_long_ranges_first),
        cmocka_unit_test(test_loops_inside_loops), cmocka_unit_test(test_starved_worker),
        cmocka_unit_test(test_several_callers),    cmocka_unit_test(test_after_a_fork)
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
