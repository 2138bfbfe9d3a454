/* Any bytes as a Parquet file: refused, or rows that lie within their bounds.
 *   cmake -B build/fuzz -DCMAKE_C_COMPILER=clang -DMOONLIGHT_FUZZ=ON -DMOONLIGHT_OPENMP=OFF
 *   cmake --build build/fuzz --target fuzz_parquet
 *   mkdir -p found && build/fuzz/tests/fuzz_parquet -max_total_time=60 found tests/golden/parquet */
#include "base/alloc.h"
#include "data/parquet.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A few bytes can mean billions of nulls: so many batches are enough. */
enum { MAX_BATCHES = 8 };

static void use_row(const ml_parquet *p, const ml_parquet_batch *batch, size_t row, ml_arena *arena)
{
    ml_error err;
    const ml_value *value;
    size_t sum = 0, n;
    const char *text;
    for (size_t k = 0; k < ml_parquet_column_count(p); k++) {
        if (!ml_parquet_is_text(p, k)) continue;
        ml_parquet_text(batch, row, k, &text, &n);
        if (n) sum += (size_t)text[0] + (size_t)text[n - 1];
    }
    volatile size_t sink = sum; // so that the reads stay
    (void)sink;
    ml_arena_release(arena, 0);
    ml_parquet_row(batch, row, arena, &value, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static ml_arena arena;
    ml_error err;
    ml_parquet *p;
    ml_parquet_batch batch = { 0 };
    if (!arena.base && ml_arena_init(&arena, 1 << 28, &err) != ML_OK) return 0;
    if (ml_parquet_open_memory(data, size, "fuzz", &p, &err) != ML_OK) return 0;
    for (int i = 0; i < MAX_BATCHES; i++) {
        if (ml_parquet_read(p, 1000, 1 << 20, &batch, &err) != ML_OK || batch.n_row == 0) break;
        for (size_t row = 0; row < batch.n_row; row++) use_row(p, &batch, row, &arena);
    }
    ml_parquet_batch_free(&batch);
    ml_parquet_free(p);
    return 0;
}
