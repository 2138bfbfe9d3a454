#include "data/input_hash.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "data/stream.h"

#include <fcntl.h>
#include <unistd.h>

enum { BLOCK_BYTES = 1 << 18 };

struct ml_input_hash {
    json_t *inputs;
    size_t file; /* in the array */
    int fd;      /* -1: not open */
    ml_map map;  /* of a file that the records are mapped from, too */
    size_t at;   /* of the map */
    ml_xxh3 *hash;
    uint64_t n_done;
    uint8_t block[BLOCK_BYTES]; /* of a file that is not mapped */
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
    ml_xxh3_free(h->hash);
    ml_free(h);
}

static void finish_file(ml_input_hash *h, json_t *input)
{
    char hex[ML_XXH3_HEX];
    ml_xxh3_end(h->hash, hex);
    h->hash = NULL;
    json_object_set_new(input, "xxh3_128", json_string(hex));
    close_file(h);
    h->file++;
}

static ml_status open_file(ml_input_hash *h, const char *path, ml_error *err)
{
    bool is_compressed = path[ml_stream_name_length(path)] != 0;
    ML_TRY(ml_xxh3_begin(&h->hash, err));
    if (!is_compressed) ML_TRY(ml_map_open(path, &h->map, err));
    h->at = 0;
    h->fd = open(path, O_RDONLY | O_CLOEXEC);
    return h->fd >= 0 ? ML_OK : ml_fail_errno(err, "%s: cannot be opened", path);
}

/* A block of the file at hand; *n_read becomes 0 at its end. */
static ml_status hash_block(ml_input_hash *h, const char *path, size_t *n_read, ml_error *err)
{
    if (h->fd < 0) ML_TRY(open_file(h, path, err));
    if (h->map.data) {
        size_t left = h->map.size - h->at;
        *n_read = left < BLOCK_BYTES ? left : BLOCK_BYTES;
        ml_xxh3_add(h->hash, (const uint8_t *)h->map.data + h->at, *n_read);
        h->at += *n_read;
        return ML_OK;
    }
    ssize_t n = read(h->fd, h->block, BLOCK_BYTES);
    if (n < 0) return ml_fail_errno(err, "%s: cannot be read", path);
    *n_read = (size_t)n;
    ml_xxh3_add(h->hash, h->block, *n_read);
    return ML_OK;
}

ml_status ml_input_hash_until(ml_input_hash *h, uint64_t n_bytes, bool *done, ml_error *err)
{
    while (h->n_done < n_bytes && h->file < json_array_size(h->inputs)) {
        json_t *input = json_array_get(h->inputs, h->file);
        size_t n;
        if (json_string_length(json_object_get(input, "xxh3_128")) > 0) {
            h->file++;
            continue;
        }
        ML_TRY(hash_block(h, json_string_value(json_object_get(input, "file")), &n, err));
        if (n == 0) finish_file(h, input);
        h->n_done += n;
    }
    *done = h->file == json_array_size(h->inputs);
    return ML_OK;
}
