#include "data/rows.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "data/meta.h"

#include <assert.h>
#include <string.h>

/* ---- one row ---- */

void ml_row_free(ml_row *row)
{
    ml_ids_free(&row->ids);
    ml_free(row->span);
    memset(row, 0, sizeof *row);
}

void ml_row_clear(ml_row *row)
{
    row->ids.n = 0;
    row->n_span = 0;
}

static ml_status reserve_spans(ml_row *row, size_t n, ml_error *err)
{
    void *items = row->span;
    ML_TRY(ml_grow(&items, &row->span_capacity, n, sizeof *row->span, err));
    row->span = items;
    return ML_OK;
}

ml_status ml_row_add_span(ml_row *row, size_t begin, size_t end, ml_error *err)
{
    assert(begin < end && end <= row->ids.n && end <= INT32_MAX);
    ML_TRY(reserve_spans(row, row->n_span + 1, err));
    row->span[row->n_span++] = (ml_row_span){ (int32_t)begin, (int32_t)end };
    return ML_OK;
}

/* ---- names ---- */

static const char *const kind_names[] = { "rows", "pairs" };
static const char *const file_ends[ML_ROWS_N_FILE] = { "ids", "rows", "spans" };

const char *ml_rows_kind_name(ml_rows_kind kind)
{
    return kind_names[kind];
}

void ml_rows_file_name(ml_data_split split, int file, char out[32])
{
    snprintf(out, 32, "%s.%s", ml_dataset_split_name(split), file_ends[file]);
}

/* ---- opening ---- */

static ml_status read_kind(ml_rows *rows, const json_t *meta, const char *where, ml_error *err)
{
    const char *format, *kind;
    ML_TRY(ml_json_text(meta, "format", where, &format, err));
    if (strcmp(format, ML_ROWS_FORMAT) != 0) {
        return ml_fail(
            err, ML_EFORMAT,
            "%s: expected a folder of rows for tuning, found \"%.40s\": build one with `moonlight data build "
            "--kind ...`",
            where, format);
    }
    ML_TRY(ml_json_text(meta, "kind", where, &kind, err));
    rows->kind = strcmp(kind, kind_names[ML_ROWS_PAIR]) ? ML_ROWS_SINGLE : ML_ROWS_PAIR;
    if (strcmp(kind, kind_names[rows->kind]) == 0) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "%s: kind: expected rows or pairs, found \"%.40s\"", where, kind);
}

static ml_status open_file(ml_rows *rows, ml_data_split id, int file, int64_t n, size_t each, ml_error *err)
{
    char name[32], path[ML_PATH_MAX];
    ml_map *map = &rows->split[id].file[file];
    ml_rows_file_name(id, file, name);
    ML_TRY(ml_path_join(path, rows->path, name, err));
    ML_TRY(ml_map_open(path, map, err));
    if (map->size == (size_t)n * each) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "%s: expected %lld items of %zu bytes as meta.json says, found %zu bytes in all",
                   path, (long long)n, each, map->size);
}

static uint64_t index_at(const ml_rows_split *s, int64_t row, int column)
{
    return ml_load_u64(s->file[ML_ROWS_INDEX].data + 16 * row + 8 * column);
}

static ml_row_span span_at(const ml_rows_split *s, int64_t i)
{
    const uint8_t *p = s->file[ML_ROWS_SPANS].data + 8 * i;
    uint32_t begin = ml_load_u32(p), end = ml_load_u32(p + 4);
    if (begin > INT32_MAX || end > INT32_MAX) return (ml_row_span){ -1, -1 };
    return (ml_row_span){ (int32_t)begin, (int32_t)end };
}

/* The spans of a row lie in it, in order and apart; a pair's two are its answers. */
static bool spans_fit(const ml_rows *rows, const ml_rows_split *s, int64_t first, int64_t n, int64_t n_id)
{
    int32_t before = 1;
    for (int64_t i = 0; i < n; i++) {
        ml_row_span span = span_at(s, first + i);
        if (span.begin < before || span.end <= span.begin || span.end > n_id) return false;
        if (rows->kind == ML_ROWS_PAIR && i == 1 && span.begin != before) return false;
        before = span.end;
    }
    return n >= 1 && (rows->kind == ML_ROWS_SINGLE || (n == 2 && before == n_id));
}

/* The longest of the sequences that a row becomes, without its last token. */
static int64_t input_length(const ml_rows *rows, const ml_rows_split *s, int64_t first, int64_t n)
{
    ml_row_span a = span_at(s, first), b = span_at(s, first + n - 1);
    if (rows->kind == ML_ROWS_SINGLE) return b.end - 1;
    int64_t rejected = a.begin + (b.end - b.begin);
    return (a.end > rejected ? a.end : rejected) - 1;
}

/* Offsets must rise from 0 to the totals, so that every later look-up stays inside. */
static ml_status check_rows(const ml_rows *rows, ml_data_split id, ml_rows_split *s, ml_error *err)
{
    char name[32];
    int64_t token = 0, span = 0;
    ml_rows_file_name(id, ML_ROWS_INDEX, name);
    for (int64_t i = 0; i <= s->n_row; i++) {
        uint64_t t = index_at(s, i, 0), p = index_at(s, i, 1);
        bool inside = t <= (uint64_t)s->n_token && p <= (uint64_t)s->n_span;
        int64_t n_id = inside ? (int64_t)t - token : -1, n_span = inside ? (int64_t)p - span : -1;
        bool good = i == 0 ? t == 0 && p == 0 : n_id >= 2 && n_id <= INT32_MAX && n_span >= 1;
        if (!good || (i > 0 && !spans_fit(rows, s, span, n_span, n_id))) {
            return ml_fail(err, ML_EFORMAT,
                           "%s/%s: row %lld: expected rising offsets within %lld tokens and %lld spans, and spans "
                           "within the row, found token %llu, span %llu: build the folder again",
                           rows->path, name, (long long)(i ? i - 1 : 0), (long long)s->n_token, (long long)s->n_span,
                           (unsigned long long)t, (unsigned long long)p);
        }
        if (i > 0) {
            int64_t n_input = input_length(rows, s, span, n_span);
            if (n_id > s->longest) s->longest = n_id;
            if (n_span > s->most_spans) s->most_spans = n_span;
            if (n_input > s->longest_input) s->longest_input = n_input;
            for (int64_t k = span; k < span + n_span; k++) s->n_target += span_at(s, k).end - span_at(s, k).begin;
        }
        token = (int64_t)t;
        span = (int64_t)p;
    }
    if (token == s->n_token && span == s->n_span) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "%s/%s: the last row ends at token %lld and span %lld of %lld and %lld", rows->path,
                   name, (long long)token, (long long)span, (long long)s->n_token, (long long)s->n_span);
}

static ml_status open_split(ml_rows *rows, ml_data_split id, const json_t *splits, const char *where, ml_error *err)
{
    ml_rows_split *s = &rows->split[id];
    json_t *object, *hashes;
    ML_TRY(ml_json_object(splits, ml_dataset_split_name(id), where, &object, err));
    ML_TRY(ml_meta_count(object, "rows", where, &s->n_row, err));
    ML_TRY(ml_meta_count(object, "tokens", where, &s->n_token, err));
    ML_TRY(ml_meta_count(object, "spans", where, &s->n_span, err));
    ML_TRY(ml_json_object(object, "sha256", where, &hashes, err));
    const int64_t count[ML_ROWS_N_FILE] = { s->n_token, s->n_row + 1, s->n_span };
    const size_t each[ML_ROWS_N_FILE] = { (size_t)rows->id_bytes, 16, 8 };
    for (int i = 0; i < ML_ROWS_N_FILE; i++) {
        ML_TRY(ml_meta_text(hashes, file_ends[i], where, s->sha256[i], ML_SHA256_HEX, err));
        ML_TRY(open_file(rows, id, i, count[i], each[i], err));
    }
    return check_rows(rows, id, s, err);
}

static ml_status open_from_meta(ml_rows *rows, const char *meta_path, ml_error *err)
{
    const ml_meta_head head = { rows->name, rows->tokenizer, rows->fingerprint, &rows->vocab_size, &rows->id_bytes };
    json_t *meta = NULL, *splits;
    ml_status status;
    ML_TRY_GOTO(ml_json_load(meta_path, &meta, err));
    ML_TRY_GOTO(read_kind(rows, meta, meta_path, err));
    ML_TRY_GOTO(ml_meta_read_head(meta, meta_path, &head, err));
    ML_TRY_GOTO(ml_json_object(meta, "splits", meta_path, &splits, err));
    for (int i = 0; i < ML_N_SPLIT; i++) ML_TRY_GOTO(open_split(rows, (ml_data_split)i, splits, meta_path, err));
done:
    json_decref(meta);
    return status;
}

bool ml_rows_are_in(const char *path)
{
    char meta_path[ML_PATH_MAX];
    ml_error ignored;
    json_t *meta;
    if (ml_path_join(meta_path, path, "meta.json", &ignored) != ML_OK) return false;
    if (ml_json_load(meta_path, &meta, &ignored) != ML_OK) return false;
    const char *format = json_string_value(json_object_get(meta, "format"));
    bool are = format && strcmp(format, ML_ROWS_FORMAT) == 0;
    json_decref(meta);
    return are;
}

ml_status ml_rows_open(const char *path, ml_rows **out, ml_error *err)
{
    char meta_path[ML_PATH_MAX];
    *out = NULL;
    ML_TRY(ml_path_join(meta_path, path, "meta.json", err));
    if (!ml_path_exists(meta_path)) {
        return ml_fail(err, ML_EIO, "%s: not a finished folder of rows: make it with `moonlight data build --kind ...`",
                       path);
    }
    ml_rows *rows = ml_calloc(1, sizeof *rows);
    if (!rows) return ml_fail_memory(err, sizeof *rows, "a folder of rows");
    memcpy(rows->path, path, strlen(path) + 1); /* ml_path_join has checked the length */
    ml_status status = open_from_meta(rows, meta_path, err);
    if (status != ML_OK) {
        ml_rows_free(rows);
        return status;
    }
    *out = rows;
    return ML_OK;
}

void ml_rows_free(ml_rows *rows)
{
    if (!rows) return;
    for (int i = 0; i < ML_N_SPLIT; i++) {
        for (int k = 0; k < ML_ROWS_N_FILE; k++) ml_map_close(&rows->split[i].file[k]);
    }
    ml_free(rows);
}

ml_status ml_rows_check_kind(const ml_rows *rows, ml_rows_kind kind, ml_error *err)
{
    if (rows->kind == kind) return ML_OK;
    return ml_fail(err, ML_EINVAL, "%s: expected %s, found %s: `moonlight sft` learns rows, `moonlight dpo` pairs",
                   rows->path, kind_names[kind], kind_names[rows->kind]);
}

ml_status ml_rows_check_tokenizer(const ml_rows *rows, const char *fingerprint, ml_error *err)
{
    return ml_meta_check_tokenizer(rows->path, rows->tokenizer, fingerprint, err);
}

ml_status ml_rows_verify(const ml_rows *rows, ml_error *err)
{
    for (int i = 0; i < ML_N_SPLIT; i++) {
        for (int k = 0; k < ML_ROWS_N_FILE; k++) {
            char name[32], path[ML_PATH_MAX];
            ml_rows_file_name((ml_data_split)i, k, name);
            ML_TRY(ml_path_join(path, rows->path, name, err));
            ML_TRY(ml_meta_check_hash(path, rows->split[i].sha256[k], err));
        }
    }
    return ML_OK;
}

/* ---- reading ---- */

static ml_status reserve_ids(ml_ids *ids, size_t n, ml_error *err)
{
    void *items = ids->id;
    ML_TRY(ml_grow(&items, &ids->capacity, n, sizeof *ids->id, err));
    ids->id = items;
    return ML_OK;
}

ml_status ml_rows_reserve(const ml_rows *rows, ml_data_split split, ml_row *row, ml_error *err)
{
    const ml_rows_split *s = &rows->split[split];
    ML_TRY(reserve_ids(&row->ids, (size_t)s->longest + 1, err));
    return reserve_spans(row, (size_t)s->most_spans + 1, err);
}

ml_status ml_rows_read(const ml_rows *rows, ml_data_split split, int64_t i, ml_row *row, ml_error *err)
{
    const ml_rows_split *s = &rows->split[split];
    assert(i >= 0 && i < s->n_row);
    int64_t first = (int64_t)index_at(s, i, 0), span = (int64_t)index_at(s, i, 1);
    size_t n = (size_t)((int64_t)index_at(s, i + 1, 0) - first);
    size_t n_span = (size_t)((int64_t)index_at(s, i + 1, 1) - span);
    const uint8_t *p = s->file[ML_ROWS_IDS].data + first * rows->id_bytes;
    ML_TRY(reserve_ids(&row->ids, n, err));
    ML_TRY(reserve_spans(row, n_span, err));
    for (size_t k = 0; k < n; k++, p += rows->id_bytes) {
        uint32_t v = rows->id_bytes == 2 ? (uint32_t)p[0] | (uint32_t)p[1] << 8 : ml_load_u32(p);
        if (v >= (uint64_t)rows->vocab_size) {
            char name[32];
            ml_rows_file_name(split, ML_ROWS_IDS, name);
            return ml_fail(err, ML_EFORMAT, "%s/%s: offset %lld: expected an id below vocab_size %lld, found %u",
                           rows->path, name, (long long)((first + (int64_t)k) * rows->id_bytes),
                           (long long)rows->vocab_size, v);
        }
        row->ids.id[k] = (int32_t)v;
    }
    for (size_t k = 0; k < n_span; k++) row->span[k] = span_at(s, span + (int64_t)k);
    row->ids.n = n;
    row->n_span = n_span;
    return ML_OK;
}
