#include "grammar/characters.h"

#include <string.h>

static ml_status byte_range(ml_grammar *g, int from, int to, ml_symbol *out, ml_error *err)
{
    const char range[2] = { (char)from, (char)to };
    return ml_grammar_class(g, range, 1, out, err);
}

/* ---- what stands as it is ---- */

static int encode(int32_t code, int byte[4])
{
    if (code < 0x80) {
        byte[0] = code;
        return 1;
    }
    if (code < 0x800) {
        byte[0] = 0xc0 | code >> 6;
        byte[1] = 0x80 | (code & 63);
        return 2;
    }
    if (code < 0x10000) {
        byte[0] = 0xe0 | code >> 12;
        byte[1] = 0x80 | (code >> 6 & 63);
        byte[2] = 0x80 | (code & 63);
        return 3;
    }
    byte[0] = 0xf0 | code >> 18;
    byte[1] = 0x80 | (code >> 12 & 63);
    byte[2] = 0x80 | (code >> 6 & 63);
    byte[3] = 0x80 | (code & 63);
    return 4;
}

/* Characters of one length whose bytes vary independently: one alternative. */
static ml_status add_box(ml_grammar *g, int32_t rule, int32_t from, int32_t to, ml_error *err)
{
    int low[4], high[4], n = encode(from, low);
    ml_symbol symbol[4];
    encode(to, high);
    for (int i = 0; i < n; i++) ML_TRY(byte_range(g, low[i], high[i], &symbol[i], err));
    return ml_grammar_add(g, rule, symbol, (size_t)n, err);
}

/* Cut a range of one length where its last `shift` bits are not all there, then those before them. */
static ml_status add_cut(ml_grammar *g, int32_t rule, int32_t from, int32_t to, ml_error *err)
{
    for (int shift = 6; shift < 24 && from >= 0x80; shift += 6) {
        int32_t mask = ((int32_t)1 << shift) - 1;
        if ((from & ~mask) == (to & ~mask)) continue; /* one leading part */
        if (from & mask) {
            ML_TRY(add_cut(g, rule, from, from | mask, err));
            return add_cut(g, rule, (from | mask) + 1, to, err);
        }
        if ((to & mask) != mask) {
            ML_TRY(add_cut(g, rule, from, (to & ~mask) - 1, err));
            return add_cut(g, rule, to & ~mask, to, err);
        }
    }
    return add_box(g, rule, from, to, err);
}

static ml_status add_plain(ml_grammar *g, int32_t rule, int32_t from, int32_t to, ml_error *err)
{
    static const ml_code_range part[] = { { 0x20, 0x21 },           { 0x23, 0x5b },    { 0x5d, 0x7f },
                                          { 0x80, 0x7ff },          { 0x800, 0xd7ff }, { 0xe000, 0xffff },
                                          { 0x10000, ML_CODE_LAST } };
    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++) {
        int32_t low = from > part[i].from ? from : part[i].from, high = to < part[i].to ? to : part[i].to;
        if (low <= high) ML_TRY(add_cut(g, rule, low, high, err));
    }
    return ML_OK;
}

/* ---- what must be escaped ---- */

static ml_status add_escape(ml_grammar *g, int32_t rule, int32_t code, ml_error *err)
{
    static const char codes[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    static const char hex[] = "0123456789abcdef";
    const char *found = strchr(codes, code);
    char text[8] = { '\\', 'u', '0', '0', hex[code >> 4 & 15], hex[code & 15], 0 };
    if (found) {
        text[1] = letters[found - codes];
        text[2] = 0;
    }
    ml_symbol literal;
    ML_TRY(ml_grammar_literal(g, text, strlen(text), &literal, err));
    return ml_grammar_add(g, rule, &literal, 1, err);
}

static ml_status add_escapes(ml_grammar *g, int32_t rule, int32_t from, int32_t to, ml_error *err)
{
    for (int32_t code = from > 1 ? from : 1; code < 0x20 && code <= to; code++) {
        ML_TRY(add_escape(g, rule, code, err));
    }
    if (from <= '"' && '"' <= to) ML_TRY(add_escape(g, rule, '"', err));
    if (from <= '\\' && '\\' <= to) ML_TRY(add_escape(g, rule, '\\', err));
    return ML_OK;
}

ml_status ml_characters_compile(ml_grammar *g, const ml_code_range *range, size_t n, ml_symbol *out, ml_error *err)
{
    ML_TRY(ml_grammar_rule(g, out, err));
    for (size_t i = 0; i < n; i++) {
        ML_TRY(add_plain(g, *out, range[i].from, range[i].to, err));
        ML_TRY(add_escapes(g, *out, range[i].from, range[i].to, err));
    }
    return ML_OK;
}
