/* One shard being written: ids into x.bin, document offsets into x.idx (dataset.h has the layout). */
#ifndef ML_DATA_SHARD_WRITER_H
#define ML_DATA_SHARD_WRITER_H

#include "base/file.h"
#include "base/hash.h"

typedef struct {
    ml_file_writer bin, idx;
    ml_sha256 *hash;
    uint64_t *offset; /* [n_document + 1] */
    size_t n_document, capacity;
    int64_t n_token;
    int id_bytes;
    bool open;
    uint8_t buffer[1 << 16]; /* ids not hashed and written yet */
    size_t n_buffered;
    int64_t n_written, n_started; /* bytes in the file, and of them on their way to the disk */
} ml_shard_writer;

/* What a finished shard is. */
typedef struct {
    int64_t n_token, n_document, bin_bytes;
    char bin_sha256[ML_SHA256_HEX], idx_sha256[ML_SHA256_HEX];
} ml_shard_record;

/* Start zeroed.  `path` ends in ".bin"; id_bytes is 2 or 4.  A writer may begin again after finish. */
ml_status ml_shard_begin(ml_shard_writer *w, const char *path, int id_bytes, ml_error *err);
/* A document is begun, added to any number of times, and ended by the next begin or by finish. */
ml_status ml_shard_begin_document(ml_shard_writer *w, ml_error *err);
ml_status ml_shard_add(ml_shard_writer *w, const int32_t *id, size_t n, ml_error *err);
/* Both files appear, complete. */
ml_status ml_shard_finish(ml_shard_writer *w, ml_shard_record *record, ml_error *err);
/* Drop an unfinished shard and free what the writer holds; safe at any time. */
void ml_shard_free(ml_shard_writer *w);

#endif
