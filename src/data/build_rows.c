#include "data/build_rows.h"

#include "base/alloc.h"
#include "base/thread.h"
#include "data/rows_write.h"

#include <math.h>
#include <string.h>

enum { BATCH = 512 }; /* records encoded at once */

/* One line of a file, and what became of it. */
typedef struct {
    const char *line;
    size_t n_bytes;
    const char *path;
    int64_t number;
    ml_row row[ML_ROW_MAX_PREFIXES];
    size_t n_row;
    ml_row_reject reject;
    bool is_val;
    ml_error problem; /* of a malformed record, or of memory */
} record;

typedef struct {
    const ml_build_rows_config *config;
    ml_row_maker maker;
    ml_rows_writer *writer;
    ml_build_rows_result *result;
    record *batch; /* [BATCH] */
    size_t n_batch;
    bool val_file;          /* the file being read is for validation */
    int64_t n_bad, n_train; /* defective records, rows for training */
    double n_bytes_done;
} builder;

/* ---- which split ---- */

ml_status ml_build_rows_is_val(const char *key, size_t n_bytes, double val_fraction, bool *is_val, ml_error *err)
{
    ml_sha256 *hash;
    uint8_t digest[ML_SHA256_BYTES];
    uint64_t first = 0;
    ML_TRY(ml_sha256_begin(&hash, err));
    ml_sha256_add(hash, key, n_bytes);
    ml_sha256_add(hash, "moonlight", 9);
    ml_sha256_end(hash, digest);
    for (int i = 0; i < 8; i++) first = first << 8 | digest[i];
    *is_val = ldexp((double)first, -64) >= 1 - val_fraction;
    return ML_OK;
}

static ml_status choose_split(const builder *b, record *r, const json_t *json, const ml_dialog *d, ml_error *err)
{
    const ml_build_rows_config *c = b->config;
    const json_t *id = json_object_get(json, "id");
    char number[32];
    r->is_val = b->val_file;
    if (c->n_val_input || c->val_fraction <= 0) return ML_OK;
    if (json_is_integer(id)) {
        int n = snprintf(number, sizeof number, "%lld", (long long)json_integer_value(id));
        return ml_build_rows_is_val(number, (size_t)n, c->val_fraction, &r->is_val, err);
    }
    ml_text key = { json_string_value(id), json_string_length(id) };
    for (size_t i = 0; i < d->n && !key.data; i++) {
        if (d->turn[i].role == ML_ROLE_USER) key = d->turn[i].text;
    }
    if (!key.data) key = (ml_text){ "", 0 };
    return ml_build_rows_is_val(key.data, key.n_bytes, c->val_fraction, &r->is_val, err);
}

/* ---- one record ---- */

static ml_status encode_json(const builder *b, record *r, const json_t *json, const char *where, ml_error *err)
{
    ml_dialog dialog = { 0 };
    ml_preference pair = { 0 };
    bool is_pair = b->config->form == ML_ROW_PREFERENCE;
    ml_status status =
        is_pair ? ml_preference_from_json(json, where, &pair, err) : ml_dialog_from_json(json, where, &dialog, err);
    if (status == ML_EFORMAT) r->reject = ML_REJECT_MALFORMED;
    if (status == ML_OK) status = choose_split(b, r, json, is_pair ? &pair.prompt : &dialog, err);
    if (status == ML_OK && is_pair) {
        status = ml_row_make_pair(&b->maker, &pair, &r->row[0], &r->reject, err);
        r->n_row = r->reject == ML_REJECT_NONE;
    } else if (status == ML_OK) {
        status = ml_row_make(&b->maker, &dialog, r->row, &r->n_row, &r->reject, err);
    }
    ml_dialog_free(&dialog);
    ml_preference_free(&pair);
    return status;
}

static void encode_records(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    builder *b = arg;
    for (int64_t i = begin; i < end; i++) {
        record *r = &b->batch[i];
        char where[ML_PATH_MAX + 32];
        json_t *json;
        snprintf(where, sizeof where, "%s:%lld", r->path, (long long)r->number);
        r->n_row = 0;
        r->reject = ML_REJECT_NONE;
        r->is_val = false;
        r->problem.code = ML_OK;
        ml_status status = ml_json_parse(r->line, r->n_bytes, where, &json, &r->problem);
        if (status == ML_EFORMAT) r->reject = ML_REJECT_MALFORMED;
        if (status == ML_OK) {
            status = encode_json(b, r, json, where, &r->problem);
            json_decref(json);
        }
        r->problem.code = status;
    }
}

/* ---- counting and writing ---- */

static void note_first_bad(builder *b, const record *r)
{
    ml_build_rows_result *x = b->result;
    if (b->n_bad++ > 0) return;
    if (r->reject == ML_REJECT_MALFORMED)
        snprintf(x->first_bad, sizeof x->first_bad, "%.511s", r->problem.message);
    else
        snprintf(x->first_bad, sizeof x->first_bad, "%.400s:%lld: %s", r->path, (long long)r->number,
                 ml_row_reject_name(r->reject));
}

/* Checked once a thousand records have been seen, and at the end. */
static ml_status check_bad(const builder *b, bool at_end, ml_error *err)
{
    int64_t n = b->result->n_record;
    if (b->n_bad == 0 || (n < 1000 && !at_end) || (double)b->n_bad <= b->config->max_bad * (double)n) return ML_OK;
    return ml_fail(err, ML_EFORMAT, "%s; %lld of %lld records are defective, --max-bad allows a fraction of %g",
                   b->result->first_bad, (long long)b->n_bad, (long long)n, b->config->max_bad);
}

static ml_status write_batch(builder *b, ml_error *err)
{
    ml_parallel_for((int64_t)b->n_batch, 8, encode_records, b);
    for (size_t i = 0; i < b->n_batch; i++) {
        record *r = &b->batch[i];
        if (r->problem.code != ML_OK && r->reject != ML_REJECT_MALFORMED) {
            *err = r->problem;
            return r->problem.code;
        }
        b->result->n_record++;
        b->n_bytes_done += (double)r->n_bytes;
        if (r->reject != ML_REJECT_NONE) b->result->n_reject[r->reject]++;
        if (ml_row_reject_is_bad(r->reject)) note_first_bad(b, r);
        ml_data_split split = r->is_val ? ML_SPLIT_VAL : ML_SPLIT_TRAIN;
        for (size_t k = 0; k < r->n_row; k++) ML_TRY(ml_rows_writer_add(b->writer, split, &r->row[k], err));
        if (split == ML_SPLIT_TRAIN) b->n_train += (int64_t)r->n_row;
    }
    b->n_batch = 0;
    ml_progress_update(b->config->progress, b->n_bytes_done / 1e6, NULL);
    if (ml_progress_stopped(b->config->progress)) return ml_fail(err, ML_ECANCEL, "%s: stopped", b->config->out);
    return check_bad(b, false, err);
}

static ml_status read_lines(builder *b, const char *path, const ml_map *map, ml_error *err)
{
    const char *text = (const char *)map->data, *end = text ? text + map->size : NULL;
    int64_t number = 0;
    while (text < end) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        if (!stop) stop = end;
        size_t n = (size_t)(stop - text);
        number++;
        bool blank = true;
        for (size_t i = 0; i < n && blank; i++) blank = text[i] == ' ' || text[i] == '\t' || text[i] == '\r';
        if (!blank) {
            record *r = &b->batch[b->n_batch++];
            r->line = text;
            r->n_bytes = n;
            r->path = path;
            r->number = number;
            if (b->n_batch == BATCH) ML_TRY(write_batch(b, err));
        }
        text = stop + 1;
    }
    return write_batch(b, err);
}

static ml_status read_file(builder *b, const char *path, bool is_val, ml_error *err)
{
    ml_map map;
    b->val_file = is_val;
    ML_TRY(ml_map_open(path, &map, err));
    ml_status status = read_lines(b, path, &map, err);
    ml_map_close(&map);
    return status;
}

/* ---- the folder ---- */

/* What meta.json tells of the making. */
static json_t *describe(const builder *b)
{
    const ml_build_rows_config *c = b->config;
    json_t *inputs = json_array(), *left_out = json_object();
    for (size_t i = 0; i < c->n_input; i++) json_array_append_new(inputs, json_string(c->input[i]));
    for (size_t i = 0; i < c->n_val_input; i++) json_array_append_new(inputs, json_string(c->val_input[i]));
    for (int i = 1; i < ML_N_REJECT; i++) {
        int64_t n = b->result->n_reject[i];
        if (n) json_object_set_new(left_out, ml_row_reject_name((ml_row_reject)i), json_integer(n));
    }
    return json_pack("{s:s, s:s, s:I, s:f, s:I, s:o, s:o}", "form", ml_row_form_name(c->form), "chat_format",
                     ml_chat_name(&b->maker.chat), "max_tokens", (json_int_t)c->max_tokens, "val_fraction",
                     c->val_fraction, "records", (json_int_t)b->result->n_record, "inputs", inputs, "left_out",
                     left_out);
}

static ml_status read_counts(const char *out, ml_build_rows_result *result, ml_error *err)
{
    ml_rows *rows;
    ML_TRY(ml_rows_open(out, &rows, err));
    for (int i = 0; i < ML_N_SPLIT; i++) {
        result->n_row[i] = rows->split[i].n_row;
        result->n_token[i] = rows->split[i].n_token;
        result->n_target[i] = rows->split[i].n_target;
    }
    ml_rows_free(rows);
    return ML_OK;
}

static ml_status build_folder(builder *b, ml_error *err)
{
    const ml_build_rows_config *c = b->config;
    const char *slash = strrchr(c->out, '/'), *name = c->name ? c->name : slash && slash[1] ? slash + 1 : c->out;
    ml_rows_kind kind = c->form == ML_ROW_PREFERENCE ? ML_ROWS_PAIR : ML_ROWS_SINGLE;
    ML_TRY(ml_rows_writer_make(c->out, name, kind, b->maker.tokenizer, &b->writer, err));
    for (size_t i = 0; i < c->n_input; i++) ML_TRY(read_file(b, c->input[i], false, err));
    for (size_t i = 0; i < c->n_val_input; i++) ML_TRY(read_file(b, c->val_input[i], true, err));
    ML_TRY(check_bad(b, true, err));
    if (b->n_train == 0) {
        int most = 1;
        for (int i = 2; i < ML_N_REJECT; i++) most = b->result->n_reject[i] > b->result->n_reject[most] ? i : most;
        return ml_fail(err, ML_EINVAL, "%s: none of %lld records gave a row for training; %lld were left out: %s%s%s",
                       c->input[0], (long long)b->result->n_record, (long long)b->result->n_reject[most],
                       ml_row_reject_name((ml_row_reject)most), *b->result->first_bad ? "; the first: " : "",
                       b->result->first_bad);
    }
    json_t *facts = describe(b);
    if (!facts) return ml_fail_memory(err, 0, "the description of a folder of rows");
    ml_status status = ml_rows_writer_finish(b->writer, facts, err);
    json_decref(facts);
    ML_TRY(status);
    return read_counts(c->out, b->result, err);
}

ml_status ml_build_rows(const ml_build_rows_config *config, const ml_tokenizer *tokenizer, ml_build_rows_result *result,
                        ml_error *err)
{
    builder b = { .config = config, .result = result };
    memset(result, 0, sizeof *result);
    ML_TRY(ml_row_maker_init(&b.maker, tokenizer, config->form, config->chat_format, config->max_tokens, err));
    b.batch = ml_calloc(BATCH, sizeof *b.batch);
    if (!b.batch) return ml_fail_memory(err, BATCH * sizeof *b.batch, "a batch of records");
    ml_status status = build_folder(&b, err);
    ml_rows_writer_free(b.writer);
    for (int i = 0; i < BATCH; i++) {
        for (int k = 0; k < ML_ROW_MAX_PREFIXES; k++) ml_row_free(&b.batch[i].row[k]);
    }
    ml_free(b.batch);
    return status;
}
