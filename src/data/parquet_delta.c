#include "data/parquet_delta.h"

#include "data/parquet_rle.h"
#include "data/parquet_thrift.h"

ml_status ml_parquet_delta_begin(ml_parquet_delta *d, const uint8_t *data, size_t size, ml_error *err)
{
    uint64_t block_size, n_value;
    int64_t first;
    *d = (ml_parquet_delta){ .b = { data, size, 0 }, .is_first = true };
    if (size == 0) return ML_OK; /* a page of nulls */
    ML_TRY(ml_thrift_varint(&d->b, &block_size, err));
    ML_TRY(ml_thrift_varint(&d->b, &d->n_mini, err));
    ML_TRY(ml_thrift_varint(&d->b, &n_value, err));
    ML_TRY(ml_thrift_zigzag(&d->b, &first, err));
    if (block_size == 0 || block_size > INT32_MAX || block_size % 128 || d->n_mini == 0 || block_size % d->n_mini ||
        block_size / d->n_mini % 32 || n_value > INT32_MAX) {
        return ml_fail(err, ML_EFORMAT,
                       "offset 0: expected blocks of delta-coded integers, found %llu values in blocks of %llu with "
                       "%llu miniblocks",
                       (unsigned long long)n_value, (unsigned long long)block_size, (unsigned long long)d->n_mini);
    }
    d->mini_size = block_size / d->n_mini;
    d->n_left = n_value;
    d->last = (uint64_t)first;
    d->mini_id = d->n_mini; /* no block yet */
    d->mini_at = d->mini_size;
    return ML_OK;
}

static ml_status next_miniblock(ml_parquet_delta *d, ml_error *err)
{
    if (d->mini_id + 1 < d->n_mini) {
        d->mini_id++;
    } else {
        int64_t min_delta;
        ML_TRY(ml_thrift_zigzag(&d->b, &min_delta, err));
        ML_TRY(ml_bytes_take(&d->b, (size_t)d->n_mini, &d->widths, err));
        d->min_delta = (uint64_t)min_delta;
        d->mini_id = 0;
    }
    uint8_t width = d->widths[d->mini_id];
    if (width > 64) {
        return ml_fail(err, ML_EFORMAT, "offset %zu: expected differences of at most 64 bits, found %u", d->b.at,
                       width);
    }
    d->mini_at = 0;
    d->mini_bytes = (size_t)(d->mini_size / 8 * width);
    return ml_bytes_take(&d->b, d->mini_bytes, &d->mini, err);
}

ml_status ml_parquet_delta_take(ml_parquet_delta *d, int64_t *out, size_t n, ml_error *err)
{
    if (n > d->n_left) {
        return ml_fail(err, ML_EFORMAT, "expected %zu more delta-coded integers, found %llu", n,
                       (unsigned long long)d->n_left);
    }
    d->n_left -= n;
    if (n && d->is_first) {
        *out++ = (int64_t)d->last;
        d->is_first = false;
        n--;
    }
    while (n) {
        if (d->mini_at == d->mini_size) ML_TRY(next_miniblock(d, err));
        uint64_t left = d->mini_size - d->mini_at, delta[128];
        size_t k = n < left ? n : (size_t)left;
        if (k > 128) k = 128;
        ml_parquet_unpack_bits(d->mini, d->mini_bytes, d->widths[d->mini_id], d->mini_at, k, delta);
        for (size_t i = 0; i < k; i++) {
            d->last += d->min_delta + delta[i];
            out[i] = (int64_t)d->last;
        }
        d->mini_at += k;
        out += k;
        n -= k;
    }
    return ML_OK;
}

ml_status ml_parquet_delta_end(ml_parquet_delta d, size_t *end, ml_error *err)
{
    uint64_t left = d.n_left ? d.n_left - 1 : 0; /* the first lies in the header */
    while (left) {
        ML_TRY(next_miniblock(&d, err));
        left -= left < d.mini_size ? left : d.mini_size;
    }
    *end = d.b.at;
    return ML_OK;
}
