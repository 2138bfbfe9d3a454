#include "data/records.h"

#include "base/alloc.h"
#include "data/stream.h"

#include <string.h>
#include <strings.h>

typedef struct {
    char *path;
    ml_stream *stream;   /* NULL for Parquet */
    ml_parquet *parquet; /* NULL for others */
    ml_cutter cutter;
    uint64_t n_before; /* bytes of the files before it, on the disk */
    uint64_t size;     /* its own */
} record_file;

struct ml_records {
    char *marker;
    record_file *file;
    size_t n_file;
    uint64_t size;
    uint64_t split_at;
    /* where reading stands */
    size_t file_id;
    uint64_t index;
    uint64_t position; /* decompressed bytes of the files before this one */
    bool is_last;      /* all of this file's stream is in `rest` */
    char *rest;        /* of the stream: bytes behind the records that were read */
    size_t n_rest, rest_capacity;
};

/* ---- opening ---- */

static bool has_suffix(const char *path, size_t n, const char *suffix)
{
    size_t k = strlen(suffix);
    return n > k && strncasecmp(path + n - k, suffix, k) == 0;
}

static ml_status copy_text(char **out, const char *text, ml_error *err)
{
    *out = ml_strdup(text);
    return *out ? ML_OK : ml_fail_memory(err, strlen(text) + 1, "a name");
}

/* The columns that are wanted, of those the file has. */
static ml_status select_columns(const record_file *f, const ml_records_config *config, ml_error *err)
{
    if (config->n_field == 0) return ML_OK;
    size_t n = 0, *column = ml_calloc(config->n_field, sizeof *column);
    if (!column) return ml_fail_memory(err, config->n_field * sizeof *column, "the columns to read");
    for (size_t i = 0; i < config->n_field; i++) {
        int64_t found = ml_parquet_find(f->parquet, config->field[i]);
        if (found >= 0) column[n++] = (size_t)found;
    }
    ml_status status;
    if (n) {
        status = ml_parquet_select(f->parquet, column, n, err);
    } else {
        char names[300];
        ml_parquet_column_names(f->parquet, names, sizeof names);
        status = ml_fail(err, ML_EFORMAT, "%s: expected a column \"%s\"%s, found %s: name it with --field", f->path,
                         config->field[0], config->n_field > 1 ? " or another that is known" : "", names);
    }
    ml_free(column);
    return status;
}

static ml_status open_file(ml_records *r, record_file *f, const char *path, const ml_records_config *config,
                           ml_error *err)
{
    size_t n = ml_stream_name_length(path);
    ML_TRY(copy_text(&f->path, path, err));
    f->n_before = r->size;
    if (has_suffix(path, n, ".parquet")) {
        if (path[n])
            return ml_fail(err, ML_EINVAL, "%s: Parquet is compressed inside: decompress the file first", path);
        ML_TRY(ml_parquet_open(path, &f->parquet, err));
        ML_TRY(select_columns(f, config, err));
        f->size = ml_parquet_file_size(f->parquet);
    } else {
        ML_TRY(ml_stream_open(path, &f->stream, err));
        f->size = ml_stream_size(f->stream);
        f->cutter.kind = has_suffix(path, n, ".jsonl") || has_suffix(path, n, ".ndjson") ? ML_CUT_LINES
                         : has_suffix(path, n, ".json")                                  ? ML_CUT_JSON
                                                                                         : ML_CUT_DOCUMENTS;
        f->cutter.rule = config->rule;
        f->cutter.marker = r->marker;
    }
    r->size += f->size;
    return ML_OK;
}

static ml_status open_files(ml_records *r, const char *const *path, size_t n_path, const ml_records_config *config,
                            ml_error *err)
{
    r->file = ml_calloc(n_path ? n_path : 1, sizeof *r->file);
    if (!r->file) return ml_fail_memory(err, n_path * sizeof *r->file, "the list of input files");
    for (size_t i = 0; i < n_path; i++) ML_TRY(open_file(r, &r->file[r->n_file++], path[i], config, err));
    return ML_OK;
}

ml_status ml_records_open(const char *const *path, size_t n_path, const ml_records_config *config, ml_records **out,
                          ml_error *err)
{
    *out = NULL;
    if (!config->marker[0] || strchr(config->marker, '\n')) {
        return ml_fail(err, ML_EINVAL, "the marker between documents must be one line of text that is not empty");
    }
    ml_records *r = ml_calloc(1, sizeof *r);
    if (!r) return ml_fail_memory(err, sizeof *r, "the input files");
    ml_status status;
    ML_TRY_GOTO(copy_text(&r->marker, config->marker, err));
    ML_TRY_GOTO(open_files(r, path, n_path, config, err));
    *out = r;
    r = NULL;
done:
    ml_records_free(r);
    return status;
}

ml_status ml_records_open_texts(const char *const *path, size_t n_path, ml_document_rule rule, const char *marker,
                                const char *field, ml_records **out, ml_error *err)
{
    const ml_records_config config = { .rule = rule, .marker = marker, .field = &field, .n_field = 1 };
    return ml_records_open(path, n_path, &config, out, err);
}

void ml_records_free(ml_records *r)
{
    if (!r) return;
    for (size_t i = 0; i < r->n_file; i++) {
        ml_free(r->file[i].path);
        ml_stream_free(r->file[i].stream);
        ml_parquet_free(r->file[i].parquet);
    }
    ml_free(r->file);
    ml_free(r->marker);
    ml_free(r->rest);
    ml_free(r);
}

/* ---- sizes ---- */

uint64_t ml_records_size(const ml_records *r)
{
    return r->size;
}

uint64_t ml_records_at(const ml_records *r)
{
    if (r->file_id >= r->n_file) return r->size;
    const record_file *f = &r->file[r->file_id];
    if (f->stream) return f->n_before + (ml_stream_plain(f->stream) ? f->cutter.at : ml_stream_at(f->stream));
    uint64_t size = ml_parquet_size(f->parquet), at = ml_parquet_at(f->parquet);
    return f->n_before + (size ? (uint64_t)((double)f->size * ((double)at / (double)size)) : 0);
}

static ml_status measure_stream(ml_stream *s, uint64_t *n_bytes, ml_error *err)
{
    enum { AT_ONCE = 1 << 18 };
    size_t n;
    char *buffer = ml_alloc(AT_ONCE);
    if (!buffer) return ml_fail_memory(err, AT_ONCE, "reading a file");
    ml_status status = ML_OK;
    do {
        status = ml_stream_read(s, buffer, AT_ONCE, &n, err);
        *n_bytes += n;
    } while (status == ML_OK && n == AT_ONCE);
    ml_free(buffer);
    return status == ML_OK ? ml_stream_rewind(s, err) : status;
}

ml_status ml_records_measure(ml_records *r, uint64_t *n_bytes, ml_error *err)
{
    *n_bytes = 0;
    for (size_t i = 0; i < r->n_file; i++) {
        const record_file *f = &r->file[i];
        if (f->parquet)
            *n_bytes += ml_parquet_size(f->parquet);
        else if (ml_stream_plain(f->stream))
            *n_bytes += f->size;
        else
            ML_TRY(measure_stream(f->stream, n_bytes, err));
    }
    return ML_OK;
}

void ml_records_split(ml_records *r, uint64_t at)
{
    r->split_at = at;
}

/* ---- batches ---- */

void ml_record_batch_clear(ml_record_batch *batch)
{
    for (size_t i = 0; i < batch->n; i++) ml_free(batch->record[i].own);
    batch->n = 0;
}

void ml_record_batch_free(ml_record_batch *batch)
{
    ml_record_batch_clear(batch);
    ml_free(batch->record);
    ml_free(batch->bytes);
    ml_parquet_batch_free(&batch->rows);
    *batch = (ml_record_batch){ 0 };
}

static ml_status add_record(ml_records *r, ml_record_batch *batch, const ml_record *record, ml_error *err)
{
    void *items = batch->record;
    ML_TRY(ml_grow(&items, &batch->capacity, batch->n + 1, sizeof *batch->record, err));
    batch->record = items;
    batch->record[batch->n] = *record;
    batch->record[batch->n++].index = r->index++;
    return ML_OK;
}

static void next_file(ml_records *r, uint64_t n_bytes)
{
    r->position += n_bytes;
    r->file_id++;
    r->n_rest = 0;
    r->is_last = false;
}

/* A byte of all files as one of this file; 0 when it lies before. */
static uint64_t split_of(const ml_records *r)
{
    return r->split_at > r->position ? r->split_at - r->position : 0;
}

/* Records of text[0..n), which is this file from the cutter's base on, until the batch is full.  Their data are offsets
 * into the text, to be made pointers by the caller.  *ended: there are no more in the file. */
static ml_status cut_records(ml_records *r, const char *text, size_t n, bool is_last, size_t max_records,
                             size_t max_bytes, size_t *n_bytes, ml_record_batch *batch, bool *ended, ml_error *err)
{
    record_file *f = &r->file[r->file_id];
    f->cutter.split_at = split_of(r);
    *ended = false;
    while (batch->n < max_records && *n_bytes < max_bytes) {
        ml_piece piece;
        ml_cut_result result;
        if (ml_cut_next(&f->cutter, text, n, is_last, &piece, &result, err) != ML_OK)
            return ml_fail_prefix(err, "%s", f->path);
        *ended = result == ML_CUT_END;
        if (result != ML_CUT_PIECE) return ML_OK;
        ml_record record = { .number = piece.line,
                             .position = r->position + f->cutter.base + piece.begin,
                             .path = f->path,
                             .kind = f->cutter.kind == ML_CUT_DOCUMENTS ? ML_RECORD_TEXT : ML_RECORD_JSON,
                             .row = piece.begin,
                             .n_bytes = piece.end - piece.begin };
        ML_TRY(add_record(r, batch, &record, err));
        *n_bytes += record.n_bytes;
    }
    return ML_OK;
}

/* From record `first` of the batch on, data lies in this text. */
static void point_into(ml_record_batch *batch, size_t first, const char *text, bool is_mapped)
{
    for (size_t i = first; i < batch->n; i++) {
        batch->record[i].data = text + batch->record[i].row;
        batch->record[i].is_mapped = is_mapped;
    }
}

static ml_status read_mapped(ml_records *r, const ml_map *map, size_t max_records, size_t max_bytes, size_t *n_bytes,
                             ml_record_batch *batch, ml_error *err)
{
    bool ended;
    size_t first = batch->n;
    const char *text = map->data ? (const char *)map->data : "";
    ML_TRY(cut_records(r, text, map->size, true, max_records, max_bytes, n_bytes, batch, &ended, err));
    point_into(batch, first, text, true);
    if (ended) next_file(r, map->size);
    return ML_OK;
}

/* ---- compressed files ---- */

static ml_status grow_text(char **text, size_t *capacity, size_t need, ml_error *err)
{
    void *items = *text;
    ML_TRY(ml_grow(&items, capacity, need, 1, err));
    *text = items;
    return ML_OK;
}

/* Have at least `want` bytes of the stream in the batch, or all that are left. */
static ml_status fill(ml_records *r, size_t want, ml_record_batch *batch, ml_error *err)
{
    size_t n;
    if (r->is_last || batch->n_bytes >= want) return ML_OK;
    ML_TRY(grow_text(&batch->bytes, &batch->bytes_capacity, want, err));
    ML_TRY(ml_stream_read(r->file[r->file_id].stream, batch->bytes + batch->n_bytes, want - batch->n_bytes, &n, err));
    batch->n_bytes += n;
    r->is_last = batch->n_bytes < want;
    return ML_OK;
}

/* What lies behind the cursor waits for the next call. */
static ml_status keep_rest(ml_records *r, const ml_record_batch *batch, ml_error *err)
{
    ml_cutter *c = &r->file[r->file_id].cutter;
    size_t n = batch->n_bytes - c->at;
    ML_TRY(grow_text(&r->rest, &r->rest_capacity, n, err));
    if (n) memcpy(r->rest, batch->bytes + c->at, n);
    r->n_rest = n;
    ml_cut_move(c);
    return ML_OK;
}

static ml_status read_stream(ml_records *r, size_t max_records, size_t max_bytes, ml_record_batch *batch, ml_error *err)
{
    const record_file *f = &r->file[r->file_id];
    size_t n_bytes = 0, want = max_bytes < 4096 ? 4096 : max_bytes;
    bool ended = false;
    if (want < r->n_rest) want = r->n_rest;
    ML_TRY(grow_text(&batch->bytes, &batch->bytes_capacity, want, err));
    if (r->n_rest) memcpy(batch->bytes, r->rest, r->n_rest);
    batch->n_bytes = r->n_rest;
    while (true) {
        ML_TRY(fill(r, want, batch, err));
        ML_TRY(cut_records(r, batch->bytes, batch->n_bytes, r->is_last, max_records, max_bytes, &n_bytes, batch, &ended,
                           err));
        if (batch->n || ended) break;
        if (want > ML_RECORD_MAX_BYTES) {
            return ml_fail(err, ML_EFORMAT, "%s:%llu: expected a record of at most %zu bytes, found a longer one",
                           f->path, (unsigned long long)f->cutter.line + 1, ML_RECORD_MAX_BYTES);
        }
        want *= 2; /* a record longer than that */
    }
    point_into(batch, 0, batch->bytes, false);
    if (!ended) return keep_rest(r, batch, err);
    next_file(r, f->cutter.base + batch->n_bytes);
    return ML_OK;
}

/* ---- Parquet ---- */

static ml_status read_rows(ml_records *r, size_t max_records, size_t max_bytes, ml_record_batch *batch, ml_error *err)
{
    const record_file *f = &r->file[r->file_id];
    uint64_t begin = ml_parquet_at(f->parquet);
    ML_TRY(ml_parquet_read(f->parquet, max_records, max_bytes, &batch->rows, err));
    size_t n = batch->rows.n_row;
    uint64_t n_bytes = ml_parquet_at(f->parquet) - begin;
    for (size_t i = 0; i < n; i++) {
        ml_record record = { .number = batch->rows.first_row + i + 1,
                             .position = r->position + begin + (uint64_t)((double)n_bytes / (double)n * (double)i),
                             .path = f->path,
                             .kind = ML_RECORD_ROW,
                             .row = i,
                             .n_bytes = (size_t)(n_bytes / n) };
        ML_TRY(add_record(r, batch, &record, err));
    }
    if (n == 0) next_file(r, ml_parquet_size(f->parquet));
    return ML_OK;
}

/* ---- reading ---- */

ml_status ml_records_read(ml_records *r, size_t max_records, size_t max_bytes, ml_record_batch *batch, ml_error *err)
{
    size_t n_bytes = 0;
    ml_record_batch_clear(batch);
    while (r->file_id < r->n_file && batch->n < max_records && n_bytes < max_bytes) {
        const record_file *f = &r->file[r->file_id];
        const ml_map *map = f->stream ? ml_stream_plain(f->stream) : NULL;
        if (map) {
            ML_TRY(read_mapped(r, map, max_records, max_bytes, &n_bytes, batch, err));
            continue;
        }
        if (batch->n) break; /* a batch has one source of bytes besides mapped files */
        ML_TRY(f->parquet ? read_rows(r, max_records, max_bytes, batch, err)
                          : read_stream(r, max_records, max_bytes, batch, err));
        if (batch->n) break;
    }
    return ML_OK;
}
