#include "data/parquet_values.h"

#include "base/alloc.h"
#include "data/parquet_meta.h"

enum { AT_ONCE = 256 }; /* values whose lengths or indices are decoded together */

/* ---- appending ---- */

void ml_parquet_values_free(ml_parquet_values *v)
{
    ml_free(v->word);
    ml_free(v->bytes);
    *v = (ml_parquet_values){ 0 };
}

static ml_status reserve(ml_parquet_values *v, size_t n, ml_error *err)
{
    void *items = v->word;
    if (v->capacity - v->n >= n) return ML_OK;
    ML_TRY(ml_grow(&items, &v->capacity, v->n + n, sizeof *v->word, err));
    v->word = items;
    return ML_OK;
}

static ml_status reserve_bytes(ml_parquet_values *v, size_t n_bytes, ml_error *err)
{
    void *items = v->bytes;
    if (v->bytes_capacity - v->n_bytes >= n_bytes) return ML_OK;
    if (n_bytes > ML_PARQUET_MAX_BYTES - v->n_bytes) {
        return ml_fail(err, ML_EFORMAT, "expected at most %d bytes of text at once, found more: is the file damaged?",
                       ML_PARQUET_MAX_BYTES);
    }
    ML_TRY(ml_grow(&items, &v->bytes_capacity, v->n_bytes + n_bytes, 1, err));
    v->bytes = items;
    return ML_OK;
}

/* A text, words having been reserved. */
static inline ml_status add_text(ml_parquet_values *v, const void *text, size_t n_bytes, ml_error *err)
{
    if (v->bytes_capacity - v->n_bytes < n_bytes) ML_TRY(reserve_bytes(v, n_bytes, err));
    if (n_bytes) memcpy(v->bytes + v->n_bytes, text, n_bytes);
    v->n_bytes += n_bytes;
    v->word[v->n++] = (int64_t)v->n_bytes;
    return ML_OK;
}

static int64_t word_of_double(double x)
{
    int64_t word;
    memcpy(&word, &x, sizeof word);
    return word;
}

/* ---- values of fixed size ---- */

/* Bytes of a value as it is stored; 0 where that differs. */
static size_t stored_size(const ml_parquet_element *e)
{
    static const size_t size[ML_PARQUET_N_TYPE] = { 0, 4, 8, 12, 4, 8, 0, 0 };
    return e->type == ML_PARQUET_FIXED ? (size_t)e->type_length : size[e->type];
}

static ml_status word_of_int96(const uint8_t *p, int64_t *out, ml_error *err)
{
    enum { DAY_OF_1970 = 2440588 };
    int64_t in_day = (int64_t)ml_load_u64(p), ns;
    int64_t day = (int64_t)ml_load_u32(p + 8) - DAY_OF_1970;
    if (!__builtin_mul_overflow(day, (int64_t)86400000000000, &ns) && !__builtin_add_overflow(ns, in_day, out))
        return ML_OK;
    return ml_fail(err, ML_EFORMAT, "expected a time between 1677 and 2262, found Julian day %u", ml_load_u32(p + 8));
}

/* n values that lie at p end to end. */
static ml_status add_fixed(const ml_parquet_element *e, const uint8_t *p, size_t n, ml_parquet_values *out,
                           ml_error *err)
{
    int64_t *word = out->word + out->n;
    switch (e->type) {
    case ML_PARQUET_INT32:
        for (size_t i = 0; i < n; i++) word[i] = (int32_t)ml_load_u32(p + 4 * i);
        break;
    case ML_PARQUET_INT64:
        for (size_t i = 0; i < n; i++) word[i] = (int64_t)ml_load_u64(p + 8 * i);
        break;
    case ML_PARQUET_DOUBLE:
        for (size_t i = 0; i < n; i++) word[i] = (int64_t)ml_load_u64(p + 8 * i);
        break;
    case ML_PARQUET_FLOAT:
        for (size_t i = 0; i < n; i++) {
            uint32_t bits = ml_load_u32(p + 4 * i);
            float x;
            memcpy(&x, &bits, sizeof x);
            word[i] = word_of_double((double)x);
        }
        break;
    case ML_PARQUET_INT96:
        for (size_t i = 0; i < n; i++) ML_TRY(word_of_int96(p + 12 * i, &word[i], err));
        break;
    default:
        for (size_t i = 0; i < n; i++) {
            ML_TRY(add_text(out, p + i * (size_t)e->type_length, (size_t)e->type_length, err));
        }
        return ML_OK;
    }
    out->n += n;
    return ML_OK;
}

/* ---- PLAIN ---- */

static ml_status take_plain_booleans(ml_parquet_decoder *d, size_t n, ml_parquet_values *out, ml_error *err)
{
    if (d->bit + n > 8 * (uint64_t)d->b.size) {
        return ml_fail(err, ML_EFORMAT, "expected %zu more booleans, found %llu", n,
                       (unsigned long long)(8 * (uint64_t)d->b.size - d->bit));
    }
    for (size_t i = 0; i < n; i++, d->bit++) {
        out->word[out->n++] = d->b.data[d->bit >> 3] >> (d->bit & 7) & 1;
    }
    return ML_OK;
}

static ml_status take_plain_texts(ml_parquet_decoder *d, size_t n, ml_parquet_values *out, ml_error *err)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t n_bytes;
        const uint8_t *text;
        ML_TRY(ml_bytes_u32(&d->b, &n_bytes, err));
        ML_TRY(ml_bytes_take(&d->b, n_bytes, &text, err));
        ML_TRY(add_text(out, text, n_bytes, err));
    }
    return ML_OK;
}

static ml_status take_plain(ml_parquet_decoder *d, size_t n, ml_parquet_values *out, ml_error *err)
{
    const uint8_t *p;
    size_t n_bytes;
    if (d->element->type == ML_PARQUET_BOOLEAN) return take_plain_booleans(d, n, out, err);
    if (d->element->type == ML_PARQUET_BYTES) return take_plain_texts(d, n, out, err);
    if (!ml_size_mul(n, stored_size(d->element), &n_bytes)) n_bytes = SIZE_MAX;
    ML_TRY(ml_bytes_take(&d->b, n_bytes, &p, err));
    return add_fixed(d->element, p, n, out, err);
}

/* ---- dictionary and runs ---- */

static ml_status take_indexed(ml_parquet_decoder *d, size_t n, ml_parquet_values *out, ml_error *err)
{
    const ml_parquet_values *dictionary = d->dictionary;
    bool is_text = d->element->type >= ML_PARQUET_BYTES;
    uint32_t index[AT_ONCE];
    while (n) {
        size_t k = n < AT_ONCE ? n : AT_ONCE;
        ML_TRY(ml_parquet_rle_take(&d->rle, index, k, err));
        for (size_t i = 0; i < k; i++) {
            if (index[i] >= dictionary->n) {
                return ml_fail(err, ML_EFORMAT, "expected an index below %zu, the size of the dictionary, found %u",
                               dictionary->n, index[i]);
            }
            if (is_text) {
                size_t n_bytes;
                const char *text = ml_parquet_values_text(dictionary, index[i], &n_bytes);
                ML_TRY(add_text(out, text, n_bytes, err));
            } else {
                out->word[out->n++] = dictionary->word[index[i]];
            }
        }
        n -= k;
    }
    return ML_OK;
}

static ml_status take_runs(ml_parquet_decoder *d, size_t n, ml_parquet_values *out, ml_error *err)
{
    uint32_t value[AT_ONCE];
    while (n) {
        size_t k = n < AT_ONCE ? n : AT_ONCE;
        ML_TRY(ml_parquet_rle_take(&d->rle, value, k, err));
        for (size_t i = 0; i < k; i++) out->word[out->n++] = value[i];
        n -= k;
    }
    return ML_OK;
}

/* ---- differences ---- */

static ml_status take_delta_integers(ml_parquet_decoder *d, size_t n, ml_parquet_values *out, ml_error *err)
{
    int64_t *word = out->word + out->n;
    ML_TRY(ml_parquet_delta_take(&d->delta, word, n, err));
    if (d->element->type == ML_PARQUET_INT32) { /* arithmetic of 32 bits: what lies above them is carry */
        for (size_t i = 0; i < n; i++) word[i] = (int32_t)(uint32_t)(uint64_t)word[i];
    }
    out->n += n;
    return ML_OK;
}

static ml_status check_length(int64_t length, size_t most, const char *what, ml_error *err)
{
    if (length >= 0 && (uint64_t)length <= most) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "expected %s of 0 to %zu bytes, found %lld", what, most, (long long)length);
}

static ml_status take_delta_lengths(ml_parquet_decoder *d, size_t n, ml_parquet_values *out, ml_error *err)
{
    int64_t length[AT_ONCE];
    while (n) {
        size_t k = n < AT_ONCE ? n : AT_ONCE;
        ML_TRY(ml_parquet_delta_take(&d->delta, length, k, err));
        for (size_t i = 0; i < k; i++) {
            const uint8_t *text;
            ML_TRY(check_length(length[i], d->b.size - d->b.at, "a text", err));
            ML_TRY(ml_bytes_take(&d->b, (size_t)length[i], &text, err));
            ML_TRY(add_text(out, text, (size_t)length[i], err));
        }
        n -= k;
    }
    return ML_OK;
}

static ml_status keep_last(ml_parquet_decoder *d, size_t n_prefix, const uint8_t *suffix, size_t n_suffix,
                           ml_error *err)
{
    void *items = d->last;
    size_t n = n_prefix + n_suffix; /* both are below 2^32: lengths within pages and within texts so made */
    if (n > ML_PARQUET_MAX_BYTES) return ml_fail(err, ML_EFORMAT, "a text of %zu bytes is too long", n);
    ML_TRY(ml_grow(&items, &d->last_capacity, n, 1, err));
    d->last = items;
    if (n_suffix) memcpy(d->last + n_prefix, suffix, n_suffix);
    d->last_bytes = n;
    return ML_OK;
}

static ml_status take_delta_texts(ml_parquet_decoder *d, size_t n, ml_parquet_values *out, ml_error *err)
{
    int64_t prefix[AT_ONCE], suffix[AT_ONCE];
    while (n) {
        size_t k = n < AT_ONCE ? n : AT_ONCE;
        ML_TRY(ml_parquet_delta_take(&d->prefix, prefix, k, err));
        ML_TRY(ml_parquet_delta_take(&d->delta, suffix, k, err));
        for (size_t i = 0; i < k; i++) {
            const uint8_t *text;
            ML_TRY(check_length(prefix[i], d->last_bytes, "a common begin", err));
            ML_TRY(check_length(suffix[i], d->b.size - d->b.at, "a text", err));
            ML_TRY(ml_bytes_take(&d->b, (size_t)suffix[i], &text, err));
            ML_TRY(keep_last(d, (size_t)prefix[i], text, (size_t)suffix[i], err));
            if (d->element->type == ML_PARQUET_FIXED && d->last_bytes != (size_t)d->element->type_length) {
                return ml_fail(err, ML_EFORMAT, "expected values of %d bytes, found one of %zu",
                               d->element->type_length, d->last_bytes);
            }
            ML_TRY(add_text(out, d->last, d->last_bytes, err));
        }
        n -= k;
    }
    return ML_OK;
}

/* ---- BYTE_STREAM_SPLIT ---- */

/* Byte k of value i lies at k * n_split + i. */
static ml_status take_split(ml_parquet_decoder *d, size_t n, ml_parquet_values *out, ml_error *err)
{
    uint8_t value[4096];
    size_t size = stored_size(d->element), at_once = sizeof value / size;
    if (n > d->n_split - d->split_at)
        return ml_fail(err, ML_EFORMAT, "expected %zu more values, found %zu", n, d->n_split - d->split_at);
    while (n) {
        size_t m = n < at_once ? n : at_once;
        for (size_t k = 0; k < size; k++) {
            const uint8_t *from = d->b.data + k * d->n_split + d->split_at;
            for (size_t i = 0; i < m; i++) value[i * size + k] = from[i];
        }
        ML_TRY(add_fixed(d->element, value, m, out, err));
        d->split_at += m;
        n -= m;
    }
    return ML_OK;
}

static ml_status begin_split(ml_parquet_decoder *d, const uint8_t *data, size_t size, ml_error *err)
{
    size_t value_size = stored_size(d->element);
    if (value_size == 0 || value_size > 4096 || d->element->type == ML_PARQUET_INT96 || size % value_size) {
        return ml_fail(err, ML_EFORMAT, "expected values of %zu bytes with their bytes split, found %zu bytes",
                       value_size, size);
    }
    d->b = (ml_bytes){ data, size, 0 };
    d->n_split = size / value_size;
    d->split_at = 0;
    return ML_OK;
}

/* ---- one page ---- */

static ml_status begin_indexed(ml_parquet_decoder *d, const uint8_t *data, size_t size, ml_error *err)
{
    if (!d->dictionary) return ml_fail(err, ML_EFORMAT, "expected a dictionary before values that refer to it");
    if (size == 0) { /* a page of nulls */
        d->rle = ml_parquet_rle_begin(data, 0, 0);
        return ML_OK;
    }
    if (data[0] > 32) return ml_fail(err, ML_EFORMAT, "expected indices of at most 32 bits, found %u", data[0]);
    d->rle = ml_parquet_rle_begin(data + 1, size - 1, data[0]);
    return ML_OK;
}

static ml_status begin_runs(ml_parquet_decoder *d, const uint8_t *data, size_t size, ml_error *err)
{
    uint32_t n_bytes = 0;
    const uint8_t *runs = NULL;
    ml_bytes b = { data, size, 0 };
    if (size) {
        ML_TRY(ml_bytes_u32(&b, &n_bytes, err));
        ML_TRY(ml_bytes_take(&b, n_bytes, &runs, err));
    }
    d->rle = ml_parquet_rle_begin(runs, n_bytes, 1);
    return ML_OK;
}

static ml_status begin_delta_texts(ml_parquet_decoder *d, const uint8_t *data, size_t size, ml_error *err)
{
    size_t end = 0;
    d->last_bytes = 0;
    if (d->encoding == ML_PARQUET_DELTA_BYTE_ARRAY) {
        ML_TRY(ml_parquet_delta_begin(&d->prefix, data, size, err));
        ML_TRY(ml_parquet_delta_end(d->prefix, &end, err));
        data += end;
        size -= end;
    }
    ML_TRY(ml_parquet_delta_begin(&d->delta, data, size, err));
    ML_TRY(ml_parquet_delta_end(d->delta, &end, err));
    d->b = (ml_bytes){ data + end, size - end, 0 };
    return ML_OK;
}

static bool fits(int encoding, ml_parquet_type type)
{
    switch (encoding) {
    case ML_PARQUET_PLAIN:
    case ML_PARQUET_PLAIN_DICTIONARY:
    case ML_PARQUET_RLE_DICTIONARY: return true;
    case ML_PARQUET_RLE: return type == ML_PARQUET_BOOLEAN;
    case ML_PARQUET_DELTA_BINARY_PACKED: return type == ML_PARQUET_INT32 || type == ML_PARQUET_INT64;
    case ML_PARQUET_DELTA_LENGTH_BYTE_ARRAY: return type == ML_PARQUET_BYTES;
    case ML_PARQUET_DELTA_BYTE_ARRAY: return type == ML_PARQUET_BYTES || type == ML_PARQUET_FIXED;
    case ML_PARQUET_BYTE_STREAM_SPLIT: return type != ML_PARQUET_BOOLEAN && type != ML_PARQUET_BYTES;
    default: return false;
    }
}

ml_status ml_parquet_decoder_begin(ml_parquet_decoder *d, const ml_parquet_element *element, int encoding,
                                   const uint8_t *data, size_t size, const ml_parquet_values *dictionary, ml_error *err)
{
    d->element = element;
    d->encoding = encoding;
    d->dictionary = dictionary;
    if (!fits(encoding, element->type)) {
        return ml_fail(err, ML_EINVAL, "encoding %d of type %d is not supported: write the file again in another one",
                       encoding, element->type);
    }
    switch (encoding) {
    case ML_PARQUET_PLAIN:
        d->b = (ml_bytes){ data, size, 0 };
        d->bit = 0;
        return ML_OK;
    case ML_PARQUET_RLE: return begin_runs(d, data, size, err);
    case ML_PARQUET_DELTA_BINARY_PACKED: return ml_parquet_delta_begin(&d->delta, data, size, err);
    case ML_PARQUET_DELTA_LENGTH_BYTE_ARRAY:
    case ML_PARQUET_DELTA_BYTE_ARRAY: return begin_delta_texts(d, data, size, err);
    case ML_PARQUET_BYTE_STREAM_SPLIT: return begin_split(d, data, size, err);
    default: return begin_indexed(d, data, size, err);
    }
}

ml_status ml_parquet_decoder_take(ml_parquet_decoder *d, size_t n, ml_parquet_values *out, ml_error *err)
{
    if (n == 0) return ML_OK;
    ML_TRY(reserve(out, n, err));
    switch (d->encoding) {
    case ML_PARQUET_PLAIN: return take_plain(d, n, out, err);
    case ML_PARQUET_RLE: return take_runs(d, n, out, err);
    case ML_PARQUET_DELTA_BINARY_PACKED: return take_delta_integers(d, n, out, err);
    case ML_PARQUET_DELTA_LENGTH_BYTE_ARRAY: return take_delta_lengths(d, n, out, err);
    case ML_PARQUET_DELTA_BYTE_ARRAY: return take_delta_texts(d, n, out, err);
    case ML_PARQUET_BYTE_STREAM_SPLIT: return take_split(d, n, out, err);
    default: return take_indexed(d, n, out, err);
    }
}

void ml_parquet_decoder_free(ml_parquet_decoder *d)
{
    ml_free(d->last);
    *d = (ml_parquet_decoder){ 0 };
}
