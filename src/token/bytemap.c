#include "token/bytemap.h"

#include "base/alloc.h"
#include "token/scan.h"

static bool is_printable(unsigned byte)
{
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
}

/* Bytes 0..32, 127..160 and 173 are U+0100 + 0..32, 33..66 and 67. */
static unsigned character_of(uint8_t byte)
{
    if (is_printable(byte)) return byte;
    return byte <= 32 ? 256u + byte : byte <= 160 ? 256u + 33 + (byte - 127u) : 256u + 67;
}

static int byte_of(unsigned character)
{
    if (character < 256) return is_printable(character) ? (int)character : -1;
    if (character <= 256 + 32) return (int)character - 256;
    if (character <= 256 + 66) return (int)character - 256 - 33 + 127;
    return character == 256 + 67 ? 173 : -1;
}

ml_status ml_bytemap_decode(const char *text, size_t n, ml_chars *out, bool *mapped, ml_error *err)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t n_before = out->n;
    *mapped = true;
    for (size_t i = 0; i < n;) {
        int length = ml_utf8_length(p + i, n - i), byte = -1;
        if (length == 1) byte = byte_of(p[i]);
        if (length == 2) byte = byte_of((p[i] & 0x1Fu) << 6 | (p[i + 1] & 0x3Fu));
        if (byte < 0) {
            out->n = n_before;
            *mapped = false;
            return ML_OK;
        }
        uint8_t b = (uint8_t)byte;
        ML_TRY(ml_chars_append(out, &b, 1, err));
        i += (size_t)length;
    }
    return ML_OK;
}

ml_status ml_bytemap_encode(const char *bytes, size_t n, ml_chars *out, ml_error *err)
{
    ML_TRY(ml_grow((void **)&out->data, &out->capacity, out->n + 2 * n, 1, err));
    for (size_t i = 0; i < n; i++) {
        unsigned c = character_of((uint8_t)bytes[i]);
        if (c < 0x80) {
            out->data[out->n++] = (char)c;
        } else {
            out->data[out->n++] = (char)(0xC0 | c >> 6);
            out->data[out->n++] = (char)(0x80 | (c & 0x3F));
        }
    }
    return ML_OK;
}

void ml_bytemap_order(uint8_t order[256])
{
    size_t k = 0;
    for (unsigned character = 0; k < 256; character++) {
        int byte = byte_of(character);
        if (byte >= 0) order[k++] = (uint8_t)byte;
    }
}
