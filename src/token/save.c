/* tokenizer.json and tokenizer_config.json as Hugging Face tokenizers 0.13 and later read them.
 *
 * Every token, added ones too, is an entry of model.vocab: an added token that is not gets the next free id there. */
#include "token/save_lists.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

static ml_status out_of_memory(ml_error *err)
{
    return ml_fail_memory(err, 0, "the JSON of a tokenizer");
}

static json_t *added_token(const ml_tokenizer *t, int32_t id)
{
    const ml_piece *piece = &t->pieces[id];
    return json_pack("{s:s%, s:b, s:b, s:b, s:b, s:b}", "content", (const char *)ml_piece_bytes(t, id),
                     (size_t)piece->n_bytes, "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special",
                     (piece->flags & ML_PIECE_SPECIAL) != 0);
}

/* Into the array of tokenizer.json and the object of tokenizer_config.json. */
static ml_status add_added(const ml_tokenizer *t, json_t *list, json_t *decoder, ml_error *err)
{
    for (size_t id = 0; id < t->n_pieces; id++) {
        if (!(t->pieces[id].flags & ML_PIECE_ADDED)) continue;
        json_t *token = added_token(t, (int32_t)id), *with_id = json_pack("{s:I}", "id", (json_int_t)id);
        char key[32];
        snprintf(key, sizeof key, "%zu", id);
        bool ok = token && with_id && json_object_update(with_id, token) == 0 &&
                  json_array_append(list, with_id) == 0 && json_object_set(decoder, key, token) == 0;
        json_decref(token);
        json_decref(with_id);
        if (!ok) return ml_fail(err, ML_EINVAL, "added token %zu: its text is not UTF-8; it cannot be saved", id);
    }
    return ML_OK;
}

/* Byte tokens are all or none in this format. */
static ml_status check_bytes(const ml_tokenizer *t, ml_error *err)
{
    for (int i = 0; t->sentencepiece && i < 256; i++) {
        if ((t->byte_id[i] < 0) == (t->byte_id[0] < 0)) continue;
        return ml_fail(err, ML_EINVAL,
                       "byte 0x%02x %s token, byte 0x00 %s: this vocabulary cannot be written as "
                       "tokenizer.json",
                       (unsigned)i, t->byte_id[i] < 0 ? "has no" : "has a", t->byte_id[i] < 0 ? "has one" : "has none");
    }
    return ML_OK;
}

/* Rules that look at whether there is a space already are Metaspace's; the others are normalizers. */
static bool has_metaspace(const ml_tokenizer *t)
{
    return t->space == ML_SPACE_EACH_UNLESS || t->space == ML_SPACE_FIRST_UNLESS;
}

static json_t *byte_level(bool use_regex)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex",
                     use_regex);
}

static json_t *make_normalizer(const ml_tokenizer *t)
{
    json_t *list = json_array();
    bool each = t->sentencepiece && t->space == ML_SPACE_EACH,
         replace = each || (t->sentencepiece && !has_metaspace(t));
    if (t->nfc) json_array_append_new(list, json_pack("{s:s}", "type", "NFC"));
    if (each) json_array_append_new(list, json_pack("{s:s, s:s}", "type", "Prepend", "prepend", ML_SAVE_WIDE_SPACE));
    if (replace) {
        json_array_append_new(list, json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", " ",
                                              "content", ML_SAVE_WIDE_SPACE));
    }
    json_t *first = json_array_size(list) == 1 ? json_incref(json_array_get(list, 0)) : NULL;
    if (first || !json_array_size(list)) {
        json_decref(list);
        return first ? first : json_null();
    }
    return json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", list);
}

static json_t *make_pre_tokenizer(const ml_tokenizer *t)
{
    if (t->sentencepiece && has_metaspace(t)) {
        return json_pack("{s:s, s:s, s:s, s:b}", "type", "Metaspace", "replacement", ML_SAVE_WIDE_SPACE,
                         "prepend_scheme", t->space == ML_SPACE_EACH_UNLESS ? "always" : "first", "split", 0);
    }
    if (t->sentencepiece) return json_null();
    if (!t->split) return byte_level(false);
    const char *name = ml_pattern_name(t->split);
    if (name && !strcmp(name, "gpt2")) return byte_level(true);
    json_t *list = json_array();
    for (size_t i = 0; i < ml_pattern_stage_count(t->split); i++) {
        json_array_append_new(list,
                              json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex",
                                        ml_pattern_stage_regex(t->split, i), "behavior", "Isolated", "invert", 0));
    }
    json_array_append_new(list, byte_level(false));
    return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list);
}

/* The text of a role's token; JSON null when there is none. */
static json_t *role_text(const ml_tokenizer *t, ml_token_role role)
{
    int32_t id = t->role[role];
    return id < 0 ? json_null() : json_stringn((const char *)ml_piece_bytes(t, id), t->pieces[id].n_bytes);
}

/* SentencePiece: spaces back, bytes to characters, and one space less at the beginning. */
static json_t *make_decoder(const ml_tokenizer *t)
{
    if (!t->sentencepiece) return byte_level(true);
    json_t *list = json_pack("[{s:s, s:{s:s}, s:s}, {s:s}, {s:s}]", "type", "Replace", "pattern", "String",
                             ML_SAVE_WIDE_SPACE, "content", " ", "type", "ByteFallback", "type", "Fuse");
    if (t->space != ML_SPACE_NEVER) {
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", " ", "start", 1, "stop", 0));
    }
    return json_pack("{s:s, s:o}", "type", "Sequence", "decoders", list);
}

/* Entries of a template for the ids before or behind a text, and their names for "special_tokens". */
static bool add_entries(const ml_tokenizer *t, const ml_ids *ids, json_t *single, json_t *pair, json_t *special)
{
    bool ok = true;
    for (size_t i = 0; i < ids->n; i++) {
        json_t *name = json_stringn((const char *)ml_piece_bytes(t, ids->id[i]), t->pieces[ids->id[i]].n_bytes);
        json_t *entry = json_pack("{s:{s:O, s:i}}", "SpecialToken", "id", name, "type_id", 0);
        json_t *token = json_pack("{s:O, s:[i], s:[O]}", "id", name, "ids", ids->id[i], "tokens", name);
        ok = ok && name && entry && token && json_array_append(single, entry) == 0 &&
             json_array_append(pair, entry) == 0 && json_object_set(special, json_string_value(name), token) == 0;
        json_decref(token);
        json_decref(entry);
        json_decref(name);
    }
    return ok;
}

static json_t *text_entry(const char *name, int type)
{
    return json_pack("{s:{s:s, s:i}}", "Sequence", "id", name, "type_id", type);
}

/* NULL when memory is out. */
static json_t *make_post_processor(const ml_tokenizer *t)
{
    if (!t->prefix.n && !t->suffix.n) return json_null();
    json_t *single = json_array(), *pair = json_array(), *special = json_object();
    bool ok = add_entries(t, &t->prefix, single, pair, special) &&
              json_array_append_new(single, text_entry("A", 0)) == 0 &&
              json_array_append_new(pair, text_entry("A", 0)) == 0 &&
              json_array_append_new(pair, text_entry("B", 1)) == 0 && add_entries(t, &t->suffix, single, pair, special);
    json_t *made = ok ? json_pack("{s:s, s:O, s:O, s:O}", "type", "TemplateProcessing", "single", single, "pair", pair,
                                  "special_tokens", special)
                      : NULL;
    json_decref(single);
    json_decref(pair);
    json_decref(special);
    return made;
}

/* All but the entries of vocab and merges, which are empty. */
static json_t *make_root(const ml_tokenizer *t, json_t *added)
{
    json_t *model = json_pack("{s:s, s:n, s:o, s:n, s:n, s:b, s:b, s:b, s:{}, s:[]}", "type", "BPE", "dropout",
                              "unk_token", role_text(t, ML_ROLE_UNK), "continuing_subword_prefix", "end_of_word_suffix",
                              "fuse_unk", t->fuse_unk, "byte_fallback", t->sentencepiece && t->byte_id[0] >= 0,
                              "ignore_merges", t->whole_piece && !t->sentencepiece, "vocab", "merges");
    return json_pack("{s:s, s:n, s:n, s:O, s:o, s:o, s:o, s:o, s:o}", "version", "1.0", "truncation", "padding",
                     "added_tokens", added, "normalizer", make_normalizer(t), "pre_tokenizer", make_pre_tokenizer(t),
                     "post_processor", make_post_processor(t), "decoder", make_decoder(t), "model", model);
}

static ml_status save_config(const ml_tokenizer *t, json_t *decoder, const char *path, ml_error *err)
{
    static const char *const keys[ML_N_ROLES] = { "bos_token", "eos_token", "unk_token", "pad_token" };
    json_t *config =
        json_pack("{s:s, s:b, s:b, s:O}", "tokenizer_class", "PreTrainedTokenizerFast", "clean_up_tokenization_spaces",
                  0, "add_prefix_space", 0, "added_tokens_decoder", decoder);
    bool ok = config != NULL;
    for (int role = 0; role < ML_N_ROLES && ok; role++) {
        if (t->role[role] >= 0) ok = json_object_set_new(config, keys[role], role_text(t, (ml_token_role)role)) == 0;
    }
    if (ok && (ml_tokenizer_add_bos(t) || !t->prefix.n) && (ml_tokenizer_add_eos(t) || !t->suffix.n) &&
        t->prefix.n + t->suffix.n) {
        ok = json_object_set_new(config, "add_bos_token", json_boolean(t->prefix.n)) == 0 &&
             json_object_set_new(config, "add_eos_token", json_boolean(t->suffix.n)) == 0;
    }
    if (ok && t->chat_template) ok = json_object_set_new(config, "chat_template", json_string(t->chat_template)) == 0;
    ml_status status = ok ? ml_json_save(config, path, err) : out_of_memory(err);
    json_decref(config);
    return status;
}

/* The root with the lists in their places. */
static ml_status save_root(const ml_tokenizer *t, const json_t *root, const char *path, ml_error *err)
{
    static const char vocab_key[] = "\"vocab\": {}", merges_key[] = "\"merges\": []";
    ml_file_writer file = { 0 };
    ml_chars vocab = { 0 }, merges = { 0 };
    char *text = json_dumps(root, JSON_INDENT(2));
    if (!text) return out_of_memory(err);
    /* Quotes within a text are escaped, so these are the keys. */
    const char *first = strstr(text, vocab_key), *second = first ? strstr(first, merges_key) : NULL;
    ml_status status = first && second ? ML_OK : out_of_memory(err);
    if (status == ML_OK) status = ml_save_vocab(t, &vocab, err);
    if (status == ML_OK) status = ml_save_merges(t, &merges, err);
    if (status == ML_OK) status = ml_file_begin(&file, path, err);
    if (status == ML_OK) {
        const char *middle = first + strlen(vocab_key), *end = second + strlen(merges_key);
        const struct {
            const char *data;
            size_t n;
        } part[] = { { text, (size_t)(middle - text) - 2 },
                     { vocab.data, vocab.n },
                     { middle, (size_t)(end - middle) - 2 },
                     { merges.data, merges.n },
                     { end, strlen(end) },
                     { "\n", 1 } };
        for (size_t i = 0; i < sizeof part / sizeof part[0] && status == ML_OK; i++) {
            status = ml_file_write(&file, part[i].data, part[i].n, err);
        }
    }
    if (status == ML_OK) status = ml_file_commit(&file, err);
    ml_file_abandon(&file);
    ml_chars_free(&vocab);
    ml_chars_free(&merges);
    free(text);
    return status;
}

ml_status ml_tokenizer_save(const ml_tokenizer *t, const char *folder, ml_error *err)
{
    char path[ML_PATH_MAX], config_path[ML_PATH_MAX];
    ML_TRY(check_bytes(t, err));
    ML_TRY(ml_path_join(path, folder, "tokenizer.json", err));
    ML_TRY(ml_path_join(config_path, folder, "tokenizer_config.json", err));
    ML_TRY(ml_dir_make(folder, err));
    json_t *added = json_array(), *decoder = json_object(), *root = NULL;
    ml_status status = added && decoder ? ML_OK : out_of_memory(err);
    if (status == ML_OK) status = add_added(t, added, decoder, err);
    if (status == ML_OK) {
        root = make_root(t, added);
        status = root ? save_root(t, root, path, err) : out_of_memory(err);
    }
    if (status == ML_OK) status = save_config(t, decoder, config_path, err);
    json_decref(root);
    json_decref(added);
    json_decref(decoder);
    return status;
}
