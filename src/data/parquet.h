/* Parquet files, read in batches of rows.
 *
 *   ml_parquet_open(path, &p, err)
 *   ml_parquet_select(p, columns, n, err)           top-level columns; without it all are read
 *   while (ml_parquet_read(p, 65536, 8 << 20, &batch, err) == ML_OK && batch.n_row)
 *       for each row: ml_parquet_text(&batch, row, column, ...) or ml_parquet_row(&batch, row, ...)
 *
 * Booleans, numbers, texts, and structs, lists and maps of them to any depth that makes sense, as datasets have them;
 * data pages of both versions; every encoding but the deprecated bit-packed levels; snappy, gzip, brotli, zstd, lz4
 * of both kinds.  Bytes that are not UTF-8 are a malformed row only where they are asked for.
 *
 * A file is not trusted: every length is checked and messages name the offset.  Memory holds one batch and, of each
 * column that is read, one page and one dictionary. */
#ifndef ML_DATA_PARQUET_H
#define ML_DATA_PARQUET_H

#include "data/parquet_schema.h"
#include "data/value.h"

typedef struct ml_parquet ml_parquet;

/* Maps the file.  ML_EFORMAT for a damaged file, ML_EINVAL for an encrypted one. */
ml_status ml_parquet_open(const char *path, ml_parquet **out, ml_error *err);
/* A file in memory, which must outlive it; `name` is for messages. */
ml_status ml_parquet_open_memory(const uint8_t *data, size_t size, const char *name, ml_parquet **out, ml_error *err);
void ml_parquet_free(ml_parquet *p);

uint64_t ml_parquet_file_size(const ml_parquet *p);
uint64_t ml_parquet_row_count(const ml_parquet *p);
/* The row: its children are the columns.  Lives as long as p. */
const ml_parquet_node *ml_parquet_schema_of(const ml_parquet *p);
size_t ml_parquet_column_count(const ml_parquet *p);
/* Names of the columns with commas between, as far as they fit, for messages. */
void ml_parquet_column_names(const ml_parquet *p, char *out, size_t size);
/* Number of the column with this name, -1 if there is none. */
int64_t ml_parquet_find(const ml_parquet *p, const char *name);
/* Whether it holds one text (or null) in each row. */
bool ml_parquet_is_text(const ml_parquet *p, size_t column);

/* Before reading: only these columns, by number. */
ml_status ml_parquet_select(ml_parquet *p, const size_t *column, size_t n, ml_error *err);
/* Bytes of the selected columns, decompressed, as the file says: an estimate of the work, in all and up to where
 * reading stands. */
uint64_t ml_parquet_size(const ml_parquet *p);
uint64_t ml_parquet_at(const ml_parquet *p);

struct ml_parquet_entries;

/* Rows that were read; start zeroed, and read into it again and again. */
typedef struct {
    const ml_parquet *parquet;
    uint64_t first_row; /* of the file */
    size_t n_row;
    struct ml_parquet_entries *column; /* [n_column] leaves */
    size_t n_column;
} ml_parquet_batch;

void ml_parquet_batch_free(ml_parquet_batch *batch);

/* The next rows, none at the end: up to max_rows of one row group, fewer when they hold about max_bytes.  After a
 * failure there is no more to read. */
ml_status ml_parquet_read(ml_parquet *p, size_t max_rows, size_t max_bytes, ml_parquet_batch *batch, ml_error *err);

/* The text in a column of which ml_parquet_is_text is true, within the batch, not 0-terminated; *text is NULL for
 * null.  Any bytes, UTF-8 or not. */
void ml_parquet_text(const ml_parquet_batch *batch, size_t row, size_t column, const char **text, size_t *n_bytes);
/* A row as an object of its selected columns, in the arena; texts stay in the batch, names in the file's schema.
 * Structs are objects, lists arrays, a map is an array of {"key", "value"}; decimals are numbers where the column's
 * precision is at most 15 digits, else texts; dates and times are the numbers stored (INT96: nanoseconds since 1970);
 * NaN and infinities are null.  ML_EFORMAT, naming the row from 1, when levels disagree or bytes are not UTF-8.  Any
 * number of threads may ask at once. */
ml_status ml_parquet_row(const ml_parquet_batch *batch, size_t row, ml_arena *arena, const ml_value **out,
                         ml_error *err);

#endif
