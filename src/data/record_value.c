/* What a record holds: the second step of records.h, for any thread. */
#include "data/records.h"

#include "base/alloc.h"

#include <string.h>

/* "file:line: " or "file: row N: " before a message. */
static ml_status fail_record(const ml_record *r, ml_error *err)
{
    if (err->code == ML_ENOMEM) return err->code;
    err->code = ML_EFORMAT;
    return ml_fail_prefix(err, r->kind == ML_RECORD_ROW ? "%s: row %llu" : "%s:%llu", r->path,
                          (unsigned long long)r->number);
}

ml_status ml_record_fail(const ml_record_batch *batch, size_t i, ml_error *err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    err->code = ML_EFORMAT;
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    return fail_record(&batch->record[i], err);
}

/* ---- text ---- */

static ml_status text_of_json(ml_record *r, const char *field, ml_text *out, ml_error *err)
{
    ml_json_member m;
    if (ml_json_find_member(r->data, r->n_bytes, field, &m, err) != ML_OK) return fail_record(r, err);
    if (!m.is_text) {
        ml_fail(err, ML_EFORMAT, "expected an object with a text under \"%s\", found %s: name the key with --field",
                field,
                !m.is_object ? "no object"
                : m.member   ? "another type"
                             : "no such key");
        return fail_record(r, err);
    }
    *out = (ml_text){ m.member, m.n_bytes };
    if (!m.has_escape) return ML_OK;
    ml_free(r->own);
    r->own = ml_alloc(m.n_bytes);
    if (!r->own) return ml_fail_memory(err, m.n_bytes, "a text");
    *out = (ml_text){ r->own, ml_json_unescape(m.member, m.n_bytes, r->own) };
    return ML_OK;
}

static ml_status text_of_row(const ml_parquet_batch *rows, const ml_record *r, const char *field, ml_text *out,
                             ml_error *err)
{
    int64_t column = ml_parquet_find(rows->parquet, field);
    if (column < 0 || !ml_parquet_is_text(rows->parquet, (size_t)column)) {
        ml_fail(err, ML_EFORMAT, "expected a column of texts \"%s\", found %s: name it with --field", field,
                column < 0 ? "none of that name" : "another type");
        return fail_record(r, err);
    }
    ml_parquet_text(rows, r->row, (size_t)column, &out->data, &out->n_bytes);
    if (out->data) return ML_OK;
    ml_fail(err, ML_EFORMAT, "expected a text in column \"%s\", found null", field);
    return fail_record(r, err);
}

ml_status ml_record_text(ml_record_batch *batch, size_t i, const char *field, ml_text *out, ml_error *err)
{
    ml_record *r = &batch->record[i];
    *out = (ml_text){ "", 0 };
    switch (r->kind) {
    case ML_RECORD_TEXT: *out = (ml_text){ r->data, r->n_bytes }; return ML_OK;
    case ML_RECORD_JSON: return text_of_json(r, field, out, err);
    case ML_RECORD_ROW: return text_of_row(&batch->rows, r, field, out, err);
    case ML_RECORD_BAD: break;
    }
    return ml_fail(err, ML_EFORMAT, "%.*s", (int)r->n_bytes, r->data);
}

/* ---- fields ---- */

static ml_status value_of_text(const ml_record *r, ml_arena *arena, const ml_value **out, ml_error *err)
{
    ml_value *object = ml_arena_alloc(arena, sizeof *object), *text = ml_arena_alloc(arena, sizeof *text);
    if (!object || !text) return ml_fail_memory(err, sizeof *text, "a document");
    *text = (ml_value){ .kind = ML_VALUE_TEXT, .n = r->n_bytes, .text = r->data, .key = "text", .key_bytes = 4 };
    *object = (ml_value){ .kind = ML_VALUE_OBJECT, .n = 1, .child = text };
    *out = object;
    return ML_OK;
}

ml_status ml_record_value(const ml_record_batch *batch, size_t i, ml_arena *arena, const ml_value **out, ml_error *err)
{
    const ml_record *r = &batch->record[i];
    *out = NULL;
    switch (r->kind) {
    case ML_RECORD_TEXT: return value_of_text(r, arena, out, err);
    case ML_RECORD_JSON:
        if (ml_value_parse(arena, r->data, r->n_bytes, out, err) == ML_OK) return ML_OK;
        return fail_record(r, err);
    case ML_RECORD_ROW: return ml_parquet_row(&batch->rows, r->row, arena, out, err);
    case ML_RECORD_BAD: break;
    }
    return ml_fail(err, ML_EFORMAT, "%.*s", (int)r->n_bytes, r->data);
}

/* ---- counting ---- */

void ml_record_tally_add(ml_record_tally *t, const ml_error *bad)
{
    t->n_seen++;
    if (!bad) return;
    if (t->n_bad++ == 0) snprintf(t->first, sizeof t->first, "%.*s", (int)sizeof t->first - 1, bad->message);
}

ml_status ml_record_texts(ml_record_batch *batch, size_t n, const char *field, ml_record_tally *tally, ml_text *out,
                          size_t *n_good, ml_error *err)
{
    *n_good = 0;
    for (size_t i = 0; i < n; i++) {
        ml_status status = ml_record_text(batch, i, field, &out[*n_good], err);
        if (status == ML_ENOMEM) return status;
        ml_record_tally_add(tally, status == ML_OK ? NULL : err);
        *n_good += status == ML_OK;
    }
    return ML_OK;
}

ml_record_tally ml_record_tally_sum(const ml_record_tally *a, const ml_record_tally *b)
{
    ml_record_tally sum = a->n_bad ? *a : *b;
    sum.n_seen = a->n_seen + b->n_seen;
    sum.n_bad = a->n_bad + b->n_bad;
    return sum;
}

ml_status ml_record_tally_check(const ml_record_tally *t, double max_bad, bool at_end, ml_error *err)
{
    enum { ENOUGH = 1000 };
    if (t->n_bad == 0 || (t->n_seen < ENOUGH && !at_end) || (double)t->n_bad <= max_bad * (double)t->n_seen)
        return ML_OK;
    return ml_fail(err, ML_EFORMAT, "%s; %lld of %lld records are malformed, --max-bad allows a fraction of %g",
                   t->first, (long long)t->n_bad, (long long)t->n_seen, max_bad);
}
