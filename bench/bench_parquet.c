/* Parquet reading on one thread: decoded text a second of processor time, so that others on the machine count little.
 *
 *   bench_parquet FILE COLUMN [SECONDS]      prints: rows, MB of text, MB/s of the best pass, as texts or as values
 *
 * bench_parquet.py writes files of several compressions from a text and sets pyarrow beside. */
#include "base/clock.h"
#include "data/parquet.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    size_t n_row, n_bytes;
} totals;

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Bytes of all texts in a value. */
static size_t text_bytes(const ml_value *value)
{
    if (value->kind == ML_VALUE_TEXT) return value->n;
    size_t n = 0;
    bool has_children = value->kind == ML_VALUE_ARRAY || value->kind == ML_VALUE_OBJECT;
    for (const ml_value *v = has_children ? value->child : NULL; v; v = v->next) n += text_bytes(v);
    return n;
}

static ml_status pass(const char *path, const char *column, ml_arena *arena, totals *t, ml_error *err)
{
    ml_parquet *p;
    ml_parquet_batch batch = { 0 };
    ML_TRY(ml_parquet_open(path, &p, err));
    int64_t found = ml_parquet_find(p, column);
    if (found < 0) return ml_fail(err, ML_EINVAL, "%s: no column \"%s\"", path, column);
    size_t k = (size_t)found;
    ML_TRY(ml_parquet_select(p, &k, 1, err));
    *t = (totals){ 0 };
    while (true) {
        ML_TRY(ml_parquet_read(p, 65536, 8 << 20, &batch, err));
        if (batch.n_row == 0) break;
        for (size_t row = 0; row < batch.n_row; row++) {
            const char *text;
            size_t n;
            const ml_value *value;
            if (ml_parquet_is_text(p, k)) {
                ml_parquet_text(&batch, row, k, &text, &n);
            } else {
                ml_arena_release(arena, 0);
                ML_TRY(ml_parquet_row(&batch, row, arena, &value, err));
                n = text_bytes(value);
            }
            t->n_bytes += n;
        }
        t->n_row += batch.n_row;
    }
    ml_parquet_batch_free(&batch);
    ml_parquet_free(p);
    return ML_OK;
}

int main(int argc, char **argv)
{
    ml_error err;
    totals t;
    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: bench_parquet FILE COLUMN [SECONDS]\n");
        return 2;
    }
    ml_arena arena;
    if (ml_arena_init(&arena, 1 << 30, &err) != ML_OK) return 1;
    double best = 1e30, seconds = argc == 4 ? atof(argv[3]) : 2, begin = ml_clock_seconds();
    do {
        double start = cpu_seconds();
        if (pass(argv[1], argv[2], &arena, &t, &err) != ML_OK) {
            fprintf(stderr, "bench_parquet: %s\n", err.message);
            return 1;
        }
        double took = cpu_seconds() - start;
        if (took < best) best = took;
    } while (ml_clock_seconds() - begin < seconds);
    printf("%zu rows %.1f MB %.0f MB/s\n", t.n_row, (double)t.n_bytes / 1e6, (double)t.n_bytes / best / 1e6);
    return 0;
}
