#include "data/parquet_meta.h"

#include "base/alloc.h"
#include "data/parquet_thrift.h"
#include "token/scan.h"

#include <string.h>

typedef struct {
    ml_parquet_meta *meta;
    ml_bytes b;      /* of the whole file up to the end of the footer: offsets in messages are the file's */
    char *next_name; /* in schema.names */
} footer;

/* Numbers of SchemaElement.converted_type and of the union LogicalType. */
enum {
    CONVERTED_UTF8 = 0,
    CONVERTED_MAP,
    CONVERTED_MAP_KEY_VALUE,
    CONVERTED_LIST,
    CONVERTED_ENUM,
    CONVERTED_DECIMAL,
    CONVERTED_UINT_8 = 11,
    CONVERTED_UINT_64 = 14,
    CONVERTED_JSON = 19,
    LOGICAL_STRING = 1,
    LOGICAL_MAP,
    LOGICAL_LIST,
    LOGICAL_ENUM,
    LOGICAL_DECIMAL,
    LOGICAL_INTEGER = 10,
    LOGICAL_JSON = 12,
    LOGICAL_UUID = 14,
    LOGICAL_FLOAT16,
};

/* ---- schema ---- */

static void apply_converted_type(ml_parquet_element *e, int64_t type)
{
    if (type == CONVERTED_UTF8 || type == CONVERTED_ENUM || type == CONVERTED_JSON) e->meaning = ML_PARQUET_TEXT;
    if (type == CONVERTED_DECIMAL) e->meaning = ML_PARQUET_DECIMAL;
    if (type >= CONVERTED_UINT_8 && type <= CONVERTED_UINT_64) e->meaning = ML_PARQUET_UNSIGNED;
    if (type == CONVERTED_MAP || type == CONVERTED_MAP_KEY_VALUE) e->is_list = e->is_map = true;
    if (type == CONVERTED_LIST) e->is_list = true;
}

/* IntType { 1: bit width, 2: signed } and DecimalType { 1: scale, 2: precision }: what of them matters. */
static ml_status read_logical_detail(ml_bytes *b, ml_parquet_element *e, bool is_decimal, ml_error *err)
{
    ml_thrift_field f = { 0 };
    int64_t value;
    bool is_signed;
    while (true) {
        ML_TRY(ml_thrift_next(b, &f, err));
        if (f.type == ML_THRIFT_STOP) return ML_OK;
        if (is_decimal && (f.id == 1 || f.id == 2)) {
            ML_TRY(ml_thrift_int(b, &f, INT32_MAX, &value, err));
            *(f.id == 1 ? &e->scale : &e->precision) = (int32_t)value;
        } else if (!is_decimal && f.id == 2) {
            ML_TRY(ml_thrift_bool(b, &f, &is_signed, err));
            e->meaning = is_signed ? ML_PARQUET_AS_STORED : ML_PARQUET_UNSIGNED;
        } else {
            ML_TRY(ml_thrift_skip(b, &f, err));
        }
    }
}

static ml_status read_logical_type(ml_bytes *b, ml_parquet_element *e, ml_error *err)
{
    ml_thrift_field f = { 0 };
    while (true) {
        ML_TRY(ml_thrift_next(b, &f, err));
        if (f.type == ML_THRIFT_STOP) return ML_OK;
        switch (f.id) {
        case LOGICAL_STRING:
        case LOGICAL_ENUM:
        case LOGICAL_JSON: e->meaning = ML_PARQUET_TEXT; break;
        case LOGICAL_MAP: e->is_map = e->is_list = true; break;
        case LOGICAL_LIST: e->is_list = true; break;
        case LOGICAL_DECIMAL: e->meaning = ML_PARQUET_DECIMAL; break;
        case LOGICAL_UUID: e->meaning = ML_PARQUET_UUID; break;
        case LOGICAL_FLOAT16: e->meaning = ML_PARQUET_FLOAT16; break;
        }
        if (f.id == LOGICAL_INTEGER || f.id == LOGICAL_DECIMAL) {
            ML_TRY(ml_thrift_struct(b, &f, err));
            ML_TRY(read_logical_detail(b, e, f.id == LOGICAL_DECIMAL, err));
        } else {
            ML_TRY(ml_thrift_skip(b, &f, err));
        }
    }
}

/* Keep a name, with a 0 behind it.  names has room for the bytes of the footer and a 0 for each element. */
static ml_status keep_name(footer *f, const ml_thrift_field *field, const char **out, ml_error *err)
{
    const char *text;
    size_t n, at = f->b.at;
    ML_TRY(ml_thrift_text(&f->b, field, &text, &n, err));
    if (memchr(text, 0, n) || ml_utf8_valid_prefix((const uint8_t *)text, n) < n)
        return ml_fail(err, ML_EFORMAT, "offset %zu: expected the name of a column, found bytes that are not text", at);
    *out = f->next_name;
    if (n) memcpy(f->next_name, text, n);
    f->next_name[n] = 0;
    f->next_name += n + 1;
    return ML_OK;
}

static ml_status read_element(footer *f, ml_parquet_element *e, ml_error *err)
{
    ml_bytes *b = &f->b;
    ml_thrift_field field = { 0 };
    int64_t value;
    *e = (ml_parquet_element){ .name = "" };
    while (true) {
        ML_TRY(ml_thrift_next(b, &field, err));
        if (field.type == ML_THRIFT_STOP) return ML_OK;
        switch (field.id) {
        case 1:
            ML_TRY(ml_thrift_int(b, &field, ML_PARQUET_N_TYPE - 1, &value, err));
            e->is_leaf = value >= 0;
            e->type = (ml_parquet_type)(value < 0 ? 0 : value);
            break;
        case 2:
            ML_TRY(ml_thrift_int(b, &field, INT32_MAX, &value, err));
            e->type_length = (int32_t)value;
            break;
        case 3:
            ML_TRY(ml_thrift_int(b, &field, ML_PARQUET_REPEATED, &value, err));
            e->repetition = (ml_parquet_repetition)(value < 0 ? 0 : value);
            break;
        case 4: ML_TRY(keep_name(f, &field, &e->name, err)); break;
        case 5:
            ML_TRY(ml_thrift_int(b, &field, INT32_MAX, &value, err));
            e->n_child = value < 0 ? 0 : (size_t)value;
            break;
        case 6:
            ML_TRY(ml_thrift_int(b, &field, INT32_MAX, &value, err));
            apply_converted_type(e, value);
            break;
        case 7:
            ML_TRY(ml_thrift_int(b, &field, INT32_MAX, &value, err));
            e->scale = (int32_t)value;
            break;
        case 8:
            ML_TRY(ml_thrift_int(b, &field, INT32_MAX, &value, err));
            e->precision = (int32_t)value;
            break;
        case 10:
            ML_TRY(ml_thrift_struct(b, &field, err));
            ML_TRY(read_logical_type(b, e, err));
            break;
        default: ML_TRY(ml_thrift_skip(b, &field, err));
        }
    }
}

static ml_status check_element(const ml_parquet_element *e, size_t at, ml_error *err)
{
    if (!e->is_leaf) return ML_OK;
    bool sized = e->type == ML_PARQUET_FIXED;
    int32_t needed = e->meaning == ML_PARQUET_UUID ? 16 : e->meaning == ML_PARQUET_FLOAT16 ? 2 : 0;
    if ((sized && e->type_length < 1) || (needed && (!sized || e->type_length != needed))) {
        return ml_fail(err, ML_EFORMAT, "offset %zu: column \"%s\": values of %d bytes do not fit its type", at,
                       e->name, e->type_length);
    }
    if (e->meaning == ML_PARQUET_DECIMAL && (e->scale < 0 || e->scale > 1000)) {
        return ml_fail(err, ML_EFORMAT, "offset %zu: column \"%s\": expected a decimal scale of 0 to 1000, found %d",
                       at, e->name, e->scale);
    }
    return ML_OK;
}

static ml_status read_schema(footer *f, const ml_thrift_field *field, ml_error *err)
{
    ml_parquet_schema *s = &f->meta->schema;
    size_t n, begin = f->b.at;
    ML_TRY(ml_thrift_list(&f->b, field, ML_THRIFT_STRUCT, &n, err));
    if (s->element) return ml_fail(err, ML_EFORMAT, "offset %zu: a second schema", begin);
    s->element = ml_calloc(n, sizeof *s->element);
    s->names = ml_alloc(f->b.size - begin + n);
    if (!s->element || !s->names) return ml_fail_memory(err, n * sizeof *s->element, "the schema");
    f->next_name = s->names;
    s->n_element = n;
    for (size_t i = 0; i < n; i++) {
        size_t at = f->b.at;
        ML_TRY(read_element(f, &s->element[i], err));
        ML_TRY(check_element(&s->element[i], at, err));
    }
    ml_status status = ml_parquet_schema_build(s, err);
    return status == ML_OK ? ML_OK : ml_fail_prefix(err, "offset %zu", begin);
}

/* ---- row groups ---- */

/* ColumnMetaData. */
static ml_status read_chunk_meta(footer *f, const ml_parquet_node *leaf, ml_parquet_chunk *c, ml_error *err)
{
    ml_bytes *b = &f->b;
    ml_thrift_field field = { 0 };
    int64_t value, data_offset = -1, dictionary_offset = -1, type = -1, n_value = -1, n_bytes = 0;
    size_t begin = b->at;
    c->codec = -1;
    while (true) {
        ML_TRY(ml_thrift_next(b, &field, err));
        if (field.type == ML_THRIFT_STOP) break;
        switch (field.id) {
        case 1: ML_TRY(ml_thrift_int(b, &field, ML_PARQUET_N_TYPE - 1, &type, err)); break;
        case 4:
            ML_TRY(ml_thrift_int(b, &field, INT16_MAX, &value, err));
            c->codec = (int)value;
            break;
        case 5: ML_TRY(ml_thrift_int(b, &field, INT64_MAX, &n_value, err)); break;
        case 6: ML_TRY(ml_thrift_int(b, &field, INT64_MAX, &n_bytes, err)); break;
        case 9: ML_TRY(ml_thrift_int(b, &field, INT64_MAX, &data_offset, err)); break;
        case 11: ML_TRY(ml_thrift_int(b, &field, INT64_MAX, &dictionary_offset, err)); break;
        default: ML_TRY(ml_thrift_skip(b, &field, err));
        }
    }
    /* some writers say 0 for "no dictionary" */
    int64_t offset = dictionary_offset > 0 && dictionary_offset < data_offset ? dictionary_offset : data_offset;
    if (type != (int64_t)leaf->element->type || n_value < 0) {
        return ml_fail(err, ML_EFORMAT,
                       "offset %zu: column \"%s\": expected type %d as in the schema and a count, "
                       "found type %lld and %lld values",
                       begin, leaf->name, leaf->element->type, (long long)type, (long long)n_value);
    }
    if (n_value == 0) offset = 4; /* there may be no page to point to */
    if (offset < 4 || (uint64_t)offset > f->meta->data_end) {
        return ml_fail(err, ML_EFORMAT, "offset %zu: column \"%s\": expected pages at offset 4 to %zu, found %lld",
                       begin, leaf->name, f->meta->data_end, (long long)offset);
    }
    c->n_value = (uint64_t)n_value;
    c->offset = (uint64_t)offset;
    c->n_bytes = n_bytes < 0 ? 0 : (uint64_t)n_bytes;
    return ML_OK;
}

/* ColumnChunk. */
static ml_status read_chunk(footer *f, const ml_parquet_node *leaf, ml_parquet_chunk *c, ml_error *err)
{
    ml_bytes *b = &f->b;
    ml_thrift_field field = { 0 };
    bool found = false;
    size_t begin = b->at;
    while (true) {
        ML_TRY(ml_thrift_next(b, &field, err));
        if (field.type == ML_THRIFT_STOP) break;
        switch (field.id) {
        case 1:
            return ml_fail(err, ML_EINVAL, "column \"%s\" lies in another file: write it again as one file",
                           leaf->name);
        case 3:
            ML_TRY(ml_thrift_struct(b, &field, err));
            ML_TRY(read_chunk_meta(f, leaf, c, err));
            found = true;
            break;
        case 8:
        case 9: return ml_fail(err, ML_EINVAL, "column \"%s\" is encrypted: decrypt the file first", leaf->name);
        default: ML_TRY(ml_thrift_skip(b, &field, err));
        }
    }
    if (found) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "offset %zu: column \"%s\" is not described", begin, leaf->name);
}

static ml_status read_chunks(footer *f, const ml_thrift_field *field, ml_error *err)
{
    ml_parquet_meta *m = f->meta;
    size_t n, begin = f->b.at;
    ML_TRY(ml_thrift_list(&f->b, field, ML_THRIFT_STRUCT, &n, err));
    if (n != m->schema.n_leaf) {
        return ml_fail(err, ML_EFORMAT, "offset %zu: expected the schema's %zu columns in each row group, found %zu",
                       begin, m->schema.n_leaf, n);
    }
    ml_parquet_chunk *chunk = m->chunk + m->n_group * n;
    for (size_t i = 0; i < n; i++) ML_TRY(read_chunk(f, m->schema.leaf[i], &chunk[i], err));
    return ML_OK;
}

/* RowGroup. */
static ml_status read_group(footer *f, ml_error *err)
{
    ml_bytes *b = &f->b;
    ml_parquet_meta *m = f->meta;
    ml_thrift_field field = { 0 };
    int64_t n_row = -1;
    bool found = false;
    size_t begin = b->at;
    while (true) {
        ML_TRY(ml_thrift_next(b, &field, err));
        if (field.type == ML_THRIFT_STOP) break;
        switch (field.id) {
        case 1:
            ML_TRY(read_chunks(f, &field, err));
            found = true;
            break;
        case 3: ML_TRY(ml_thrift_int(b, &field, INT64_MAX, &n_row, err)); break;
        default: ML_TRY(ml_thrift_skip(b, &field, err));
        }
    }
    if (!found || n_row < 0)
        return ml_fail(err, ML_EFORMAT, "offset %zu: row group %zu lacks columns or a count of rows", begin,
                       m->n_group);
    m->group_rows[m->n_group++] = (uint64_t)n_row;
    return ML_OK;
}

static ml_status read_groups(footer *f, const ml_thrift_field *field, ml_error *err)
{
    ml_parquet_meta *m = f->meta;
    size_t n, n_chunk, begin = f->b.at;
    if (!m->schema.element || m->chunk)
        return ml_fail(err, ML_EFORMAT, "offset %zu: expected row groups once, behind the schema", begin);
    ML_TRY(ml_thrift_list(&f->b, field, ML_THRIFT_STRUCT, &n, err));
    /* each chunk takes some bytes of the footer: a count of groups cannot ask for more than the file's size */
    if (!ml_size_mul(n, m->schema.n_leaf, &n_chunk) || n_chunk > f->b.size - f->b.at) {
        return ml_fail(err, ML_EFORMAT, "offset %zu: %zu row groups of %zu columns do not fit into the file", begin, n,
                       m->schema.n_leaf);
    }
    m->chunk = ml_calloc(n_chunk, sizeof *m->chunk);
    m->group_rows = ml_calloc(n, sizeof *m->group_rows);
    if (!m->chunk || !m->group_rows) return ml_fail_memory(err, n_chunk * sizeof *m->chunk, "the list of columns");
    for (size_t i = 0; i < n; i++) ML_TRY(read_group(f, err));
    return ML_OK;
}

/* FileMetaData. */
static ml_status read_footer(footer *f, ml_error *err)
{
    ml_bytes *b = &f->b;
    ml_parquet_meta *m = f->meta;
    ml_thrift_field field = { 0 };
    int64_t n_row = -1;
    while (true) {
        ML_TRY(ml_thrift_next(b, &field, err));
        if (field.type == ML_THRIFT_STOP) break;
        switch (field.id) {
        case 2: ML_TRY(read_schema(f, &field, err)); break;
        case 3: ML_TRY(ml_thrift_int(b, &field, INT64_MAX, &n_row, err)); break;
        case 4: ML_TRY(read_groups(f, &field, err)); break;
        case 8: return ml_fail(err, ML_EINVAL, "the file is encrypted: decrypt it first");
        default: ML_TRY(ml_thrift_skip(b, &field, err));
        }
    }
    if (!m->chunk || n_row < 0) return ml_fail(err, ML_EFORMAT, "the footer lacks row groups or a count of rows");
    uint64_t left = (uint64_t)n_row;
    for (size_t i = 0; i < m->n_group; i++) {
        if (m->group_rows[i] > left)
            return ml_fail(err, ML_EFORMAT, "the footer says %lld rows, its row groups have more", (long long)n_row);
        left -= m->group_rows[i];
    }
    m->n_row = (uint64_t)n_row;
    if (left == 0) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "the footer says %lld rows, its row groups have %lld", (long long)n_row,
                   (long long)n_row - (long long)left);
}

ml_status ml_parquet_meta_read(ml_parquet_meta *meta, const uint8_t *data, size_t size, ml_error *err)
{
    if (size >= 4 && memcmp(data + size - 4, "PARE", 4) == 0)
        return ml_fail(err, ML_EINVAL, "the file is encrypted: decrypt it first");
    if (size < 12 || memcmp(data, "PAR1", 4) != 0 || memcmp(data + size - 4, "PAR1", 4) != 0) {
        return ml_fail(err, ML_EFORMAT,
                       "expected a Parquet file (\"PAR1\" at its begin and end), found %zu other bytes: is it cut "
                       "short?",
                       size);
    }
    uint32_t n_footer = ml_load_u32(data + size - 8);
    if (n_footer > size - 12) {
        return ml_fail(err, ML_EFORMAT, "offset %zu: a footer of %u bytes does not fit into a file of %zu", size - 8,
                       n_footer, size);
    }
    meta->file_size = size;
    meta->data_end = size - 8 - n_footer;
    footer f = { .meta = meta, .b = { data, size - 8, meta->data_end } };
    return read_footer(&f, err);
}

void ml_parquet_meta_free(ml_parquet_meta *meta)
{
    ml_parquet_schema_free(&meta->schema);
    ml_free(meta->chunk);
    ml_free(meta->group_rows);
    *meta = (ml_parquet_meta){ 0 };
}
