/* The SentencePiece form of tokenizer.json: characters and merges, U+2581 for spaces, tokens like <0x0A> for bytes. */
#include "token/read.h"

#include "token/internal.h"

#include <string.h>

#define WIDE_SPACE "\xE2\x96\x81" /* U+2581 */

bool ml_read_is_sentencepiece(const json_t *root, const ml_normalizer *normalizer)
{
    const json_t *node = json_object_get(root, "pre_tokenizer");
    bool none = !node || json_is_null(node);
    return none ? normalizer->wide_space : !strcmp(ml_read_type(node), "Metaspace");
}

static ml_status read_metaspace(const json_t *node, ml_space_rule *out, ml_error *err)
{
    const char *replacement, *scheme;
    bool split, add_prefix_space;
    ML_TRY(ml_json_text_or(node, "replacement", "pre_tokenizer Metaspace", WIDE_SPACE, &replacement, err));
    if (strcmp(replacement, WIDE_SPACE) != 0) {
        return ml_read_refuse("pre_tokenizer Metaspace replacement", "U+2581", replacement, err);
    }
    ML_TRY(ml_json_bool_or(node, "split", "pre_tokenizer Metaspace", true, &split, err));
    if (split) return ml_read_refuse("pre_tokenizer Metaspace split", "false", "true", err);
    /* Old files say add_prefix_space instead of prepend_scheme. */
    ML_TRY(ml_json_bool_or(node, "add_prefix_space", "pre_tokenizer Metaspace", true, &add_prefix_space, err));
    ML_TRY(ml_json_text_or(node, "prepend_scheme", "pre_tokenizer Metaspace", add_prefix_space ? "always" : "never",
                           &scheme, err));
    if (!strcmp(scheme, "always")) {
        *out = ML_SPACE_EACH_UNLESS;
    } else if (!strcmp(scheme, "first")) {
        *out = ML_SPACE_FIRST_UNLESS;
    } else if (!strcmp(scheme, "never")) {
        *out = ML_SPACE_NEVER;
    } else {
        return ml_read_refuse("pre_tokenizer Metaspace prepend_scheme", "always, first or never", scheme, err);
    }
    return ML_OK;
}

ml_status ml_read_spaces(ml_tokenizer *t, const json_t *root, const ml_normalizer *normalizer, ml_error *err)
{
    const json_t *node = json_object_get(root, "pre_tokenizer");
    ml_space_rule rule = normalizer->prepend ? ML_SPACE_EACH : ML_SPACE_NEVER;
    if (node && !json_is_null(node)) {
        if (normalizer->prepend || normalizer->wide_space) {
            return ml_read_refuse("normalizer", "null beside Metaspace", "one that replaces spaces, too", err);
        }
        ML_TRY(read_metaspace(node, &rule, err));
    }
    ml_tokenizer_use_pieces(t, rule);
    return ML_OK;
}

/* "<0x0A>", as all byte tokens are written; -1 for another text. */
static int parse_byte(const char *text)
{
    static const char digits[] = "0123456789ABCDEF";
    if (strlen(text) != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    const char *high = strchr(digits, text[3]), *low = strchr(digits, text[4]);
    return high && low ? (int)(high - digits) << 4 | (int)(low - digits) : -1;
}

static ml_status put_spaced(ml_tokenizer *t, const char *text, int64_t id, ml_chars *scratch, ml_error *err)
{
    const size_t n_wide = strlen(WIDE_SPACE);
    scratch->n = 0;
    while (*text) {
        bool wide = !strncmp(text, WIDE_SPACE, n_wide);
        ML_TRY(ml_chars_append(scratch, wide ? " " : text, 1, err));
        text += wide ? n_wide : 1;
    }
    return ml_tokenizer_put_piece(t, id, scratch->data, scratch->n, 0, err);
}

static ml_status put_entry(ml_tokenizer *t, const char *text, int64_t id, bool bytes, ml_chars *scratch, ml_error *err)
{
    size_t n = strlen(text);
    int byte = bytes ? parse_byte(text) : -1;
    if (ml_tokenizer_has(t, id) && (t->pieces[id].flags & ML_PIECE_ADDED) && t->pieces[id].n_bytes == n &&
        !memcmp(ml_piece_bytes(t, (int32_t)id), text, n)) {
        return ML_OK;
    }
    if (byte >= 0) return ml_tokenizer_put_byte(t, id, (uint8_t)byte, err);
    return put_spaced(t, text, id, scratch, err);
}

ml_status ml_read_pieces(ml_tokenizer *t, const json_t *vocab, bool bytes, ml_error *err)
{
    ml_chars scratch = { 0 };
    ml_status status = ML_OK;
    const char *text;
    json_t *id;
    json_object_foreach((json_t *)(uintptr_t)vocab, text, id)
    {
        if (!json_is_integer(id)) {
            status = ml_fail(err, ML_EFORMAT, "vocabulary entry \"%.100s\": expected an integer id", text);
        } else {
            status = put_entry(t, text, json_integer_value(id), bytes, &scratch, err);
        }
        if (status != ML_OK) break;
    }
    ml_chars_free(&scratch);
    for (int i = 0; i < 256 && bytes && status == ML_OK; i++) {
        char name[16];
        snprintf(name, sizeof name, "no <0x%02X>", (unsigned)i);
        if (t->byte_id[i] < 0) status = ml_read_refuse("model.byte_fallback", "tokens of all bytes", name, err);
    }
    return status;
}
