#include "data/input_hash.h"

#include "base/alloc.h"
#include "base/hash.h"

#include <fcntl.h>
#include <unistd.h>

enum { BLOCK_BYTES = 1 << 18 };

struct ml_input_hash {
    json_t *inputs;
    size_t file; /* in the array */
    int fd;      /* -1: not open */
    ml_sha256 *hash;
    uint8_t block[BLOCK_BYTES];
};

ml_status ml_input_hash_begin(json_t *inputs, ml_input_hash **out, ml_error *err)
{
    ml_input_hash *h = *out = ml_alloc(sizeof *h);
    if (!h) return ml_fail_memory(err, sizeof *h, "hashing the inputs");
    h->inputs = inputs;
    h->file = 0;
    h->fd = -1;
    h->hash = NULL;
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

/* A block of the file at hand; *n_read becomes 0 at its end. */
static ml_status hash_block(ml_input_hash *h, const char *path, ssize_t *n_read, ml_error *err)
{
    if (h->fd < 0) {
        ML_TRY(ml_sha256_begin(&h->hash, err));
        h->fd = open(path, O_RDONLY | O_CLOEXEC);
        if (h->fd < 0) return ml_fail_errno(err, "%s: cannot be opened", path);
    }
    *n_read = read(h->fd, h->block, BLOCK_BYTES);
    if (*n_read < 0) return ml_fail_errno(err, "%s: cannot be read", path);
    ml_sha256_add(h->hash, h->block, (size_t)*n_read);
    return ML_OK;
}

ml_status ml_input_hash_step(ml_input_hash *h, size_t n_bytes, bool *done, ml_error *err)
{
    size_t n_done = 0;
    while (n_done < n_bytes && h->file < json_array_size(h->inputs)) {
        json_t *input = json_array_get(h->inputs, h->file);
        ssize_t n = 0;
        if (json_string_length(json_object_get(input, "sha256")) > 0) {
            h->file++;
            continue;
        }
        ML_TRY(hash_block(h, json_string_value(json_object_get(input, "file")), &n, err));
        if (n == 0) finish_file(h, input);
        n_done += (size_t)n;
    }
    *done = h->file == json_array_size(h->inputs);
    return ML_OK;
}
