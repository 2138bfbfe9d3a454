#include "recipe/data.h"

#include "base/alloc.h"
#include "base/json.h"
#include "data/mix.h"
#include "data/count_words.h"
#include "data/synth.h"
#include "recipe/data_record.h"
#include "recipe/sources.h"

#include <string.h>

/* A folder being built. */
typedef struct {
    ml_recipe_data *d;
    const ml_listener *listener;
    const char *generated;    /* the one input when text is generated */
    const char *const *input; /* [n_input] */
    size_t n_input;
    ml_source_list sources;   /* a mixture; none: empty */
    const char **source_file; /* the input of a mixture */
} building;

static ml_build_config build_config(const building *b)
{
    const ml_options *o = b->d->o;
    return (ml_build_config){ .input = b->input,
                              .n_input = b->n_input,
                              .out = b->d->tokens,
                              .name = b->d->dir,
                              .rule = ML_RULE_MARKER,
                              .marker = ml_options_text(o, "data.marker"),
                              .field = ml_options_text(o, "data.field"),
                              .val_fraction = ml_options_real(o, "data.val_fraction"),
                              .val_last = ml_options_flag(o, "data.val_last"),
                              .seed = (uint64_t)ml_options_int(o, "data.seed"),
                              .shard_tokens = 100000000,
                              .max_bad = 0.01 };
}

static ml_status generate_text(const building *b, ml_error *err)
{
    const ml_options *o = b->d->o;
    if (ml_path_exists(b->generated)) return ML_OK;
    const char *kind = ml_options_text(o, "data.builtin");
    ml_synth_config config = { .kind = strcmp(kind, "stories") ? ML_SYNTH_ARITHMETIC : ML_SYNTH_STORIES,
                               .out = b->generated,
                               .n_bytes = (uint64_t)ml_options_int(o, "data.bytes"),
                               .seed = (uint64_t)ml_options_int(o, "data.seed") };
    double megabytes = (double)config.n_bytes / 1e6;
    ml_listener_say(b->listener, "no data in %s: writing %.0f MB of built-in %s first", b->d->dir, megabytes, kind);
    ML_TRY(ml_progress_begin_for(b->listener, "text", "MB", megabytes, &config.progress, err));
    uint64_t n_document, n_bytes;
    ml_status status = ml_data_synth(&config, &n_document, &n_bytes, err);
    ml_progress_end(config.progress);
    return status;
}

/* ---- the tokenizer ---- */

/* Split at spaces, in place. */
static size_t split_words(char *text, const char **words)
{
    size_t n = 0;
    char *rest;
    for (char *word = strtok_r(text, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) words[n++] = word;
    return n;
}

static ml_status learn(const building *b, const ml_bpe_train_config *config, ml_progress *progress, ml_tokenizer **out,
                       ml_error *err)
{
    const ml_build_config data = build_config(b);
    ml_records *records = NULL;
    ml_bpe_trainer *trainer = NULL;
    ml_count_words_config count = { .field = data.field,
                                    .limit = ml_options_int(b->d->o, "data.tokenizer_docs"),
                                    .max_bad = data.max_bad,
                                    .progress = progress };
    ml_record_tally tally;
    uint64_t n_bytes;
    ml_status status;
    ML_TRY_GOTO(ml_records_open_texts(b->input, b->n_input, data.rule, data.marker, data.field, &records, err));
    if (data.val_last) {
        ML_TRY_GOTO(ml_records_measure(records, &n_bytes, err));
        count.end = ml_build_val_begin(&data, n_bytes);
        ml_records_split(records, count.end);
    }
    ML_TRY_GOTO(ml_bpe_trainer_make(config, &trainer, err));
    ML_TRY_GOTO(ml_data_count_words(records, &count, trainer, &tally, err));
    status = ml_bpe_trainer_finish(trainer, progress, out, err);
done:
    ml_bpe_trainer_free(trainer);
    ml_records_free(records);
    return status;
}

static ml_status train_with(const building *b, const char *const *special, size_t n_special, ml_tokenizer **out,
                            ml_error *err)
{
    const ml_options *o = b->d->o;
    ml_bpe_train_config config = { .vocab_size = (int32_t)ml_options_int(o, "data.vocab_size"),
                                   .pattern = ml_options_text(o, "data.pattern"),
                                   .special = special,
                                   .n_special = n_special,
                                   .allow_fewer = true };
    ml_progress *progress;
    ml_listener_say(b->listener, "training a tokenizer of %d tokens on up to %lld documents", config.vocab_size,
                    (long long)ml_options_int(o, "data.tokenizer_docs"));
    ML_TRY(ml_progress_begin_for(b->listener, "tokenizer", "tokens", (double)config.vocab_size, &progress, err));
    ml_status status = learn(b, &config, progress, out, err);
    ml_progress_end(progress);
    return status;
}

static ml_status train_tokenizer(const building *b, ml_tokenizer **out, ml_error *err)
{
    const char *given = ml_options_text(b->d->o, "data.special");
    char *text = ml_strdup(given ? given : "");
    size_t most = text ? strlen(text) / 2 + 1 : 0; /* words of one letter */
    const char **special = ml_calloc(most, sizeof *special);
    ml_status status = text && special ? train_with(b, special, split_words(text, special), out, err)
                                       : ml_fail_memory(err, most * sizeof *special, "special tokens");
    ml_free(special);
    ml_free(text);
    return status;
}

/* The one that was given, or that an earlier build left, is open already. */
static ml_status make_tokenizer(const building *b, ml_error *err)
{
    ml_recipe_data *d = b->d;
    if (d->tokenizer && !ml_options_text(d->o, "data.tokenizer")) return ML_OK;
    if (!d->tokenizer) ML_TRY(train_tokenizer(b, &d->tokenizer, err));
    return ml_tokenizer_save(d->tokenizer, d->tokenizer_path, err);
}

/* ---- the tokens ---- */

static ml_status mix(const building *b, const ml_build_config *config, ml_build_result *result, ml_error *err)
{
    json_t *sources;
    ml_mix_config c = {
        .sources = &b->sources, .tokens = ml_options_int(b->d->o, "data.tokens"), .allow_fewer = true, .build = *config
    };
    c.build.input = NULL;
    c.build.n_input = 0;
    ML_TRY(ml_data_mix(&c, b->d->tokenizer, result, &sources, err));
    ml_recipe_sources_say(sources, b->listener);
    json_decref(sources);
    return ML_OK;
}

static ml_status encode(const building *b, ml_error *err)
{
    ml_build_config config = build_config(b);
    ml_build_result result;
    ml_listener_say(b->listener, "encoding into %s", b->d->tokens);
    ML_TRY(ml_progress_begin_for(b->listener, "data", "MB", 0, &config.progress, err));
    ml_status status =
        b->sources.n ? mix(b, &config, &result, err) : ml_data_build(&config, b->d->tokenizer, &result, err);
    ml_progress_end(config.progress);
    ML_TRY(status);
    ml_listener_say(b->listener, "%lld training tokens in %lld documents, %lld validation tokens in %lld",
                    (long long)result.n_token[ML_SPLIT_TRAIN], (long long)result.n_document[ML_SPLIT_TRAIN],
                    (long long)result.n_token[ML_SPLIT_VAL], (long long)result.n_document[ML_SPLIT_VAL]);
    return ML_OK;
}

/* Where the text comes from: files, a mixture, or ourselves. */
static ml_status choose_inputs(building *b, ml_error *err)
{
    size_t n = 0;
    b->n_input = ml_options_list(b->d->o, "data.text", &b->input);
    ML_TRY(ml_recipe_sources_open(b->d->o, b->listener, &b->sources, err));
    for (size_t i = 0; i < b->sources.n; i++) n += b->sources.source[i].n_file;
    b->source_file = ml_calloc(n + 1, sizeof *b->source_file);
    if (!b->source_file) return ml_fail_memory(err, n * sizeof *b->source_file, "the list of inputs");
    n = 0;
    for (size_t i = 0; i < b->sources.n; i++) {
        for (size_t k = 0; k < b->sources.source[i].n_file; k++) b->source_file[n++] = b->sources.source[i].file[k];
    }
    if (b->n_input) return ML_OK;
    b->input = n ? b->source_file : &b->generated;
    b->n_input = n ? n : 1;
    return ML_OK;
}

static ml_status build_parts(building *b, ml_error *err)
{
    ML_TRY(choose_inputs(b, err));
    ML_TRY(ml_dir_make(b->d->tokens, err));
    ML_TRY(ml_recipe_data_write_record(b->d, err));
    if (b->input == &b->generated) ML_TRY(generate_text(b, err));
    ML_TRY(make_tokenizer(b, err));
    return encode(b, err);
}

static ml_status build(ml_recipe_data *d, const ml_listener *listener, ml_error *err)
{
    building b = { .d = d, .listener = listener, .generated = d->text };
    ml_status status = build_parts(&b, err);
    ml_source_list_free(&b.sources);
    ml_free(b.source_file);
    return status;
}

ml_status ml_recipe_data_prepare(ml_recipe_data *d, const ml_listener *listener, ml_error *err)
{
    if (!d->is_built) ML_TRY(build(d, listener, err));
    d->is_built = true;
    if (!d->set) ML_TRY(ml_dataset_open(d->tokens, &d->set, err));
    return ml_dataset_check_tokenizer(d->set, ml_tokenizer_fingerprint(d->tokenizer), err);
}

/* ---- what is there ---- */

static ml_status find_tokens(ml_recipe_data *d, ml_error *err)
{
    char meta[ML_PATH_MAX];
    ML_TRY(ml_path_join(meta, d->dir, "meta.json", err));
    d->is_foreign = d->is_built = ml_path_exists(meta);
    if (d->is_foreign) {
        snprintf(d->tokens, sizeof d->tokens, "%s", d->dir);
        return ML_OK;
    }
    ML_TRY(ml_path_join(d->tokens, d->dir, "tokens", err));
    ML_TRY(ml_path_join(meta, d->tokens, "meta.json", err));
    d->is_built = ml_path_exists(meta);
    return ML_OK;
}

static ml_status find_tokenizer(ml_recipe_data *d, ml_error *err)
{
    const char *given = ml_options_text(d->o, "data.tokenizer");
    char last[ML_PATH_MAX]; /* the file written last: an interruption may have left the other */
    if (given) return ml_tokenizer_open(given, &d->tokenizer, err);
    ML_TRY(ml_path_join(last, d->tokenizer_path, "tokenizer_config.json", err));
    if (!d->is_built && !ml_path_exists(last)) return ML_OK;
    return ml_tokenizer_open(d->tokenizer_path, &d->tokenizer, err);
}

/* There is a document to read. */
static ml_status check_text(const ml_recipe_data *d, ml_error *err)
{
    const char *const *input;
    size_t n_input = ml_options_list(d->o, "data.text", &input);
    ml_records *records;
    ml_record_batch batch = { 0 };
    if (n_input == 0) return ML_OK;
    ML_TRY(ml_records_open_texts(input, n_input, ML_RULE_MARKER, ml_options_text(d->o, "data.marker"),
                                 ml_options_text(d->o, "data.field"), &records, err));
    ml_status status = ml_records_read(records, 1, 1, &batch, err);
    bool found = batch.n > 0;
    ml_record_batch_free(&batch);
    ml_records_free(records);
    ML_TRY(status);
    if (found) return ML_OK;
    return ml_fail(err, ML_EINVAL, "data.text: no document in %s%s", input[0],
                   n_input > 1 ? " or the other files" : "");
}

ml_status ml_recipe_data_find(const ml_options *o, ml_recipe_data *d, ml_error *err)
{
    *d = (ml_recipe_data){ .o = o, .dir = ml_options_text(o, "data.dir") };
    if (!d->dir) {
        return ml_fail(err, ML_EINVAL, "data.dir is not set: name the data folder in the recipe or with --data.dir");
    }
    ML_TRY(ml_path_join(d->record, d->dir, "data.ini", err));
    ML_TRY(ml_path_join(d->text, d->dir, "text.txt", err));
    ML_TRY(ml_path_join(d->tokenizer_path, d->dir, "tokenizer", err));
    ML_TRY(find_tokens(d, err));
    ML_TRY(ml_recipe_data_check_record(d, err));
    ML_TRY(find_tokenizer(d, err));
    return d->is_built ? ML_OK : check_text(d, err);
}

void ml_recipe_data_free(ml_recipe_data *d)
{
    ml_dataset_free(d->set);
    ml_tokenizer_free(d->tokenizer);
    d->set = NULL;
    d->tokenizer = NULL;
}
