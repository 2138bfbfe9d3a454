/* Values of one column, end to end, and the decoders that put them there. */
#ifndef ML_DATA_PARQUET_VALUES_H
#define ML_DATA_PARQUET_VALUES_H

#include "data/parquet_delta.h"
#include "data/parquet_rle.h"
#include "data/parquet_schema.h"

/* Values take at most so many bytes at once: rows of a batch, a dictionary. */
enum { ML_PARQUET_MAX_BYTES = 1 << 30 };

/* A boolean is 0 or 1, an integer itself (INT96: nanoseconds since 1970), FLOAT and DOUBLE the bits of a double;
 * of BYTES and FIXED values, word i is where the bytes of value i end, and value i + 1 begins.  Start zeroed. */
typedef struct {
    int64_t *word; /* [n] */
    char *bytes;
    size_t n, capacity, n_bytes, bytes_capacity;
} ml_parquet_values;

void ml_parquet_values_free(ml_parquet_values *v);

/* The bytes of value i. */
static inline const char *ml_parquet_values_text(const ml_parquet_values *v, size_t i, size_t *n_bytes)
{
    size_t begin = i ? (size_t)v->word[i - 1] : 0;
    *n_bytes = (size_t)v->word[i] - begin;
    return v->bytes ? v->bytes + begin : ""; /* NULL when all are empty */
}

/* One page's values.  The page and the dictionary must outlive it. */
typedef struct {
    const ml_parquet_element *element;
    int encoding;
    ml_bytes b;         /* PLAIN; the bytes of delta-coded texts */
    uint64_t bit;       /* PLAIN booleans: the next one */
    ml_parquet_rle rle; /* booleans; indices into the dictionary */
    const ml_parquet_values *dictionary;
    ml_parquet_delta delta;  /* integers; lengths of texts, or of their new parts */
    ml_parquet_delta prefix; /* DELTA_BYTE_ARRAY: bytes taken over from the text before */
    char *last;              /* that text */
    size_t last_bytes, last_capacity;
    size_t n_split, split_at; /* BYTE_STREAM_SPLIT: values, and the next one */
} ml_parquet_decoder;

/* Start zeroed; begin may be called again for the next page.  ML_EINVAL for an encoding that the type cannot have. */
ml_status ml_parquet_decoder_begin(ml_parquet_decoder *d, const ml_parquet_element *element, int encoding,
                                   const uint8_t *data, size_t size, const ml_parquet_values *dictionary,
                                   ml_error *err);
/* Append the next n values. */
ml_status ml_parquet_decoder_take(ml_parquet_decoder *d, size_t n, ml_parquet_values *out, ml_error *err);
void ml_parquet_decoder_free(ml_parquet_decoder *d);

#endif
