#include "data/input_hash.h"

#include "base/alloc.h"

#include <fcntl.h>
#include <unistd.h>

enum { BLOCK_BYTES = 1 << 18 };

struct ml_input_hash {
    json_t *inputs;
    size_t file; /* in the array */
    int fd;      /* -1: not open */
    ml_sha256 *hash;
    uint64_t n_done;
    uint8_t block[BLOCK_BYTES];
    size_t at, n; /* of the block: what was hashed, what was read */
};

ml_status ml_input_hash_begin(json_t *inputs, ml_input_hash **out, ml_error *err)
{
    ml_input_hash *h = *out = ml_alloc(sizeof *h);
    if (!h) return ml_fail_memory(err, sizeof *h, "hashing the inputs");
    h->inputs = inputs;
    h->file = 0;
    h->fd = -1;
    h->hash = NULL;
    h->n_done = 0;
    h->at = h->n = 0;
    return ML_OK;
}

void ml_input_hash_free(ml_input_hash *h)
{
    if (!h) return;
    if (h->fd >= 0) close(h->fd);
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
    close(h->fd);
    h->fd = -1;
    h->file++;
}

/* The next block, of this file or the next; none when all have been read. */
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
        if (h->fd < 0) {
            ML_TRY(ml_sha256_begin(&h->hash, err));
            h->fd = open(path, O_RDONLY | O_CLOEXEC);
            if (h->fd < 0) return ml_fail_errno(err, "%s: cannot be opened", path);
        }
        ssize_t n = read(h->fd, h->block, BLOCK_BYTES);
        if (n < 0) return ml_fail_errno(err, "%s: cannot be read", path);
        h->n = (size_t)n;
        if (n == 0) finish_file(h, input);
    }
    return ML_OK;
}

/* Up to n bytes of what was read are about to be hashed: where they are. */
static const uint8_t *take(ml_input_hash *h, size_t *n)
{
    const uint8_t *data = h->block + h->at;
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
        ml_sha256_add_two(other, at, n, h->hash, beside, n);
        at += n;
        n_bytes -= n;
    }
    ml_sha256_add(other, at, n_bytes);
    return ML_OK;
}
