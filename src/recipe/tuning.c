#include "recipe/tuning.h"

#include "data/build_rows.h"
#include "data/synth_chat.h"
#include "data/synth_constraints.h"
#include "format/find.h"
#include "format/gguf_tokenizer.h"
#include "format/source.h"
#include "recipe/setup.h"
#include "recipe/sources.h"

#include <math.h>
#include <string.h>

/* ---- the model ---- */

/* Keys of section `model` may change how it is trained, not what it is. */
static ml_status change_config(ml_recipe_tuning *t, ml_error *err)
{
    ml_config changed = t->config;
    const char *field;
    for (size_t i = 0; i < ml_options_open_count(t->o); i++) {
        const char *name, *value;
        ml_options_open_item(t->o, i, &name, &value);
        ML_TRY(ml_config_set(&changed, name, value, "options", err));
        if (ml_config_same_model(&t->config, &changed, &field)) continue;
        return ml_fail(err, ML_EINVAL, "model.%s: %s is what it is: expected keys of training, such as balance_coef",
                       name, t->model);
    }
    t->config = changed;
    return ml_config_check(&t->config, "options", err);
}

static ml_status read_config(ml_recipe_tuning *t, ml_error *err)
{
    const char *from = ml_options_text(t->o, "init.from");
    ml_weight_source *source;
    if (!from) {
        return ml_fail(err, ML_EINVAL,
                       "init.from is not set: name the model to begin with, a model or run folder or a file");
    }
    if (ml_model_find(from, t->model, err) != ML_OK) return ml_fail_prefix(err, "init.from");
    ML_TRY(ml_weight_source_open(t->model, &t->config, &source, err));
    source->free(source);
    return change_config(t, err);
}

ml_status ml_recipe_tuning_fill(const ml_recipe_tuning *t, ml_model *model, ml_error *err)
{
    ml_config config;
    ml_weight_source *source;
    ML_TRY(ml_weight_source_open(t->model, &config, &source, err));
    ml_status status = ml_model_fill(model, source, err);
    source->free(source);
    return status;
}

ml_status ml_recipe_tuning_bind(const ml_recipe_tuning *t, ml_model **out, ml_error *err)
{
    ml_config config;
    ml_weight_source *source;
    *out = NULL;
    ML_TRY(ml_weight_source_open(t->model, &config, &source, err));
    ml_status status = ml_model_bind(&t->config, source, out, err);
    if (status != ML_OK) source->free(source);
    return status;
}

/* ---- the tokenizer ---- */

static ml_status open_tokenizer(ml_recipe_tuning *t, ml_error *err)
{
    const char *given = ml_options_text(t->o, "data.tokenizer");
    ml_tokenizer_extra extra = { 0 };
    char folder[ML_PATH_MAX];
    extra.n_added = ml_options_list(t->o, "data.added", &extra.added);
    if (given) return ml_tokenizer_open_with(given, &extra, &t->tokenizer, err);
    if (ml_weight_source_kind(t->model) == ML_SOURCE_GGUF) {
        if (!extra.n_added) return ml_gguf_tokenizer_open(t->model, &t->tokenizer, err);
        return ml_fail(err, ML_EINVAL, "data.added: the tokenizer of a GGUF file takes no more tokens");
    }
    if (ml_path_is_dir(t->model)) return ml_tokenizer_open_with(t->model, &extra, &t->tokenizer, err);
    ML_TRY(ml_path_parent(folder, t->model, err));
    return ml_tokenizer_open_with(folder, &extra, &t->tokenizer, err);
}

static ml_status find_tokenizer(ml_recipe_tuning *t, ml_error *err)
{
    ML_TRY(open_tokenizer(t, err));
    int32_t n = ml_tokenizer_vocab_size(t->tokenizer);
    if (n > t->config.vocab_size) {
        return ml_fail(err, ML_EINVAL, "the tokenizer has %d ids, %s only %lld: choose a tokenizer of that model", n,
                       t->model, (long long)t->config.vocab_size);
    }
    if (ml_options_text(t->o, "data.tokenizer")) {
        t->config.bos_token_id = ml_tokenizer_bos(t->tokenizer);
        t->config.eos_token_id = ml_tokenizer_eos(t->tokenizer);
        t->config.pad_token_id = ml_tokenizer_pad(t->tokenizer);
    }
    /* Refuses what rows could not be made with. */
    ml_row_maker m;
    return ml_row_maker_init(&m, t->tokenizer, t->form, ml_options_text(t->o, "data.chat_format"), 2, err);
}

/* ---- the rows ---- */

static ml_status open_rows(ml_recipe_tuning *t, ml_error *err)
{
    ML_TRY(ml_rows_open(t->rows_path, &t->rows, err));
    ML_TRY(ml_rows_check_kind(t->rows, t->form == ML_ROW_PREFERENCE ? ML_ROWS_PAIR : ML_ROWS_SINGLE, err));
    return ml_rows_check_tokenizer(t->rows, ml_tokenizer_fingerprint(t->tokenizer), err);
}

typedef struct {
    const ml_recipe_tuning *t;
    ml_status status;
    ml_error *err;
} comparison;

static void note_difference(void *arg, const char *section, const char *name, const char *old_value,
                            const char *new_value)
{
    comparison *c = arg;
    bool is_tokenizer = !strcmp(name, "tokenizer"); /* the fingerprint decides */
    if (c->status != ML_OK || strcmp(section, "data") != 0 || !strcmp(name, "dir") || is_tokenizer) return;
    c->status = ml_fail(c->err, ML_EINVAL,
                        "data.%s: %s was built with %.200s, not with %.200s: give another data.dir, or remove that "
                        "folder and it is built anew",
                        name, c->t->dir, old_value ? old_value : "(nothing)", new_value ? new_value : "(nothing)");
}

/* Options that building looks at have no say about a folder that is given as it is. */
static ml_status check_foreign(const ml_recipe_tuning *t, ml_error *err)
{
    static const char *const building[] = { "text",     "val_text",     "source", "tokens",
                                            "examples", "val_fraction", "seed",   "max_tokens" };
    for (size_t i = 0; i < sizeof building / sizeof building[0]; i++) {
        char path[64];
        snprintf(path, sizeof path, "data.%s", building[i]);
        if (!ml_options_overridden(t->o, path)) continue;
        return ml_fail(err, ML_EINVAL,
                       "%s cannot be chosen for %s, which `moonlight data build` made: leave it out, or give another "
                       "data.dir",
                       path, t->dir);
    }
    return ML_OK;
}

static ml_status check_record(const ml_recipe_tuning *t, ml_error *err)
{
    comparison c = { .t = t, .err = err };
    ml_error read_error;
    if (t->is_foreign) return check_foreign(t, err);
    if (!ml_path_exists(t->record)) return ML_OK;
    ml_status status = ml_options_compare_ini(t->o, t->record, note_difference, &c, &read_error);
    ML_TRY(c.status);
    if (status != ML_OK) *err = read_error;
    return status;
}

static ml_status find_rows(ml_recipe_tuning *t, ml_error *err)
{
    char meta[ML_PATH_MAX];
    ML_TRY(ml_path_join(t->record, t->dir, "data.ini", err));
    ML_TRY(ml_path_join(meta, t->dir, "meta.json", err));
    t->is_foreign = ml_path_exists(meta);
    if (t->is_foreign) {
        snprintf(t->rows_path, sizeof t->rows_path, "%s", t->dir);
    } else {
        ML_TRY(ml_path_join(t->rows_path, t->dir, "rows", err));
        ML_TRY(ml_path_join(meta, t->rows_path, "meta.json", err));
    }
    t->is_built = ml_path_exists(meta);
    ML_TRY(check_record(t, err));
    return t->is_built ? open_rows(t, err) : ML_OK;
}

ml_status ml_recipe_tuning_find(const ml_options *o, ml_row_form form, ml_recipe_tuning *t, ml_error *err)
{
    *t = (ml_recipe_tuning){ .o = o, .form = form, .dir = ml_options_text(o, "data.dir") };
    if (!t->dir) {
        return ml_fail(err, ML_EINVAL, "data.dir is not set: name the data folder in the recipe or with --data.dir");
    }
    ML_TRY(read_config(t, err));
    ML_TRY(find_tokenizer(t, err));
    return find_rows(t, err);
}

/* ---- building ---- */

/* Built-in rows come from two generators: stories to order (of pairs for dpo), and for the chat kinds conversations. */
typedef enum { ORDERS, CHATS, N_GENERATED } generated_kind;

static bool is_generated(const ml_recipe_tuning *t, generated_kind kind)
{
    return kind == CHATS ? t->form == ML_ROW_INSTRUCTION || t->form == ML_ROW_CHAT : t->form != ML_ROW_CHAT;
}

static ml_status generated_path(const ml_recipe_tuning *t, generated_kind kind, ml_data_split split,
                                char path[ML_PATH_MAX], ml_error *err)
{
    char name[32];
    snprintf(name, sizeof name, "%s%s.jsonl", kind == CHATS ? "chats_" : "", ml_dataset_split_name(split));
    return ml_path_join(path, t->dir, name, err);
}

static ml_status write_generated(const ml_recipe_tuning *t, generated_kind kind, ml_data_split split, const char *path,
                                 ml_progress *progress, ml_error *err)
{
    uint64_t n = (uint64_t)ml_options_int(t->o, "data.examples"), n_bytes;
    uint64_t seed = (uint64_t)ml_options_int(t->o, "data.seed");
    ml_synth_constraints_result result;
    if (split == ML_SPLIT_VAL) n = (n + 9) / 10;
    const ml_synth_chat_config chat = { .out = path,
                                        .split = split,
                                        .single = t->form == ML_ROW_INSTRUCTION,
                                        .n_document = n,
                                        .seed = seed,
                                        .progress = progress };
    const ml_synth_constraints_config order = { .out = path,
                                                .pairs = t->form == ML_ROW_PREFERENCE,
                                                .split = split,
                                                .n_document = n,
                                                .seed = seed,
                                                .progress = progress };
    return kind == CHATS ? ml_data_synth_chat(&chat, &n_bytes, err) : ml_data_synth_constraints(&order, &result, err);
}

static ml_status generate(const ml_recipe_tuning *t, generated_kind kind, ml_data_split split,
                          const ml_listener *listener, char path[ML_PATH_MAX], ml_error *err)
{
    ml_progress *progress;
    ML_TRY(generated_path(t, kind, split, path, err));
    if (ml_path_exists(path)) return ML_OK;
    const char *what = kind == CHATS ? "conversations" : t->form == ML_ROW_PREFERENCE ? "pairs" : "prompts and stories";
    ml_listener_say(listener, "no data in %s: writing built-in %s for %s", t->dir, what,
                    split == ML_SPLIT_TRAIN ? "training" : "validation");
    ML_TRY(ml_progress_begin_for(listener, "text", "documents", 0, &progress, err));
    ml_status status = write_generated(t, kind, split, path, progress, err);
    ml_progress_end(progress);
    return status;
}

static ml_status encode(const ml_recipe_tuning *t, ml_build_rows_config *c, const ml_listener *listener, ml_error *err)
{
    ml_build_rows_result result;
    ml_listener_say(listener, "encoding into %s", t->rows_path);
    ML_TRY(ml_progress_begin_for(listener, "data", "MB", 0, &c->progress, err));
    ml_status status = ml_build_rows(c, t->tokenizer, &result, err);
    ml_progress_end(c->progress);
    ML_TRY(status);
    ml_recipe_sources_say(result.sources, listener);
    bool mixed = result.sources != NULL;
    json_decref(result.sources);
    for (int i = 1; i < ML_N_REJECT && !mixed; i++) {
        if (!result.n_reject[i]) continue;
        ml_listener_warn(listener, "%lld of %lld records left out: %s", (long long)result.n_reject[i],
                         (long long)result.n_record, ml_row_reject_name((ml_row_reject)i));
    }
    if (*result.first_bad) ml_listener_warn(listener, "the first defective record: %s", result.first_bad);
    ml_listener_say(listener, "%lld rows for training, %lld for validation", (long long)result.n_row[ML_SPLIT_TRAIN],
                    (long long)result.n_row[ML_SPLIT_VAL]);
    return ML_OK;
}

/* Rows of our own, which come as one file or two for each split. */
static ml_status build_generated(const ml_recipe_tuning *t, ml_build_rows_config *c, const ml_listener *listener,
                                 ml_error *err)
{
    char path[ML_N_SPLIT][N_GENERATED][ML_PATH_MAX];
    const char *input[ML_N_SPLIT][N_GENERATED];
    size_t n = 0;
    for (int kind = 0; kind < N_GENERATED; kind++) {
        if (!is_generated(t, (generated_kind)kind)) continue;
        for (int split = 0; split < ML_N_SPLIT; split++) {
            input[split][n] = path[split][n];
            ML_TRY(generate(t, (generated_kind)kind, (ml_data_split)split, listener, path[split][n], err));
        }
        n++;
    }
    c->input = input[ML_SPLIT_TRAIN];
    c->val_input = input[ML_SPLIT_VAL];
    c->n_input = c->n_val_input = n;
    return encode(t, c, listener, err);
}

static ml_status build(const ml_recipe_tuning *t, const ml_listener *listener, ml_error *err)
{
    int64_t max_tokens = ml_options_int(t->o, "data.max_tokens");
    ml_build_rows_config c = { .out = t->rows_path,
                               .name = t->dir,
                               .form = t->form,
                               .chat_format = ml_options_text(t->o, "data.chat_format"),
                               .max_tokens = max_tokens ? max_tokens : ml_options_int(t->o, "train.seq") + 1,
                               .val_fraction = ml_options_real(t->o, "data.val_fraction"),
                               .tokens = ml_options_int(t->o, "data.tokens"),
                               .allow_fewer = true,
                               .seed = (uint64_t)ml_options_int(t->o, "data.seed"),
                               .max_bad = 0.01 };
    ml_source_list sources;
    c.n_input = ml_options_list(t->o, "data.text", &c.input);
    c.n_val_input = ml_options_list(t->o, "data.val_text", &c.val_input);
    ML_TRY(ml_recipe_sources_open(t->o, listener, &sources, err));
    ml_status status = ml_dir_make(t->dir, err);
    if (status == ML_OK)
        status = ml_options_write_section(t->o, "data", "What this folder is built from, and how.", t->record, err);
    if (sources.n) c.sources = &sources;
    if (status == ML_OK)
        status = sources.n || c.n_input ? encode(t, &c, listener, err) : build_generated(t, &c, listener, err);
    ml_source_list_free(&sources);
    return status;
}

ml_status ml_recipe_tuning_prepare(ml_recipe_tuning *t, const ml_listener *listener, ml_error *err)
{
    if (!t->is_built) ML_TRY(build(t, listener, err));
    t->is_built = true;
    return t->rows ? ML_OK : open_rows(t, err);
}

void ml_recipe_tuning_free(ml_recipe_tuning *t)
{
    ml_rows_free(t->rows);
    ml_tokenizer_free(t->tokenizer);
    t->rows = NULL;
    t->tokenizer = NULL;
}

/* ---- how long ---- */

ml_status ml_recipe_tuning_schedule(const ml_recipe_tuning *t, const ml_listener *listener, int64_t rows_per_step,
                                    ml_train_config *config, ml_error *err)
{
    double epochs = ml_options_real(t->o, "train.epochs");
    int64_t n_row = t->rows->split[ML_SPLIT_TRAIN].n_row;
    bool steps_given = ml_options_overridden(t->o, "train.steps") && !ml_options_overridden(t->o, "train.epochs");
    if (epochs > 0 && !steps_given) {
        int64_t steps = (int64_t)ceil(epochs * (double)n_row / (double)rows_per_step);
        ML_TRY(ml_recipe_schedule(t->o, listener, steps > 0 ? steps : 1, &config->schedule, err));
    }
    ml_listener_say(listener, "%lld steps of %lld %s: %.2f passes over %lld", (long long)config->schedule.steps,
                    (long long)rows_per_step, ml_rows_kind_name(t->rows->kind),
                    (double)(config->schedule.steps * rows_per_step) / (double)n_row, (long long)n_row);
    return ML_OK;
}
