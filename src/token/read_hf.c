#include "token/read.h"

#include "base/alloc.h"
#include "token/bytemap.h"
#include "token/internal.h"

#include <string.h>

ml_status ml_read_refuse(const char *key, const char *expected, const char *found, ml_error *err)
{
    return ml_fail(err, ML_EINVAL, "key %s: expected %s, found %s: this tokenizer cannot be run here with equal ids",
                   key, expected, found);
}

const char *ml_read_type(const json_t *object)
{
    const char *type = json_string_value(json_object_get(object, "type"));
    return type ? type : "an object without a type";
}

static ml_status add_vocab_piece(ml_tokenizer *t, const char *text, int64_t id, ml_chars *bytes, ml_error *err)
{
    size_t n_text = strlen(text);
    if (id >= 0 && (uint64_t)id < t->n_pieces && (t->pieces[id].flags & ML_PIECE_ADDED) &&
        t->pieces[id].n_bytes == n_text && !memcmp(ml_piece_bytes(t, (int32_t)id), text, n_text)) {
        return ML_OK;
    }
    bool mapped;
    bytes->n = 0;
    ML_TRY(ml_bytemap_decode(text, n_text, bytes, &mapped, err));
    return mapped ? ml_tokenizer_put_piece(t, id, bytes->data, bytes->n, 0, err)
                  : ml_tokenizer_put_piece(t, id, text, n_text, ML_PIECE_LITERAL, err);
}

ml_status ml_read_vocab(ml_tokenizer *t, const json_t *vocab, ml_error *err)
{
    if (!json_is_object(vocab)) return ml_fail(err, ML_EFORMAT, "the vocabulary is no object of texts and ids");
    ml_chars bytes = { 0 };
    ml_status status = ML_OK;
    const char *text;
    json_t *id;
    json_object_foreach((json_t *)(uintptr_t)vocab, text, id)
    {
        if (!json_is_integer(id)) {
            status = ml_fail(err, ML_EFORMAT, "vocabulary entry \"%.100s\": expected an integer id", text);
        } else {
            status = add_vocab_piece(t, text, json_integer_value(id), &bytes, err);
        }
        if (status != ML_OK) break;
    }
    ml_chars_free(&bytes);
    return status;
}

static ml_status find_in_vocab(const json_t *vocab, const char *text, size_t n, size_t rank, int32_t *id, ml_error *err)
{
    const json_t *found = json_object_getn(vocab, text, n);
    if (!found) {
        return ml_fail(err, ML_EFORMAT, "merge %zu: \"%.*s\" is not in the vocabulary", rank, (int)(n < 100 ? n : 100),
                       text);
    }
    *id = (int32_t)json_integer_value(found); // in range: ml_read_vocab has put it
    return ML_OK;
}

ml_status ml_read_merge(ml_tokenizer *t, const json_t *vocab, const char *left, size_t n_left, const char *right,
                        size_t n_right, ml_error *err)
{
    int32_t l, r, result = -1;
    ml_chars whole = { 0 };
    ml_status status = ml_chars_append(&whole, left, n_left, err);
    if (status == ML_OK) status = ml_chars_append(&whole, right, n_right, err);
    if (status == ML_OK) status = find_in_vocab(vocab, left, n_left, t->n_merges, &l, err);
    if (status == ML_OK) status = find_in_vocab(vocab, right, n_right, t->n_merges, &r, err);
    if (status == ML_OK) status = find_in_vocab(vocab, whole.data, whole.n, t->n_merges, &result, err);
    ml_chars_free(&whole);
    return status == ML_OK ? ml_tokenizer_put_merge(t, l, r, result, err) : status;
}

static ml_status read_merges(ml_tokenizer *t, const json_t *vocab, const json_t *merges, ml_error *err)
{
    for (size_t i = 0; i < json_array_size(merges); i++) {
        const json_t *merge = json_array_get(merges, i);
        const char *left, *right;
        size_t n_left, n_right;
        if (json_is_string(merge)) {
            left = json_string_value(merge);
            const char *space = strchr(left, ' ');
            if (!space)
                return ml_fail(err, ML_EFORMAT, "key model.merges[%zu]: expected two tokens with a space between", i);
            n_left = (size_t)(space - left);
            right = space + 1;
            n_right = strlen(right);
        } else {
            left = json_string_value(json_array_get(merge, 0));
            right = json_string_value(json_array_get(merge, 1));
            if (json_array_size(merge) != 2 || !left || !right) {
                return ml_fail(err, ML_EFORMAT, "key model.merges[%zu]: expected \"a b\" or [\"a\", \"b\"]", i);
            }
            n_left = strlen(left);
            n_right = strlen(right);
        }
        ML_TRY(ml_read_merge(t, vocab, left, n_left, right, n_right, err));
    }
    return ML_OK;
}

static ml_status check_empty_text(const json_t *model, const char *key, const char *full_key, ml_error *err)
{
    const char *text;
    ML_TRY(ml_json_text_or(model, key, "model", "", &text, err));
    return *text ? ml_read_refuse(full_key, "null", text, err) : ML_OK;
}

static ml_status read_model_options(ml_tokenizer *t, const json_t *model, bool pieces, bool *byte_fallback,
                                    ml_error *err)
{
    const char *type;
    double dropout;
    bool fuse_unk, ignore_merges;
    ML_TRY(ml_json_text_or(model, "type", "model", "BPE", &type, err));
    if (strcmp(type, "BPE") != 0) return ml_read_refuse("model.type", "BPE", type, err);
    ML_TRY(ml_json_real_or(model, "dropout", "model", 0, &dropout, err));
    if (dropout != 0) return ml_read_refuse("model.dropout", "null or 0", "another value", err);
    ML_TRY(check_empty_text(model, "continuing_subword_prefix", "model.continuing_subword_prefix", err));
    ML_TRY(check_empty_text(model, "end_of_word_suffix", "model.end_of_word_suffix", err));
    ML_TRY(ml_json_bool_or(model, "byte_fallback", "model", false, byte_fallback, err));
    if (*byte_fallback && !pieces) {
        return ml_read_refuse("model.byte_fallback", "false", "true (not a byte-level vocabulary)", err);
    }
    ML_TRY(ml_json_bool_or(model, "fuse_unk", "model", false, &fuse_unk, err));
    ML_TRY(ml_json_bool_or(model, "ignore_merges", "model", false, &ignore_merges, err));
    if (ignore_merges && pieces) return ml_read_refuse("model.ignore_merges", "false", "true", err);
    ml_tokenizer_set_fuse_unk(t, fuse_unk);
    if (!pieces) ml_tokenizer_set_whole_piece(t, ignore_merges);
    return ML_OK;
}

/* A regex that matches exactly the text. */
static ml_status quote(const char *text, ml_chars *out, ml_error *err)
{
    for (; *text; text++) {
        if (strchr("\\^$.|?*+()[]{}&-~", *text)) ML_TRY(ml_chars_append(out, "\\", 1, err));
        ML_TRY(ml_chars_append(out, text, 1, err));
    }
    return ml_chars_append(out, "", 1, err);
}

static ml_status read_split(ml_tokenizer *t, const json_t *node, ml_error *err)
{
    const char *behavior;
    bool invert;
    ML_TRY(ml_json_text(node, "behavior", "pre_tokenizer Split", &behavior, err));
    ML_TRY(ml_json_bool_or(node, "invert", "pre_tokenizer Split", false, &invert, err));
    if (strcmp(behavior, "Isolated") != 0)
        return ml_read_refuse("pre_tokenizer Split behavior", "Isolated", behavior, err);
    if (invert) return ml_read_refuse("pre_tokenizer Split invert", "false", "true", err);
    const json_t *pattern = json_object_get(node, "pattern");
    const char *regex = json_string_value(json_object_get(pattern, "Regex"));
    const char *text = json_string_value(json_object_get(pattern, "String"));
    if (regex) return ml_tokenizer_put_split(t, regex, err);
    if (!text || !*text) {
        return ml_fail(err, ML_EFORMAT,
                       "key pre_tokenizer Split pattern: expected {\"Regex\": ...} or {\"String\": ...}");
    }
    ml_chars quoted = { 0 };
    ml_status status = quote(text, &quoted, err);
    if (status == ML_OK) status = ml_tokenizer_put_split(t, quoted.data, err);
    ml_chars_free(&quoted);
    return status;
}

static ml_status read_pre_tokenizer(ml_tokenizer *t, const json_t *node, bool *byte_level, ml_error *err)
{
    const char *type = ml_read_type(node);
    if (*byte_level) return ml_read_refuse("pre_tokenizer", "ByteLevel at the end", type, err);
    if (!strcmp(type, "ByteLevel")) {
        bool add_prefix_space, use_regex;
        ML_TRY(ml_json_bool_or(node, "add_prefix_space", "pre_tokenizer ByteLevel", true, &add_prefix_space, err));
        if (add_prefix_space) return ml_read_refuse("pre_tokenizer ByteLevel add_prefix_space", "false", "true", err);
        ML_TRY(ml_json_bool_or(node, "use_regex", "pre_tokenizer ByteLevel", true, &use_regex, err));
        *byte_level = true;
        return use_regex ? ml_tokenizer_put_split(t, "gpt2", err) : ML_OK;
    }
    if (!strcmp(type, "Split")) return read_split(t, node, err);
    if (!strcmp(type, "Digits")) {
        bool individual;
        ML_TRY(ml_json_bool_or(node, "individual_digits", "pre_tokenizer Digits", false, &individual, err));
        return ml_tokenizer_put_split(t, individual ? "\\p{N}" : "\\p{N}+", err);
    }
    return ml_read_refuse("pre_tokenizer", "ByteLevel, Split, Digits or a Sequence of them", type, err);
}

static ml_status read_pre_tokenizers(ml_tokenizer *t, const json_t *root, ml_error *err)
{
    const json_t *node = json_object_get(root, "pre_tokenizer");
    bool byte_level = false;
    if (!strcmp(ml_read_type(node), "Sequence")) {
        json_t *list;
        ML_TRY(ml_json_array(node, "pretokenizers", "pre_tokenizer", &list, err));
        for (size_t i = 0; i < json_array_size(list); i++) {
            ML_TRY(read_pre_tokenizer(t, json_array_get(list, i), &byte_level, err));
        }
    } else {
        ML_TRY(read_pre_tokenizer(t, node, &byte_level, err));
    }
    return byte_level ? ML_OK : ml_read_refuse("pre_tokenizer", "ByteLevel at the end", "none", err);
}

static ml_status check_surroundings(const json_t *root, bool pieces, ml_error *err)
{
    static const char *const must_be_null[] = { "truncation", "padding" };
    for (size_t i = 0; i < sizeof must_be_null / sizeof must_be_null[0]; i++) {
        const json_t *node = json_object_get(root, must_be_null[i]);
        if (node && !json_is_null(node)) return ml_read_refuse(must_be_null[i], "null", ml_read_type(node), err);
    }
    const json_t *decoder = json_object_get(root, "decoder");
    if (!pieces && decoder && !json_is_null(decoder) && strcmp(ml_read_type(decoder), "ByteLevel") != 0) {
        return ml_read_refuse("decoder", "ByteLevel", ml_read_type(decoder), err);
    }
    return ML_OK;
}

ml_status ml_read_added_flags(const json_t *token, const char *where, int *flags, ml_error *err)
{
    static const char *const must_be_false[] = { "lstrip", "rstrip", "single_word" };
    for (size_t i = 0; i < sizeof must_be_false / sizeof must_be_false[0]; i++) {
        bool set;
        ML_TRY(ml_json_bool_or(token, must_be_false[i], where, false, &set, err));
        if (set) return ml_read_refuse(must_be_false[i], "false for every added token", "true", err);
    }
    bool special;
    ML_TRY(ml_json_bool_or(token, "special", where, false, &special, err));
    *flags = ML_PIECE_ADDED | (special ? ML_PIECE_SPECIAL : 0);
    return ML_OK;
}

/* A normalizer that puts something before the text does so with the texts of tokens it applies to. */
static ml_status check_normalized(const json_t *token, const ml_normalizer *normalizer, ml_error *err)
{
    bool normalized;
    ML_TRY(ml_json_bool_or(token, "normalized", "added_tokens", false, &normalized, err));
    if (!normalized || !(normalizer->prepend || normalizer->wide_space)) return ML_OK;
    return ml_read_refuse("added_tokens normalized", "false beside this normalizer", "true", err);
}

static ml_status read_added(ml_tokenizer *t, const json_t *root, const ml_normalizer *normalizer, ml_error *err)
{
    const json_t *list = json_object_get(root, "added_tokens");
    if (list && !json_is_null(list) && !json_is_array(list)) {
        return ml_fail(err, ML_EFORMAT, "key added_tokens: expected an array");
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *token = json_array_get(list, i);
        const char *content;
        int64_t id;
        int flags;
        ML_TRY(ml_json_text(token, "content", "added_tokens", &content, err));
        ML_TRY(ml_json_int(token, "id", "added_tokens", &id, err));
        ML_TRY(ml_read_added_flags(token, "added_tokens", &flags, err));
        ML_TRY(check_normalized(token, normalizer, err));
        ML_TRY(ml_tokenizer_put_piece(t, id, content, strlen(content), flags, err));
    }
    return ML_OK;
}

static ml_status fill(ml_tokenizer *t, const json_t *root, ml_error *err)
{
    json_t *model, *vocab, *merges;
    const char *unk;
    ml_normalizer normalizer;
    bool byte_fallback;
    ML_TRY(ml_read_normalizer(root, &normalizer, err));
    bool pieces = ml_read_is_sentencepiece(root, &normalizer);
    if (normalizer.prepend && !pieces) return ml_read_refuse("normalizer", "null or NFC", "Prepend", err);
    ML_TRY(check_surroundings(root, pieces, err));
    ml_tokenizer_set_nfc(t, normalizer.nfc);
    ML_TRY(ml_json_object(root, "model", "tokenizer", &model, err));
    ML_TRY(read_model_options(t, model, pieces, &byte_fallback, err));
    ML_TRY(ml_json_object(model, "vocab", "model", &vocab, err));
    ML_TRY(ml_json_array(model, "merges", "model", &merges, err));
    ML_TRY(pieces ? ml_read_spaces(t, root, &normalizer, err) : read_pre_tokenizers(t, root, err));
    ML_TRY(read_added(t, root, &normalizer, err));
    ML_TRY(pieces ? ml_read_pieces(t, vocab, byte_fallback, err) : ml_read_vocab(t, vocab, err));
    ML_TRY(read_merges(t, vocab, merges, err));
    ML_TRY(ml_read_post_processor(t, root, err));
    ML_TRY(ml_json_text_or(model, "unk_token", "model", "", &unk, err));
    const json_t *unk_id = json_object_get(vocab, unk);
    if (*unk && !unk_id) return ml_fail(err, ML_EFORMAT, "key model.unk_token: \"%s\" is not in the vocabulary", unk);
    if (*unk) ml_tokenizer_set_role(t, ML_ROLE_UNK, (int32_t)json_integer_value(unk_id));
    return ML_OK;
}

ml_status ml_read_hf(const json_t *root, const char *path, const ml_read_context *context, ml_tokenizer **out,
                     ml_error *err)
{
    if (context->pattern) {
        return ml_fail(err, ML_EINVAL, "%s: stores its own split pattern; do not give one", path);
    }
    ml_tokenizer *t;
    ML_TRY(ml_tokenizer_make("tokenizer.json", &t, err));
    ml_status status = fill(t, root, err);
    if (status != ML_OK) {
        ml_tokenizer_free(t);
        return ml_fail_prefix(err, "%s", path);
    }
    *out = t;
    return ML_OK;
}
