#include "token/internal.h"

#include "base/alloc.h"
#include "token/scan.h"

static ml_status find_piece(const ml_tokenizer *t, int32_t id, const char **bytes, size_t *n_bytes, ml_error *err)
{
    *bytes = ml_tokenizer_piece(t, id, n_bytes);
    if (*bytes) return ML_OK;
    return ml_fail(err, ML_EINVAL, "token id %d has no token: expected an id of this vocabulary of %d", id,
                   ml_tokenizer_vocab_size(t));
}

/* Leave out the space that encoding put before a text.  *inside: what comes goes on with one. */
static void leave_out_space(const ml_tokenizer *t, int32_t id, bool skipped, bool *inside, const char **bytes,
                            size_t *n)
{
    if (t->space == ML_SPACE_NEVER) return;
    bool added = ml_tokenizer_is_added(t, id) && id != t->role[ML_ROLE_UNK]; // which stands for text
    if (!*inside && !added && *n && **bytes == ' ') {
        ++*bytes;
        --*n;
    }
    *inside = t->space == ML_SPACE_FIRST_UNLESS ? *inside || !skipped : !added;
}

ml_status ml_tokenizer_decode(const ml_tokenizer *t, const int32_t *id, size_t n, bool skip_special, char **text,
                              size_t *n_bytes, ml_error *err)
{
    ml_chars out = { 0 };
    ml_status status = ML_OK;
    bool inside = false;
    for (size_t i = 0; i < n && status == ML_OK; i++) {
        const char *bytes;
        size_t n_piece;
        bool skipped = skip_special && ml_tokenizer_is_special(t, id[i]);
        status = find_piece(t, id[i], &bytes, &n_piece, err);
        if (status != ML_OK) break;
        leave_out_space(t, id[i], skipped, &inside, &bytes, &n_piece);
        if (!skipped) status = ml_chars_append(&out, bytes, n_piece, err);
    }
    if (status == ML_OK) status = ml_chars_append(&out, "", 1, err);
    if (status != ML_OK) {
        ml_chars_free(&out);
        return status;
    }
    *text = out.data;
    *n_bytes = out.n - 1;
    return ML_OK;
}

/* Take one byte; append the character it completes, or the bytes that it shows to be no character. */
static ml_status push_byte(ml_detok *d, uint8_t byte, ml_chars *out, ml_error *err)
{
    d->held[d->n_held++] = byte;
    while (d->n_held) {
        int length = ml_utf8_length(d->held, d->n_held);
        if (length < 0) return ML_OK;
        bool invalid = length == 0;
        size_t n = invalid ? 1 : (size_t)length;
        if (invalid) {
            /* The longest beginning of a character that these bytes have in common with one is a single error. */
            while (n + 1 < d->n_held && ml_utf8_length(d->held, n + 1) < 0) n++;
        }
        if (invalid && d->replace_invalid) {
            ML_TRY(ml_chars_append(out, "\xEF\xBF\xBD", 3, err));
        } else {
            ML_TRY(ml_chars_append(out, d->held, n, err));
        }
        d->n_held = (uint8_t)(d->n_held - n);
        memmove(d->held, d->held + n, d->n_held);
    }
    return ML_OK;
}

ml_status ml_detok_push(ml_detok *d, const ml_tokenizer *t, int32_t id, ml_chars *out, ml_error *err)
{
    const char *bytes;
    size_t n;
    ML_TRY(find_piece(t, id, &bytes, &n, err));
    bool skipped = d->skip_special && ml_tokenizer_is_special(t, id);
    leave_out_space(t, id, skipped, &d->inside, &bytes, &n);
    if (skipped) return ML_OK;
    if (!d->n_held) {
        size_t valid = ml_utf8_valid_prefix((const uint8_t *)bytes, n);
        ML_TRY(ml_chars_append(out, bytes, valid, err));
        bytes += valid;
        n -= valid;
    }
    for (size_t i = 0; i < n; i++) ML_TRY(push_byte(d, (uint8_t)bytes[i], out, err));
    return ML_OK;
}

ml_status ml_detok_flush(ml_detok *d, ml_chars *out, ml_error *err)
{
    if (!d->n_held) return ML_OK;
    ML_TRY(d->replace_invalid ? ml_chars_append(out, "\xEF\xBF\xBD", 3, err)
                              : ml_chars_append(out, d->held, d->n_held, err));
    d->n_held = 0;
    return ML_OK;
}

ml_status ml_detok_append(ml_detok how, const ml_tokenizer *t, const int32_t *id, size_t n, ml_chars *out,
                          ml_error *err)
{
    for (size_t i = 0; i < n; i++) ML_TRY(ml_detok_push(&how, t, id[i], out, err));
    return ml_detok_flush(&how, out, err);
}

bool ml_tokenizer_continues(const ml_tokenizer *t, const ml_ids *prompt)
{
    return prompt->n && !ml_tokenizer_is_added(t, prompt->id[prompt->n - 1]);
}

ml_status ml_tokenizer_decode_answer(const ml_tokenizer *t, const ml_ids *prompt, const int32_t *id, size_t n,
                                     ml_chars *out, ml_error *err)
{
    const ml_detok how = { .skip_special = true, .replace_invalid = true, .inside = ml_tokenizer_continues(t, prompt) };
    out->n = 0;
    return ml_detok_append(how, t, id, n, out, err);
}
