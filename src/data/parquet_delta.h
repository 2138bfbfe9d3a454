/* DELTA_BINARY_PACKED: integers as differences, in blocks of bit-packed miniblocks.
 *
 *   varint block size, varint miniblocks in a block, varint count, zigzag first value, then blocks:
 *   zigzag smallest difference, a byte of bit width for each miniblock, the miniblocks
 *
 * A miniblock is there in full if one of its values is needed, else not at all. */
#ifndef ML_DATA_PARQUET_DELTA_H
#define ML_DATA_PARQUET_DELTA_H

#include "base/bytes.h"

#include <stdbool.h>

typedef struct {
    ml_bytes b;
    uint64_t mini_size; /* values in a miniblock */
    uint64_t n_mini;    /* miniblocks in a block */
    uint64_t n_left;    /* values still to come */
    bool is_first;      /* the next is `last` itself */
    uint64_t last;      /* wraps around, as the format wants */
    uint64_t min_delta;
    const uint8_t *widths;     /* [n_mini] of this block */
    uint64_t mini_id, mini_at; /* the miniblock, and its next value */
    const uint8_t *mini;
    size_t mini_bytes;
} ml_parquet_delta;

/* Reads the header; no bytes are no values.  The bytes must outlive the decoder. */
ml_status ml_parquet_delta_begin(ml_parquet_delta *d, const uint8_t *data, size_t size, ml_error *err);
/* The next n values.  ML_EFORMAT when there are fewer. */
ml_status ml_parquet_delta_take(ml_parquet_delta *d, int64_t *out, size_t n, ml_error *err);
/* Where the encoded values end: what follows them begins there.  Call it right after begin, on a copy. */
ml_status ml_parquet_delta_end(ml_parquet_delta d, size_t *end, ml_error *err);

#endif
