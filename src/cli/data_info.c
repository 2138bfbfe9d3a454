/* moonlight data info: what a data folder or an input file holds. */
#include "cli/data.h"

#include "base/alloc.h"
#include "base/log.h"
#include "cli/amount.h"
#include "cli/data_rows.h"
#include "data/dataset.h"
#include "data/rows.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- data folders ---- */

/* A sample is cut for the eye, not in JSON. */
static void print_sample(int64_t number, const char *text, size_t n)
{
    enum { SHOWN = 1200 };
    printf("--- document %lld\n%.*s%s\n", (long long)number, (int)(n < SHOWN ? n : SHOWN), text,
           n > SHOWN ? " ..." : "");
}

static ml_status decode_sample(const ml_dataset *data, const ml_tokenizer *t, int64_t i, char **text, size_t *n_bytes,
                               ml_error *err)
{
    int64_t first, n;
    ML_TRY(ml_dataset_document(data, ML_SPLIT_TRAIN, i, &first, &n, err));
    int32_t *id = ml_alloc((size_t)n * sizeof *id);
    if (!id) return ml_fail_memory(err, (size_t)n * sizeof *id, "a document");
    ml_status status = ml_dataset_read(data, ML_SPLIT_TRAIN, first, n, id, err);
    if (status == ML_OK) status = ml_tokenizer_decode(t, id, (size_t)n, false, text, n_bytes, err);
    ml_free(id);
    return status;
}

/* `n` documents spread over the training split. */
static ml_status show_samples(const ml_dataset *data, const char *tokenizer_path, int64_t n, json_t *samples,
                              ml_error *err)
{
    ml_tokenizer *t;
    ML_TRY(ml_tokenizer_open(tokenizer_path, &t, err));
    ml_status status = ml_dataset_check_tokenizer(data, ml_tokenizer_fingerprint(t), err);
    int64_t n_document = data->split[ML_SPLIT_TRAIN].n_document;
    if (n > n_document) n = n_document;
    for (int64_t k = 0; k < n && status == ML_OK; k++) {
        char *text = NULL;
        size_t n_bytes;
        int64_t i = n_document / n * k;
        status = decode_sample(data, t, i, &text, &n_bytes, err);
        if (status == ML_OK && samples) json_array_append_new(samples, json_stringn(text, n_bytes));
        if (status == ML_OK && !samples) print_sample(i, text, n_bytes);
        ml_free(text);
    }
    ml_tokenizer_free(t);
    return status;
}

static json_t *describe_split(const ml_dataset_split *s)
{
    return json_pack("{s:I, s:I, s:I}", "documents", (json_int_t)s->n_document, "tokens", (json_int_t)s->n_token,
                     "shards", (json_int_t)s->n_shard);
}

static void print_special(const char *name, int32_t id)
{
    printf("%-12s ", name);
    printf(id < 0 ? "none\n" : "%d\n", (int)id);
}

static void print_dataset(const ml_dataset *data)
{
    printf("data set     %s\nvocabulary   %lld ids, uint%d, tokenizer %.16s\n", data->name, (long long)data->vocab_size,
           8 * data->id_bytes, data->tokenizer);
    print_special("BOS", data->bos_id);
    print_special("EOS", data->eos_id);
    for (int i = 0; i < ML_N_SPLIT; i++) {
        const ml_dataset_split *s = &data->split[i];
        printf("%-12s %s", ml_dataset_split_name((ml_data_split)i), ml_cli_count(s->n_document, "document").text);
        if (s->n_document) {
            printf(", %s (%.1f each), %s, %s", ml_cli_count(s->n_token, "token").text,
                   (double)s->n_token / (double)s->n_document, ml_cli_count((int64_t)s->n_shard, "shard").text,
                   ml_cli_bytes(s->n_token * data->id_bytes).text);
        }
        printf("\n");
    }
}

static ml_status show_folder(const ml_options *o, const ml_dataset *data, ml_error *err)
{
    bool as_json = ml_options_flag(o, "json");
    int64_t n_sample = ml_options_int(o, "samples");
    const char *tokenizer = ml_options_text(o, "tokenizer");
    char own[ML_PATH_MAX];
    ML_TRY(ml_path_join(own, data->path, "tokenizer", err));
    if (ml_options_flag(o, "verify")) ML_TRY(ml_dataset_verify(data, err));
    json_t *samples = as_json ? json_array() : NULL;
    if (!as_json) print_dataset(data);
    if (n_sample > 0) {
        ml_status status = show_samples(data, tokenizer ? tokenizer : own, n_sample, samples, err);
        if (status != ML_OK) json_decref(samples);
        ML_TRY(status);
    }
    if (!as_json) return ML_OK;
    return ml_cli_print_json(json_pack("{s:s, s:s, s:I, s:s, s:s, s:s, s:{s:i, s:i}, s:o, s:o, s:o}", "path",
                                       data->path, "dataset", data->name, "vocab_size", (json_int_t)data->vocab_size,
                                       "dtype", data->id_bytes == 2 ? "uint16" : "uint32", "tokenizer", data->tokenizer,
                                       "fingerprint", data->fingerprint, "special_token_ids", "bos", (int)data->bos_id,
                                       "eos", (int)data->eos_id, "train", describe_split(&data->split[0]), "val",
                                       describe_split(&data->split[1]), "samples", samples),
                             err);
}

/* ---- files ---- */

ml_document_rule ml_cli_document_rule(const ml_options *o)
{
    const char *rule = ml_options_text(o, "documents");
    return strcmp(rule, "blank") == 0 ? ML_RULE_BLANK : strcmp(rule, "whole") == 0 ? ML_RULE_WHOLE : ML_RULE_MARKER;
}

typedef struct {
    const char *path, *field;
    int64_t n_sample;
    json_t *samples; /* NULL: print them */
    int64_t n_document, n_other;
    uint64_t n_bytes;
    ml_record_tally tally;
    ml_arena arena;
} file_info;

static void show_sample(file_info *f, const char *text, size_t n)
{
    int64_t number = f->n_document + f->n_other - 1;
    if (number >= f->n_sample) return;
    if (f->samples)
        json_array_append_new(f->samples, json_stringn(text, n));
    else
        print_sample(number, text, n);
}

/* A record with another structure than one text: shown as JSON. */
static void show_value(file_info *f, const ml_value *value)
{
    if (f->n_document + f->n_other > f->n_sample) return;
    json_t *object = ml_value_to_json(value);
    char *text = object ? json_dumps(object, JSON_ENCODE_ANY) : NULL;
    if (text) show_sample(f, text, strlen(text));
    free(text);
    json_decref(object);
}

static ml_status look_at(file_info *f, ml_record_batch *batch, size_t i, ml_error *err)
{
    ml_text text;
    const ml_value *value;
    if (ml_record_text(batch, i, f->field, &text, err) == ML_OK) {
        f->n_document++;
        f->n_bytes += text.n_bytes;
        show_sample(f, text.data, text.n_bytes);
        ml_record_tally_add(&f->tally, NULL);
        return ML_OK;
    }
    ml_arena_release(&f->arena, 0);
    ml_status status = ml_record_value(batch, i, &f->arena, &value, err);
    if (status != ML_OK && status != ML_EFORMAT) return status;
    ml_record_tally_add(&f->tally, status == ML_OK ? NULL : err);
    if (status != ML_OK) return ML_OK;
    f->n_other++;
    show_value(f, value);
    return ML_OK;
}

static ml_status look_at_all(file_info *f, ml_records *records, ml_error *err)
{
    ml_record_batch batch = { 0 };
    ml_status status;
    do {
        ML_TRY_GOTO(ml_records_read(records, 65536, 8 << 20, &batch, err));
        for (size_t i = 0; i < batch.n; i++) ML_TRY_GOTO(look_at(f, &batch, i, err));
    } while (batch.n);
done:
    ml_record_batch_free(&batch);
    return status;
}

/* The type of a column in words, cut where there is no more room. */
typedef struct {
    char text[400];
    size_t n;
} type_name;

static void append_name(type_name *t, const char *part)
{
    int n = snprintf(t->text + t->n, sizeof t->text - t->n, "%s", part);
    t->n = t->n + (size_t)n < sizeof t->text ? t->n + (size_t)n : sizeof t->text - 1;
}

/* "list<struct<role: text, content: text>>" */
static void describe_node(const ml_parquet_node *node, type_name *t)
{
    static const char *const types[] = { "boolean", "integer", "integer", "time", "number", "number", "text", "bytes" };
    if (node->kind == ML_PARQUET_LEAF) {
        append_name(t, types[node->element->type]);
    } else if (node->kind == ML_PARQUET_LIST) {
        append_name(t, "list<");
        describe_node(node->child, t);
        append_name(t, ">");
    } else {
        append_name(t, "struct<");
        for (const ml_parquet_node *child = node->child; child; child = child->next) {
            append_name(t, child->name);
            append_name(t, ": ");
            describe_node(child, t);
            if (child->next) append_name(t, ", ");
        }
        append_name(t, ">");
    }
}

/* Columns of a Parquet file: printed, or put into an object of their types. */
static ml_status show_columns(const char *path, json_t *columns, ml_error *err)
{
    size_t n = strlen(path);
    ml_parquet *p;
    if (n < 8 || strcasecmp(path + n - 8, ".parquet") != 0) return ML_OK;
    ML_TRY(ml_parquet_open(path, &p, err));
    for (const ml_parquet_node *node = ml_parquet_schema_of(p)->child; node; node = node->next) {
        type_name type = { 0 };
        describe_node(node, &type);
        if (columns)
            json_object_set_new(columns, node->name, json_string(type.text));
        else
            printf("%-12s %s\n", node->name, type.text);
    }
    ml_parquet_free(p);
    return ML_OK;
}

static ml_status print_file_json(const file_info *f, ml_error *err)
{
    json_t *columns = json_object();
    ml_status status = show_columns(f->path, columns, err);
    if (status == ML_OK) {
        status =
            ml_cli_print_json(json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:O, s:O}", "path", f->path, "records",
                                        (json_int_t)f->tally.n_seen, "documents", (json_int_t)f->n_document, "bytes",
                                        (json_int_t)f->n_bytes, "others", (json_int_t)f->n_other, "malformed",
                                        (json_int_t)f->tally.n_bad, "columns", columns, "samples", f->samples),
                              err);
    }
    json_decref(columns);
    return status;
}

static ml_status print_file(const file_info *f, ml_error *err)
{
    if (f->samples) return print_file_json(f, err);
    ML_TRY(show_columns(f->path, NULL, err));
    printf("%s: ", f->path);
    if (f->n_document || !f->n_other)
        printf("%s, %s of text", ml_cli_count(f->n_document, "document").text, ml_cli_bytes((int64_t)f->n_bytes).text);
    if (f->n_other) {
        printf("%s%s without a text under \"%s\"", f->n_document ? ", " : "", ml_cli_count(f->n_other, "record").text,
               f->field);
    }
    if (f->tally.n_bad) printf(", %s", ml_cli_count(f->tally.n_bad, "malformed record").text);
    putchar('\n');
    return ML_OK;
}

/* Records of a file; the first n_sample are shown. */
static ml_status show_file(const ml_options *o, const char *path, ml_error *err)
{
    file_info f = { .path = path, .field = ml_options_text(o, "field"), .n_sample = ml_options_int(o, "samples") };
    ml_records *records = NULL;
    const ml_records_config config = { .rule = ml_cli_document_rule(o), .marker = ml_options_text(o, "marker") };
    ml_status status;
    if (ml_options_flag(o, "json") && !(f.samples = json_array())) return ml_fail_memory(err, 0, "the samples");
    ML_TRY_GOTO(ml_arena_init(&f.arena, (size_t)1 << 34, err));
    ML_TRY_GOTO(ml_records_open(&path, 1, &config, &records, err));
    ML_TRY_GOTO(look_at_all(&f, records, err));
    if (f.tally.n_bad) ml_log_warn("%s", f.tally.first);
    status = print_file(&f, err);
done:
    json_decref(f.samples);
    ml_records_free(records);
    ml_arena_free(&f.arena);
    return status;
}

static ml_status info(const ml_options *o, ml_error *err)
{
    const char *path = ml_options_positional(o, 0);
    if (!ml_path_is_dir(path) && ml_path_exists(path)) return show_file(o, path, err);
    if (ml_rows_are_in(path)) return ml_cli_show_rows(o, path, err);
    ml_dataset *data;
    ML_TRY(ml_dataset_open(path, &data, err));
    ml_status status = show_folder(o, data, err);
    ml_dataset_free(data);
    return status;
}

ml_status ml_cli_data_info(int argc, char **argv, ml_error *err)
{
    ml_options *o;
    ML_TRY(ml_cli_parse("data info", NULL, argc, argv, 1, 1, "a data folder, or a file of text, JSON or Parquet", &o,
                        err));
    ml_status status = info(o, err);
    ml_options_free(o);
    return status;
}
