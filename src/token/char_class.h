/* What the split patterns tell apart about a character, by table.  The table is written when the program is built, from
 * the properties of the PCRE2 that it is linked with (cmake/make_char_class.c), so that scanners and regexes agree. */
#ifndef ML_TOKEN_CHAR_CLASS_H
#define ML_TOKEN_CHAR_CLASS_H

#include <stddef.h>
#include <stdint.h>

enum {
    ML_CHAR_UPPER = 1,    /* Lu, Lt */
    ML_CHAR_LOWER = 2,    /* Ll */
    ML_CHAR_CASELESS = 4, /* Lm, Lo */
    ML_CHAR_NUMBER = 8,   /* N */
    ML_CHAR_SPACE = 16,   /* White_Space */
    ML_CHAR_MARK = 32,    /* M */
    ML_CHAR_HAN = 64,     /* Script=Han, beside its category */
    ML_CHAR_LETTER = ML_CHAR_UPPER | ML_CHAR_LOWER | ML_CHAR_CASELESS,
    ML_CHAR_BLOCK_BITS = 7,
};

extern const uint16_t ml_char_block[0x110000 >> ML_CHAR_BLOCK_BITS];
extern const uint8_t ml_char_classes[][1 << ML_CHAR_BLOCK_BITS]; /* the first block is ASCII */

static inline unsigned ml_char_class(uint32_t c)
{
    return ml_char_classes[ml_char_block[c >> ML_CHAR_BLOCK_BITS]][c & ((1 << ML_CHAR_BLOCK_BITS) - 1)];
}

/* The character of valid UTF-8 at p, and how many bytes it has. */
static inline uint32_t ml_char_decode(const uint8_t *p, size_t *n_bytes)
{
    uint32_t c = p[0];
    if (c < 0x80) {
        *n_bytes = 1;
        return c;
    }
    if (c < 0xE0) {
        *n_bytes = 2;
        return (c & 0x1F) << 6 | (p[1] & 0x3Fu);
    }
    if (c < 0xF0) {
        *n_bytes = 3;
        return (c & 0x0F) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
    }
    *n_bytes = 4;
    return (c & 0x07) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
}

#endif
