/* Normalization Form C (Unicode Standard Annex 15), by utf8proc. */
#include "token/internal.h"

#include "token/char_class.h"
#include "token/scan.h"

#include <stdlib.h>
#include <utf8proc.h>

/* In a text of such characters alone nothing composes and nothing is reordered.  The characters that compose with the
 * one before them are marks and the vowels and finals of Hangul. */
static bool stays(uint32_t c)
{
    if (c < 0x300 || (c >= 0x4E00 && c <= 0x9FFF)) return true;
    if ((c >= 0x1161 && c <= 0x1175) || (c >= 0x11A8 && c <= 0x11C2)) return false;
    const utf8proc_property_t *property = utf8proc_get_property((utf8proc_int32_t)c);
    bool is_mark = property->category == UTF8PROC_CATEGORY_MN || property->category == UTF8PROC_CATEGORY_MC ||
                   property->category == UTF8PROC_CATEGORY_ME;
    return !is_mark && !property->combining_class &&
           (property->decomp_seqindex == UINT16_MAX || property->decomp_type != 0);
}

static bool stays_all(const uint8_t *p, size_t n)
{
    for (size_t i = 0, n_char; i < n; i += n_char) {
        if (!stays(ml_char_decode(p + i, &n_char))) return false;
    }
    return true;
}

bool ml_nfc_is_normal(const uint8_t *p, size_t n)
{
    while (n) {
        size_t valid = ml_utf8_valid_prefix(p, n);
        if (!stays_all(p, valid)) return false;
        if (valid < n) valid++;
        p += valid;
        n -= valid;
    }
    return true;
}

static ml_status append_valid(const uint8_t *p, size_t n, ml_chars *out, ml_error *err)
{
    utf8proc_uint8_t *normal = NULL;
    utf8proc_ssize_t n_normal =
        utf8proc_map(p, (utf8proc_ssize_t)n, &normal, (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    if (n_normal == UTF8PROC_ERROR_NOMEM) return ml_fail_memory(err, n, "a text in normal form");
    if (n_normal < 0) {
        return ml_fail(err, ML_EINVAL, "a text of %zu bytes cannot be brought into normal form: %s", n,
                       utf8proc_errmsg(n_normal));
    }
    ml_status status = ml_chars_append(out, normal, (size_t)n_normal, err);
    free(normal);
    return status;
}

ml_status ml_nfc_append(const uint8_t *p, size_t n, ml_chars *out, ml_error *err)
{
    while (n) {
        size_t valid = ml_utf8_valid_prefix(p, n);
        if (valid) ML_TRY(append_valid(p, valid, out, err));
        p += valid;
        n -= valid;
        if (!n) break;
        ML_TRY(ml_chars_append(out, p, 1, err));
        p++;
        n--;
    }
    return ML_OK;
}
