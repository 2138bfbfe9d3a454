/* What a compressed format is to stream.c. */
#ifndef ML_DATA_STREAM_CODEC_H
#define ML_DATA_STREAM_CODEC_H

#include "base/bytes.h"

#include <stdbool.h>

typedef struct {
    const char *name;
    /* State for decompressing one file; NULL when memory is out. */
    void *(*begin)(void);
    void (*end)(void *state);
    /* Take bytes off in->at and put up to *n_out bytes into out; *n_out becomes how many.  None are put only at the
     * end, which must be that of the input too.  Fails with a message without the file's name. */
    ml_status (*step)(void *state, ml_bytes *in, uint8_t *out, size_t *n_out, ml_error *err);
} ml_stream_codec;

extern const ml_stream_codec ml_stream_snappy; /* stream_snappy.c */

#endif
