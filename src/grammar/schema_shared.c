/* What JSON is made of, as rules that all schemas share. */
#include "grammar/schema_internal.h"

ml_status ml_schema_add_empty(ml_compiler *c, int32_t rule)
{
    return ml_grammar_add(c->g, rule, NULL, 0, c->err);
}

/* ---- what JSON is made of ---- */

ml_status ml_schema_repeat(ml_compiler *c, ml_symbol one, int64_t fewest, int64_t most, ml_symbol *out)
{
    int32_t rest, next;
    ML_TRY(RULE(c, &rest));
    ML_TRY(ml_schema_add_empty(c, rest));
    if (most < 0) ML_TRY(ADD(c, rest, one, rest));
    for (int64_t i = most < 0 ? fewest : most; i > 0; i--) {
        ML_TRY(RULE(c, &next));
        ML_TRY(ADD(c, next, one, rest));
        if (i > fewest) ML_TRY(ml_schema_add_empty(c, next));
        rest = next;
    }
    *out = rest;
    return ML_OK;
}

/* A character of a string: whole UTF-8 sequences only (RFC 3629), and escapes that are no surrogates. */
static ml_status make_letter(ml_compiler *c)
{
    ml_symbol plain, slash, simple, u, hex, not_d, d, low, tail, two, e0, e0_tail, three, ed, ed_tail, f0, f0_tail,
        four, f4, f4_tail;
    ML_TRY(CLASS(c, "\x20\x21\x23\x5b\x5d\x7f", &plain));
    ML_TRY(CLASS(c, "\\\\", &slash));
    ML_TRY(CLASS(c, "\"\"\\\\//bbffnnrrtt", &simple));
    ML_TRY(CLASS(c, "uu", &u));
    ML_TRY(CLASS(c, "09afAF", &hex));
    ML_TRY(CLASS(c, "09acefACEF", &not_d));
    ML_TRY(CLASS(c, "ddDD", &d));
    ML_TRY(CLASS(c, "07", &low));
    ML_TRY(CLASS(c, "\x80\xbf", &tail));
    ML_TRY(CLASS(c, "\xc2\xdf", &two));
    ML_TRY(CLASS(c, "\xe0\xe0", &e0));
    ML_TRY(CLASS(c, "\xa0\xbf", &e0_tail));
    ML_TRY(CLASS(c, "\xe1\xec\xee\xef", &three));
    ML_TRY(CLASS(c, "\xed\xed", &ed));
    ML_TRY(CLASS(c, "\x80\x9f", &ed_tail));
    ML_TRY(CLASS(c, "\xf0\xf0", &f0));
    ML_TRY(CLASS(c, "\x90\xbf", &f0_tail));
    ML_TRY(CLASS(c, "\xf1\xf3", &four));
    ML_TRY(CLASS(c, "\xf4\xf4", &f4));
    ML_TRY(CLASS(c, "\x80\x8f", &f4_tail));
    ML_TRY(RULE(c, &c->letter));
    ML_TRY(ADD(c, c->letter, plain));
    ML_TRY(ADD(c, c->letter, slash, simple));
    ML_TRY(ADD(c, c->letter, slash, u, not_d, hex, hex, hex));
    ML_TRY(ADD(c, c->letter, slash, u, d, low, hex, hex));
    ML_TRY(ADD(c, c->letter, two, tail));
    ML_TRY(ADD(c, c->letter, e0, e0_tail, tail));
    ML_TRY(ADD(c, c->letter, three, tail, tail));
    ML_TRY(ADD(c, c->letter, ed, ed_tail, tail));
    ML_TRY(ADD(c, c->letter, f0, f0_tail, tail, tail));
    ML_TRY(ADD(c, c->letter, four, tail, tail, tail));
    return ADD(c, c->letter, f4, f4_tail, tail, tail);
}

static ml_status make_string(ml_compiler *c, int64_t fewest, int64_t most, ml_symbol *out)
{
    ml_symbol letters;
    ML_TRY(ml_schema_repeat(c, c->letter, fewest, most, &letters));
    ML_TRY(RULE(c, out));
    return ADD(c, *out, c->quote, letters, c->quote);
}

static ml_status make_numbers(ml_compiler *c)
{
    ml_symbol sign, zero, first, digit, digits, whole, fraction, e, either, exponent;
    ML_TRY(CLASS(c, "--", &c->minus));
    ML_TRY(RULE(c, &sign));
    ML_TRY(ADD(c, sign, c->minus));
    ML_TRY(ml_schema_add_empty(c, sign));
    for (int i = 0; i < 10; i++) {
        const char one[2] = { (char)('0' + i), (char)('0' + i) };
        ML_TRY(ml_grammar_class(c->g, one, 1, &c->digit[i], c->err));
    }
    ML_TRY(CLASS(c, "00", &zero));
    ML_TRY(CLASS(c, "19", &first));
    ML_TRY(CLASS(c, "09", &digit));
    ML_TRY(ml_schema_repeat(c, digit, 0, ML_SCHEMA_DIGITS - 1, &digits));
    ML_TRY(RULE(c, &whole));
    ML_TRY(ADD(c, whole, zero));
    ML_TRY(ADD(c, whole, first, digits));
    ML_TRY(RULE(c, &c->integer));
    ML_TRY(ADD(c, c->integer, sign, whole));
    ML_TRY(CLASS(c, "..", &c->point));
    ML_TRY(ml_schema_repeat(c, digit, 1, ML_SCHEMA_DIGITS, &digits));
    ML_TRY(RULE(c, &fraction));
    ML_TRY(ADD(c, fraction, c->point, digits));
    ML_TRY(ml_schema_add_empty(c, fraction));
    ML_TRY(CLASS(c, "eeEE", &e));
    ML_TRY(CLASS(c, "++--", &either));
    ML_TRY(ml_schema_repeat(c, digit, 1, 2, &digits));
    ML_TRY(RULE(c, &exponent));
    ML_TRY(ADD(c, exponent, e, digits));
    ML_TRY(ADD(c, exponent, e, either, digits));
    ML_TRY(ml_schema_add_empty(c, exponent));
    ML_TRY(RULE(c, &c->number));
    return ADD(c, c->number, sign, whole, fraction, exponent);
}

static ml_status make_words(ml_compiler *c)
{
    ml_symbol yes, no;
    ML_TRY(LITERAL(c, "true", &yes));
    ML_TRY(LITERAL(c, "false", &no));
    ML_TRY(LITERAL(c, "null", &c->null));
    ML_TRY(RULE(c, &c->boolean));
    ML_TRY(ADD(c, c->boolean, yes));
    return ADD(c, c->boolean, no);
}

/* A mark, and maybe a space behind it. */
static ml_status make_mark(ml_compiler *c, const char *mark, ml_symbol *out)
{
    ml_symbol text, space;
    ML_TRY(LITERAL(c, mark, &text));
    ML_TRY(CLASS(c, "  ", &space));
    ML_TRY(RULE(c, out));
    ML_TRY(ADD(c, *out, text));
    return ADD(c, *out, text, space);
}

/* `open`, any number of `item` with commas between, `close`. */
static ml_status make_list(ml_compiler *c, ml_symbol open, ml_symbol item, ml_symbol close, int32_t rule)
{
    ml_symbol more, items;
    int32_t one_more;
    ML_TRY(RULE(c, &one_more));
    ML_TRY(ADD(c, one_more, c->comma, item));
    ML_TRY(ml_schema_repeat(c, one_more, 0, -1, &more));
    ML_TRY(RULE(c, &items));
    ML_TRY(ml_schema_add_empty(c, items));
    ML_TRY(ADD(c, items, item, more));
    return ADD(c, rule, open, items, close);
}

ml_status ml_schema_make_member(ml_compiler *c, ml_symbol key, ml_symbol value, ml_symbol *out)
{
    ML_TRY(RULE(c, out));
    return ADD(c, *out, key, c->colon, value);
}

static ml_status make_any(ml_compiler *c)
{
    ml_symbol member;
    ML_TRY(RULE(c, &c->any));
    ML_TRY(RULE(c, &c->any_object));
    ML_TRY(RULE(c, &c->any_array));
    ML_TRY(ml_schema_make_member(c, c->string, c->any, &member));
    ML_TRY(make_list(c, c->open_brace, member, c->close_brace, c->any_object));
    ML_TRY(make_list(c, c->open_bracket, c->any, c->close_bracket, c->any_array));
    const ml_symbol all[] = { c->string, c->number, c->boolean, c->null, c->any_object, c->any_array };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) ML_TRY(ADD(c, c->any, all[i]));
    return ML_OK;
}

ml_status ml_schema_make_shared(ml_compiler *c)
{
    ML_TRY(CLASS(c, "\"\"", &c->quote));
    ML_TRY(CLASS(c, "{{", &c->open_brace));
    ML_TRY(CLASS(c, "}}", &c->close_brace));
    ML_TRY(CLASS(c, "[[", &c->open_bracket));
    ML_TRY(CLASS(c, "]]", &c->close_bracket));
    ML_TRY(make_mark(c, ",", &c->comma));
    ML_TRY(make_mark(c, ":", &c->colon));
    ML_TRY(make_letter(c));
    ML_TRY(make_string(c, 0, -1, &c->string));
    ML_TRY(make_numbers(c));
    ML_TRY(make_words(c));
    return make_any(c);
}
