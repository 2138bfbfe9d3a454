/* moonlight inspect PATH: what a path is, and what is in it. */
#include "cli/inspect.h"

#include "base/alloc.h"
#include "base/text.h"
#include "cli/cli.h"
#include "data/rows.h"
#include "format/run.h"
#include "format/source.h"

#include <string.h>

static bool holds(const char *folder, const char *name)
{
    char path[ML_PATH_MAX];
    ml_error ignored;
    return ml_path_join(path, folder, name, &ignored) == ML_OK && ml_path_exists(path);
}

static bool holds_tokenizer(const char *folder)
{
    return holds(folder, "tokenizer.json") || holds(folder, "tiktoken.model") || holds(folder, "vocab.json") ||
           holds(folder, "encoder.json");
}

static ml_status inspect_folder(ml_inspection *x, const char *folder, const char *kind, ml_error *err)
{
    char path[ML_PATH_MAX];
    ml_config config;
    if (holds(folder, "adapter_config.json")) { /* what there is to say lies in its tensors */
        ML_TRY(ml_path_join(path, folder, "adapter_model.safetensors", err));
        return ml_cli_inspect_tensors(x, path, err);
    }
    ML_TRY(ml_path_join(path, folder, "config.json", err));
    ML_TRY(ml_config_load(path, &config, err));
    if (x->json && kind) json_object_set_new(x->object, "kind", json_string(kind));
    return ml_cli_inspect_model(x, folder, &config, folder, err);
}

static void print_steps(const int64_t *steps, size_t n_steps, int64_t best, int64_t latest)
{
    printf("checkpoints\n");
    for (size_t i = 0; i < n_steps; i++) {
        printf("  step %s%s%s\n", ml_cli_digits(steps[i]).text, steps[i] == best ? ", best" : "",
               steps[i] == latest ? ", latest" : "");
    }
    printf("\n");
}

static ml_status add_steps(ml_inspection *x, const int64_t *steps, size_t n_steps, int64_t best, int64_t latest,
                           ml_error *err)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n_steps; i++) json_array_append_new(list, json_integer(steps[i]));
    json_t *run = json_pack("{s:o, s:I, s:I}", "steps", list, "best", (json_int_t)best, "latest", (json_int_t)latest);
    return json_object_set_new(x->object, "run", run) ? ml_fail_memory(err, 0, "the JSON output") : ML_OK;
}

static ml_status inspect_run(ml_inspection *x, const char *path, ml_error *err)
{
    char best_folder[ML_PATH_MAX], latest_folder[ML_PATH_MAX];
    int64_t best, latest, *steps;
    size_t n_steps;
    ML_TRY(ml_run_find(path, ML_RUN_BEST, best_folder, &best, err));
    ML_TRY(ml_run_find(path, ML_RUN_LATEST, latest_folder, &latest, err));
    ML_TRY(ml_run_list(path, &steps, &n_steps, err));
    ml_status status = ML_OK;
    if (x->json) {
        status = add_steps(x, steps, n_steps, best, latest, err);
    } else {
        printf("%s: a run folder; its best checkpoint:\n\n", path);
        print_steps(steps, n_steps, best, latest);
    }
    ml_free(steps);
    return status == ML_OK ? inspect_folder(x, best_folder, "run", err) : status;
}

static ml_status inspect_tokenizer(ml_inspection *x, const char *path, ml_error *err)
{
    ML_TRY(ml_cli_inspect_refuse_svg(x, path, err));
    if (x->json) json_object_set_new(x->object, "kind", json_string("tokenizer"));
    return ml_cli_inspect_tokenizer(x, path, err);
}

static ml_status inspect_rows(ml_inspection *x, const char *path, ml_error *err)
{
    ml_rows *rows;
    ML_TRY(ml_rows_open(path, &rows, err));
    if (!x->json) {
        printf("%s: a data folder (%s) of %s for tuning, ids below %s in %d bytes each; moonlight data info says "
               "more\n\n",
               path, rows->name, ml_rows_kind_name(rows->kind), ml_cli_digits(rows->vocab_size).text, rows->id_bytes);
    }
    for (ml_data_split s = 0; s < ML_N_SPLIT; s++) {
        const ml_rows_split *split = &rows->split[s];
        if (x->json) {
            json_object_set_new(x->object, ml_dataset_split_name(s),
                                json_pack("{s:I, s:I, s:I}", "n_token", (json_int_t)split->n_token, "n_row",
                                          (json_int_t)split->n_row, "n_target", (json_int_t)split->n_target));
        } else {
            printf("  %-6s %16s tokens %14s rows %14s learned\n", ml_dataset_split_name(s),
                   ml_cli_digits(split->n_token).text, ml_cli_digits(split->n_row).text,
                   ml_cli_digits(split->n_target).text);
        }
    }
    if (x->json) {
        json_object_set_new(x->object, "rows", json_string(ml_rows_kind_name(rows->kind)));
        json_object_set_new(x->object, "vocab_size", json_integer(rows->vocab_size));
        json_object_set_new(x->object, "tokenizer", json_string(rows->tokenizer));
    } else {
        printf("  tokenizer %s\n", rows->tokenizer);
    }
    ml_rows_free(rows);
    return ML_OK;
}

static ml_status inspect_data(ml_inspection *x, const char *path, ml_error *err)
{
    ml_dataset *data;
    ML_TRY(ml_cli_inspect_refuse_svg(x, path, err));
    if (ml_rows_are_in(path)) {
        if (x->json) json_object_set_new(x->object, "kind", json_string("data"));
        return inspect_rows(x, path, err);
    }
    ML_TRY(ml_dataset_open(path, &data, err));
    if (x->json) json_object_set_new(x->object, "kind", json_string("data"));
    if (!x->json) {
        printf("%s: a data folder (%s), ids below %s in %d bytes each; moonlight data info says more\n\n", path,
               data->name, ml_cli_digits(data->vocab_size).text, data->id_bytes);
    }
    for (ml_data_split s = 0; s < ML_N_SPLIT; s++) {
        const ml_dataset_split *split = &data->split[s];
        if (x->json) {
            json_object_set_new(x->object, ml_dataset_split_name(s),
                                json_pack("{s:I, s:I, s:I}", "n_token", (json_int_t)split->n_token, "n_document",
                                          (json_int_t)split->n_document, "n_shard", (json_int_t)split->n_shard));
        } else {
            printf("  %-6s %16s tokens %14s documents %6zu shards\n", ml_dataset_split_name(s),
                   ml_cli_digits(split->n_token).text, ml_cli_digits(split->n_document).text, split->n_shard);
        }
    }
    if (x->json) {
        json_object_set_new(x->object, "vocab_size", json_integer(data->vocab_size));
        json_object_set_new(x->object, "tokenizer", json_string(data->tokenizer));
    } else {
        printf("  tokenizer %s\n", data->tokenizer);
    }
    ml_dataset_free(data);
    return ML_OK;
}

static ml_status inspect_preset(ml_inspection *x, const char *preset, ml_error *err)
{
    ml_config config;
    ML_TRY(ml_config_preset(preset, &config, err));
    for (size_t i = 0; i < ml_options_open_count(x->o); i++) {
        const char *name, *value;
        ml_options_open_item(x->o, i, &name, &value);
        ML_TRY(ml_config_set(&config, name, value, "options", err));
    }
    ML_TRY(ml_config_check(&config, "options", err));
    if (x->json) json_object_set_new(x->object, "kind", json_string("preset"));
    return ml_cli_inspect_model(x, preset, &config, NULL, err);
}

static ml_status inspect_file(ml_inspection *x, const char *path, ml_error *err)
{
    ml_source_kind kind;
    ML_TRY(ml_weight_source_find_kind(path, &kind, err));
    if (kind == ML_SOURCE_GGUF) return ml_cli_inspect_gguf(x, path, err);
    if (kind == ML_SOURCE_PT) return ml_cli_inspect_pt(x, path, err);
    if (ml_text_ends_with(path, ".safetensors") || ml_text_ends_with(path, ".safetensors.index.json")) {
        return ml_cli_inspect_tensors(x, path, err);
    }
    if (ml_text_ends_with(path, "tokenizer.json") || ml_text_ends_with(path, "tiktoken.model") ||
        ml_text_ends_with(path, "vocab.json") || ml_text_ends_with(path, "encoder.json") ||
        ml_text_ends_with(path, "merges.txt") || ml_text_ends_with(path, "vocab.bpe")) {
        return inspect_tokenizer(x, path, err);
    }
    if (ml_text_ends_with(path, "config.json")) {
        ml_config config;
        ML_TRY(ml_config_load(path, &config, err));
        if (x->json) json_object_set_new(x->object, "kind", json_string("config"));
        return ml_cli_inspect_model(x, path, &config, NULL, err);
    }
    return ml_fail(err, ML_EINVAL,
                   "%s: a file of a kind that is not known here: expected a GGUF or .safetensors file, a PyTorch "
                   "checkpoint, config.json, a "
                   "tokenizer's file, or a folder of a model, a run or data",
                   path);
}

static ml_status inspect_path(ml_inspection *x, const char *path, ml_error *err)
{
    if (ml_options_open_count(x->o) > 0) {
        const char *name, *value;
        ml_options_open_item(x->o, 0, &name, &value);
        return ml_fail(err, ML_EINVAL, "--model.%s changes a preset; what %s is stands in its files", name, path);
    }
    if (!ml_path_exists(path)) return ml_fail(err, ML_EIO, "%s: there is no such file or folder", path);
    if (x->json) json_object_set_new(x->object, "path", json_string(path));
    if (!ml_path_is_dir(path)) return inspect_file(x, path, err);
    if (holds(path, "config.json") || holds(path, "adapter_config.json")) return inspect_folder(x, path, "model", err);
    if (holds(path, "latest") || holds(path, "options.ini")) return inspect_run(x, path, err);
    if (holds(path, "meta.json")) return inspect_data(x, path, err);
    if (holds(path, "tokens/meta.json")) { /* what a recipe's data.dir names */
        char tokens[ML_PATH_MAX];
        ML_TRY(ml_path_join(tokens, path, "tokens", err));
        return inspect_data(x, tokens, err);
    }
    if (holds_tokenizer(path)) return inspect_tokenizer(x, path, err);
    return ml_fail(err, ML_EINVAL,
                   "%s: expected a folder with config.json (a model), latest or options.ini (a run), meta.json (data) "
                   "or a tokenizer's files; it has none of them",
                   path);
}

ml_status ml_cli_inspect(int argc, char **argv, ml_error *err)
{
    ml_options *o;
    ML_TRY(ml_cli_parse("inspect", "model", argc, argv, 0, 1, "one path, or --config PRESET", &o, err));
    ml_inspection x = { .o = o, .json = ml_options_flag(o, "json") };
    if (x.json) x.object = json_object();
    const char *preset = ml_options_text(o, "config");
    size_t n_path = ml_options_positional_count(o);
    ml_status status;
    if ((preset != NULL) == (n_path == 1))
        status = ml_fail(err, ML_EINVAL, "expected either one path or --config PRESET; found %s",
                         preset ? "both" : "neither");
    else
        status = preset ? inspect_preset(&x, preset, err) : inspect_path(&x, ml_options_positional(o, 0), err);
    if (status == ML_OK && x.json)
        status = ml_cli_print_json(x.object, err);
    else
        json_decref(x.object);
    ml_options_free(o);
    return status;
}
