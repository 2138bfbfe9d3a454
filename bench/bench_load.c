/* What does getting a model ready cost, and how much of that is memory that nobody has used yet?
 *
 *   bench_load MODEL [rounds]
 *
 * Touches as many bytes as the repacked weights take, opens the model and repacks it, each twice at least: the first
 * time a virtual machine's host has to find the pages, later ones show what the program itself costs. */
#include "base/clock.h"
#include "base/thread.h"
#include "infer/loaded.h"
#include "infer/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void stop(const ml_error *err)
{
    fprintf(stderr, "%s\n", err->message);
    exit(1);
}

static void fill(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    memset((char *)arg + begin, 1, (size_t)(end - begin));
}

static void report(const char *what, double seconds, size_t n_bytes)
{
    printf("%-22s %7.3f s  %6.2f GB/s\n", what, seconds, (double)n_bytes / seconds * 1e-9);
}

/* In the same large pages as repacked weights. */
static void touch(size_t n_bytes)
{
    ml_error err = { 0 };
    ml_arena memory;
    if (ml_arena_init(&memory, n_bytes, &err) != ML_OK) stop(&err);
    double start = ml_clock_seconds();
    ml_parallel_for((int64_t)n_bytes, (int64_t)16 << 20, fill, memory.base);
    report("touching memory", ml_clock_seconds() - start, n_bytes);
    ml_arena_free(&memory);
}

static ml_model *open_model(const char *path)
{
    const ml_memory_budget budget = { .kv_dtype = ML_SESSION_KV };
    ml_error err = { 0 };
    ml_model *m;
    double start = ml_clock_seconds();
    if (ml_loaded_open_weights(path, "off", &budget, &m, &err) != ML_OK) stop(&err);
    printf("%-22s %7.3f s\n", "opening", ml_clock_seconds() - start);
    return m;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0); /* lines appear as they are measured */
    int n = argc > 2 ? atoi(argv[2]) : 3;
    if (argc < 2 || n < 1) return 2;
    for (int i = 0; i < n; i++) {
        ml_error err = { 0 };
        ml_model *m = open_model(argv[1]);
        size_t n_bytes = ml_model_repack_bytes(m);
        touch(n_bytes);
        double start = ml_clock_seconds();
        if (ml_model_repack(m, &err) != ML_OK) stop(&err);
        report("repacking", ml_clock_seconds() - start, n_bytes);
        ml_model_free(m);
    }
    return 0;
}
