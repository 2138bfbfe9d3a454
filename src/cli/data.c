/* moonlight data build | synth | info */
#include "cli/cli.h"
#include "cli/data_rows.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "data/build.h"
#include "data/synth.h"
#include "data/synth_constraints.h"

#include <string.h>

/* ---- data synth ---- */

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), k = strlen(end);
    return n >= k && strcmp(text + n - k, end) == 0;
}

static ml_status read_synth_options(const ml_options *o, ml_synth_config *c, ml_error *err)
{
    const char *kind = ml_options_positional(o, 0), *format = ml_options_text(o, "format");
    memset(c, 0, sizeof *c);
    if (strcmp(kind, "stories") == 0)
        c->kind = ML_SYNTH_STORIES;
    else if (strcmp(kind, "arithmetic") == 0)
        c->kind = ML_SYNTH_ARITHMETIC;
    else
        return ml_fail(err, ML_EINVAL,
                       "data synth: expected stories, arithmetic, constraints or preferences, found \"%s\"", kind);
    ML_TRY(ml_cli_require(o, "out", &c->out, err));
    c->n_bytes = (uint64_t)ml_options_int(o, "bytes");
    c->n_document = (uint64_t)ml_options_int(o, "docs");
    if (!c->n_bytes == !c->n_document) {
        return ml_fail(err, ML_EINVAL, "data synth: give either --bytes or --docs, e.g. --bytes 20m");
    }
    c->seed = (uint64_t)ml_options_int(o, "seed");
    c->jsonl = strcmp(format, "jsonl") == 0 || (strcmp(format, "auto") == 0 && ends_with(c->out, ".jsonl"));
    return ML_OK;
}

/* Prompts with constraints, or pairs. */
static ml_status synth_examples(const ml_options *o, bool pairs, ml_error *err)
{
    ml_synth_constraints_result result;
    ml_synth_constraints_config c = { .pairs = pairs,
                                      .split =
                                          strcmp(ml_options_text(o, "split"), "val") ? ML_SPLIT_TRAIN : ML_SPLIT_VAL,
                                      .n_document = (uint64_t)ml_options_int(o, "docs"),
                                      .seed = (uint64_t)ml_options_int(o, "seed") };
    ML_TRY(ml_cli_require(o, "out", &c.out, err));
    if (!c.n_document) return ml_fail(err, ML_EINVAL, "data synth: give --docs, e.g. --docs 2000");
    ml_stop_install();
    c.progress = ml_progress_begin("writing", "documents", (double)c.n_document);
    ml_status status = ml_data_synth_constraints(&c, &result, err);
    ml_progress_end(c.progress);
    ML_TRY(status);
    json_t *rejects = json_object();
    for (int i = 1; i < ML_N_SYNTH_FAULT; i++) {
        if (!result.n_reject[i]) continue;
        json_object_set_new(rejects, ml_synth_fault_name((ml_synth_fault)i),
                            json_integer((json_int_t)result.n_reject[i]));
        ml_log_info("%llu rejected: %s", (unsigned long long)result.n_reject[i],
                    ml_synth_fault_name((ml_synth_fault)i));
    }
    if (ml_options_flag(o, "json")) {
        return ml_cli_print_json(json_pack("{s:s, s:I, s:I, s:o}", "file", c.out, "documents", (json_int_t)c.n_document,
                                           "bytes", (json_int_t)result.n_bytes, "rejected", rejects),
                                 err);
    }
    json_decref(rejects);
    printf("%s: %llu documents, %.1f MB\n", c.out, (unsigned long long)c.n_document, (double)result.n_bytes / 1e6);
    return ML_OK;
}

static ml_status synth(const ml_options *o, ml_error *err)
{
    const char *kind = ml_options_positional(o, 0);
    bool pairs = strcmp(kind, "preferences") == 0;
    if (pairs || strcmp(kind, "constraints") == 0) return synth_examples(o, pairs, err);
    ml_synth_config c;
    uint64_t n_document, n_bytes;
    ML_TRY(read_synth_options(o, &c, err));
    double start = ml_clock_seconds();
    ml_stop_install();
    c.progress = c.n_document ? ml_progress_begin("writing", "documents", (double)c.n_document)
                              : ml_progress_begin("writing", "MB", (double)c.n_bytes / 1e6);
    ml_status status = ml_data_synth(&c, &n_document, &n_bytes, err);
    ml_progress_end(c.progress);
    ML_TRY(status);
    double seconds = ml_clock_seconds() - start;
    if (ml_options_flag(o, "json")) {
        return ml_cli_print_json(json_pack("{s:s, s:I, s:I, s:f}", "file", c.out, "documents", (json_int_t)n_document,
                                           "bytes", (json_int_t)n_bytes, "seconds", seconds),
                                 err);
    }
    printf("%s: %llu documents, %.1f MB in %.1f s\n", c.out, (unsigned long long)n_document, (double)n_bytes / 1e6,
           seconds);
    return ML_OK;
}

ml_status ml_cli_data_synth(int argc, char **argv, ml_error *err)
{
    ml_options *o;
    ML_TRY(
        ml_cli_parse("data synth", NULL, argc, argv, 1, 1, "stories, arithmetic, constraints or preferences", &o, err));
    ml_status status = synth(o, err);
    ml_options_free(o);
    return status;
}

/* ---- data build ---- */

static ml_special_rule special_rule(const ml_options *o, const char *name)
{
    const char *text = ml_options_text(o, name);
    return strcmp(text, "on") == 0 ? ML_SPECIAL_ON : strcmp(text, "off") == 0 ? ML_SPECIAL_OFF : ML_SPECIAL_AUTO;
}

static ml_source_config source_config(const ml_options *o)
{
    const char *rule = ml_options_text(o, "documents");
    return (ml_source_config){ .rule = strcmp(rule, "blank") == 0   ? ML_RULE_BLANK
                                       : strcmp(rule, "whole") == 0 ? ML_RULE_WHOLE
                                                                    : ML_RULE_MARKER,
                               .marker = ml_options_text(o, "marker"),
                               .field = ml_options_text(o, "field") };
}

static ml_status read_build_options(const ml_options *o, const char **inputs, ml_build_config *c, ml_error *err)
{
    const char *dtype = ml_options_text(o, "dtype");
    *c = (ml_build_config){ .input = inputs,
                            .n_input = ml_options_positional_count(o),
                            .name = ml_options_text(o, "name"),
                            .source = source_config(o),
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

static ml_status print_build(const ml_options *o, const ml_build_config *c, const ml_build_result *r, double n_bytes,
                             double seconds, ml_error *err)
{
    if (r->n_bad) ml_log_warn("%lld malformed lines left out; the first: %s", (long long)r->n_bad, r->first_bad);
    if (r->n_empty) ml_log_warn("%lld documents without text left out", (long long)r->n_empty);
    if (r->n_document[ML_SPLIT_VAL] == 0) {
        ml_log_warn("no document fell to the validation split: there will be no validation loss; raise --val-fraction");
    }
    if (ml_options_flag(o, "json")) {
        return ml_cli_print_json(json_pack("{s:s, s:b, s:b, s:I, s:f, s:{s:I, s:I, s:I}, s:{s:I, s:I, s:I}, s:I, s:I}",
                                           "path", c->out, "was_complete", r->was_complete, "resumed", r->resumed,
                                           "input_bytes", (json_int_t)n_bytes, "seconds", seconds, "train", "documents",
                                           (json_int_t)r->n_document[0], "tokens", (json_int_t)r->n_token[0], "shards",
                                           (json_int_t)r->n_shard[0], "val", "documents", (json_int_t)r->n_document[1],
                                           "tokens", (json_int_t)r->n_token[1], "shards", (json_int_t)r->n_shard[1],
                                           "malformed", (json_int_t)r->n_bad, "empty", (json_int_t)r->n_empty),
                                 err);
    }
    for (int i = 0; i < ML_N_SPLIT; i++) {
        printf("%s: %lld documents, %lld tokens, %zu shard%s\n", ml_dataset_split_name((ml_data_split)i),
               (long long)r->n_document[i], (long long)r->n_token[i], r->n_shard[i], r->n_shard[i] == 1 ? "" : "s");
    }
    double n_token = (double)(r->n_token[0] + r->n_token[1]);
    if (r->was_complete)
        printf("%s was complete\n", c->out);
    else
        printf("%s: %.1f MB in %.1f s, %.2f bytes per token\n", c->out, n_bytes / 1e6, seconds, n_bytes / n_token);
    return ML_OK;
}

static ml_status build(const ml_options *o, const char **inputs, ml_error *err)
{
    ml_build_config c;
    ml_build_result result;
    ml_tokenizer *tokenizer = NULL;
    const char *path;
    double n_bytes;
    ML_TRY(read_build_options(o, inputs, &c, err));
    if (strcmp(ml_options_text(o, "kind"), "pretrain")) return ml_cli_build_rows(o, inputs, c.n_input, err);
    ML_TRY(ml_cli_require(o, "tokenizer", &path, err));
    ML_TRY(input_bytes(&c, &n_bytes, err));
    ML_TRY(ml_tokenizer_open(path, &tokenizer, err));
    double start = ml_clock_seconds();
    ml_stop_install();
    c.progress = ml_progress_begin("encoding", "MB", n_bytes / 1e6);
    ml_status status = ml_data_build(&c, tokenizer, &result, err);
    ml_progress_end(c.progress);
    if (status == ML_OK) status = print_build(o, &c, &result, n_bytes, ml_clock_seconds() - start, err);
    ml_tokenizer_free(tokenizer);
    return status;
}

ml_status ml_cli_data_build(int argc, char **argv, ml_error *err)
{
    ml_options *o;
    ML_TRY(ml_cli_parse("data build", NULL, argc, argv, 1, SIZE_MAX, "INPUT...", &o, err));
    const char **inputs = ml_calloc(ml_options_positional_count(o), sizeof *inputs);
    ml_status status = inputs ? build(o, inputs, err) : ml_fail_memory(err, 0, "the list of inputs");
    ml_free(inputs);
    ml_options_free(o);
    return status;
}

/* ---- data info ---- */

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

static void print_dataset(const ml_dataset *data)
{
    printf("data set     %s\nvocabulary   %lld ids, uint%d, tokenizer %.16s\nspecial ids  bos %d, eos %d\n", data->name,
           (long long)data->vocab_size, 8 * data->id_bytes, data->tokenizer, data->bos_id, data->eos_id);
    for (int i = 0; i < ML_N_SPLIT; i++) {
        const ml_dataset_split *s = &data->split[i];
        double mean = s->n_document ? (double)s->n_token / (double)s->n_document : 0;
        printf("%-12s %lld documents, %lld tokens (%.1f each), %zu shard%s, %.1f MB\n",
               ml_dataset_split_name((ml_data_split)i), (long long)s->n_document, (long long)s->n_token, mean,
               s->n_shard, s->n_shard == 1 ? "" : "s", (double)s->n_token * data->id_bytes / 1e6);
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

/* Documents of a text or JSON lines file; the first n_sample are shown. */
static ml_status show_file(const ml_options *o, const char *path, ml_error *err)
{
    ml_source *source;
    ml_span span;
    ml_error problem;
    ml_source_config config = source_config(o);
    bool as_json = ml_options_flag(o, "json");
    int64_t n_document = 0, n_bad = 0, n_sample = ml_options_int(o, "samples");
    uint64_t n_bytes = 0;
    ML_TRY(ml_source_open(&path, 1, &config, &source, err));
    json_t *samples = json_array();
    while (ml_source_next(source, &span)) {
        json_t *hold;
        const char *text;
        size_t n;
        if (ml_source_text(source, &span, &hold, &text, &n, &problem) != ML_OK) {
            if (n_bad++ == 0) ml_log_warn("%s", problem.message);
            continue;
        }
        if (n_document++ < n_sample) {
            if (as_json)
                json_array_append_new(samples, json_stringn(text, n));
            else
                print_sample(n_document - 1, text, n);
        }
        n_bytes += n;
        json_decref(hold);
    }
    ml_source_free(source);
    if (as_json) {
        return ml_cli_print_json(json_pack("{s:s, s:I, s:I, s:I, s:o}", "path", path, "documents",
                                           (json_int_t)n_document, "bytes", (json_int_t)n_bytes, "malformed",
                                           (json_int_t)n_bad, "samples", samples),
                                 err);
    }
    json_decref(samples);
    printf("%s: %lld documents, %.1f MB of text", path, (long long)n_document, (double)n_bytes / 1e6);
    if (n_bad) printf(", %lld malformed lines", (long long)n_bad);
    putchar('\n');
    return ML_OK;
}

static ml_status info(const ml_options *o, ml_error *err)
{
    const char *path = ml_options_positional(o, 0);
    if (!ml_path_is_dir(path) && ml_path_exists(path)) return show_file(o, path, err);
    ml_dataset *data;
    ML_TRY(ml_dataset_open(path, &data, err));
    ml_status status = show_folder(o, data, err);
    ml_dataset_free(data);
    return status;
}

ml_status ml_cli_data_info(int argc, char **argv, ml_error *err)
{
    ml_options *o;
    ML_TRY(ml_cli_parse("data info", NULL, argc, argv, 1, 1, "a data folder or a text file", &o, err));
    ml_status status = info(o, err);
    ml_options_free(o);
    return status;
}
