/* The bytes of a file, decompressed while they are read.
 *
 * What a file is, its first bytes say: gzip (any number of members), zstd and lz4 (frames), snappy in its framing
 * format.  Brotli has no such mark and goes by the name: .br.  A file of none of these is plain.  Damage, a cut end and
 * a wrong checksum are errors, so that a part of a file never passes for the whole. */
#ifndef ML_DATA_STREAM_H
#define ML_DATA_STREAM_H

#include "base/file.h"

typedef struct ml_stream ml_stream;

/* ML_EIO when it cannot be read; ML_EFORMAT when the name ends in .gz, .zst, .lz4, .br, .sz or .snappy and the bytes
 * are others. */
ml_status ml_stream_open(const char *path, ml_stream **out, ml_error *err);
void ml_stream_free(ml_stream *s);
/* Of the name: where its compression suffix begins, or its end. */
size_t ml_stream_name_length(const char *path);
/* The file itself, when it is not compressed; NULL when it is. */
const ml_map *ml_stream_plain(const ml_stream *s);
/* Bytes of the file, and those consumed so far. */
uint64_t ml_stream_size(const ml_stream *s);
uint64_t ml_stream_at(const ml_stream *s);
/* Of a compressed file: the next n bytes; fewer only at its end.  ML_EFORMAT names the offset in the file. */
ml_status ml_stream_read(ml_stream *s, void *out, size_t n, size_t *n_read, ml_error *err);
/* Begin again. */
ml_status ml_stream_rewind(ml_stream *s, ml_error *err);

#endif
