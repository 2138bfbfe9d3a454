/* tokenizer.json and tokenizer_config.json as Hugging Face tokenizers 0.13 and later read them.
 *
 * Every token, added ones too, is an entry of model.vocab: an added token that is not gets the next free id there. */
#include "token/internal.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "token/bytemap.h"

static ml_status out_of_memory(ml_error *err)
{
    return ml_fail_memory(err, 0, "the JSON of a tokenizer");
}

/* The text of a token in model.vocab, with a final 0. */
static ml_status vocab_text(const ml_tokenizer *t, int32_t id, ml_chars *text, ml_error *err)
{
    const char *bytes = (const char *)ml_piece_bytes(t, id);
    size_t n = t->pieces[id].n_bytes;
    text->n = 0;
    bool literal = t->pieces[id].flags & (ML_PIECE_ADDED | ML_PIECE_LITERAL);
    ML_TRY(literal ? ml_chars_append(text, bytes, n, err) : ml_bytemap_encode(bytes, n, text, err));
    return ml_chars_append(text, "", 1, err);
}

static ml_status add_vocab(const ml_tokenizer *t, json_t *vocab, ml_error *err)
{
    ml_chars text = { 0 };
    ml_status status = ML_OK;
    for (size_t id = 0; id < t->n_pieces && status == ML_OK; id++) {
        if (!t->pieces[id].flags) continue;
        status = vocab_text(t, (int32_t)id, &text, err);
        if (status == ML_OK && json_object_set_new(vocab, text.data, json_integer((json_int_t)id)) != 0) {
            status =
                ml_fail(err, ML_EINVAL, "token %zu: its text is not UTF-8 or memory is out; it cannot be saved", id);
        }
    }
    ml_chars_free(&text);
    return status;
}

static ml_status add_merges(const ml_tokenizer *t, json_t *merges, ml_error *err)
{
    ml_chars left = { 0 }, right = { 0 };
    ml_status status = ML_OK;
    for (size_t i = 0; i < t->n_merges && status == ML_OK; i++) {
        status = vocab_text(t, t->merges[i].left, &left, err);
        if (status == ML_OK) status = vocab_text(t, t->merges[i].right, &right, err);
        if (status == ML_OK && json_array_append_new(merges, json_sprintf("%s %s", left.data, right.data)) != 0) {
            status = out_of_memory(err);
        }
    }
    ml_chars_free(&left);
    ml_chars_free(&right);
    return status;
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

static json_t *byte_level(bool use_regex)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex",
                     use_regex);
}

static json_t *make_pre_tokenizer(const ml_tokenizer *t)
{
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

static json_t *make_root(const ml_tokenizer *t, json_t *added, json_t *vocab, json_t *merges)
{
    json_t *model =
        json_pack("{s:s, s:n, s:o, s:n, s:n, s:b, s:b, s:b, s:O, s:O}", "type", "BPE", "dropout", "unk_token",
                  role_text(t, ML_ROLE_UNK), "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", t->fuse_unk,
                  "byte_fallback", 0, "ignore_merges", t->whole_piece, "vocab", vocab, "merges", merges);
    return json_pack("{s:s, s:n, s:n, s:O, s:n, s:o, s:n, s:o, s:o}", "version", "1.0", "truncation", "padding",
                     "added_tokens", added, "normalizer", "pre_tokenizer", make_pre_tokenizer(t), "post_processor",
                     "decoder", byte_level(true), "model", model);
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
    if (ok && t->chat_template) ok = json_object_set_new(config, "chat_template", json_string(t->chat_template)) == 0;
    ml_status status = ok ? ml_json_save(config, path, err) : out_of_memory(err);
    json_decref(config);
    return status;
}

ml_status ml_tokenizer_save(const ml_tokenizer *t, const char *folder, ml_error *err)
{
    char path[ML_PATH_MAX], config_path[ML_PATH_MAX];
    if (t->scored) {
        return ml_fail(err, ML_EINVAL,
                       "%s: a SentencePiece vocabulary cannot be written as tokenizer.json: convert to GGUF", folder);
    }
    ML_TRY(ml_path_join(path, folder, "tokenizer.json", err));
    ML_TRY(ml_path_join(config_path, folder, "tokenizer_config.json", err));
    ML_TRY(ml_dir_make(folder, err));
    json_t *added = json_array(), *decoder = json_object(), *vocab = json_object(), *merges = json_array(),
           *root = NULL;
    ml_status status = added && decoder && vocab && merges ? ML_OK : out_of_memory(err);
    if (status == ML_OK) status = add_vocab(t, vocab, err);
    if (status == ML_OK) status = add_merges(t, merges, err);
    if (status == ML_OK) status = add_added(t, added, decoder, err);
    if (status == ML_OK) {
        root = make_root(t, added, vocab, merges);
        status = root ? ml_json_save(root, path, err) : out_of_memory(err);
    }
    if (status == ML_OK) status = save_config(t, decoder, config_path, err);
    json_decref(root);
    json_decref(added);
    json_decref(decoder);
    json_decref(vocab);
    json_decref(merges);
    return status;
}
