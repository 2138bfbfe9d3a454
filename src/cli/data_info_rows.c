/* moonlight data info: a folder of rows for tuning. */
#include "base/alloc.h"
#include "cli/amount.h"
#include "cli/cli.h"
#include "cli/data_rows.h"
#include "data/rows.h"

#include <stdio.h>

/* Tokens begin .. end-1 of a row as text; learned ones stand between brackets that no corpus has. */
static ml_status append_part(const ml_tokenizer *t, const ml_row *row, size_t begin, size_t end, bool learned,
                             ml_chars *out, ml_error *err)
{
    const ml_detok how = { .replace_invalid = true };
    if (learned) ML_TRY(ml_chars_append(out, "\xe2\x9f\xa6", 3, err));
    ML_TRY(ml_detok_append(how, t, row->ids.id + begin, end - begin, out, err));
    return learned ? ml_chars_append(out, "\xe2\x9f\xa7", 3, err) : ML_OK;
}

static ml_status decode_row(const ml_tokenizer *t, const ml_row *row, ml_chars *out, ml_error *err)
{
    size_t at = 0;
    out->n = 0;
    for (size_t i = 0; i < row->n_span; i++) {
        size_t begin = (size_t)row->span[i].begin, end = (size_t)row->span[i].end;
        ML_TRY(append_part(t, row, at, begin, false, out, err));
        ML_TRY(append_part(t, row, begin, end, true, out, err));
        at = end;
    }
    return append_part(t, row, at, row->ids.n, false, out, err);
}

/* `n` rows spread over the training split. */
static ml_status show_samples(const ml_rows *rows, const char *tokenizer, int64_t n, json_t *samples, ml_error *err)
{
    ml_tokenizer *t;
    ml_row row = { 0 };
    ml_chars text = { 0 };
    int64_t n_row = rows->split[ML_SPLIT_TRAIN].n_row;
    ML_TRY(ml_tokenizer_open(tokenizer, &t, err));
    ml_status status = ml_rows_check_tokenizer(rows, ml_tokenizer_fingerprint(t), err);
    if (n > n_row) n = n_row;
    for (int64_t k = 0; k < n && status == ML_OK; k++) {
        int64_t i = n_row / n * k;
        status = ml_rows_read(rows, ML_SPLIT_TRAIN, i, &row, err);
        if (status == ML_OK) status = decode_row(t, &row, &text, err);
        if (status != ML_OK) break;
        if (samples)
            json_array_append_new(samples, json_stringn(text.data, text.n));
        else
            printf("--- row %lld\n%.*s\n", (long long)i, (int)text.n, text.data);
    }
    ml_chars_free(&text);
    ml_row_free(&row);
    ml_tokenizer_free(t);
    return status;
}

static json_t *describe_split(const ml_rows_split *s)
{
    return json_pack("{s:I, s:I, s:I, s:I}", "rows", (json_int_t)s->n_row, "tokens", (json_int_t)s->n_token, "targets",
                     (json_int_t)s->n_target, "longest", (json_int_t)s->longest);
}

static void print_rows(const ml_rows *rows)
{
    printf("data set     %s\nkind         %s for tuning\nvocabulary   %lld ids, uint%d, tokenizer %.16s\n", rows->name,
           ml_rows_kind_name(rows->kind), (long long)rows->vocab_size, 8 * rows->id_bytes, rows->tokenizer);
    for (int i = 0; i < ML_N_SPLIT; i++) {
        const ml_rows_split *s = &rows->split[i];
        printf("%-12s %s, %s, of which %lld are learned", ml_dataset_split_name((ml_data_split)i),
               ml_cli_count(s->n_row, "row").text, ml_cli_count(s->n_token, "token").text, (long long)s->n_target);
        if (s->n_row) printf("; the longest has %lld", (long long)s->longest);
        putchar('\n');
    }
}

static ml_status show(const ml_options *o, const ml_rows *rows, ml_error *err)
{
    bool as_json = ml_options_flag(o, "json");
    int64_t n_sample = ml_options_int(o, "samples");
    const char *tokenizer = ml_options_text(o, "tokenizer");
    if (n_sample > 0 && !tokenizer) {
        return ml_fail(err, ML_EINVAL, "%s: --samples needs --tokenizer: a folder of rows keeps no copy of its own",
                       rows->path);
    }
    if (ml_options_flag(o, "verify")) ML_TRY(ml_rows_verify(rows, err));
    if (!as_json) {
        print_rows(rows);
        return n_sample > 0 ? show_samples(rows, tokenizer, n_sample, NULL, err) : ML_OK;
    }
    json_t *samples = json_array();
    ml_status status = n_sample > 0 ? show_samples(rows, tokenizer, n_sample, samples, err) : ML_OK;
    if (status != ML_OK) {
        json_decref(samples);
        return status;
    }
    return ml_cli_print_json(json_pack("{s:s, s:s, s:s, s:I, s:s, s:s, s:s, s:o, s:o, s:o}", "path", rows->path,
                                       "dataset", rows->name, "kind", ml_rows_kind_name(rows->kind), "vocab_size",
                                       (json_int_t)rows->vocab_size, "dtype", rows->id_bytes == 2 ? "uint16" : "uint32",
                                       "tokenizer", rows->tokenizer, "fingerprint", rows->fingerprint, "train",
                                       describe_split(&rows->split[ML_SPLIT_TRAIN]), "val",
                                       describe_split(&rows->split[ML_SPLIT_VAL]), "samples", samples),
                             err);
}

ml_status ml_cli_show_rows(const ml_options *o, const char *path, ml_error *err)
{
    ml_rows *rows;
    ML_TRY(ml_rows_open(path, &rows, err));
    ml_status status = show(o, rows, err);
    ml_rows_free(rows);
    return status;
}
