#include "cli/data_rows.h"

#include "base/clock.h"
#include "cli/amount.h"
#include "cli/cli.h"
#include "cli/data_sources.h"
#include "data/build_rows.h"

#include <string.h>

static ml_row_form find_form(const char *name)
{
    int form = 0;
    while (form + 1 < ML_N_ROW_FORM && strcmp(name, ml_row_form_name((ml_row_form)form)) != 0) form++;
    return (ml_row_form)form;
}

static ml_status add_bytes(const char *const *path, size_t n, double *n_bytes, ml_error *err)
{
    for (size_t i = 0; i < n; i++) {
        ml_map map;
        ML_TRY(ml_map_open(path[i], &map, err));
        *n_bytes += (double)map.size;
        ml_map_close(&map);
    }
    return ML_OK;
}

static ml_status print_result(const ml_options *o, const ml_build_rows_config *c, const ml_build_rows_result *r,
                              double seconds, ml_error *err)
{
    for (int i = 1; i < ML_N_REJECT && !r->sources; i++) {
        if (r->n_reject[i])
            ml_log_warn("%s left out: %s", ml_cli_count(r->n_reject[i], "record").text,
                        ml_row_reject_name((ml_row_reject)i));
    }
    if (*r->first_bad && !r->sources) ml_log_warn("the first defective record: %s", r->first_bad);
    if (*r->first_bad) ml_log_warn("all defective records: %s/rejects.jsonl", c->out);
    if (r->n_row[ML_SPLIT_VAL] == 0) {
        ml_log_warn("no row fell to the validation split: there will be no validation loss; raise --val-fraction, or "
                    "give a file with --val");
    }
    if (ml_options_flag(o, "json")) {
        return ml_cli_print_json(
            json_pack("{s:s, s:s, s:I, s:{s:I, s:I, s:I}, s:{s:I, s:I, s:I}, s:o, s:f, s:O*}", "path", c->out, "kind",
                      ml_row_form_name(c->form), "records", (json_int_t)r->n_record, "train", "rows",
                      (json_int_t)r->n_row[0], "tokens", (json_int_t)r->n_token[0], "targets",
                      (json_int_t)r->n_target[0], "val", "rows", (json_int_t)r->n_row[1], "tokens",
                      (json_int_t)r->n_token[1], "targets", (json_int_t)r->n_target[1], "left_out",
                      ml_build_rows_describe_rejects(r), "seconds", seconds, "sources", r->sources),
            err);
    }
    ml_cli_print_sources(r->sources);
    for (int i = 0; i < ML_N_SPLIT; i++) {
        printf("%s: %s, %s, of which %lld are learned\n", ml_dataset_split_name((ml_data_split)i),
               ml_cli_count(r->n_row[i], "row").text, ml_cli_count(r->n_token[i], "token").text,
               (long long)r->n_target[i]);
    }
    printf("%s: %s in %.1f s\n", c->out, ml_cli_count(r->n_record, "record").text, seconds);
    return ML_OK;
}

ml_status ml_cli_build_rows(const ml_options *o, const char *const *input, size_t n_input, ml_error *err)
{
    ml_build_rows_config c = { .input = input,
                               .n_input = n_input,
                               .name = ml_options_text(o, "name"),
                               .form = find_form(ml_options_text(o, "kind")),
                               .chat_format = ml_options_text(o, "chat-format"),
                               .max_tokens = ml_options_int(o, "max-tokens"),
                               .val_fraction = ml_options_real(o, "val-fraction"),
                               .tokens = ml_options_int(o, "tokens"),
                               .seed = (uint64_t)ml_options_int(o, "seed"),
                               .max_bad = ml_options_real(o, "max-bad") };
    ml_source_list sources = { 0 };
    const char *const *item;
    ml_tokenizer_extra extra = { 0 };
    ml_build_rows_result result;
    ml_tokenizer *tokenizer;
    const char *path;
    double n_bytes = 0, start = ml_clock_seconds();
    c.n_val_input = ml_options_list(o, "val", &c.val_input);
    extra.n_added = ml_options_list(o, "added", &extra.added);
    ML_TRY(ml_cli_require(o, "out", &c.out, err));
    ML_TRY(ml_cli_require(o, "tokenizer", &path, err));
    ML_TRY(add_bytes(input, n_input, &n_bytes, err));
    ML_TRY(add_bytes(c.val_input, c.n_val_input, &n_bytes, err));
    size_t n_source = ml_options_list(o, "source", &item);
    ML_TRY(ml_tokenizer_open_with(path, &extra, &tokenizer, err));
    ml_status status = n_source ? ml_source_list_open(item, n_source, &sources, err) : ML_OK;
    if (status == ML_OK) status = ml_cli_source_bytes(&sources, &n_bytes, err);
    c.sources = n_source ? &sources : NULL;
    ml_stop_install();
    c.progress = ml_progress_begin("encoding", "MB", n_bytes / 1e6);
    if (status == ML_OK) status = ml_build_rows(&c, tokenizer, &result, err);
    ml_progress_end(c.progress);
    ml_tokenizer_free(tokenizer);
    ml_source_list_free(&sources);
    if (status == ML_OK) {
        status = print_result(o, &c, &result, ml_clock_seconds() - start, err);
        json_decref(result.sources);
    }
    return status;
}
