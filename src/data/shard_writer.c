#include "data/shard_writer.h"

#include "base/alloc.h"
#include "base/bytes.h"

#include <assert.h>
#include <endian.h>
#include <fcntl.h>
#include <string.h>

ml_status ml_shard_begin(ml_shard_writer *w, const char *path, int id_bytes, ml_error *err)
{
    assert(!w->open && (id_bytes == 2 || id_bytes == 4));
    char idx[ML_PATH_MAX];
    size_t n = strlen(path);
    assert(n > 4 && n < sizeof idx);
    memcpy(idx, path, n + 1);
    memcpy(idx + n - 4, ".idx", 4);
    w->open = true;
    w->id_bytes = id_bytes;
    w->n_document = 0;
    w->n_token = 0;
    w->n_buffered = 0;
    w->n_written = w->n_started = 0;
    ML_TRY(ml_file_begin(&w->bin, path, err));
    ML_TRY(ml_file_begin(&w->idx, idx, err));
    return ml_sha256_begin(&w->hash, err);
}

ml_status ml_shard_begin_document(ml_shard_writer *w, ml_error *err)
{
    void *items = w->offset;
    ML_TRY(ml_grow(&items, &w->capacity, w->n_document + 2, sizeof *w->offset, err)); /* one more for the end */
    w->offset = items;
    w->offset[w->n_document++] = (uint64_t)w->n_token;
    return ML_OK;
}

/* Little endian, whatever the machine. */
static void store_ids(uint8_t *out, const int32_t *id, size_t n, int id_bytes)
{
    if (id_bytes == 2) {
        uint32_t bits = 0;
        for (size_t i = 0; i < n; i++) {
            bits |= (uint32_t)id[i];
            uint16_t x = htole16((uint16_t)id[i]);
            memcpy(out + 2 * i, &x, sizeof x);
        }
        assert(bits <= UINT16_MAX);
        (void)bits;
    } else {
        for (size_t i = 0; i < n; i++) ml_store_u32(out + 4 * i, (uint32_t)id[i]);
    }
}

/* Begin to write to the disk what is complete, so that the sync at the end has little left to wait for.  Only a hint:
 * that sync is what counts. */
static void start_writing(ml_shard_writer *w)
{
    enum { STRETCH = 8 << 20 };
    int64_t n = w->n_written - w->n_started;
    if (n < STRETCH) return;
    (void)sync_file_range(fileno(w->bin.file), w->n_started, n, SYNC_FILE_RANGE_WRITE);
    w->n_started = w->n_written;
}

static ml_status flush(ml_shard_writer *w, ml_error *err)
{
    size_t n = w->n_buffered;
    w->n_buffered = 0;
    ml_sha256_add(w->hash, w->buffer, n);
    ML_TRY(ml_file_write(&w->bin, w->buffer, n, err));
    w->n_written += (int64_t)n;
    start_writing(w);
    return ML_OK;
}

ml_status ml_shard_add(ml_shard_writer *w, const int32_t *id, size_t n, ml_error *err)
{
    w->n_token += (int64_t)n;
    while (n) {
        size_t room = (sizeof w->buffer - w->n_buffered) / (size_t)w->id_bytes, here = n < room ? n : room;
        store_ids(w->buffer + w->n_buffered, id, here, w->id_bytes);
        w->n_buffered += here * (size_t)w->id_bytes;
        id += here;
        n -= here;
        if (w->n_buffered == sizeof w->buffer) ML_TRY(flush(w, err));
    }
    return ML_OK;
}

static ml_status write_index(ml_shard_writer *w, ml_shard_record *record, ml_error *err)
{
    uint8_t digest[ML_SHA256_BYTES];
    ml_sha256 *hash;
    ML_TRY(ml_sha256_begin(&hash, err));
    ml_status status;
    w->offset[w->n_document] = (uint64_t)w->n_token;
    for (size_t i = 0; i <= w->n_document;) {
        size_t n = 0;
        for (; i <= w->n_document && n < sizeof w->buffer; i++, n += 8) ml_store_u64(w->buffer + n, w->offset[i]);
        ml_sha256_add(hash, w->buffer, n);
        ML_TRY_GOTO(ml_file_write(&w->idx, w->buffer, n, err));
    }
    ml_sha256_end(hash, digest);
    ml_sha256_to_hex(digest, record->idx_sha256);
    hash = NULL;
    status = ml_file_commit(&w->idx, err);
done:
    ml_sha256_free(hash);
    return status;
}

ml_status ml_shard_finish(ml_shard_writer *w, ml_shard_record *record, ml_error *err)
{
    assert(w->open && w->n_document);
    uint8_t digest[ML_SHA256_BYTES];
    record->n_token = w->n_token;
    record->n_document = (int64_t)w->n_document;
    record->bin_bytes = w->n_token * w->id_bytes;
    ML_TRY(flush(w, err));
    ML_TRY(write_index(w, record, err)); /* in the same buffer, which is empty now */
    ml_sha256_end(w->hash, digest);
    w->hash = NULL;
    ml_sha256_to_hex(digest, record->bin_sha256);
    ML_TRY(ml_file_commit(&w->bin, err));
    w->open = false;
    return ML_OK;
}

void ml_shard_free(ml_shard_writer *w)
{
    ml_file_abandon(&w->bin);
    ml_file_abandon(&w->idx);
    ml_sha256_free(w->hash);
    ml_free(w->offset);
    memset(w, 0, sizeof *w);
}
