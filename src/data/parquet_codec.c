#include "data/parquet_codec.h"

#include "base/alloc.h"
#include "data/parquet_meta.h"

#include <brotli/decode.h>
#include <limits.h>
#include <lz4.h>
#include <snappy-c.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

static ml_status fail_damaged(const char *codec, const char *found, size_t n_out, ml_error *err)
{
    return ml_fail(err, ML_EFORMAT, "expected %zu bytes compressed by %s, found %s", n_out, codec, found);
}

static ml_status fail_size(const char *codec, size_t n_found, size_t n_out, ml_error *err)
{
    return ml_fail(err, ML_EFORMAT, "expected %zu bytes compressed by %s, found %zu", n_out, codec, n_found);
}

static ml_status unpack_snappy(const uint8_t *in, size_t n_in, uint8_t *out, size_t n_out, ml_error *err)
{
    size_t n;
    const char *text = (const char *)in;
    if (snappy_uncompressed_length(text, n_in, &n) != SNAPPY_OK) return fail_damaged("snappy", "others", n_out, err);
    if (n != n_out) return fail_size("snappy", n, n_out, err);
    if (snappy_uncompress(text, n_in, (char *)out, &n) == SNAPPY_OK) return ML_OK;
    return fail_damaged("snappy", "damaged ones", n_out, err);
}

/* zlib or gzip format, of one or several members. */
static ml_status unpack_gzip(ml_parquet_codecs *c, const uint8_t *in, size_t n_in, uint8_t *out, size_t n_out,
                             ml_error *err)
{
    enum { ANY_FORMAT = 15 + 32 };
    z_stream *z = c->zlib;
    if (!z) {
        z = c->zlib = ml_calloc(1, sizeof *z);
        if (!z) return ml_fail_memory(err, sizeof *z, "zlib");
        if (inflateInit2(z, ANY_FORMAT) != Z_OK) {
            ml_free(z);
            c->zlib = NULL;
            return ml_fail_memory(err, 0, "zlib");
        }
    }
    z->next_in = (Bytef *)(uintptr_t)in;
    z->avail_in = (uInt)n_in;
    z->next_out = out;
    z->avail_out = (uInt)n_out;
    int result;
    do {
        inflateReset(z);
        result = inflate(z, Z_FINISH);
    } while (result == Z_STREAM_END && z->avail_in && z->avail_out);
    if (result == Z_MEM_ERROR) return ml_fail_memory(err, 0, "zlib");
    if (result == Z_STREAM_END && z->avail_out == 0) return ML_OK;
    if (result == Z_STREAM_END) return fail_size("gzip", n_out - z->avail_out, n_out, err);
    return fail_damaged("gzip", z->msg ? z->msg : "another size", n_out, err);
}

static ml_status unpack_zstd(ml_parquet_codecs *c, const uint8_t *in, size_t n_in, uint8_t *out, size_t n_out,
                             ml_error *err)
{
    if (!c->zstd) c->zstd = ZSTD_createDCtx();
    if (!c->zstd) return ml_fail_memory(err, 0, "zstd");
    size_t n = ZSTD_decompressDCtx(c->zstd, out, n_out, in, n_in);
    if (ZSTD_isError(n)) return fail_damaged("zstd", ZSTD_getErrorName(n), n_out, err);
    return n == n_out ? ML_OK : fail_size("zstd", n, n_out, err);
}

static ml_status unpack_brotli(const uint8_t *in, size_t n_in, uint8_t *out, size_t n_out, ml_error *err)
{
    size_t n = n_out;
    if (BrotliDecoderDecompress(n_in, in, &n, out) != BROTLI_DECODER_RESULT_SUCCESS)
        return fail_damaged("brotli", "damaged ones or another size", n_out, err);
    return n == n_out ? ML_OK : fail_size("brotli", n, n_out, err);
}

static ml_status unpack_lz4(const uint8_t *in, size_t n_in, uint8_t *out, size_t n_out, ml_error *err)
{
    if (n_in > INT_MAX || n_out > INT_MAX) return fail_damaged("lz4", "too many", n_out, err);
    int n = LZ4_decompress_safe((const char *)in, (char *)out, (int)n_in, (int)n_out);
    if (n < 0) return fail_damaged("lz4", "damaged ones or another size", n_out, err);
    return (size_t)n == n_out ? ML_OK : fail_size("lz4", (size_t)n, n_out, err);
}

static uint32_t load_big_u32(const uint8_t *p)
{
    return __builtin_bswap32(ml_load_u32(p));
}

/* Hadoop's framing: blocks, each behind its two sizes, big endian, decompressed first. */
static bool unpack_lz4_frames(const uint8_t *in, size_t n_in, uint8_t *out, size_t n_out)
{
    ml_error ignored;
    while (n_in >= 8) {
        uint32_t n_raw = load_big_u32(in), n_stored = load_big_u32(in + 4);
        if (n_raw > n_out || n_stored > n_in - 8) return false;
        if (unpack_lz4(in + 8, n_stored, out, n_raw, &ignored) != ML_OK) return false;
        in += 8 + n_stored;
        n_in -= 8 + n_stored;
        out += n_raw;
        n_out -= n_raw;
    }
    return n_in == 0 && n_out == 0;
}

ml_status ml_parquet_decompress(ml_parquet_codecs *c, int codec, const uint8_t *in, size_t n_in, uint8_t *out,
                                size_t n_out, ml_error *err)
{
    if (n_out == 0 && n_in == 0) return ML_OK;
    switch (codec) {
    case ML_PARQUET_UNCOMPRESSED:
        if (n_in != n_out) return fail_size("nothing", n_in, n_out, err);
        memcpy(out, in, n_out);
        return ML_OK;
    case ML_PARQUET_SNAPPY: return unpack_snappy(in, n_in, out, n_out, err);
    case ML_PARQUET_GZIP: return unpack_gzip(c, in, n_in, out, n_out, err);
    case ML_PARQUET_BROTLI: return unpack_brotli(in, n_in, out, n_out, err);
    case ML_PARQUET_ZSTD: return unpack_zstd(c, in, n_in, out, n_out, err);
    case ML_PARQUET_LZ4_RAW: return unpack_lz4(in, n_in, out, n_out, err);
    case ML_PARQUET_LZ4_HADOOP: /* some writers left the framing out */
        return unpack_lz4_frames(in, n_in, out, n_out) ? ML_OK : unpack_lz4(in, n_in, out, n_out, err);
    default:
        return ml_fail(err, ML_EINVAL,
                       "compression %d is not supported: write the file again with snappy, gzip, brotli, zstd or lz4",
                       codec);
    }
}

void ml_parquet_codecs_free(ml_parquet_codecs *c)
{
    ZSTD_freeDCtx(c->zstd);
    if (c->zlib) inflateEnd(c->zlib);
    ml_free(c->zlib);
    *c = (ml_parquet_codecs){ 0 };
}
