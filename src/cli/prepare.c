#include "cli/prepare.h"

#include "base/alloc.h"
#include "data/build.h"
#include "data/synth.h"
#include "token/train.h"

#include <string.h>

typedef struct {
    const ml_options *o;
    const char *dir;
    char text[ML_PATH_MAX], tokenizer[ML_PATH_MAX], tokens[ML_PATH_MAX];
    bool is_built;
    const char *generated; /* the one input when text is generated */
    const char *const *input;
    size_t n_input;
} preparation;

static ml_source_config source_config(const ml_options *o)
{
    return (ml_source_config){ .rule = ML_RULE_MARKER,
                               .marker = ml_options_text(o, "data.marker"),
                               .field = ml_options_text(o, "data.field") };
}

static ml_build_config build_config(const preparation *p)
{
    return (ml_build_config){ .input = p->input,
                              .n_input = p->n_input,
                              .out = p->tokens,
                              .name = p->dir,
                              .source = source_config(p->o),
                              .val_fraction = ml_options_real(p->o, "data.val_fraction"),
                              .val_last = ml_options_flag(p->o, "data.val_last"),
                              .seed = (uint64_t)ml_options_int(p->o, "data.seed"),
                              .shard_tokens = 100000000,
                              .max_bad = 0.01 };
}

static ml_status generate_text(preparation *p, ml_error *err)
{
    p->generated = p->text;
    p->input = &p->generated;
    p->n_input = 1;
    if (ml_path_exists(p->text)) return ML_OK;
    const char *kind = ml_options_text(p->o, "data.builtin");
    ml_synth_config config = { .kind = strcmp(kind, "stories") ? ML_SYNTH_ARITHMETIC : ML_SYNTH_STORIES,
                               .out = p->text,
                               .n_bytes = (uint64_t)ml_options_int(p->o, "data.bytes"),
                               .seed = (uint64_t)ml_options_int(p->o, "data.seed") };
    ml_log_info("no data in %s: writing %.0f MB of built-in %s first", p->dir, (double)config.n_bytes / 1e6, kind);
    config.progress = ml_progress_begin("text", "MB", (double)config.n_bytes / 1e6);
    uint64_t n_document, n_bytes;
    ml_status status = ml_data_synth(&config, &n_document, &n_bytes, err);
    ml_progress_end(config.progress);
    return status;
}

/* Hand the first `limit` documents that begin before byte `end` to the trainer, some at a time. */
static ml_status count_documents(ml_source *source, uint64_t end, int64_t limit, ml_bpe_trainer *trainer, ml_error *err)
{
    enum { AT_ONCE = 512 };
    ml_span span;
    bool more = true;
    ml_status status = ML_OK;
    while (more && limit > 0 && status == ML_OK) {
        ml_text docs[AT_ONCE];
        json_t *hold[AT_ONCE] = { 0 };
        size_t n = 0;
        while (n < AT_ONCE && limit > 0 && status == ML_OK && more) {
            more = ml_source_next(source, &span) && ml_source_position(source, &span) < end;
            if (!more) break;
            status = ml_source_text(source, &span, &hold[n], &docs[n].data, &docs[n].n_bytes, err);
            n++;
            limit--;
        }
        if (status == ML_OK) status = ml_bpe_trainer_add(trainer, docs, n, err);
        for (size_t i = 0; i < n; i++) json_decref(hold[i]);
    }
    return status;
}

enum { MAX_SPECIAL = 32 };

/* Split at spaces, in place. */
static size_t split_words(char *text, const char *words[MAX_SPECIAL])
{
    size_t n = 0;
    for (char *word = strtok(text, " "); word && n < MAX_SPECIAL; word = strtok(NULL, " ")) words[n++] = word;
    return n;
}

static ml_status train_tokenizer(const preparation *p, ml_tokenizer **out, ml_error *err)
{
    char special_text[1024];
    const char *special[MAX_SPECIAL];
    snprintf(special_text, sizeof special_text, "%s", ml_options_text(p->o, "data.special"));
    ml_bpe_train_config config = { .vocab_size = (int32_t)ml_options_int(p->o, "data.vocab_size"),
                                   .pattern = ml_options_text(p->o, "data.pattern"),
                                   .special = special,
                                   .n_special = split_words(special_text, special),
                                   .allow_fewer = true };
    ml_source_config source = source_config(p->o);
    ml_source *documents = NULL;
    ml_bpe_trainer *trainer = NULL;
    int64_t limit = ml_options_int(p->o, "data.tokenizer_docs");
    ml_log_info("training a tokenizer of %d tokens on up to %lld documents", config.vocab_size, (long long)limit);
    ml_build_config split = build_config(p);
    uint64_t end = UINT64_MAX;
    ml_status status = ml_source_open(p->input, p->n_input, &source, &documents, err);
    if (status == ML_OK && split.val_last) {
        end = ml_build_val_begin(&split, ml_source_size(documents));
        ml_source_cut(documents, end);
    }
    if (status == ML_OK) status = ml_bpe_trainer_make(&config, &trainer, err);
    if (status == ML_OK) status = count_documents(documents, end, limit, trainer, err);
    if (status == ML_OK) {
        ml_progress *progress = ml_progress_begin("tokenizer", "tokens", (double)config.vocab_size);
        status = ml_bpe_trainer_finish(trainer, progress, out, err);
        ml_progress_end(progress);
    }
    ml_bpe_trainer_free(trainer);
    ml_source_free(documents);
    return status;
}

/* The one that was given is open already. */
static ml_status make_tokenizer(const preparation *p, ml_tokenizer **out, ml_error *err)
{
    if (!*out && ml_path_exists(p->tokenizer)) return ml_tokenizer_open(p->tokenizer, out, err);
    if (!*out) ML_TRY(train_tokenizer(p, out, err));
    return ml_tokenizer_save(*out, p->tokenizer, err);
}

/* There is a document to read: found out before a folder is made. */
static ml_status check_text(const preparation *p, ml_error *err)
{
    ml_source_config config = source_config(p->o);
    ml_source *source;
    ml_span span;
    ML_TRY(ml_source_open(p->input, p->n_input, &config, &source, err));
    bool found = ml_source_next(source, &span);
    ml_source_free(source);
    if (found) return ML_OK;
    return ml_fail(err, ML_EINVAL, "data.text: no document in %s%s", p->input[0],
                   p->n_input > 1 ? " or the other files" : "");
}

static ml_status build(const preparation *p, const ml_tokenizer *tokenizer, ml_error *err)
{
    ml_build_config config = build_config(p);
    ml_log_info("encoding into %s", p->tokens);
    config.progress = ml_progress_begin("data", "MB", 0);
    ml_build_result result;
    ml_status status = ml_data_build(&config, tokenizer, &result, err);
    ml_progress_end(config.progress);
    if (status == ML_OK) {
        ml_log_info("%lld training tokens in %lld documents, %lld validation tokens in %lld",
                    (long long)result.n_token[ML_SPLIT_TRAIN], (long long)result.n_document[ML_SPLIT_TRAIN],
                    (long long)result.n_token[ML_SPLIT_VAL], (long long)result.n_document[ML_SPLIT_VAL]);
    }
    return status;
}

static ml_status open_or_build(preparation *p, ml_dataset **data, ml_tokenizer **tokenizer, ml_error *err)
{
    const char *given = ml_options_text(p->o, "data.tokenizer");
    if (given || p->is_built) ML_TRY(ml_tokenizer_open(given ? given : p->tokenizer, tokenizer, err));
    if (!p->is_built) {
        p->n_input = ml_options_list(p->o, "data.text", &p->input);
        if (p->n_input > 0) ML_TRY(check_text(p, err));
        ML_TRY(ml_dir_make(p->tokens, err));
        if (p->n_input == 0) ML_TRY(generate_text(p, err));
        ML_TRY(make_tokenizer(p, tokenizer, err));
        ML_TRY(build(p, *tokenizer, err));
    }
    ML_TRY(ml_dataset_open(p->tokens, data, err));
    return ml_dataset_check_tokenizer(*data, ml_tokenizer_fingerprint(*tokenizer), err);
}

static ml_status find_tokens(preparation *p, ml_error *err)
{
    char meta[ML_PATH_MAX];
    ML_TRY(ml_path_join(meta, p->dir, "meta.json", err));
    p->is_built = ml_path_exists(meta);
    if (p->is_built) {
        snprintf(p->tokens, sizeof p->tokens, "%s", p->dir);
        return ML_OK;
    }
    ML_TRY(ml_path_join(p->tokens, p->dir, "tokens", err));
    ML_TRY(ml_path_join(meta, p->tokens, "meta.json", err));
    p->is_built = ml_path_exists(meta);
    return ML_OK;
}

ml_status ml_cli_prepare_data(const ml_options *o, ml_dataset **data, ml_tokenizer **tokenizer, ml_error *err)
{
    preparation p = { .o = o, .dir = ml_options_text(o, "data.dir") };
    *data = NULL;
    *tokenizer = NULL;
    if (!p.dir)
        return ml_fail(err, ML_EINVAL, "data.dir is not set: name the data folder in the recipe or with --data.dir");
    ML_TRY(ml_path_join(p.text, p.dir, "text.txt", err));
    ML_TRY(ml_path_join(p.tokenizer, p.dir, "tokenizer", err));
    ML_TRY(find_tokens(&p, err));
    ml_status status = open_or_build(&p, data, tokenizer, err);
    if (status != ML_OK) {
        ml_dataset_free(*data);
        ml_tokenizer_free(*tokenizer);
        *data = NULL;
        *tokenizer = NULL;
    }
    return status;
}
