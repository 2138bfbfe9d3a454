/* How much of the time of a generated token is reading the weights?
 *
 *   bench_decode MODEL [tokens] [depth] [threads]
 *
 * One token of the model, whose weights are repacked, and one plain read of as many bytes of the same memory take
 * turns, so that both meet the same minutes of a machine that others use.  Prints the quartiles of both in ms and what
 * the median token has of the median read's rate.  For one thread and for all, unless told. */
#include "base/clock.h"
#include "base/rng.h"
#include "base/thread.h"
#include "infer/loaded.h"
#include "infer/session.h"
#include "model/traffic.h"
#include "ops/cpu/limits.h"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_TOKEN = 4096 };

static void stop(const ml_error *err)
{
    fprintf(stderr, "%s\n", err->message);
    exit(1);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(ml_model *m, int64_t n, int64_t depth, size_t n_bytes, int n_thread)
{
    static double token[MAX_TOKEN], reading[MAX_TOKEN];
    static int32_t id[MAX_TOKEN + 16384];
    ml_error err = { 0 };
    ml_session *s;
    ml_rng rng = ml_rng_make(5, 0);
    for (int64_t i = 0; i < depth + n; i++) id[i] = (int32_t)ml_rng_below(&rng, (uint64_t)m->config.vocab_size);
    ml_thread_set_count(0);
    if (ml_session_make_as(m, depth + n, true, ML_SESSION_KV, &s, &err) != ML_OK) stop(&err);
    if (ml_session_append(s, id, depth, &err) != ML_OK) stop(&err);
    ml_thread_set_count(n_thread);
    const char *at = m->panels.base;
    for (int64_t i = 0; i < n; i++) {
        double start = ml_clock_seconds();
        if (ml_session_append_generated(s, id[0], &err) != ML_OK) stop(&err); /* its embedding is in memory */
        token[i] = 1e3 * (ml_clock_seconds() - start);
        start = ml_clock_seconds();
        ml_limits_read(at, n_bytes);
        reading[i] = 1e3 * (ml_clock_seconds() - start);
    }
    ml_session_free(s);
    qsort(token, (size_t)n, sizeof *token, by_value);
    qsort(reading, (size_t)n, sizeof *reading, by_value);
    printf("%7d  %6lld  %6.1f %6.1f %6.1f  %6.1f %6.1f %6.1f  %8.1f  %5.2f\n", n_thread, (long long)depth, token[n / 4],
           token[n / 2], token[3 * n / 4], reading[n / 4], reading[n / 2], reading[3 * n / 4],
           (double)n_bytes / reading[n / 2] * 1e-6, reading[n / 2] / token[n / 2]);
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0); /* lines appear as they are measured */
    const ml_memory_budget budget = { .kv_dtype = ML_SESSION_KV };
    ml_error err = { 0 };
    ml_model *m;
    int64_t n = argc > 2 ? atoll(argv[2]) : 64, depth = argc > 3 ? atoll(argv[3]) : 0;
    if (argc < 2 || n < 4 || n > MAX_TOKEN || depth < 0 || depth > 16384) return 2;
    if (ml_loaded_open_weights(argv[1], "on", &budget, &m, &err) != ML_OK) stop(&err);
    size_t n_bytes = (size_t)ml_model_traffic(m, 0, 0).weight_bytes;
    if (n_bytes > m->panels.capacity) n_bytes = m->panels.capacity;
    printf("%.3f GB a token\nthreads   depth  token, ms: quartiles  reading: quartiles  GB/s read  share\n",
           (double)n_bytes * 1e-9);
    int n_thread = argc > 4 ? atoi(argv[4]) : 0;
    if (n_thread) {
        measure(m, n, depth, n_bytes, n_thread);
    } else {
        measure(m, n, depth, n_bytes, 1);
        ml_thread_set_count(0);
        measure(m, n, depth, n_bytes, ml_thread_count());
    }
    ml_model_free(m);
    return 0;
}
