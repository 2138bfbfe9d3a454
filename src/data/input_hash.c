#include "data/input_hash.h"

#include "base/alloc.h"
#include "base/file.h"
#include "data/stream.h"

#include <fcntl.h>
#include <unistd.h>

enum { BLOCK_BYTES = 1 << 18 };

struct ml_input_hash {
    json_t *inputs;
    size_t file; /* in the array */
    int fd;      /* -1: not open */
    ml_map map;  /* of a file that the records are mapped from, too */
    size_t n_mapped;
    ml_sha256 *hash;
    uint64_t n_done;
    const uint8_t *data; /* in the map, or buffer */
    size_t at, n;        /* of data: what was hashed, what there is */
    uint8_t buffer[BLOCK_BYTES];
};

ml_status ml_input_hash_begin(json_t *inputs, ml_input_hash **out, ml_error *err)
{
    ml_input_hash *h = *out = ml_alloc(sizeof *h);
    if (!h) return ml_fail_memory(err, sizeof *h, "hashing the inputs");
    h->inputs = inputs;
    h->file = 0;
    h->fd = -1;
    h->hash = NULL;
    h->map = (ml_map){ 0 };
    h->n_done = 0;
    h->at = h->n = 0;
    return ML_OK;
}

static void close_file(ml_input_hash *h)
{
    if (h->fd >= 0) close(h->fd);
    ml_map_close(&h->map);
    h->fd = -1;
}

void ml_input_hash_free(ml_input_hash *h)
{
    if (!h) return;
    close_file(h);
    ml_sha256_free(h->hash);
    ml_free(h);
}

static void finish_file(ml_input_hash *h, json_t *input)
{
    uint8_t digest[ML_SHA256_BYTES];
    char hex[ML_SHA256_HEX];
    ml_sha256_end(h->hash, digest);
    h->hash = NULL;
    ml_sha256_to_hex(digest, hex);
    json_object_set_new(input, "sha256", json_string(hex));
    close_file(h);
    h->file++;
}

static ml_status open_file(ml_input_hash *h, const char *path, ml_error *err)
{
    bool is_compressed = path[ml_stream_name_length(path)] != 0;
    ML_TRY(ml_sha256_begin(&h->hash, err));
    if (!is_compressed) ML_TRY(ml_map_open(path, &h->map, err));
    h->n_mapped = 0;
    h->fd = open(path, O_RDONLY | O_CLOEXEC);
    return h->fd >= 0 ? ML_OK : ml_fail_errno(err, "%s: cannot be opened", path);
}

/* The next bytes of the open file; none at its end. */
static ml_status read_some(ml_input_hash *h, const char *path, ml_error *err)
{
    if (h->map.data) {
        size_t left = h->map.size - h->n_mapped;
        h->n = left < BLOCK_BYTES ? left : BLOCK_BYTES;
        h->data = (const uint8_t *)h->map.data + h->n_mapped;
        h->n_mapped += h->n;
        return ML_OK;
    }
    ssize_t n = read(h->fd, h->buffer, BLOCK_BYTES);
    if (n < 0) return ml_fail_errno(err, "%s: cannot be read", path);
    h->n = (size_t)n;
    h->data = h->buffer;
    return ML_OK;
}

/* The next bytes, of this file or the next; none when all have been read. */
static ml_status read_block(ml_input_hash *h, ml_error *err)
{
    h->at = h->n = 0;
    while (h->n == 0 && h->file < json_array_size(h->inputs)) {
        json_t *input = json_array_get(h->inputs, h->file);
        const char *path = json_string_value(json_object_get(input, "file"));
        if (json_string_length(json_object_get(input, "sha256")) > 0) {
            h->file++;
            continue;
        }
        if (h->fd < 0) ML_TRY(open_file(h, path, err));
        ML_TRY(read_some(h, path, err));
        if (h->n == 0) finish_file(h, input);
    }
    return ML_OK;
}

/* Up to n bytes of what was read are about to be hashed: where they are. */
static const uint8_t *take(ml_input_hash *h, size_t *n)
{
    const uint8_t *data = h->data + h->at;
    if (*n > h->n - h->at) *n = h->n - h->at;
    h->at += *n;
    h->n_done += *n;
    return data;
}

ml_status ml_input_hash_until(ml_input_hash *h, uint64_t n_bytes, bool *done, ml_error *err)
{
    while (h->n_done < n_bytes) {
        size_t n = BLOCK_BYTES;
        if (h->at == h->n) ML_TRY(read_block(h, err));
        if (h->n == 0) break;
        const uint8_t *data = take(h, &n);
        ml_sha256_add(h->hash, data, n);
    }
    if (h->at == h->n) ML_TRY(read_block(h, err));
    *done = h->n == 0;
    return ML_OK;
}

ml_status ml_input_hash_beside(ml_input_hash *h, ml_sha256 *other, const void *data, size_t n_bytes, ml_error *err)
{
    const uint8_t *at = data;
    while (h && n_bytes) {
        size_t n = n_bytes;
        if (h->at == h->n) ML_TRY(read_block(h, err));
        if (h->n == 0) break;
        const uint8_t *beside = take(h, &n);
        ml_sha256_add(other, at, n);
        ml_sha256_add(h->hash, beside, n);
        at += n;
        n_bytes -= n;
    }
    ml_sha256_add(other, at, n_bytes);
    return ML_OK;
}
