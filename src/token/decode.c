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

ml_status ml_tokenizer_decode(const ml_tokenizer *t, const int32_t *id, size_t n, bool skip_special, char **text,
                              size_t *n_bytes, ml_error *err)
{
    ml_chars out = { 0 };
    ml_status status = ML_OK;
    bool prefixed = t->space_prefix; /* the next piece may begin with the space that encoding put there */
    for (size_t i = 0; i < n && status == ML_OK; i++) {
        const char *bytes;
        size_t n_piece;
        status = find_piece(t, id[i], &bytes, &n_piece, err);
        if (status == ML_OK && prefixed && n_piece && *bytes == ' ' && !ml_tokenizer_is_added(t, id[i])) {
            bytes++;
            n_piece--;
        }
        prefixed = t->space_prefix && ml_tokenizer_is_added(t, id[i]);
        if (status == ML_OK && !(skip_special && ml_tokenizer_is_special(t, id[i]))) {
            status = ml_chars_append(&out, bytes, n_piece, err);
        }
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
    if (d->skip_special && ml_tokenizer_is_special(t, id)) return ML_OK;
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
