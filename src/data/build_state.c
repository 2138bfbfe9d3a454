#include "data/build_state.h"

#include "base/alloc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void ml_build_state_free(ml_build_state *state)
{
    json_decref(state->identity);
    for (int i = 0; i < ML_N_SPLIT; i++) json_decref(state->split[i].shards);
    memset(state, 0, sizeof *state);
}

static ml_status own(json_t *made, json_t **out, const char *what, ml_error *err)
{
    *out = made;
    return made ? ML_OK : ml_fail(err, ML_EINVAL, "%s cannot be written as JSON (is a name not UTF-8?)", what);
}

/* ---- identity ---- */

static ml_status describe_inputs(const ml_build_config *config, json_t **out, ml_error *err)
{
    ML_TRY(own(json_array(), out, "the list of inputs", err));
    for (size_t i = 0; i < config->n_input; i++) {
        ml_map map;
        json_t *entry;
        ML_TRY(ml_map_open(config->input[i], &map, err));
        json_int_t n_bytes = (json_int_t)map.size;
        ml_map_close(&map);
        ML_TRY(own(json_pack("{s:s, s:I, s:s}", "file", config->input[i], "bytes", n_bytes, "xxh3_128", ""), &entry,
                   config->input[i], err));
        json_array_append_new(*out, entry);
    }
    return ML_OK;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static ml_status describe_options(const ml_build_config *c, json_t **out, ml_error *err)
{
    static const char *const rule[] = { "marker", "blank", "whole" };
    const char *split = c->val_last ? "end" : c->val_every ? "number" : "sha256 of the text";
    ML_TRY(own(json_pack("{s:s, s:s, s:s, s:f, s:s, s:b, s:I, s:I, s:b, s:I, s:f}", "documents", rule[c->rule],
                         "marker", c->marker, "field", c->field, "val_fraction", c->val_fraction, "val_by", split,
                         "val_last", c->val_last, "val_every", (json_int_t)c->val_every, "seed", (json_int_t)c->seed,
                         "shuffle", c->shuffle, "shard_tokens", (json_int_t)c->shard_tokens, "max_bad", c->max_bad),
               out, "an option", err));
    if (c->limit[ML_SPLIT_TRAIN])
        json_object_set_new(*out, "limit",
                            json_pack("{s:I, s:I}", "train", (json_int_t)c->limit[ML_SPLIT_TRAIN], "val",
                                      (json_int_t)c->limit[ML_SPLIT_VAL]));
    return ML_OK;
}

ml_status ml_build_identify(const ml_build_config *config, const ml_tokenizer *tokenizer, const ml_build_format *format,
                            json_t **identity, ml_error *err)
{
    json_t *inputs = NULL, *options = NULL;
    ml_status status;
    *identity = NULL;
    ML_TRY_GOTO(describe_inputs(config, &inputs, err));
    ML_TRY_GOTO(describe_options(config, &options, err));
    const char *name = config->name ? config->name : base_name(config->out);
    ML_TRY_GOTO(
        own(json_pack("{s:s, s:I, s:s, s:{s:s, s:s}, s:{s:i, s:i}, s:O, s:O}", "dataset", name, "vocab_size",
                      (json_int_t)ml_tokenizer_vocab_size(tokenizer), "dtype",
                      format->id_bytes == 2 ? "uint16" : "uint32", "tokenizer", "kind", ml_tokenizer_kind(tokenizer),
                      "fingerprint", ml_tokenizer_fingerprint(tokenizer), "special_token_ids", "bos",
                      (int)format->bos_id, "eos", (int)format->eos_id, "options", options, "inputs", inputs),
            identity, "the description of the data set", err));
done:
    json_decref(inputs);
    json_decref(options);
    return status;
}

/* The first place where two descriptions differ, as "path: old -> new" in `out`; false when they are equal.  An input
 * may have moved: only its size and hash count, and the hash only if it was known. */
static bool differs(const json_t *old, const json_t *new, const char *path, char *out, size_t size)
{
    if (json_is_object(old) && json_is_object(new)) {
        const char *key;
        json_t *value;
        json_object_foreach((json_t *)new, key, value)
        {
            char inner[256];
            if (strcmp(key, "file") == 0 || strcmp(key, "kind") == 0) continue;
            if (strcmp(key, "xxh3_128") == 0 && json_string_length(json_object_get(old, key)) == 0) continue;
            snprintf(inner, sizeof inner, "%s%s%s", path, *path ? "." : "", key);
            if (differs(json_object_get(old, key), value, inner, out, size)) return true;
        }
        return false;
    }
    if (json_is_array(old) && json_is_array(new)) {
        size_t n = json_array_size(new);
        if (json_array_size(old) != n) {
            snprintf(out, size, "%s: %zu -> %zu of them", path, json_array_size(old), n);
            return true;
        }
        for (size_t i = 0; i < n; i++) {
            char inner[256];
            snprintf(inner, sizeof inner, "%s[%zu]", path, i);
            if (differs(json_array_get(old, i), json_array_get(new, i), inner, out, size)) return true;
        }
        return false;
    }
    if (old && json_equal((json_t *)old, (json_t *)new)) return false;
    char *a = old ? json_dumps(old, JSON_ENCODE_ANY) : NULL, *b = json_dumps(new, JSON_ENCODE_ANY);
    snprintf(out, size, "%s: %.80s -> %.80s", path, a ? a : "absent", b ? b : "?");
    free(a);
    free(b);
    return true;
}

/* ---- build.json ---- */

static ml_status load_split(ml_build_split *split, const json_t *object, const char *where, ml_error *err)
{
    int64_t next;
    const char *first_bad;
    json_t *shards;
    ML_TRY(ml_json_int(object, "next", where, &next, err));
    ML_TRY(ml_json_int(object, "tokens", where, &split->n_token, err));
    ML_TRY(ml_json_int(object, "documents", where, &split->n_document, err));
    ML_TRY(ml_json_int(object, "seen", where, &split->tally.n_seen, err));
    ML_TRY(ml_json_int(object, "bad", where, &split->tally.n_bad, err));
    ML_TRY(ml_json_int(object, "empty", where, &split->n_empty, err));
    ML_TRY(ml_json_text(object, "first_bad", where, &first_bad, err));
    ML_TRY(ml_json_array(object, "shards", where, &shards, err));
    snprintf(split->tally.first, sizeof split->tally.first, "%s", first_bad);
    split->next = (uint64_t)next;
    json_decref(split->shards);
    split->shards = json_incref(shards);
    return ML_OK;
}

static ml_status load_state(ml_build_state *state, const char *path, ml_error *err)
{
    json_t *saved = NULL, *identity;
    ml_status status;
    char difference[512];
    ML_TRY_GOTO(ml_json_load(path, &saved, err));
    ML_TRY_GOTO(ml_json_object(saved, "identity", path, &identity, err));
    if (differs(identity, state->identity, "", difference, sizeof difference)) {
        status = ml_fail(err, ML_EINVAL,
                         "%s: the build in this folder was begun otherwise (%s): use the same options and inputs to "
                         "continue it, another --out, or delete the folder",
                         path, difference);
        goto done;
    }
    for (int i = 0; i < ML_N_SPLIT; i++) {
        json_t *object;
        ML_TRY_GOTO(ml_json_object(saved, ml_dataset_split_name((ml_data_split)i), path, &object, err));
        ML_TRY_GOTO(load_split(&state->split[i], object, path, err));
    }
done:
    json_decref(saved);
    return status;
}

static ml_status check_meta(const ml_build_state *state, const char *path, ml_error *err)
{
    json_t *meta;
    char difference[512];
    ml_status status = ML_OK;
    ML_TRY(ml_json_load(path, &meta, err));
    if (differs(meta, state->identity, "", difference, sizeof difference)) {
        status = ml_fail(err, ML_EINVAL,
                         "%s: the folder holds a data set built otherwise (%s): choose another --out or delete it",
                         path, difference);
    }
    json_decref(meta);
    return status;
}

static bool is_shard_name(const char *name)
{
    size_t n = strlen(name);
    bool begins = strncmp(name, "train_", 6) == 0 || strncmp(name, "val_", 4) == 0;
    return begins && n > 4 && (strcmp(name + n - 4, ".bin") == 0 || strcmp(name + n - 4, ".idx") == 0);
}

/* A killed build leaves temporaries behind; shards in a folder without build.json are somebody else's. */
static ml_status clean_folder(const char *folder, bool ours, ml_error *err)
{
    char **names;
    size_t n;
    ML_TRY(ml_dir_list(folder, &names, &n, err));
    ml_status status = ML_OK;
    for (size_t i = 0; i < n && status == ML_OK; i++) {
        char path[ML_PATH_MAX];
        if (ours && strstr(names[i], ".tmp.")) {
            status = ml_path_join(path, folder, names[i], err);
            if (status == ML_OK) unlink(path);
        } else if (!ours && is_shard_name(names[i])) {
            status = ml_fail(err, ML_EINVAL,
                             "%s: the folder holds %s but no build to continue: choose another folder for --out",
                             folder, names[i]);
        }
    }
    ml_dir_list_free(names, n);
    return status;
}

ml_status ml_build_state_is_begun(const char *folder, bool *begun, ml_error *err)
{
    char meta[ML_PATH_MAX], build[ML_PATH_MAX];
    ML_TRY(ml_path_join(meta, folder, "meta.json", err));
    ML_TRY(ml_path_join(build, folder, "build.json", err));
    *begun = ml_path_exists(meta) || ml_path_exists(build);
    return ML_OK;
}

ml_status ml_build_state_open(ml_build_state *state, const char *folder, bool *complete, bool *resumed, ml_error *err)
{
    char meta[ML_PATH_MAX], build[ML_PATH_MAX];
    ML_TRY(ml_path_join(meta, folder, "meta.json", err));
    ML_TRY(ml_path_join(build, folder, "build.json", err));
    *complete = ml_path_exists(meta);
    *resumed = ml_path_exists(build);
    for (int i = 0; i < ML_N_SPLIT; i++) {
        if (!state->split[i].shards) ML_TRY(own(json_array(), &state->split[i].shards, "the shard list", err));
    }
    if (*complete) {
        ML_TRY(check_meta(state, meta, err));
        if (*resumed && unlink(build) != 0) return ml_fail_errno(err, "%s: cannot be removed", build);
        return ML_OK;
    }
    ML_TRY(clean_folder(folder, *resumed, err));
    return *resumed ? load_state(state, build, err) : ml_build_state_save(state, folder, err);
}

ml_status ml_build_state_add(ml_build_split *split, const char *file, const ml_shard_record *record, ml_error *err)
{
    json_t *entry;
    ML_TRY(own(json_pack("{s:s, s:I, s:I, s:I, s:s, s:s}", "file", file, "tokens", (json_int_t)record->n_token,
                         "documents", (json_int_t)record->n_document, "bytes", (json_int_t)record->bin_bytes, "sha256",
                         record->bin_sha256, "idx_sha256", record->idx_sha256),
               &entry, file, err));
    json_array_append_new(split->shards, entry);
    split->n_token += record->n_token;
    split->n_document += record->n_document;
    return ML_OK;
}

ml_status ml_build_state_save(const ml_build_state *state, const char *folder, ml_error *err)
{
    char path[ML_PATH_MAX];
    ML_TRY(ml_path_join(path, folder, "build.json", err));
    json_t *root;
    ML_TRY(own(json_pack("{s:O}", "identity", state->identity), &root, path, err));
    for (int i = 0; i < ML_N_SPLIT; i++) {
        const ml_build_split *s = &state->split[i];
        json_t *object = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:O}", "next", (json_int_t)s->next, "tokens",
                                   (json_int_t)s->n_token, "documents", (json_int_t)s->n_document, "seen",
                                   (json_int_t)s->tally.n_seen, "bad", (json_int_t)s->tally.n_bad, "empty",
                                   (json_int_t)s->n_empty, "first_bad", s->tally.first, "shards", s->shards);
        json_object_set_new(root, ml_dataset_split_name((ml_data_split)i), object);
    }
    ml_status status = ml_json_save(root, path, err);
    json_decref(root);
    return status;
}

/* ---- meta.json ---- */

/* One hash for the data: of all shards' hashes, in order. */
static ml_status fingerprint(const ml_build_state *state, char hex[ML_SHA256_HEX], ml_error *err)
{
    ml_sha256 *hash;
    uint8_t digest[ML_SHA256_BYTES];
    ML_TRY(ml_sha256_begin(&hash, err));
    for (int i = 0; i < ML_N_SPLIT; i++) {
        size_t k;
        json_t *shard;
        ml_sha256_add(hash, ml_dataset_split_name((ml_data_split)i), strlen(ml_dataset_split_name((ml_data_split)i)));
        json_array_foreach(state->split[i].shards, k, shard)
        {
            const char *keys[] = { "sha256", "idx_sha256" };
            for (int j = 0; j < 2; j++) {
                const char *text = json_string_value(json_object_get(shard, keys[j]));
                if (text) ml_sha256_add(hash, text, strlen(text));
            }
        }
    }
    ml_sha256_end(hash, digest);
    ml_sha256_to_hex(digest, hex);
    return ML_OK;
}

ml_status ml_build_state_finish(const ml_build_state *state, const json_t *facts, const char *folder, ml_error *err)
{
    char path[ML_PATH_MAX], hex[ML_SHA256_HEX];
    json_t *meta = NULL, *splits = NULL;
    ml_status status;
    ML_TRY(fingerprint(state, hex, err));
    ML_TRY(ml_path_join(path, folder, "meta.json", err));
    ML_TRY_GOTO(own(json_pack("{s:s, s:i}", "format", "moonlight data", "version", 1), &meta, path, err));
    ML_TRY_GOTO(own(json_object(), &splits, path, err));
    json_object_update(meta, state->identity);
    ml_record_tally tally = ml_record_tally_sum(&state->split[0].tally, &state->split[1].tally);
    int64_t n_empty = 0;
    for (int i = 0; i < ML_N_SPLIT; i++) {
        const ml_build_split *s = &state->split[i];
        json_object_set_new(splits, ml_dataset_split_name((ml_data_split)i),
                            json_pack("{s:I, s:I, s:O}", "tokens", (json_int_t)s->n_token, "documents",
                                      (json_int_t)s->n_document, "shards", s->shards));
        n_empty += s->n_empty;
    }
    json_object_set(meta, "splits", splits);
    json_object_set_new(meta, "dropped",
                        json_pack("{s:I, s:I}", "malformed", (json_int_t)tally.n_bad, "empty", (json_int_t)n_empty));
    json_object_set_new(meta, "records", json_integer(tally.n_seen));
    if (tally.n_bad) json_object_set_new(meta, "first_malformed", json_string(tally.first));
    if (facts) json_object_update(meta, (json_t *)(uintptr_t)facts);
    json_object_set_new(meta, "fingerprint", json_string(hex));
    json_object_set_new(meta, "complete", json_true());
    ML_TRY_GOTO(ml_json_save(meta, path, err));
    ML_TRY_GOTO(ml_path_join(path, folder, "build.json", err));
    if (unlink(path) != 0 && errno != ENOENT) status = ml_fail_errno(err, "%s: cannot be removed", path);
done:
    json_decref(meta);
    json_decref(splits);
    return status;
}
