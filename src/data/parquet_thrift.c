#include "data/parquet_thrift.h"

enum {
    N_TYPES = 13,
    MAX_DEPTH = 32, /* of what is skipped; Parquet's own structs are at most six deep */
};

static const char *const type_names[N_TYPES] = { "the end of a struct",
                                                 "true",
                                                 "false",
                                                 "an 8-bit integer",
                                                 "a 16-bit integer",
                                                 "a 32-bit integer",
                                                 "a 64-bit integer",
                                                 "a double",
                                                 "text",
                                                 "a list",
                                                 "a set",
                                                 "a map",
                                                 "a struct" };

static ml_status fail_type(const ml_bytes *b, const ml_thrift_field *field, const char *expected, ml_error *err)
{
    return ml_fail(err, ML_EFORMAT, "offset %zu: field %d: expected %s, found %s", b->at, (int)field->id, expected,
                   type_names[field->type]);
}

ml_status ml_thrift_varint(ml_bytes *b, uint64_t *out, ml_error *err)
{
    uint64_t value = 0;
    size_t begin = b->at;
    for (int shift = 0; shift < 70; shift += 7) {
        uint8_t byte;
        ML_TRY(ml_bytes_u8(b, &byte, err));
        if (shift == 63 && byte > 1) break;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte & 0x80) continue;
        *out = value;
        return ML_OK;
    }
    return ml_fail(err, ML_EFORMAT, "offset %zu: expected a number of at most 64 bits, found a longer one", begin);
}

ml_status ml_thrift_zigzag(ml_bytes *b, int64_t *out, ml_error *err)
{
    uint64_t value;
    ML_TRY(ml_thrift_varint(b, &value, err));
    *out = (int64_t)(value >> 1 ^ (0 - (value & 1)));
    return ML_OK;
}

ml_status ml_thrift_next(ml_bytes *b, ml_thrift_field *field, ml_error *err)
{
    uint8_t byte;
    size_t at = b->at;
    ML_TRY(ml_bytes_u8(b, &byte, err));
    field->type = byte & 0x0f;
    if (byte == ML_THRIFT_STOP) return ML_OK;
    if (field->type == ML_THRIFT_STOP || field->type >= N_TYPES) {
        return ml_fail(err, ML_EFORMAT, "offset %zu: expected a field of a Thrift struct, found type %d", at,
                       field->type);
    }
    int64_t id = field->id + (byte >> 4);
    if (byte >> 4 == 0) ML_TRY(ml_thrift_zigzag(b, &id, err));
    if (id < 0 || id > INT16_MAX) {
        return ml_fail(err, ML_EFORMAT, "offset %zu: expected a field number of at most 32767, found %lld", at,
                       (long long)id);
    }
    field->id = (int32_t)id;
    return ML_OK;
}

ml_status ml_thrift_int(ml_bytes *b, const ml_thrift_field *field, int64_t max, int64_t *out, ml_error *err)
{
    int64_t value;
    size_t at = b->at;
    if (field->type == ML_THRIFT_I8) {
        uint8_t byte;
        ML_TRY(ml_bytes_u8(b, &byte, err));
        value = (int8_t)byte;
    } else if (field->type >= ML_THRIFT_I16 && field->type <= ML_THRIFT_I64) {
        ML_TRY(ml_thrift_zigzag(b, &value, err));
    } else {
        return fail_type(b, field, "an integer", err);
    }
    if (value < -1 || value > max) {
        return ml_fail(err, ML_EFORMAT, "offset %zu: field %d: expected a number of at most %lld, found %lld", at,
                       (int)field->id, (long long)max, (long long)value);
    }
    *out = value;
    return ML_OK;
}

ml_status ml_thrift_bool(ml_bytes *b, const ml_thrift_field *field, bool *out, ml_error *err)
{
    if (field->type != ML_THRIFT_TRUE && field->type != ML_THRIFT_FALSE)
        return fail_type(b, field, "true or false", err);
    *out = field->type == ML_THRIFT_TRUE;
    return ML_OK;
}

ml_status ml_thrift_text(ml_bytes *b, const ml_thrift_field *field, const char **out, size_t *n_bytes, ml_error *err)
{
    uint64_t n;
    const uint8_t *data;
    if (field->type != ML_THRIFT_TEXT) return fail_type(b, field, "text", err);
    ML_TRY(ml_thrift_varint(b, &n, err));
    ML_TRY(ml_bytes_take(b, n > SIZE_MAX ? SIZE_MAX : (size_t)n, &data, err));
    *out = (const char *)data;
    *n_bytes = (size_t)n;
    return ML_OK;
}

/* Header of a list or set. */
static ml_status list_header(ml_bytes *b, int *type, size_t *n, ml_error *err)
{
    uint8_t byte;
    size_t at = b->at;
    ML_TRY(ml_bytes_u8(b, &byte, err));
    uint64_t count = byte >> 4;
    if (count == 15) ML_TRY(ml_thrift_varint(b, &count, err));
    *type = byte & 0x0f;
    /* no element takes less than a byte */
    if (*type == ML_THRIFT_STOP || *type >= N_TYPES || count > b->size - b->at) {
        return ml_fail(err, ML_EFORMAT, "offset %zu: expected a list, found %llu elements of type %d in %zu bytes", at,
                       (unsigned long long)count, *type, b->size - b->at);
    }
    *n = (size_t)count;
    return ML_OK;
}

ml_status ml_thrift_list(ml_bytes *b, const ml_thrift_field *field, int type, size_t *n, ml_error *err)
{
    int found;
    size_t at = b->at;
    if (field->type != ML_THRIFT_LIST) return fail_type(b, field, "a list", err);
    ML_TRY(list_header(b, &found, n, err));
    if (*n == 0 || found == type) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "offset %zu: field %d: expected a list whose elements are %s, found %s", at,
                   (int)field->id, type_names[type], type_names[found]);
}

ml_status ml_thrift_struct(const ml_bytes *b, const ml_thrift_field *field, ml_error *err)
{
    return field->type == ML_THRIFT_STRUCT ? ML_OK : fail_type(b, field, "a struct", err);
}

/* ---- skipping ---- */

static ml_status skip_value(ml_bytes *b, int type, int depth, ml_error *err);

static ml_status skip_elements(ml_bytes *b, int depth, ml_error *err)
{
    int type;
    size_t n;
    ML_TRY(list_header(b, &type, &n, err));
    bool is_bool = type == ML_THRIFT_TRUE || type == ML_THRIFT_FALSE; /* a byte each here, none in a field */
    for (size_t i = 0; i < n; i++) ML_TRY(skip_value(b, is_bool ? ML_THRIFT_I8 : type, depth, err));
    return ML_OK;
}

static ml_status skip_map(ml_bytes *b, int depth, ml_error *err)
{
    uint64_t n;
    uint8_t types;
    size_t at = b->at;
    ML_TRY(ml_thrift_varint(b, &n, err));
    if (n == 0) return ML_OK;
    ML_TRY(ml_bytes_u8(b, &types, err));
    if (n > b->size - b->at) {
        return ml_fail(err, ML_EFORMAT, "offset %zu: a map of %llu entries does not fit into %zu bytes", at,
                       (unsigned long long)n, b->size - b->at);
    }
    int type[2] = { types >> 4, types & 0x0f };
    for (uint64_t i = 0; i < 2 * n; i++) {
        int t = type[i % 2];
        ML_TRY(skip_value(b, t == ML_THRIFT_TRUE || t == ML_THRIFT_FALSE ? ML_THRIFT_I8 : t, depth, err));
    }
    return ML_OK;
}

static ml_status skip_struct(ml_bytes *b, int depth, ml_error *err)
{
    ml_thrift_field field = { 0 };
    while (true) {
        ML_TRY(ml_thrift_next(b, &field, err));
        if (field.type == ML_THRIFT_STOP) return ML_OK;
        ML_TRY(skip_value(b, field.type, depth, err));
    }
}

static ml_status skip_value(ml_bytes *b, int type, int depth, ml_error *err)
{
    uint64_t n;
    const uint8_t *data;
    if (depth == MAX_DEPTH)
        return ml_fail(err, ML_EFORMAT, "offset %zu: values are nested too deeply (at most %d)", b->at, MAX_DEPTH);
    switch (type) {
    case ML_THRIFT_TRUE:
    case ML_THRIFT_FALSE: return ML_OK;
    case ML_THRIFT_I8: return ml_bytes_take(b, 1, &data, err);
    case ML_THRIFT_I16:
    case ML_THRIFT_I32:
    case ML_THRIFT_I64: return ml_thrift_varint(b, &n, err);
    case ML_THRIFT_DOUBLE: return ml_bytes_take(b, 8, &data, err);
    case ML_THRIFT_TEXT:
        ML_TRY(ml_thrift_varint(b, &n, err));
        return ml_bytes_take(b, n > SIZE_MAX ? SIZE_MAX : (size_t)n, &data, err);
    case ML_THRIFT_LIST:
    case ML_THRIFT_SET: return skip_elements(b, depth + 1, err);
    case ML_THRIFT_MAP: return skip_map(b, depth + 1, err);
    case ML_THRIFT_STRUCT: return skip_struct(b, depth + 1, err);
    default: return ml_fail(err, ML_EFORMAT, "offset %zu: expected a Thrift value, found type %d", b->at, type);
    }
}

ml_status ml_thrift_skip(ml_bytes *b, const ml_thrift_field *field, ml_error *err)
{
    return skip_value(b, field->type, 0, err);
}
