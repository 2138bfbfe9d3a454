/* moonlight data synth: text made by rules, or asked of a model behind an endpoint. */
#include "cli/amount.h"
#include "cli/cli.h"
#include "cli/data_endpoint.h"

#include "base/clock.h"
#include "base/text.h"
#include "data/synth.h"
#include "data/synth_chat.h"
#include "data/synth_constraints.h"

#include <string.h>

/* What every kind tells at the end, taking over `more`, whose keys the JSON has too. */
static ml_status print_written(const ml_options *o, const char *out, uint64_t n_document, uint64_t n_bytes,
                               double seconds, json_t *more, ml_error *err)
{
    if (ml_options_flag(o, "json")) {
        json_t *all = json_pack("{s:s, s:I, s:I, s:f}", "file", out, "documents", (json_int_t)n_document, "bytes",
                                (json_int_t)n_bytes, "seconds", seconds);
        if (all && more) json_object_update(all, more);
        json_decref(more);
        return ml_cli_print_json(all, err);
    }
    json_decref(more);
    printf("%s: %s, %s in %.1f s\n", out, ml_cli_count((int64_t)n_document, "document").text,
           ml_cli_bytes((int64_t)n_bytes).text, seconds);
    return ML_OK;
}

/* --out, --docs and --split of what is made for tuning. */
static ml_status read_common(const ml_options *o, const char **out, uint64_t *n_document, ml_data_split *split,
                             ml_error *err)
{
    ML_TRY(ml_cli_require(o, "out", out, err));
    *n_document = (uint64_t)ml_options_int(o, "docs");
    *split = strcmp(ml_options_text(o, "split"), "val") ? ML_SPLIT_TRAIN : ML_SPLIT_VAL;
    return *n_document ? ML_OK : ml_fail(err, ML_EINVAL, "give --docs, e.g. --docs 2000");
}

/* ---- stories to order: constraints, preferences ---- */

static ml_status synth_examples(const ml_options *o, bool pairs, ml_error *err)
{
    double start = ml_clock_seconds();
    ml_synth_constraints_result result;
    ml_synth_constraints_config c = { .pairs = pairs, .seed = (uint64_t)ml_options_int(o, "seed") };
    ML_TRY(read_common(o, &c.out, &c.n_document, &c.split, err));
    c.progress = ml_progress_begin("writing", "documents", (double)c.n_document);
    ml_status status = ml_data_synth_constraints(&c, &result, err);
    ml_progress_end(c.progress);
    ML_TRY(status);
    json_t *rejects = json_object();
    for (int i = 1; i < ML_N_SYNTH_FAULT; i++) {
        const char *name = ml_synth_fault_name((ml_synth_fault)i);
        if (!result.n_reject[i]) continue;
        json_object_set_new(rejects, name, json_integer((json_int_t)result.n_reject[i]));
        ml_log_info("%llu rejected: %s", (unsigned long long)result.n_reject[i], name);
    }
    return print_written(o, c.out, c.n_document, result.n_bytes, ml_clock_seconds() - start,
                         json_pack("{s:o}", "rejected", rejects), err);
}

/* ---- conversations, or single questions ---- */

static ml_status synth_chats(const ml_options *o, bool single, ml_error *err)
{
    double start = ml_clock_seconds();
    uint64_t n_bytes;
    ml_synth_chat_config c = { .single = single, .seed = (uint64_t)ml_options_int(o, "seed") };
    ML_TRY(read_common(o, &c.out, &c.n_document, &c.split, err));
    c.progress = ml_progress_begin("writing", "documents", (double)c.n_document);
    ml_status status = ml_data_synth_chat(&c, &n_bytes, err);
    ml_progress_end(c.progress);
    ML_TRY(status);
    return print_written(o, c.out, c.n_document, n_bytes, ml_clock_seconds() - start, NULL, err);
}

/* ---- stories and arithmetic ---- */

static ml_status synth_text(const ml_options *o, ml_synth_kind kind, ml_error *err)
{
    double start = ml_clock_seconds();
    const char *format = ml_options_text(o, "format");
    uint64_t n_document, n_bytes;
    ml_synth_config c = { .kind = kind,
                          .n_bytes = (uint64_t)ml_options_int(o, "bytes"),
                          .n_document = (uint64_t)ml_options_int(o, "docs"),
                          .seed = (uint64_t)ml_options_int(o, "seed") };
    ML_TRY(ml_cli_require(o, "out", &c.out, err));
    if (!c.n_bytes == !c.n_document) {
        return ml_fail(err, ML_EINVAL, "give either --bytes or --docs, e.g. --bytes 20m");
    }
    c.jsonl = strcmp(format, "jsonl") == 0 || (strcmp(format, "auto") == 0 && ml_text_ends_with(c.out, ".jsonl"));
    c.progress = c.n_document ? ml_progress_begin("writing", "documents", (double)c.n_document)
                              : ml_progress_begin("writing", "MB", (double)c.n_bytes / 1e6);
    ml_status status = ml_data_synth(&c, &n_document, &n_bytes, err);
    ml_progress_end(c.progress);
    ML_TRY(status);
    return print_written(o, c.out, n_document, n_bytes, ml_clock_seconds() - start, NULL, err);
}

static ml_status synth(const ml_options *o, ml_error *err)
{
    const char *kind = ml_options_positional(o, 0);
    bool pairs = strcmp(kind, "preferences") == 0, examples = pairs || strcmp(kind, "constraints") == 0;
    ml_stop_install();
    if (ml_options_text(o, "endpoint")) {
        if (examples) return ml_cli_synth_endpoint(o, pairs, err);
        return ml_fail(err, ML_EINVAL, "--endpoint: expected constraints or preferences, found \"%s\"", kind);
    }
    if (examples) return synth_examples(o, pairs, err);
    if (strcmp(kind, "chats") == 0 || strcmp(kind, "questions") == 0) return synth_chats(o, *kind == 'q', err);
    if (strcmp(kind, "stories") == 0) return synth_text(o, ML_SYNTH_STORIES, err);
    if (strcmp(kind, "arithmetic") == 0) return synth_text(o, ML_SYNTH_ARITHMETIC, err);
    return ml_fail(err, ML_EINVAL,
                   "expected stories, arithmetic, constraints, preferences, chats or questions, found \"%s\"", kind);
}

ml_status ml_cli_data_synth(int argc, char **argv, ml_error *err)
{
    ml_options *o;
    ML_TRY(ml_cli_parse("data synth", NULL, argc, argv, 1, 1,
                        "stories, arithmetic, constraints, preferences, chats or questions", &o, err));
    ml_status status = synth(o, err);
    ml_options_free(o);
    return status;
}
