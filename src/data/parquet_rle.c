#include "data/parquet_rle.h"

#include "data/parquet_thrift.h"

ml_parquet_rle ml_parquet_rle_begin(const uint8_t *data, size_t size, int width)
{
    return (ml_parquet_rle){ .b = { data, size, 0 }, .width = width };
}

/* The value of `width` (1 to 64) bits at bit `at`. */
static inline uint64_t bits_at(const uint8_t *data, size_t size, uint64_t at, int width)
{
    size_t byte = (size_t)(at >> 3);
    int shift = (int)(at & 7);
    uint64_t low = 0, high = 0;
    if (size - byte >= 9) {
        low = ml_load_u64(data + byte);
        high = data[byte + 8];
    } else {
        for (size_t i = 0; i < 8 && byte + i < size; i++) low |= (uint64_t)data[byte + i] << (8 * i);
    }
    uint64_t value = low >> shift;
    if (shift + width > 64) value |= high << (64 - shift);
    return width == 64 ? value : value & ((1ull << width) - 1);
}

void ml_parquet_unpack_bits(const uint8_t *data, size_t size, int width, uint64_t first, size_t n, uint64_t *out)
{
    if (width == 0) {
        memset(out, 0, n * sizeof *out);
        return;
    }
    uint64_t at = first * (uint64_t)width;
    for (size_t i = 0; i < n; i++, at += (uint64_t)width) out[i] = bits_at(data, size, at, width);
}

static ml_status next_run(ml_parquet_rle *r, ml_error *err)
{
    uint64_t header;
    size_t begin = r->b.at;
    ML_TRY(ml_thrift_varint(&r->b, &header, err));
    uint64_t count = header >> 1;
    if (count == 0 || count > INT32_MAX) {
        return ml_fail(err, ML_EFORMAT, "offset %zu: expected a run of 1 to 2^31 - 1 values, found %llu", begin,
                       (unsigned long long)count);
    }
    if (header & 1) {
        /* a last group may be cut after the values that are needed */
        size_t left = r->b.size - r->b.at;
        uint64_t n_bytes = count * (uint64_t)r->width;
        r->packed_bytes = n_bytes < left ? (size_t)n_bytes : left;
        r->packed_at = 0;
        r->n_packed = r->width ? r->packed_bytes * 8 / (uint64_t)r->width : 8 * count;
        if (r->n_packed == 0) return ml_fail(err, ML_EFORMAT, "offset %zu: a group of values has no bytes", begin);
        return ml_bytes_take(&r->b, r->packed_bytes, &r->packed, err);
    }
    const uint8_t *p;
    size_t n = (size_t)(r->width + 7) / 8;
    ML_TRY(ml_bytes_take(&r->b, n, &p, err));
    r->value = 0;
    for (size_t i = 0; i < n; i++) r->value |= (uint32_t)p[i] << (8 * i);
    r->n_run = count;
    return ML_OK;
}

ml_status ml_parquet_rle_take(ml_parquet_rle *r, uint32_t *out, size_t n, ml_error *err)
{
    while (n) {
        size_t k;
        if (r->n_run) {
            k = r->n_run < n ? (size_t)r->n_run : n;
            for (size_t i = 0; i < k; i++) out[i] = r->value;
            r->n_run -= k;
        } else if (r->n_packed) {
            k = r->n_packed < n ? (size_t)r->n_packed : n;
            uint64_t at = r->packed_at * (uint64_t)r->width;
            for (size_t i = 0; i < k; i++, at += (uint64_t)r->width) {
                out[i] = r->width ? (uint32_t)bits_at(r->packed, r->packed_bytes, at, r->width) : 0;
            }
            r->n_packed -= k;
            r->packed_at += k;
        } else {
            ML_TRY(next_run(r, err));
            continue;
        }
        out += k;
        n -= k;
    }
    return ML_OK;
}
