#include "recipe/data_record.h"

#include "base/json.h"

#include <stdlib.h>
#include <string.h>

ml_status ml_recipe_data_write_record(const ml_recipe_data *d, ml_error *err)
{
    return ml_options_write_section(d->o, "data", "What this folder is built from, and how.", d->record, err);
}

static ml_status fail_differs(const ml_recipe_data *d, const char *name, const char *old_value, const char *new_value,
                              ml_error *err)
{
    return ml_fail(err, ML_EINVAL, "data.%s: %s was built with %.200s, not with %.200s: %s", name, d->dir, old_value,
                   new_value,
                   d->is_foreign ? "leave the option out, or give another data.dir"
                                 : "give another data.dir, or remove that folder and it is built anew");
}

/* ---- inputs ---- */

static ml_status load_meta(const ml_recipe_data *d, char path[ML_PATH_MAX], json_t **meta, ml_error *err)
{
    ML_TRY(ml_path_join(path, d->tokens, "meta.json", err));
    return ml_json_load(path, meta, err);
}

/* Whether file i of data.text is the one that meta.json describes; a name that is the same stands for its content as
 * long as the size is right, or the file is gone. */
static ml_status check_input(const ml_recipe_data *d, const json_t *entry, const char *where, const char *path,
                             ml_error *err)
{
    const char *name, *hash;
    char found[ML_XXH3_HEX], expected[64], size[64];
    int64_t n_bytes;
    ml_map map;
    ML_TRY(ml_json_text(entry, "file", where, &name, err));
    ML_TRY(ml_json_int(entry, "bytes", where, &n_bytes, err));
    bool same_name = strcmp(name, path) == 0;
    if (same_name && !ml_path_exists(path)) return ML_OK;
    ML_TRY(ml_map_open(path, &map, err));
    int64_t n_found = (int64_t)map.size;
    ml_map_close(&map);
    if (same_name && n_found != n_bytes) {
        snprintf(expected, sizeof expected, "%lld bytes of it", (long long)n_bytes);
        snprintf(size, sizeof size, "the %lld it has now", (long long)n_found);
        ML_TRY(fail_differs(d, "text", expected, size, err));
    }
    if (same_name) return ML_OK;
    if (n_found != n_bytes) return fail_differs(d, "text", name, path, err);
    ML_TRY(ml_json_text(entry, "xxh3_128", where, &hash, err));
    ML_TRY(ml_xxh3_file(path, found, err));
    if (strcmp(found, hash) == 0) return ML_OK;
    return fail_differs(d, "text", name, path, err);
}

static ml_status check_inputs(const ml_recipe_data *d, ml_error *err)
{
    const char *const *input;
    char where[ML_PATH_MAX];
    json_t *meta, *entries;
    size_t n = ml_options_list(d->o, "data.text", &input);
    if (!d->is_built || n == 0) return ML_OK;
    ML_TRY(load_meta(d, where, &meta, err));
    ml_status status = ml_json_array(meta, "inputs", where, &entries, err);
    if (status == ML_OK && json_array_size(entries) != n) {
        char before[32], after[32];
        snprintf(before, sizeof before, "%zu files", json_array_size(entries));
        snprintf(after, sizeof after, "%zu", n);
        status = fail_differs(d, "text", before, after, err);
    }
    for (size_t i = 0; i < n && status == ML_OK; i++) {
        status = check_input(d, json_array_get(entries, i), where, input[i], err);
    }
    json_decref(meta);
    return status;
}

/* ---- the record ---- */

typedef struct {
    const ml_recipe_data *d;
    bool has_text, has_tokens; /* parts that exist; has_tokens: a tokenizer of our own making, or more */
    ml_status status;
    ml_error *err;
} comparison;

/* The part that an option decides about, and when it does not. */
static bool counts(const comparison *c, const char *name, bool both_set)
{
    static const char *const generating[] = { "builtin", "bytes", "seed" };
    static const char *const training[] = { "vocab_size", "pattern", "special", "tokenizer_docs" };
    const ml_options *o = c->d->o;
    const char *const *input;
    bool given_text = ml_options_list(o, "data.text", &input) > 0,
         given_tokenizer = ml_options_text(o, "data.tokenizer");
    if (!strcmp(name, "dir") || !strcmp(name, "cross_documents")) return false;       /* where it is, how it is read */
    if (!strcmp(name, "text")) return c->has_tokens && !(both_set && c->d->is_built); /* else check_inputs */
    if (!strcmp(name, "tokenizer") && given_tokenizer) return false;                  /* the fingerprint decides */
    for (size_t i = 0; i < sizeof generating / sizeof generating[0]; i++) {
        if (strcmp(name, generating[i]) != 0) continue;
        if (given_text) return !strcmp(name, "seed") && c->has_tokens;
        return c->has_text || c->has_tokens;
    }
    for (size_t i = 0; i < sizeof training / sizeof training[0]; i++) {
        if (!strcmp(name, training[i]) && given_tokenizer) return false;
    }
    return c->has_tokens;
}

static void note_difference(void *arg, const char *section, const char *name, const char *old_value,
                            const char *new_value)
{
    comparison *c = arg;
    bool both_set = strcmp(old_value, "(not set)") != 0 && strcmp(new_value, "(not set)") != 0;
    if (c->status != ML_OK || strcmp(section, "data") != 0 || !counts(c, name, both_set)) return;
    c->status = fail_differs(c->d, name, old_value, new_value, c->err);
}

static ml_status check_record(const ml_recipe_data *d, ml_error *err)
{
    char begun[ML_PATH_MAX];
    ML_TRY(ml_path_join(begun, d->tokens, "build.json", err));
    comparison c = { .d = d,
                     .has_text = ml_path_exists(d->text),
                     .has_tokens = d->is_built || ml_path_exists(d->tokenizer_path) || ml_path_exists(begun),
                     .err = err };
    ml_error read_error;
    ml_status status = ml_options_compare_ini(d->o, d->record, note_difference, &c, &read_error);
    ML_TRY(c.status);
    if (status != ML_OK) *err = read_error;
    return status;
}

/* ---- meta.json, where there is no record ---- */

/* The value of an option as meta.json and a person write it. */
static json_t *value_of(const ml_options *o, const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "data.%s", name);
    if (!strcmp(name, "val_fraction")) return json_real(ml_options_real(o, path));
    if (!strcmp(name, "val_last")) return json_boolean(ml_options_flag(o, path));
    if (!strcmp(name, "seed")) return json_integer(ml_options_int(o, path));
    return json_string(ml_options_text(o, path));
}

static ml_status check_value(const ml_recipe_data *d, const json_t *options, const char *name, ml_error *err)
{
    json_t *old = json_object_get(options, name), *now = value_of(d->o, name);
    bool same = old && now && json_equal(old, now);
    char *before = old ? json_dumps(old, JSON_ENCODE_ANY) : NULL,
         *after = now ? json_dumps(now, JSON_ENCODE_ANY) : NULL;
    ml_status status = ML_OK;
    if (!same) status = fail_differs(d, name, before ? before : "(nothing)", after ? after : "(nothing)", err);
    free(before);
    free(after);
    json_decref(now);
    return status;
}

static ml_status check_meta(const ml_recipe_data *d, ml_error *err)
{
    static const char *const recorded[] = { "marker", "field", "val_fraction", "val_last", "seed" };
    char where[ML_PATH_MAX], path[64];
    json_t *meta, *options;
    ML_TRY(load_meta(d, where, &meta, err));
    ml_status status = ml_json_object(meta, "options", where, &options, err);
    for (size_t i = 0; i < sizeof recorded / sizeof recorded[0] && status == ML_OK; i++) {
        snprintf(path, sizeof path, "data.%s", recorded[i]);
        if (d->is_foreign && !ml_options_overridden(d->o, path)) continue;
        status = check_value(d, options, recorded[i], err);
    }
    json_decref(meta);
    return status;
}

/* Options that only building here would look at. */
static ml_status check_without_effect(const ml_recipe_data *d, ml_error *err)
{
    static const char *const building[] = { "text",       "source",  "tokens",  "builtin",       "bytes",
                                            "vocab_size", "pattern", "special", "tokenizer_docs" };
    for (size_t i = 0; i < sizeof building / sizeof building[0]; i++) {
        char path[64];
        snprintf(path, sizeof path, "data.%s", building[i]);
        if (!ml_options_overridden(d->o, path)) continue;
        return ml_fail(err, ML_EINVAL,
                       "%s cannot be chosen for %s, which `moonlight data build` made: leave it out, or give another "
                       "data.dir",
                       path, d->dir);
    }
    return ML_OK;
}

ml_status ml_recipe_data_check_record(const ml_recipe_data *d, ml_error *err)
{
    if (d->is_foreign) {
        ML_TRY(check_without_effect(d, err));
        return check_meta(d, err);
    }
    if (ml_path_exists(d->record)) {
        ML_TRY(check_record(d, err));
    } else if (d->is_built) {
        ML_TRY(check_meta(d, err));
    }
    return check_inputs(d, err);
}
