/* Parquet's hybrid of runs and bit-packed groups: levels, dictionary indices, booleans.
 *
 * A run: varint 2*count, the value in whole bytes.  A group: varint 2*k + 1, then 8*k values of `width` bits, the
 * lowest bit of a byte first.  Decoded a few values at a time, so that a count in the file asks for no memory. */
#ifndef ML_DATA_PARQUET_RLE_H
#define ML_DATA_PARQUET_RLE_H

#include "base/bytes.h"

typedef struct {
    ml_bytes b;
    int width;      /* bits of a value, at most 32 */
    uint64_t n_run; /* copies of `value` still to come */
    uint32_t value;
    const uint8_t *packed; /* or values of a packed group: */
    size_t packed_bytes;
    uint64_t n_packed, packed_at; /* how many are left, and the index of the next */
} ml_parquet_rle;

/* The bytes must outlive the decoder.  Nothing is read yet. */
ml_parquet_rle ml_parquet_rle_begin(const uint8_t *data, size_t size, int width);
/* The next n values.  ML_EFORMAT when there are fewer. */
ml_status ml_parquet_rle_take(ml_parquet_rle *r, uint32_t *out, size_t n, ml_error *err);

/* n values of `width` bits (at most 64) from value number `first` on, the lowest bit first; `size` bytes hold them. */
void ml_parquet_unpack_bits(const uint8_t *data, size_t size, int width, uint64_t first, size_t n, uint64_t *out);

#endif
