#include "data/parquet_meta.h"
#include "data/parquet_thrift.h"

/* Integers of page headers that must be there and not negative. */
static ml_status read_count(ml_bytes *b, const ml_thrift_field *f, uint32_t *out, ml_error *err)
{
    int64_t value;
    size_t at = b->at;
    ML_TRY(ml_thrift_int(b, f, INT32_MAX, &value, err));
    if (value < 0)
        return ml_fail(err, ML_EFORMAT, "offset %zu: expected a size or count, found %lld", at, (long long)value);
    *out = (uint32_t)value;
    return ML_OK;
}

static ml_status read_code(ml_bytes *b, const ml_thrift_field *f, int *out, ml_error *err)
{
    int64_t value;
    ML_TRY(ml_thrift_int(b, f, INT16_MAX, &value, err));
    *out = (int)value;
    return ML_OK;
}

/* DataPageHeader { 1: values, 2: encoding, 3: of definition levels, 4: of repetition levels } and
 * DictionaryPageHeader { 1: values, 2: encoding }. */
static ml_status read_v1(ml_bytes *b, ml_parquet_page_header *h, ml_error *err)
{
    ml_thrift_field f = { 0 };
    while (true) {
        ML_TRY(ml_thrift_next(b, &f, err));
        if (f.type == ML_THRIFT_STOP) return ML_OK;
        switch (f.id) {
        case 1: ML_TRY(read_count(b, &f, &h->n_value, err)); break;
        case 2: ML_TRY(read_code(b, &f, &h->encoding, err)); break;
        case 3:
            if (h->type == ML_PARQUET_DATA_PAGE)
                ML_TRY(read_code(b, &f, &h->def_encoding, err));
            else
                ML_TRY(ml_thrift_skip(b, &f, err));
            break;
        case 4: ML_TRY(read_code(b, &f, &h->rep_encoding, err)); break;
        default: ML_TRY(ml_thrift_skip(b, &f, err));
        }
    }
}

/* DataPageHeaderV2 { 1: values, 4: encoding, 5: bytes of definition levels, 6: of repetition levels, 7: compressed }.
 */
static ml_status read_v2(ml_bytes *b, ml_parquet_page_header *h, ml_error *err)
{
    ml_thrift_field f = { 0 };
    while (true) {
        ML_TRY(ml_thrift_next(b, &f, err));
        if (f.type == ML_THRIFT_STOP) return ML_OK;
        switch (f.id) {
        case 1: ML_TRY(read_count(b, &f, &h->n_value, err)); break;
        case 4: ML_TRY(read_code(b, &f, &h->encoding, err)); break;
        case 5: ML_TRY(read_count(b, &f, &h->def_bytes, err)); break;
        case 6: ML_TRY(read_count(b, &f, &h->rep_bytes, err)); break;
        case 7: ML_TRY(ml_thrift_bool(b, &f, &h->is_compressed, err)); break;
        default: ML_TRY(ml_thrift_skip(b, &f, err));
        }
    }
}

static ml_status read_crc(ml_bytes *b, const ml_thrift_field *f, ml_parquet_page_header *h, ml_error *err)
{
    int64_t value;
    if (f->type != ML_THRIFT_I32) return ml_thrift_skip(b, f, err);
    ML_TRY(ml_thrift_zigzag(b, &value, err)); /* any 32 bits: the sign does not matter */
    h->crc = (uint32_t)value;
    h->has_crc = true;
    return ML_OK;
}

ml_status ml_parquet_page_header_read(ml_bytes *b, ml_parquet_page_header *h, ml_error *err)
{
    ml_thrift_field f = { 0 };
    size_t begin = b->at;
    bool has_sizes[2] = { false, false }, described = false;
    *h = (ml_parquet_page_header){ .type = -1,
                                   .encoding = -1,
                                   .def_encoding = ML_PARQUET_RLE,
                                   .rep_encoding = ML_PARQUET_RLE,
                                   .is_compressed = true };
    while (true) {
        ML_TRY(ml_thrift_next(b, &f, err));
        if (f.type == ML_THRIFT_STOP) break;
        switch (f.id) {
        case 1: ML_TRY(read_code(b, &f, &h->type, err)); break;
        case 2: ML_TRY(read_count(b, &f, &h->n_bytes, err)); break;
        case 3: ML_TRY(read_count(b, &f, &h->n_stored, err)); break;
        case 4: ML_TRY(read_crc(b, &f, h, err)); break;
        case 5:
        case 7:
        case 8:
            ML_TRY(ml_thrift_struct(b, &f, err));
            ML_TRY(f.id == 8 ? read_v2(b, h, err) : read_v1(b, h, err));
            described = h->type == (f.id == 5   ? ML_PARQUET_DATA_PAGE
                                    : f.id == 7 ? ML_PARQUET_DICTIONARY_PAGE
                                                : ML_PARQUET_DATA_PAGE_V2);
            break;
        default: ML_TRY(ml_thrift_skip(b, &f, err));
        }
        if (f.id == 2 || f.id == 3) has_sizes[f.id - 2] = true;
    }
    bool is_known =
        h->type == ML_PARQUET_DATA_PAGE || h->type == ML_PARQUET_DICTIONARY_PAGE || h->type == ML_PARQUET_DATA_PAGE_V2;
    if (has_sizes[0] && has_sizes[1] && h->type >= 0 && (described || !is_known)) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "offset %zu: expected the header of a page, found one without %s", begin,
                   h->type < 0                      ? "a type"
                   : !has_sizes[0] || !has_sizes[1] ? "sizes"
                                                    : "what its type needs");
}
