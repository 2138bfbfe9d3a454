#include "data/build_rows.h"

#include "base/alloc.h"
#include "base/thread.h"
#include "data/mix_rows.h"
#include "data/records.h"
#include "data/rows_write.h"
#include "data/split_rule.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BATCH = 512, BATCH_BYTES = 8 << 20 }; /* records encoded at once */

/* A thread's values of one record: address space only until it is used. */
static const size_t arena_bytes = (size_t)1 << 32;

/* What became of a record. */
typedef struct {
    ml_row row[ML_ROW_MAX_PREFIXES];
    size_t n_row;
    ml_row_reject reject;
    bool is_val;
    ml_error problem; /* of a malformed record, or of memory */
} outcome;

typedef struct {
    const ml_build_rows_config *config;
    ml_row_maker maker;
    ml_rows_writer *writer;
    ml_build_rows_result *result;
    ml_record_batch batch;
    outcome *outcome; /* [BATCH] of its records */
    ml_arena *arena;  /* [n_arena] one for each thread */
    int n_arena;
    ml_file_writer rejects;
    bool val_file;          /* the file being read is for validation */
    int64_t n_bad, n_train; /* defective records, rows for training */
} builder;

/* ---- which split ---- */

static ml_status choose_split(const builder *b, outcome *r, const ml_value *record, const ml_dialog *d, ml_error *err)
{
    const ml_build_rows_config *c = b->config;
    const ml_value *id = ml_value_find(record, "id");
    char number[32];
    ml_text key = { NULL, 0 };
    r->is_val = b->val_file;
    if (c->n_val_input || c->val_fraction <= 0) return ML_OK;
    if (id && id->kind == ML_VALUE_INTEGER)
        key = (ml_text){ number, (size_t)snprintf(number, sizeof number, "%lld", (long long)id->integer) };
    else if (id && id->kind == ML_VALUE_TEXT)
        key = (ml_text){ id->text, id->n };
    for (size_t i = 0; i < d->n && !key.data; i++) {
        if (d->turn[i].role == ML_ROLE_USER) key = d->turn[i].text;
    }
    ml_sha256 *hash;
    ML_TRY(ml_sha256_begin(&hash, err));
    r->is_val = ml_split_rule_is_val(hash, key.data ? key.data : "", key.n_bytes, c->val_fraction);
    ml_sha256_free(hash);
    return ML_OK;
}

/* ---- one record ---- */

static ml_status encode_value(const builder *b, outcome *r, const ml_value *record, ml_error *err)
{
    ml_dialog dialog = { 0 };
    ml_preference pair = { 0 };
    bool is_pair = b->config->form == ML_ROW_PREFERENCE;
    ml_status status = is_pair ? ml_preference_read(record, &pair, err) : ml_dialog_read(record, &dialog, err);
    if (status == ML_EFORMAT) r->reject = ML_REJECT_MALFORMED;
    if (status == ML_OK) status = choose_split(b, r, record, is_pair ? &pair.prompt : &dialog, err);
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
    builder *b = arg;
    ml_arena *arena = &b->arena[thread];
    for (int64_t i = begin; i < end; i++) {
        outcome *r = &b->outcome[i];
        const ml_value *value;
        size_t mark = ml_arena_mark(arena);
        r->n_row = 0;
        r->reject = ML_REJECT_NONE;
        r->is_val = false;
        ml_status status = ml_record_value(&b->batch, (size_t)i, arena, &value, &r->problem);
        if (status == ML_EFORMAT) {
            r->reject = ML_REJECT_MALFORMED;
        } else if (status == ML_OK) {
            status = encode_value(b, r, value, &r->problem);
            const ml_error what = r->problem;
            if (r->reject == ML_REJECT_MALFORMED) ml_record_fail(&b->batch, (size_t)i, &r->problem, "%s", what.message);
        }
        r->problem.code = status;
        ml_arena_release(arena, mark);
    }
}

/* ---- counting and writing ---- */

static ml_status note_bad(builder *b, const ml_record *record, outcome *r, ml_error *err)
{
    ml_build_rows_result *x = b->result;
    const char *reason = ml_row_reject_name(r->reject);
    bool is_row = record->kind == ML_RECORD_ROW;
    if (r->reject != ML_REJECT_MALFORMED) {
        snprintf(r->problem.message, sizeof r->problem.message, is_row ? "%.300s: row %llu: %s" : "%.300s:%llu: %s",
                 record->path, (unsigned long long)record->number, reason);
    }
    if (b->n_bad++ == 0) snprintf(x->first_bad, sizeof x->first_bad, "%.511s", r->problem.message);
    json_t *line = json_pack("{s:s, s:I, s:s, s:s}", "file", record->path, "number", (json_int_t)record->number,
                             "reason", reason, "message", r->problem.message);
    char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;
    json_decref(line);
    /* A message may quote bytes that are not UTF-8. */
    if (!text)
        return ml_file_printf(&b->rejects, err, "{\"number\": %llu, \"reason\": \"%s\"}\n",
                              (unsigned long long)record->number, reason);
    ml_status status = ml_file_printf(&b->rejects, err, "%s\n", text);
    free(text);
    return status;
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
    ml_parallel_for((int64_t)b->batch.n, 8, encode_records, b);
    for (size_t i = 0; i < b->batch.n; i++) {
        outcome *r = &b->outcome[i];
        if (r->problem.code != ML_OK && r->reject != ML_REJECT_MALFORMED) {
            *err = r->problem;
            return r->problem.code;
        }
        b->result->n_record++;
        if (r->reject != ML_REJECT_NONE) b->result->n_reject[r->reject]++;
        if (ml_row_reject_is_bad(r->reject)) ML_TRY(note_bad(b, &b->batch.record[i], r, err));
        ml_data_split split = r->is_val ? ML_SPLIT_VAL : ML_SPLIT_TRAIN;
        for (size_t k = 0; k < r->n_row; k++) ML_TRY(ml_rows_writer_add(b->writer, split, &r->row[k], err));
        if (split == ML_SPLIT_TRAIN) b->n_train += (int64_t)r->n_row;
    }
    if (ml_progress_stopped(b->config->progress)) return ml_fail(err, ML_ECANCEL, "%s: stopped", b->config->out);
    return check_bad(b, false, err);
}

/* `done`: bytes of the files before these. */
static ml_status read_files(builder *b, const char *const *path, size_t n, bool is_val, double *done, ml_error *err)
{
    const ml_records_config config = { .rule = ML_RULE_MARKER, .marker = "<|endoftext|>" };
    ml_records *records;
    if (n == 0) return ML_OK;
    b->val_file = is_val;
    ML_TRY(ml_records_open(path, n, &config, &records, err));
    ml_status status;
    do {
        status = ml_records_read(records, BATCH, BATCH_BYTES, &b->batch, err);
        if (status == ML_OK) status = write_batch(b, err);
        ml_progress_update(b->config->progress,
                           b->config->progress_begin + (*done + (double)ml_records_at(records)) / 1e6, NULL);
    } while (status == ML_OK && b->batch.n);
    *done += (double)ml_records_size(records);
    ml_record_batch_free(&b->batch);
    b->batch = (ml_record_batch){ 0 };
    ml_records_free(records);
    return status;
}

/* ---- the folder ---- */

json_t *ml_build_rows_describe_rejects(const ml_build_rows_result *result)
{
    json_t *out = json_object();
    for (int i = 1; i < ML_N_REJECT; i++) {
        int64_t n = result->n_reject[i];
        if (n) json_object_set_new(out, ml_row_reject_name((ml_row_reject)i), json_integer(n));
    }
    return out;
}

/* What meta.json tells of the making. */
static json_t *describe(const builder *b)
{
    const ml_build_rows_config *c = b->config;
    json_t *inputs = json_array();
    for (size_t i = 0; i < c->n_input; i++) json_array_append_new(inputs, json_string(c->input[i]));
    for (size_t i = 0; i < c->n_val_input; i++) json_array_append_new(inputs, json_string(c->val_input[i]));
    return json_pack("{s:s, s:s, s:I, s:f, s:I, s:o, s:o}", "form", ml_row_form_name(c->form), "chat_format",
                     ml_chat_name(&b->maker.chat), "max_tokens", (json_int_t)c->max_tokens, "val_fraction",
                     c->val_fraction, "records", (json_int_t)b->result->n_record, "inputs", inputs, "left_out",
                     ml_build_rows_describe_rejects(b->result));
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

static ml_status begin_rejects(builder *b, ml_error *err)
{
    char path[ML_PATH_MAX];
    ML_TRY(ml_path_join(path, b->config->out, "rejects.jsonl", err));
    return ml_file_begin(&b->rejects, path, err);
}

/* The file, or none where nothing was defective. */
static ml_status end_rejects(builder *b, ml_error *err)
{
    char path[ML_PATH_MAX];
    if (b->n_bad) return ml_file_commit(&b->rejects, err);
    ML_TRY(ml_path_join(path, b->config->out, "rejects.jsonl", err));
    return unlink(path) == 0 || errno == ENOENT ? ML_OK : ml_fail_errno(err, "%s: cannot be removed", path);
}

static ml_status build_folder(builder *b, ml_error *err)
{
    const ml_build_rows_config *c = b->config;
    const char *slash = strrchr(c->out, '/'), *name = c->name ? c->name : slash && slash[1] ? slash + 1 : c->out;
    ml_rows_kind kind = c->form == ML_ROW_PREFERENCE ? ML_ROWS_PAIR : ML_ROWS_SINGLE;
    double done = 0;
    ML_TRY(ml_rows_writer_make(c->out, name, kind, b->maker.tokenizer, &b->writer, err));
    ML_TRY(begin_rejects(b, err));
    ML_TRY(read_files(b, c->input, c->n_input, false, &done, err));
    ML_TRY(read_files(b, c->val_input, c->n_val_input, true, &done, err));
    ML_TRY(check_bad(b, true, err));
    if (b->n_train == 0) {
        int most = 1;
        for (int i = 2; i < ML_N_REJECT; i++) most = b->result->n_reject[i] > b->result->n_reject[most] ? i : most;
        return ml_fail(err, ML_EINVAL, "%s: none of %lld records gave a row for training; %lld were left out: %s%s%s",
                       c->input[0], (long long)b->result->n_record, (long long)b->result->n_reject[most],
                       ml_row_reject_name((ml_row_reject)most), *b->result->first_bad ? "; the first: " : "",
                       b->result->first_bad);
    }
    ML_TRY(end_rejects(b, err));
    json_t *facts = describe(b);
    if (!facts) return ml_fail_memory(err, 0, "the description of a folder of rows");
    ml_status status = ml_rows_writer_finish(b->writer, facts, err);
    json_decref(facts);
    ML_TRY(status);
    return read_counts(c->out, b->result, err);
}

static ml_status make_arenas(builder *b, ml_error *err)
{
    int n = ml_thread_count();
    b->arena = ml_calloc((size_t)n, sizeof *b->arena);
    b->outcome = ml_calloc(BATCH, sizeof *b->outcome);
    if (!b->arena || !b->outcome) return ml_fail_memory(err, BATCH * sizeof *b->outcome, "a batch of records");
    for (; b->n_arena < n; b->n_arena++) ML_TRY(ml_arena_init(&b->arena[b->n_arena], arena_bytes, err));
    return ML_OK;
}

static void free_builder(builder *b)
{
    ml_rows_writer_free(b->writer);
    ml_file_abandon(&b->rejects);
    ml_record_batch_free(&b->batch);
    for (int i = 0; i < b->n_arena; i++) ml_arena_free(&b->arena[i]);
    ml_free(b->arena);
    for (int i = 0; i < BATCH && b->outcome; i++) {
        for (int k = 0; k < ML_ROW_MAX_PREFIXES; k++) ml_row_free(&b->outcome[i].row[k]);
    }
    ml_free(b->outcome);
}

ml_status ml_build_rows(const ml_build_rows_config *config, const ml_tokenizer *tokenizer, ml_build_rows_result *result,
                        ml_error *err)
{
    builder b = { .config = config, .result = result };
    memset(result, 0, sizeof *result);
    ML_TRY(ml_row_maker_init(&b.maker, tokenizer, config->form, config->chat_format, config->max_tokens, err));
    if (!config->sources && config->n_input == 0)
        return ml_fail(err, ML_EINVAL, "no input files: name at least one file of JSON or Parquet records");
    if (config->sources) return ml_mix_rows(config, tokenizer, result, err);
    ml_status status = make_arenas(&b, err);
    if (status == ML_OK) status = build_folder(&b, err);
    free_builder(&b);
    return status;
}
