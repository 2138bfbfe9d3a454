#include "data/stream.h"

#include "base/alloc.h"
#include "data/stream_codec.h"

#include <brotli/decode.h>
#include <lz4frame.h>
#include <stdlib.h>
#include <strings.h>
#include <zlib.h>
#include <zstd.h>

struct ml_stream {
    char *path;
    ml_map map;
    const ml_stream_codec *codec; /* NULL: plain */
    void *state;
    ml_bytes in;
};

static ml_status fail_cut(ml_error *err)
{
    return ml_fail(err, ML_EFORMAT, "expected more bytes, found the end: the file is cut short");
}

/* ---- gzip ---- */

typedef struct {
    z_stream z;
    bool open;      /* within a member */
    bool has_state; /* z has been made */
} gzip_state;

static void *gzip_begin(void)
{
    return ml_calloc(1, sizeof(gzip_state));
}

static void gzip_end(void *state)
{
    gzip_state *g = state;
    if (g && g->has_state) inflateEnd(&g->z);
    ml_free(g);
}

static ml_status gzip_member(gzip_state *g, ml_error *err)
{
    enum { GZIP_ONLY = 15 + 16 };
    if (!g->has_state && inflateInit2(&g->z, GZIP_ONLY) != Z_OK) return ml_fail_memory(err, 0, "zlib");
    if (g->has_state) inflateReset(&g->z);
    g->has_state = g->open = true;
    return ML_OK;
}

static ml_status gzip_step(void *state, ml_bytes *in, uint8_t *out, size_t *n_out, ml_error *err)
{
    enum { AT_ONCE = 1 << 30 };
    gzip_state *g = state;
    size_t wanted = *n_out < AT_ONCE ? *n_out : AT_ONCE;
    *n_out = 0;
    while (*n_out == 0) {
        size_t left = in->size - in->at, give = left < AT_ONCE ? left : AT_ONCE;
        if (!g->open && left == 0) return ML_OK;
        if (!g->open) ML_TRY(gzip_member(g, err));
        g->z.next_in = (Bytef *)(uintptr_t)(in->data + in->at);
        g->z.avail_in = (uInt)give;
        g->z.next_out = out;
        g->z.avail_out = (uInt)wanted;
        int result = inflate(&g->z, Z_NO_FLUSH);
        in->at += give - g->z.avail_in;
        *n_out = wanted - g->z.avail_out;
        if (result == Z_STREAM_END) {
            g->open = false;
        } else if (result == Z_MEM_ERROR) {
            return ml_fail_memory(err, 0, "zlib");
        } else if (result != Z_OK && result != Z_BUF_ERROR) {
            return ml_fail(err, ML_EFORMAT, "damaged gzip data: %s", g->z.msg ? g->z.msg : "of no known kind");
        } else if (*n_out == 0 && in->at == in->size) {
            return fail_cut(err);
        }
    }
    return ML_OK;
}

static const ml_stream_codec gzip = { "gzip", gzip_begin, gzip_end, gzip_step };

/* ---- zstd ---- */

typedef struct {
    ZSTD_DCtx *context;
    size_t hint; /* 0 between frames */
} zstd_state;

static void *zstd_begin(void)
{
    zstd_state *z = ml_calloc(1, sizeof *z);
    if (z && !(z->context = ZSTD_createDCtx())) {
        ml_free(z);
        z = NULL;
    }
    return z;
}

static void zstd_end(void *state)
{
    zstd_state *z = state;
    if (z) ZSTD_freeDCtx(z->context);
    ml_free(z);
}

static ml_status zstd_step(void *state, ml_bytes *in, uint8_t *out, size_t *n_out, ml_error *err)
{
    zstd_state *z = state;
    ZSTD_outBuffer to = { out, *n_out, 0 };
    ZSTD_inBuffer from = { in->data, in->size, in->at };
    *n_out = 0;
    while (to.pos == 0) {
        if (z->hint == 0 && from.pos == from.size) return ML_OK;
        size_t before = from.pos;
        z->hint = ZSTD_decompressStream(z->context, &to, &from);
        in->at = from.pos;
        *n_out = to.pos;
        if (ZSTD_isError(z->hint)) {
            return ml_fail(err, ML_EFORMAT, "damaged zstd data: %s", ZSTD_getErrorName(z->hint));
        }
        if (to.pos == 0 && z->hint && from.pos == from.size && from.pos == before) return fail_cut(err);
    }
    return ML_OK;
}

static const ml_stream_codec zstd = { "zstd", zstd_begin, zstd_end, zstd_step };

/* ---- lz4 ---- */

typedef struct {
    LZ4F_dctx *context;
    size_t hint; /* 0 between frames */
} lz4_state;

static void *lz4_begin(void)
{
    lz4_state *z = ml_calloc(1, sizeof *z);
    if (z && LZ4F_isError(LZ4F_createDecompressionContext(&z->context, LZ4F_VERSION))) {
        ml_free(z);
        z = NULL;
    }
    return z;
}

static void lz4_end(void *state)
{
    lz4_state *z = state;
    if (z) LZ4F_freeDecompressionContext(z->context);
    ml_free(z);
}

static ml_status lz4_step(void *state, ml_bytes *in, uint8_t *out, size_t *n_out, ml_error *err)
{
    lz4_state *z = state;
    size_t wanted = *n_out;
    *n_out = 0;
    while (*n_out == 0) {
        size_t n_in = in->size - in->at, n = wanted;
        if (z->hint == 0 && n_in == 0) return ML_OK;
        z->hint = LZ4F_decompress(z->context, out, &n, in->data + in->at, &n_in, NULL);
        if (LZ4F_isError(z->hint)) {
            return ml_fail(err, ML_EFORMAT, "damaged lz4 data: %s", LZ4F_getErrorName(z->hint));
        }
        in->at += n_in;
        *n_out = n;
        if (n == 0 && n_in == 0) return fail_cut(err);
    }
    return ML_OK;
}

static const ml_stream_codec lz4 = { "lz4", lz4_begin, lz4_end, lz4_step };

/* ---- brotli ---- */

static void *brotli_begin(void)
{
    return BrotliDecoderCreateInstance(NULL, NULL, NULL);
}

static void brotli_end(void *state)
{
    if (state) BrotliDecoderDestroyInstance(state);
}

static ml_status brotli_step(void *state, ml_bytes *in, uint8_t *out, size_t *n_out, ml_error *err)
{
    size_t wanted = *n_out;
    *n_out = 0;
    if (in->size == 0) return fail_cut(err);
    while (*n_out == 0) {
        size_t n_in = in->size - in->at, left = wanted;
        const uint8_t *from = in->data + in->at;
        if (BrotliDecoderIsFinished(state)) {
            if (n_in == 0) return ML_OK;
            return ml_fail(err, ML_EFORMAT, "expected the end of the brotli data, found %zu bytes more", n_in);
        }
        BrotliDecoderResult result = BrotliDecoderDecompressStream(state, &n_in, &from, &left, &out, NULL);
        in->at = in->size - n_in;
        *n_out = wanted - left;
        if (result == BROTLI_DECODER_RESULT_ERROR) {
            return ml_fail(err, ML_EFORMAT, "damaged brotli data: %s",
                           BrotliDecoderErrorString(BrotliDecoderGetErrorCode(state)));
        }
        if (*n_out == 0 && result == BROTLI_DECODER_RESULT_NEEDS_MORE_INPUT) return fail_cut(err);
    }
    return ML_OK;
}

static const ml_stream_codec brotli = { "brotli", brotli_begin, brotli_end, brotli_step };

/* ---- which it is ---- */

static const struct {
    const char *suffix;
    const ml_stream_codec *codec;
} suffixes[] = { { ".gz", &gzip },
                 { ".zst", &zstd },
                 { ".zstd", &zstd },
                 { ".lz4", &lz4 },
                 { ".br", &brotli },
                 { ".sz", &ml_stream_snappy },
                 { ".snappy", &ml_stream_snappy } };

/* The suffix of a name, with the length of the rest; NULL when it has none of them. */
static const ml_stream_codec *codec_of_name(const char *path, size_t *n)
{
    *n = strlen(path);
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        size_t k = strlen(suffixes[i].suffix);
        if (*n <= k || strcasecmp(path + *n - k, suffixes[i].suffix) != 0) continue;
        *n -= k;
        return suffixes[i].codec;
    }
    return NULL;
}

size_t ml_stream_name_length(const char *path)
{
    size_t n;
    codec_of_name(path, &n);
    return n;
}

static const ml_stream_codec *codec_of_bytes(const ml_map *map)
{
    static const struct {
        const char *bytes;
        size_t n;
        const ml_stream_codec *codec;
    } magic[] = { { "\x1f\x8b", 2, &gzip },
                  { "\x28\xb5\x2f\xfd", 4, &zstd },
                  { "\x04\x22\x4d\x18", 4, &lz4 },
                  { "\xff\x06\x00\x00sNaPpY", 10, &ml_stream_snappy } };
    for (size_t i = 0; i < sizeof magic / sizeof *magic; i++) {
        if (map->size >= magic[i].n && memcmp(map->data, magic[i].bytes, magic[i].n) == 0) return magic[i].codec;
    }
    return NULL;
}

static ml_status choose_codec(ml_stream *s, ml_error *err)
{
    size_t n;
    const ml_stream_codec *named = codec_of_name(s->path, &n);
    s->codec = codec_of_bytes(&s->map);
    if (!s->codec && named == &brotli) s->codec = named;
    if (!named || s->codec) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "%s: expected %s as the name says, found other bytes%s", s->path, named->name,
                   named == &ml_stream_snappy ? " (of snappy, only the framing format is a file format)" : "");
}

/* ---- life ---- */

static ml_status begin(ml_stream *s, ml_error *err)
{
    s->in = (ml_bytes){ s->map.data, s->map.size, 0 };
    if (!s->codec) return ML_OK;
    if (s->state) s->codec->end(s->state);
    s->state = s->codec->begin();
    return s->state ? ML_OK : ml_fail_memory(err, 0, s->codec->name);
}

ml_status ml_stream_open(const char *path, ml_stream **out, ml_error *err)
{
    *out = NULL;
    ml_stream *s = ml_calloc(1, sizeof *s);
    if (!s) return ml_fail_memory(err, sizeof *s, "an input file");
    ml_status status;
    s->path = ml_strdup(path);
    if (!s->path) {
        status = ml_fail_memory(err, strlen(path) + 1, "the name of a file");
        goto done;
    }
    ML_TRY_GOTO(ml_map_open(path, &s->map, err));
    ML_TRY_GOTO(choose_codec(s, err));
    ML_TRY_GOTO(begin(s, err));
    *out = s;
    s = NULL;
done:
    ml_stream_free(s);
    return status;
}

void ml_stream_free(ml_stream *s)
{
    if (!s) return;
    if (s->state) s->codec->end(s->state);
    ml_map_close(&s->map);
    ml_free(s->path);
    ml_free(s);
}

const ml_map *ml_stream_plain(const ml_stream *s)
{
    return s->codec ? NULL : &s->map;
}

uint64_t ml_stream_size(const ml_stream *s)
{
    return s->map.size;
}

uint64_t ml_stream_at(const ml_stream *s)
{
    return s->in.at;
}

ml_status ml_stream_rewind(ml_stream *s, ml_error *err)
{
    return begin(s, err);
}

ml_status ml_stream_read(ml_stream *s, void *out, size_t n, size_t *n_read, ml_error *err)
{
    *n_read = 0;
    while (*n_read < n) {
        size_t k = n - *n_read;
        if (s->codec->step(s->state, &s->in, (uint8_t *)out + *n_read, &k, err) != ML_OK)
            return ml_fail_prefix(err, "%s: offset %zu of the compressed file", s->path, s->in.at);
        if (k == 0) break;
        *n_read += k;
    }
    return ML_OK;
}
