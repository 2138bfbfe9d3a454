/* Decompression of one block whose size is known, as Parquet's pages are compressed. */
#ifndef ML_DATA_PARQUET_CODEC_H
#define ML_DATA_PARQUET_CODEC_H

#include "base/status.h"

/* What the libraries keep between blocks; start zeroed.  For one thread. */
typedef struct {
    void *zstd, *zlib;
} ml_parquet_codecs;

void ml_parquet_codecs_free(ml_parquet_codecs *c);

/* in[n_in] by `codec` (ml_parquet_codec) -> out[n_out], filled exactly.  ML_EFORMAT for damaged bytes and for another
 * size, ML_EINVAL for a codec that is not supported (LZO). */
ml_status ml_parquet_decompress(ml_parquet_codecs *c, int codec, const uint8_t *in, size_t n_in, uint8_t *out,
                                size_t n_out, ml_error *err);

#endif
