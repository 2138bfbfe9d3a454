/* Snappy's framing format (framing_format.txt of google/snappy): chunks of a type byte, a 24-bit size, and that many
 * bytes; data chunks begin with a masked CRC-32C of what they decompress to, at most 65,536 bytes. */
#include "base/alloc.h"
#include "data/stream_codec.h"

#include <snappy-c.h>

enum { CHUNK_BYTES = 65536, COMPRESSED = 0x00, UNCOMPRESSED = 0x01, SKIPPABLE = 0x80, BEGIN = 0xff };

typedef struct {
    uint32_t table[256];
    uint8_t chunk[CHUNK_BYTES];
    size_t at, n; /* of the chunk's bytes */
} state;

static void *begin(void)
{
    state *s = ml_calloc(1, sizeof *s);
    for (uint32_t i = 0; s && i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = c & 1 ? c >> 1 ^ 0x82f63b78u : c >> 1; /* Castagnoli's polynomial, reflected */
        s->table[i] = c;
    }
    return s;
}

static uint32_t masked_crc32c(const state *s, const uint8_t *data, size_t n)
{
    uint32_t c = 0xffffffffu;
    for (size_t i = 0; i < n; i++) c = s->table[(c ^ data[i]) & 0xff] ^ c >> 8;
    c = ~c;
    return (c >> 15 | c << 17) + 0xa282ead8u;
}

static ml_status unpack(state *s, bool is_compressed, const uint8_t *data, size_t n, ml_error *err)
{
    if (n < 4) return ml_fail(err, ML_EFORMAT, "expected a checksum in a snappy chunk, found %zu bytes", n);
    uint32_t crc = ml_load_u32(data);
    const char *packed = (const char *)data + 4;
    s->at = 0;
    s->n = n - 4;
    if (is_compressed && snappy_uncompressed_length(packed, n - 4, &s->n) != SNAPPY_OK)
        return ml_fail(err, ML_EFORMAT, "damaged snappy data");
    if (s->n > CHUNK_BYTES)
        return ml_fail(err, ML_EFORMAT, "expected a snappy chunk of at most %d bytes, found %zu", CHUNK_BYTES, s->n);
    if (!is_compressed)
        memcpy(s->chunk, packed, s->n);
    else if (snappy_uncompress(packed, n - 4, (char *)s->chunk, &s->n) != SNAPPY_OK)
        return ml_fail(err, ML_EFORMAT, "damaged snappy data");
    if (masked_crc32c(s, s->chunk, s->n) == crc) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "a snappy chunk has another checksum than it says: the file is damaged");
}

static ml_status next_chunk(state *s, ml_bytes *in, ml_error *err)
{
    const uint8_t *header, *data;
    ML_TRY(ml_bytes_take(in, 4, &header, err));
    uint8_t type = header[0];
    size_t n = ml_load_u32(header) >> 8;
    ML_TRY(ml_bytes_take(in, n, &data, err));
    if (type == COMPRESSED || type == UNCOMPRESSED) return unpack(s, type == COMPRESSED, data, n, err);
    if (type == BEGIN && (n != 6 || memcmp(data, "sNaPpY", 6) != 0))
        return ml_fail(err, ML_EFORMAT, "expected the begin of snappy data, found other bytes");
    if (type >= SKIPPABLE) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "expected a snappy chunk, found one of unknown type %u", type);
}

static ml_status step(void *it, ml_bytes *in, uint8_t *out, size_t *n_out, ml_error *err)
{
    state *s = it;
    size_t n = *n_out;
    *n_out = 0;
    while (s->at == s->n) {
        if (in->at == in->size) return ML_OK;
        ML_TRY(next_chunk(s, in, err));
    }
    if (n > s->n - s->at) n = s->n - s->at;
    memcpy(out, s->chunk + s->at, n);
    s->at += n;
    *n_out = n;
    return ML_OK;
}

const ml_stream_codec ml_stream_snappy = { "snappy", begin, ml_free, step };
