/* moonlight data build: files of text, JSON or Parquet to a data folder. */
#include "cli/data.h"
#include "cli/data_rows.h"
#include "cli/data_sources.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "cli/amount.h"
#include "data/mix.h"

#include <string.h>

static ml_special_rule special_rule(const ml_options *o, const char *name)
{
    const char *text = ml_options_text(o, name);
    return strcmp(text, "on") == 0 ? ML_SPECIAL_ON : strcmp(text, "off") == 0 ? ML_SPECIAL_OFF : ML_SPECIAL_AUTO;
}

static ml_status read_build_options(const ml_options *o, const char **inputs, ml_build_config *c, ml_error *err)
{
    const char *dtype = ml_options_text(o, "dtype");
    *c = (ml_build_config){ .input = inputs,
                            .n_input = ml_options_positional_count(o),
                            .name = ml_options_text(o, "name"),
                            .rule = ml_cli_document_rule(o),
                            .marker = ml_options_text(o, "marker"),
                            .field = ml_options_text(o, "field"),
                            .val_fraction = ml_options_real(o, "val-fraction"),
                            .val_last = ml_options_flag(o, "val-last"),
                            .val_every = ml_options_int(o, "val-every"),
                            .seed = (uint64_t)ml_options_int(o, "seed"),
                            .shuffle = ml_options_flag(o, "shuffle"),
                            .shard_tokens = ml_options_int(o, "shard-tokens"),
                            .bos = special_rule(o, "bos"),
                            .eos = special_rule(o, "eos"),
                            .id_bytes = strcmp(dtype, "uint16") == 0   ? 2
                                        : strcmp(dtype, "uint32") == 0 ? 4
                                                                       : 0,
                            .max_bad = ml_options_real(o, "max-bad") };
    for (size_t i = 0; i < c->n_input; i++) inputs[i] = ml_options_positional(o, i);
    return ml_cli_require(o, "out", &c->out, err);
}

static ml_status input_bytes(const ml_build_config *c, double *n_bytes, ml_error *err)
{
    *n_bytes = 0;
    for (size_t i = 0; i < c->n_input; i++) {
        ml_map map;
        ML_TRY(ml_map_open(c->input[i], &map, err));
        *n_bytes += (double)map.size;
        ml_map_close(&map);
    }
    return ML_OK;
}

static ml_status print_build(const ml_options *o, const ml_build_config *c, const ml_build_result *r, json_t *sources,
                             double n_bytes, double seconds, ml_error *err)
{
    if (r->tally.n_bad) {
        ml_log_warn("%s left out; the first: %s", ml_cli_count(r->tally.n_bad, "malformed record").text,
                    r->tally.first);
    }
    if (r->n_empty) ml_log_warn("%s without text left out", ml_cli_count(r->n_empty, "document").text);
    if (r->n_document[ML_SPLIT_VAL] == 0) {
        ml_log_warn("no document fell to the validation split: there will be no validation loss; raise --val-fraction");
    }
    if (ml_options_flag(o, "json")) {
        return ml_cli_print_json(
            json_pack("{s:s, s:b, s:b, s:I, s:f, s:{s:I, s:I, s:I}, s:{s:I, s:I, s:I}, s:I, s:I, s:O*}", "path", c->out,
                      "was_complete", r->was_complete, "resumed", r->resumed, "input_bytes", (json_int_t)n_bytes,
                      "seconds", seconds, "train", "documents", (json_int_t)r->n_document[0], "tokens",
                      (json_int_t)r->n_token[0], "shards", (json_int_t)r->n_shard[0], "val", "documents",
                      (json_int_t)r->n_document[1], "tokens", (json_int_t)r->n_token[1], "shards",
                      (json_int_t)r->n_shard[1], "malformed", (json_int_t)r->tally.n_bad, "empty",
                      (json_int_t)r->n_empty, "sources", sources),
            err);
    }
    for (int i = 0; i < ML_N_SPLIT; i++) {
        printf("%s: %s, %s, %s\n", ml_dataset_split_name((ml_data_split)i),
               ml_cli_count(r->n_document[i], "document").text, ml_cli_count(r->n_token[i], "token").text,
               ml_cli_count((int64_t)r->n_shard[i], "shard").text);
    }
    ml_cli_print_sources(sources);
    if (r->was_complete)
        printf("%s was complete\n", c->out);
    else
        printf("%s: %s read in %.1f s\n", c->out, ml_cli_bytes((int64_t)n_bytes).text, seconds);
    return ML_OK;
}

static ml_status mix(const ml_options *o, ml_build_config *c, const ml_tokenizer *tokenizer, ml_build_result *result,
                     json_t **sources, double *n_bytes, ml_error *err)
{
    const char *const *item;
    ml_source_list list;
    size_t n = ml_options_list(o, "source", &item);
    ML_TRY(ml_source_list_open(item, n, &list, err));
    ml_status status = ml_cli_source_bytes(&list, n_bytes, err);
    ml_mix_config config = { .sources = &list, .tokens = ml_options_int(o, "tokens"), .build = *c };
    config.build.progress = c->progress = ml_progress_begin("encoding", "MB", *n_bytes / 1e6);
    if (status == ML_OK) status = ml_data_mix(&config, tokenizer, result, sources, err);
    ml_source_list_free(&list);
    return status;
}

static ml_status build(const ml_options *o, const char **inputs, ml_error *err)
{
    ml_build_config c;
    ml_build_result result;
    ml_tokenizer *tokenizer = NULL;
    json_t *sources = NULL;
    const char *path;
    const char *const *item;
    double n_bytes = 0;
    ML_TRY(read_build_options(o, inputs, &c, err));
    if (strcmp(ml_options_text(o, "kind"), "pretrain")) return ml_cli_build_rows(o, inputs, c.n_input, err);
    ML_TRY(ml_cli_require(o, "tokenizer", &path, err));
    ML_TRY(input_bytes(&c, &n_bytes, err));
    ML_TRY(ml_tokenizer_open(path, &tokenizer, err));
    double start = ml_clock_seconds();
    ml_stop_install();
    ml_status status;
    if (ml_options_list(o, "source", &item)) {
        status = mix(o, &c, tokenizer, &result, &sources, &n_bytes, err);
    } else {
        c.progress = ml_progress_begin("encoding", "MB", n_bytes / 1e6);
        status = ml_data_build(&c, tokenizer, &result, err);
    }
    ml_progress_end(c.progress);
    if (status == ML_OK) status = print_build(o, &c, &result, sources, n_bytes, ml_clock_seconds() - start, err);
    json_decref(sources);
    ml_tokenizer_free(tokenizer);
    return status;
}

ml_status ml_cli_data_build(int argc, char **argv, ml_error *err)
{
    ml_options *o;
    ML_TRY(ml_cli_parse("data build", NULL, argc, argv, 0, SIZE_MAX, "INPUT...", &o, err));
    const char **inputs = ml_calloc(ml_options_positional_count(o), sizeof *inputs);
    ml_status status = inputs ? build(o, inputs, err) : ml_fail_memory(err, 0, "the list of inputs");
    ml_free(inputs);
    ml_options_free(o);
    return status;
}
