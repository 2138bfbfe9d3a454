#include "token/save_lists.h"

#include "base/alloc.h"
#include "base/hash.h"
#include "token/bytemap.h"
#include "token/scan.h"

#include <stdio.h>
#include <string.h>

#define ENTRY "\n      "

static ml_status append_spaced(const char *bytes, size_t n, ml_chars *text, ml_error *err)
{
    for (size_t i = 0; i < n; i++) {
        bool space = bytes[i] == ' ';
        ML_TRY(
            ml_chars_append(text, space ? ML_SAVE_WIDE_SPACE : bytes + i, space ? strlen(ML_SAVE_WIDE_SPACE) : 1, err));
    }
    return ML_OK;
}

ml_status ml_save_vocab_text(const ml_tokenizer *t, int32_t id, ml_chars *text, ml_error *err)
{
    const char *bytes = (const char *)ml_piece_bytes(t, id);
    size_t n = t->pieces[id].n_bytes;
    int byte = ml_tokenizer_byte(t, id);
    char byte_text[16];
    text->n = 0;
    bool literal = t->pieces[id].flags & (ML_PIECE_ADDED | ML_PIECE_LITERAL);
    if (byte >= 0) {
        snprintf(byte_text, sizeof byte_text, "<0x%02X>", (unsigned)byte);
        ML_TRY(ml_chars_append(text, byte_text, strlen(byte_text), err));
    } else if (literal) {
        ML_TRY(ml_chars_append(text, bytes, n, err));
    } else {
        ML_TRY(t->sentencepiece ? append_spaced(bytes, n, text, err) : ml_bytemap_encode(bytes, n, text, err));
    }
    return ml_chars_append(text, "", 1, err);
}

/* Inside of a JSON string. */
static ml_status append_escaped(ml_chars *out, const char *text, size_t n, ml_error *err)
{
    size_t done = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        char escape[8] = { '\\', (char)c, 0 };
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        const char *at = c < 0x20 && c ? strchr("\bb\ff\nn\rr\tt", c) : NULL;
        if (at)
            escape[1] = at[1];
        else if (c < 0x20)
            snprintf(escape, sizeof escape, "\\u%04x", c);
        ML_TRY(ml_chars_append(out, text + done, i - done, err));
        ML_TRY(ml_chars_append(out, escape, strlen(escape), err));
        done = i + 1;
    }
    return ml_chars_append(out, text + done, n - done, err);
}

/* Texts seen, by where they lie in one string: open addressing, at most half full. */
typedef struct {
    ml_chars text;
    size_t *at; /* [mask + 1] offset + 1, or 0 */
    size_t mask;
} text_set;

static ml_status make_set(size_t n, text_set *s, ml_error *err)
{
    *s = (text_set){ .mask = 15 };
    while (s->mask < 2 * n) s->mask = 2 * s->mask + 1;
    s->at = ml_calloc(s->mask + 1, sizeof *s->at);
    return s->at ? ML_OK : ml_fail_memory(err, s->mask * sizeof *s->at, "the texts of a vocabulary");
}

/* Add a text, which ends with a 0; *known: it was there. */
static ml_status add_text(text_set *s, const ml_chars *text, bool *known, ml_error *err)
{
    uint64_t hash = ml_hash_bytes(text->data, text->n - 1);
    size_t slot = (size_t)(hash ^ hash >> 32) & s->mask;
    for (; s->at[slot]; slot = (slot + 1) & s->mask) {
        if (strcmp(s->text.data + s->at[slot] - 1, text->data) != 0) continue;
        *known = true;
        return ML_OK;
    }
    *known = false;
    s->at[slot] = s->text.n + 1;
    return ml_chars_append(&s->text, text->data, text->n, err);
}

static ml_status add_token(const ml_tokenizer *t, size_t id, text_set *seen, ml_chars *text, ml_chars *out,
                           ml_error *err)
{
    char number[32];
    bool known;
    ML_TRY(ml_save_vocab_text(t, (int32_t)id, text, err));
    size_t n = text->n - 1;
    if (strlen(text->data) != n || ml_utf8_valid_prefix((const uint8_t *)text->data, n) != n) {
        return ml_fail(err, ML_EINVAL, "token %zu: its text is not UTF-8, or has a zero byte; it cannot be saved", id);
    }
    ML_TRY(add_text(seen, text, &known, err));
    if (known) {
        return ml_fail(err, ML_EINVAL, "token %zu: another is written \"%s\", too: they cannot be saved", id,
                       text->data);
    }
    ML_TRY(ml_chars_append(out, out->n > 1 ? "," ENTRY "\"" : ENTRY "\"", out->n > 1 ? 9 : 8, err));
    ML_TRY(append_escaped(out, text->data, n, err));
    int length = snprintf(number, sizeof number, "\": %zu", id);
    return ml_chars_append(out, number, (size_t)length, err);
}

static ml_status close_list(ml_chars *out, const char *end, ml_error *err)
{
    if (out->n > 1) ML_TRY(ml_chars_append(out, "\n    ", 5, err));
    return ml_chars_append(out, end, 1, err);
}

ml_status ml_save_vocab(const ml_tokenizer *t, ml_chars *out, ml_error *err)
{
    ml_chars text = { 0 };
    text_set seen;
    ML_TRY(make_set(t->n_pieces, &seen, err));
    ml_status status = ml_chars_append(out, "{", 1, err);
    for (size_t id = 0; id < t->n_pieces && status == ML_OK; id++) {
        if (t->pieces[id].flags) status = add_token(t, id, &seen, &text, out, err);
    }
    if (status == ML_OK) status = close_list(out, "}", err);
    ml_chars_free(&text);
    ml_chars_free(&seen.text);
    ml_free(seen.at);
    return status;
}

static ml_status add_merge(const ml_tokenizer *t, const ml_merge *merge, ml_chars *text, ml_chars *out, ml_error *err)
{
    ML_TRY(ml_chars_append(out, out->n > 1 ? "," ENTRY "\"" : ENTRY "\"", out->n > 1 ? 9 : 8, err));
    ML_TRY(ml_save_vocab_text(t, merge->left, text, err));
    ML_TRY(append_escaped(out, text->data, text->n - 1, err));
    ML_TRY(ml_chars_append(out, " ", 1, err));
    ML_TRY(ml_save_vocab_text(t, merge->right, text, err));
    ML_TRY(append_escaped(out, text->data, text->n - 1, err));
    return ml_chars_append(out, "\"", 1, err);
}

ml_status ml_save_merges(const ml_tokenizer *t, ml_chars *out, ml_error *err)
{
    ml_chars text = { 0 };
    ml_merge *made = NULL;
    const ml_merge *list = t->merges;
    size_t n = t->n_merges;
    ml_status status = ml_chars_append(out, "[", 1, err);
    if (status == ML_OK && t->sentencepiece && !n) {
        status = ml_pieces_to_merges(t, &made, &n, err);
        list = made;
    }
    for (size_t i = 0; status == ML_OK && i < n; i++) status = add_merge(t, &list[i], &text, out, err);
    if (status == ML_OK) status = close_list(out, "]", err);
    ml_free(made);
    ml_chars_free(&text);
    return status;
}
