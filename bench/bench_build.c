/* data build beside the tokenizer alone: the same documents, the same threads, in one run.
 *
 *   bench_build TOKENIZER FILE THREADS [ROUNDS]
 *
 * FILE is anything data build reads.  The tokenizer's figure is ml_tokenizer_encode_many over all texts, which lie in
 * memory already; data build's is the whole of it, from the file to a finished folder (in $TMPDIR or /tmp).  They take
 * turns; what is printed are the best and the median of ROUNDS (9), and the median of the rounds' ratios.  Also
 * printed: processor seconds. */
#include "base/alloc.h"
#include "base/clock.h"
#include "data/build.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_ROUNDS = 100 };

typedef struct {
    ml_text *doc;
    size_t n, capacity;
    uint64_t n_bytes;
} texts;

typedef struct {
    double wall, cpu;
} seconds;

static seconds now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (seconds){ ml_clock_seconds(), (double)t.tv_sec + 1e-9 * (double)t.tv_nsec };
}

static seconds since(seconds start)
{
    seconds end = now();
    return (seconds){ end.wall - start.wall, end.cpu - start.cpu };
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, compare);
    return n % 2 ? x[n / 2] : 0.5 * (x[n / 2 - 1] + x[n / 2]);
}

static ml_status load_texts(const char *path, texts *t, ml_error *err)
{
    ml_records *r;
    ml_record_batch batch = { 0 };
    ML_TRY(ml_records_open_texts(&path, 1, ML_RULE_MARKER, "<|endoftext|>", "text", &r, err));
    do {
        ML_TRY(ml_records_read(r, 65536, 8 << 20, &batch, err));
        for (size_t i = 0; i < batch.n; i++) {
            ml_text text;
            void *items = t->doc;
            ML_TRY(ml_record_text(&batch, i, "text", &text, err));
            ML_TRY(ml_grow(&items, &t->capacity, t->n + 1, sizeof *t->doc, err));
            t->doc = items;
            char *copy = ml_alloc(text.n_bytes);
            if (!copy) return ml_fail_memory(err, text.n_bytes, "a text");
            memcpy(copy, text.data, text.n_bytes);
            t->doc[t->n++] = (ml_text){ copy, text.n_bytes };
            t->n_bytes += text.n_bytes;
        }
    } while (batch.n);
    ml_record_batch_free(&batch);
    ml_records_free(r);
    return ML_OK;
}

static ml_status encode_once(const ml_tokenizer *t, const texts *all, ml_ids *ids, size_t *offsets, seconds *took,
                             ml_error *err)
{
    seconds start = now();
    ids->n = 0;
    ML_TRY(ml_tokenizer_encode_many(t, all->doc, all->n, false, ids, offsets, err));
    *took = since(start);
    return ML_OK;
}

static ml_status build_once(const ml_tokenizer *t, const char *path, const char *out, seconds *took, ml_error *err)
{
    ml_build_config c = { .input = &path,
                          .n_input = 1,
                          .out = out,
                          .marker = "<|endoftext|>",
                          .field = "text",
                          .val_fraction = 0.01,
                          .shard_tokens = 100000000,
                          .max_bad = 0.01 };
    ml_build_result result;
    ML_TRY(ml_dir_remove(out, err));
    seconds start = now();
    ML_TRY(ml_data_build(&c, t, &result, err));
    *took = since(start);
    return ML_OK;
}

static void print_row(const char *what, uint64_t n_bytes, const seconds *took, int n)
{
    double x[MAX_ROUNDS], mb = (double)n_bytes / 1e6;
    for (int i = 0; i < n; i++) x[i] = took[i].wall;
    double middle = median(x, n);
    printf("%-10s best %.3f s, %.1f MB/s   median %.3f s, %.1f MB/s", what, x[0], mb / x[0], middle, mb / middle);
    for (int i = 0; i < n; i++) x[i] = took[i].cpu;
    printf("   %.3f s of processors\n", median(x, n));
}

static void print_ratios(const seconds *tokenizer, const seconds *build, int n)
{
    double wall[MAX_ROUNDS], cpu[MAX_ROUNDS];
    for (int i = 0; i < n; i++) {
        wall[i] = tokenizer[i].wall / build[i].wall;
        cpu[i] = tokenizer[i].cpu / build[i].cpu;
    }
    double middle = median(wall, n);
    printf("data build's share of the tokenizer's speed: %.3f (%.3f to %.3f); by processor seconds %.3f\n", middle,
           wall[0], wall[n - 1], median(cpu, n));
}

static ml_status run(int argc, char **argv, ml_error *err)
{
    char out[256];
    ml_tokenizer *t;
    texts all = { 0 };
    ml_ids ids = { 0 };
    seconds tokenizer[MAX_ROUNDS], build[MAX_ROUNDS];
    const char *tmp = getenv("TMPDIR");
    int n_round = argc > 4 ? atoi(argv[4]) : 9;
    if (n_round < 1 || n_round > MAX_ROUNDS)
        return ml_fail(err, ML_EINVAL, "ROUNDS: expected 1 to %d, found %s", MAX_ROUNDS, argv[4]);
    snprintf(out, sizeof out, "%s/bench_build.%ld", tmp ? tmp : "/tmp", (long)getpid());
    ml_thread_set_count(atoi(argv[3]));
    ML_TRY(ml_tokenizer_open(argv[1], &t, err));
    ML_TRY(load_texts(argv[2], &all, err));
    size_t *offsets = ml_calloc(all.n + 1, sizeof *offsets);
    if (!offsets) return ml_fail_memory(err, all.n * sizeof *offsets, "the offsets");
    for (int i = 0; i < n_round; i++) {
        ML_TRY(encode_once(t, &all, &ids, offsets, &tokenizer[i], err));
        ML_TRY(build_once(t, argv[2], out, &build[i], err));
    }
    printf("%zu documents, %.1f MB of text, %zu ids\n", all.n, (double)all.n_bytes / 1e6, ids.n);
    print_row("tokenizer", all.n_bytes, tokenizer, n_round);
    print_row("data build", all.n_bytes, build, n_round);
    print_ratios(tokenizer, build, n_round);
    return ml_dir_remove(out, err);
}

int main(int argc, char **argv)
{
    ml_error err;
    if (argc < 4) {
        fprintf(stderr, "usage: bench_build TOKENIZER FILE THREADS [ROUNDS]\n");
        return 2;
    }
    if (run(argc, argv, &err) == ML_OK) return 0;
    fprintf(stderr, "bench_build: %s\n", err.message);
    return 1;
}
