/* Which file a path means, and what tokenizer_config.json beside it adds. */
#include "token/internal.h"

#include "base/alloc.h"
#include "base/file.h"
#include "token/read.h"

#include <stdlib.h>

/* Files that make a tokenizer, in the order in which a folder is searched; `other` is needed beside it. */
static const struct {
    const char *name, *other;
} known_files[] = {
    { "tokenizer.json", NULL },
    { "tiktoken.model", NULL },
    { "encoder.json", "vocab.bpe" },
    { "vocab.json", "merges.txt" },
};

/* The step folder that the file `name` of a run folder names; false when there is no such file or folder. */
static bool read_step(const char *run, const char *name, char step[ML_PATH_MAX])
{
    ml_error ignored;
    char path[ML_PATH_MAX], *text;
    if (ml_path_join(path, run, name, &ignored) != ML_OK || !ml_path_exists(path)) return false;
    if (ml_path_is_dir(path)) {
        memcpy(step, path, sizeof path);
        return true;
    }
    if (ml_file_read(path, &text, NULL, &ignored) != ML_OK) return false;
    text[strcspn(text, "\r\n")] = 0;
    bool found = *text && ml_path_join(step, run, text, &ignored) == ML_OK && ml_path_is_dir(step);
    ml_free(text);
    return found;
}

/* The first known file in a folder, with its partner; false when none is there. */
static bool find_in_folder(const char *folder, char path[ML_PATH_MAX], char other[ML_PATH_MAX])
{
    ml_error ignored;
    for (size_t i = 0; i < sizeof known_files / sizeof known_files[0]; i++) {
        *other = 0;
        if (ml_path_join(path, folder, known_files[i].name, &ignored) != ML_OK || !ml_path_exists(path)) continue;
        if (!known_files[i].other) return true;
        if (ml_path_join(other, folder, known_files[i].other, &ignored) == ML_OK && ml_path_exists(other)) return true;
    }
    return false;
}

static ml_status find_file(const char *path, char file[ML_PATH_MAX], char other[ML_PATH_MAX], ml_error *err)
{
    *other = 0;
    if (ml_path_is_dir(path)) {
        char step[ML_PATH_MAX];
        if (find_in_folder(path, file, other)) return ML_OK;
        if (read_step(path, "best", step) && find_in_folder(step, file, other)) return ML_OK;
        if (read_step(path, "latest", step) && find_in_folder(step, file, other)) return ML_OK;
        return ml_fail(
            err, ML_EINVAL,
            "%s: holds no tokenizer: expected tokenizer.json, tiktoken.model, encoder.json with vocab.bpe, or "
            "vocab.json with merges.txt",
            path);
    }
    char folder[ML_PATH_MAX];
    ML_TRY(ml_path_parent(folder, path, err));
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    for (size_t i = 0; i < sizeof known_files / sizeof known_files[0]; i++) {
        if (!known_files[i].other) continue;
        if (strcmp(name, known_files[i].name) != 0 && strcmp(name, known_files[i].other) != 0) continue;
        ML_TRY(ml_path_join(file, folder, known_files[i].name, err));
        return ml_path_join(other, folder, known_files[i].other, err);
    }
    int n = snprintf(file, ML_PATH_MAX, "%s", path);
    return n < 0 || n >= ML_PATH_MAX ? ml_fail(err, ML_EINVAL, "%s: the path is too long", path) : ML_OK;
}

static ml_status read_json_file(const char *path, const ml_read_context *context, ml_tokenizer **out, ml_error *err)
{
    json_t *root;
    ML_TRY(ml_json_load(path, &root, err));
    ml_status status;
    if (json_is_object(json_object_get(root, "model"))) {
        status = ml_read_hf(root, path, context, out, err);
    } else {
        status =
            ml_fail(err, ML_EFORMAT, "%s: key model: expected an object, found none: this is no tokenizer.json", path);
    }
    json_decref(root);
    return status;
}

static ml_status read_file(const char *file, const char *other, const ml_read_context *context, ml_tokenizer **out,
                           ml_error *err)
{
    if (*other) return ml_read_gpt2(file, other, context, out, err);
    ml_map map;
    ML_TRY(ml_map_open(file, &map, err));
    size_t at = 0;
    while (at < map.size && memchr(" \t\r\n", map.data[at], 4)) at++;
    bool json = at < map.size && map.data[at] == '{';
    bool llama2 = map.size >= 4 && map.data[3] == 0; /* a small number; the other formats are text */
    ml_map_close(&map);
    if (llama2 && context->pattern) {
        return ml_fail(err, ML_EINVAL, "%s: its text is not split, but \"%s\" was given: leave it out", file,
                       context->pattern);
    }
    if (llama2) return ml_read_llama2(file, out, err);
    return json ? read_json_file(file, context, out, err) : ml_read_tiktoken(file, context, out, err);
}

/* Id of a piece by its text, added tokens first; -1 if there is none. */
static int32_t find_text(const ml_tokenizer *t, const char *text)
{
    int32_t found = -1;
    size_t n = strlen(text);
    for (size_t id = 0; id < t->n_pieces; id++) {
        if (t->pieces[id].n_bytes != n || memcmp(ml_piece_bytes(t, (int32_t)id), text, n) != 0) continue;
        if (t->pieces[id].flags & ML_PIECE_ADDED) return (int32_t)id;
        if (found < 0 && n) found = (int32_t)id;
    }
    return found;
}

ml_status ml_read_added_decoder(ml_tokenizer *t, const ml_read_context *context, ml_error *err)
{
    const json_t *decoder = json_object_get(context->config, "added_tokens_decoder");
    const char *key;
    json_t *token;
    json_object_foreach((json_t *)(uintptr_t)decoder, key, token)
    {
        char *end;
        long long id = strtoll(key, &end, 10);
        const char *content;
        int flags;
        if (!*key || *end) {
            return ml_fail(err, ML_EFORMAT, "%s: key added_tokens_decoder: expected ids, found \"%.100s\"",
                           context->config_path, key);
        }
        ML_TRY(ml_json_text(token, "content", context->config_path, &content, err));
        ML_TRY(ml_read_added_flags(token, context->config_path, &flags, err));
        if (find_text(t, content) == id && (t->pieces[id].flags & ML_PIECE_ADDED)) continue;
        if (ml_tokenizer_put_piece(t, id, content, strlen(content), flags, err) != ML_OK) {
            return ml_fail_prefix(err, "%s: key added_tokens_decoder", context->config_path);
        }
    }
    return ML_OK;
}

/* Where either key is there, both decide, whatever the tokenizer's own file says: so do Hugging Face's classes. */
static ml_status apply_around(ml_tokenizer *t, const ml_read_context *context, ml_error *err)
{
    const json_t *c = context->config, *bos = json_object_get(c, "add_bos_token"),
                 *eos = json_object_get(c, "add_eos_token");
    bool add_bos, add_eos;
    if ((!bos || json_is_null(bos)) && (!eos || json_is_null(eos))) return ML_OK;
    ML_TRY(ml_json_bool_or(c, "add_bos_token", context->config_path, false, &add_bos, err));
    ML_TRY(ml_json_bool_or(c, "add_eos_token", context->config_path, false, &add_eos, err));
    ml_tokenizer_set_around(t, add_bos, add_eos);
    return ML_OK;
}

/* Roles are texts, or objects with "content". */
static ml_status apply_config(ml_tokenizer *t, const ml_read_context *context, ml_error *err)
{
    static const char *const keys[ML_N_ROLES] = { "bos_token", "eos_token", "unk_token", "pad_token" };
    ML_TRY(ml_read_added_decoder(t, context, err));
    for (int role = 0; role < ML_N_ROLES; role++) {
        const json_t *value = json_object_get(context->config, keys[role]);
        if (json_is_object(value)) value = json_object_get(value, "content");
        if (!value || json_is_null(value)) continue;
        if (!json_is_string(value)) {
            return ml_fail(err, ML_EFORMAT, "%s: key %s: expected a text", context->config_path, keys[role]);
        }
        int32_t id = find_text(t, json_string_value(value));
        if (id >= 0) ml_tokenizer_set_role(t, (ml_token_role)role, id);
    }
    ML_TRY(apply_around(t, context, err));
    const char *chat_template = json_string_value(json_object_get(context->config, "chat_template"));
    return chat_template ? ml_tokenizer_set_chat_template(t, chat_template, err) : ML_OK;
}

static ml_status apply_template_file(ml_tokenizer *t, const char *folder, ml_error *err)
{
    char path[ML_PATH_MAX], *text;
    ML_TRY(ml_path_join(path, folder, "chat_template.jinja", err));
    if (!ml_path_exists(path)) return ML_OK;
    ML_TRY(ml_file_read(path, &text, NULL, err));
    ml_status status = ml_tokenizer_set_chat_template(t, text, err);
    ml_free(text);
    return status;
}

static ml_status put_added(ml_tokenizer *t, const ml_tokenizer_extra *extra, ml_error *err)
{
    for (size_t i = 0; i < extra->n_added; i++) {
        const char *text = extra->added[i];
        if (find_text(t, text) >= 0) {
            return ml_fail(err, ML_EINVAL, "added token \"%s\": is in the vocabulary already, with id %d", text,
                           find_text(t, text));
        }
        ML_TRY(ml_tokenizer_put_piece(t, (int64_t)t->n_pieces, text, strlen(text), ML_PIECE_ADDED | ML_PIECE_SPECIAL,
                                      err));
    }
    return ML_OK;
}

static ml_status complete(ml_tokenizer *t, const char *folder, const ml_read_context *context,
                          const ml_tokenizer_extra *extra, ml_error *err)
{
    ML_TRY(apply_config(t, context, err));
    ML_TRY(apply_template_file(t, folder, err));
    ML_TRY(put_added(t, extra, err));
    return ml_tokenizer_finish(t, err);
}

ml_status ml_tokenizer_open_with(const char *path, const ml_tokenizer_extra *extra, ml_tokenizer **out, ml_error *err)
{
    char file[ML_PATH_MAX], other[ML_PATH_MAX], folder[ML_PATH_MAX], config_path[ML_PATH_MAX];
    ML_TRY(find_file(path, file, other, err));
    ML_TRY(ml_path_parent(folder, file, err));
    ML_TRY(ml_path_join(config_path, folder, "tokenizer_config.json", err));
    json_t *config = NULL;
    if (ml_path_exists(config_path)) ML_TRY(ml_read_config(config_path, &config, err));
    ml_read_context context = { .config = config, .config_path = config_path, .pattern = extra->pattern };
    ml_tokenizer *t = NULL;
    ml_status status = read_file(file, other, &context, &t, err);
    if (status == ML_OK) {
        status = complete(t, folder, &context, extra, err);
        if (status != ML_OK) ml_fail_prefix(err, "%s", file);
    }
    json_decref(config);
    if (status != ML_OK) {
        ml_tokenizer_free(t);
        return status;
    }
    *out = t;
    return ML_OK;
}
