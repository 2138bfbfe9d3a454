/* The parallel loop: every range once, whatever the number of threads, from inside loops, from several callers, and
 * after a fork. */
#include "base/thread.h"

#include "support/support.h"

#include <pthread.h>
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
#ifdef __SANITIZE_THREAD__
    skip(); /* the sanitizer has no threads behind a fork */
#endif
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

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_every_range_once),
                                        cmocka_unit_test(test_long_ranges_first),
                                        cmocka_unit_test(test_loops_inside_loops),
                                        cmocka_unit_test(test_several_callers), cmocka_unit_test(test_after_a_fork) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
