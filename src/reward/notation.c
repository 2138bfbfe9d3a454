/* Pass 1: one notation for what LaTeX lets people write in many. */
#include "reward/normalise.h"

enum { MAX_DEPTH = 24 };

/* ---- tokens that have another spelling ---- */

static const struct {
    const char *from, *to; /* from: two bytes or more */
} spellings[] = {
    { "\\!", "" },
    { "\\,", " " },
    { "\\:", " " },
    { "\\;", " " },
    { "\\>", " " },
    { "\\ ", " " },
    { "\\\n", " " },
    { "\\quad", " " },
    { "\\qquad", " " },
    { "\\$", "" },
    { "\\(", "" },
    { "\\)", "" },
    { "\\[", "" },
    { "\\]", "" },
    { "\\%", "%" },
    { "\\big", "" },
    { "\\Big", "" },
    { "\\bigg", "" },
    { "\\Bigg", "" },
    { "\\bigl", "" },
    { "\\bigr", "" },
    { "\\Bigl", "" },
    { "\\Bigr", "" },
    { "\\biggl", "" },
    { "\\biggr", "" },
    { "\\middle", "" },
    { "\\displaystyle", "" },
    { "\\textstyle", "" },
    { "\\rm", "" },
    { "\\bf", "" },
    { "\\it", "" },
    { "\\dfrac", "\\frac" },
    { "\\tfrac", "\\frac" },
    { "\\cfrac", "\\frac" },
    { "\\dbinom", "\\binom" },
    { "\\tbinom", "\\binom" },
    { "\\leq", "\\le" },
    { "\\geq", "\\ge" },
    { "\\neq", "\\ne" },
    { "\\lbrace", "\\{" },
    { "\\rbrace", "\\}" },
    { "\\lbrack", "[" },
    { "\\rbrack", "]" },
    { "\\lparen", "(" },
    { "\\rparen", ")" },
    { "\\lvert", "|" },
    { "\\rvert", "|" },
    { "\\vert", "|" },
    { "\\varnothing", "\\emptyset" },
    { "\\lg", "\\log" },
    { "°", "\\degree" },
    { "π", "\\pi" },
    { "∞", "\\infty" },
    { "×", "\\times" },
    { "·", "\\cdot" },
    { "⋅", "\\cdot" },
    { "÷", "\\div" },
    { "−", "-" },
    { "–", "-" },
    { "±", "\\pm" },
    { "∪", "\\cup" },
    { "∈", "\\in" },
    { "≤", "\\le" },
    { "≥", "\\ge" },
    { "√", "\\sqrt" },
    { "½", "\\frac{1}{2}" },
    { "¼", "\\frac{1}{4}" },
    { "¾", "\\frac{3}{4}" },
    { "²", "^2" },
    { "³", "^3" },
    { "£", "" },
    { "€", "" },
    { "θ", "\\theta" },
    { "α", "\\alpha" },
    { "β", "\\beta" },
    { "\xc2\xa0", " " },
};

/* ^\circ, ^{\circ}, ^\degree: what follows a '^' is the degree mark; *after is behind it. */
static bool is_degree(ml_span behind_caret, ml_span *after)
{
    ml_span inner;
    if (!ml_tex_argument(behind_caret, &inner, after)) return false;
    inner = ml_tex_trim(inner);
    return ml_span_is(inner, "\\circ") || ml_span_is(inner, "\\degree");
}

/* Behind \left and \right a dot stands for no delimiter. */
static ml_span skip_empty_delimiter(ml_span rest)
{
    ml_span trimmed = ml_tex_trim(rest);
    if (!trimmed.n || trimmed.at[0] != '.') return rest;
    return ml_span_skip(rest, (size_t)(trimmed.at - rest.at) + 1);
}

static ml_span spelling_of(ml_span token)
{
    if (token.n == 1) {
        char c = token.at[0];
        if (c == '$') return ml_span_of("");
        return ml_tex_is_space(c) || c == '~' ? ml_span_of(" ") : token;
    }
    for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++) {
        if (spellings[i].from[1] == token.at[1] && ml_span_is(token, spellings[i].from))
            return ml_span_of(spellings[i].to);
    }
    return token;
}

/* One spelling for every token, at most one space in a row; ",\!" (a thousands comma for sure) becomes "{,}". */
static ml_span respell(ml_scratch *scratch, ml_span raw)
{
    ml_builder b = ml_builder_begin(scratch, raw.n + 16);
    for (ml_span rest = raw, after; rest.n;) {
        ml_span token = ml_tex_next(&rest);
        if (ml_span_is(token, "\\left") || ml_span_is(token, "\\right")) {
            rest = skip_empty_delimiter(rest);
            continue;
        }
        if (ml_span_is(token, "^") && is_degree(rest, &after)) {
            token = ml_span_of("\\degree");
            rest = after;
        }
        if (ml_span_is(token, ",") && rest.n > 1 && rest.at[0] == '\\' && rest.at[1] == '!') {
            ml_builder_token(&b, ml_span_of("{,}"));
            rest = ml_span_skip(rest, 2);
            while (rest.n && ml_tex_is_space(rest.at[0])) rest = ml_span_skip(rest, 1);
            continue;
        }
        token = spelling_of(token);
        bool space = ml_span_is(token, " ");
        if (!space || (b.n && b.at[b.n - 1] != ' ')) ml_builder_token(&b, token);
    }
    return ml_tex_trim(ml_builder_end(&b));
}

/* ---- text in fonts ---- */

/* The content of \text{...} when that is all there is, and a trailing full stop, as often as there are any. */
static ml_span strip_outside(ml_span s)
{
    for (;;) {
        ml_span rest = s, inner, after;
        ml_span token = ml_tex_next(&rest);
        if (ml_tex_is_font(token) && ml_tex_group(ml_tex_trim(rest), &inner, &after) && !after.n) {
            s = ml_tex_trim(inner);
        } else if (s.n > 1 && s.at[s.n - 1] == '.' && s.at[s.n - 2] != '.') {
            s = ml_tex_trim((ml_span){ s.at, s.n - 1 });
        } else {
            return s;
        }
    }
}

/* Is this what a unit in \text{...} looks like: words, perhaps with / and ^, that do not change the value? */
static bool is_unit_text(ml_span text)
{
    static const char *const meaning[] = { "i",    "e",    "or",       "and",     "am",      "pm",
                                           "a.m.", "p.m.", "thousand", "million", "billion", "trillion" };
    text = ml_tex_trim(text);
    if (!text.n || !ml_tex_is_letter(text.at[0])) return false;
    ml_span first = text;
    for (first.n = 0; first.n < text.n && text.at[first.n] != ' ';) first.n++;
    for (size_t i = 0; i < sizeof meaning / sizeof *meaning; i++) {
        if (ml_span_is(first, meaning[i])) return false;
    }
    for (size_t i = 0; i < text.n; i++) {
        if (!ml_tex_is_letter(text.at[i]) && !strchr(" ./^-23{}", text.at[i])) return false;
    }
    return true;
}

/* May a unit stand behind s: does s hold a digit and end in an operand? */
static bool is_quantity(ml_span s)
{
    bool digit = false;
    s = ml_tex_trim(s);
    for (size_t i = 0; i < s.n; i++) digit = digit || ml_tex_is_digit(s.at[i]);
    return digit && !strchr("+-*/=^_,({[<>", s.at[s.n - 1]);
}

/* s without a power of a unit at its end: ^2, ^{3}. */
static ml_span cut_unit_power(ml_span s)
{
    static const char *const powers[] = { "^2", "^3", "^{2}", "^{3}" };
    for (size_t i = 0; i < 4; i++) {
        size_t n = strlen(powers[i]);
        if (s.n > n && memcmp(s.at + s.n - n, powers[i], n) == 0) return ml_tex_trim((ml_span){ s.at, s.n - n });
    }
    return s;
}

/* s without a last \text{ unit }^2, or s. */
static ml_span cut_unit(ml_span s)
{
    ml_span body = cut_unit_power(s), inner, after;
    int depth = 0;
    for (ml_span rest = body; rest.n;) {
        ml_span token = ml_tex_next_at(&rest, &depth);
        if (depth || !ml_tex_is_font(token) || !ml_tex_group(ml_tex_trim(rest), &inner, &after) || after.n) continue;
        ml_span before = { body.at, (size_t)(token.at - body.at) };
        return is_quantity(before) && is_unit_text(inner) ? ml_tex_trim(before) : s;
    }
    return s;
}

static ml_span cut_units(ml_span s)
{
    for (;;) {
        ml_span shorter = cut_unit(s);
        if (shorter.n == s.n) return s;
        s = shorter;
    }
}

static void put_without_fonts(ml_builder *b, ml_span s, int depth)
{
    ml_span inner, after;
    while (s.n) {
        ml_span token = ml_tex_next(&s);
        if (ml_tex_is_font(token) && depth < MAX_DEPTH && ml_tex_group(ml_tex_trim(s), &inner, &after)) {
            put_without_fonts(b, inner, depth + 1);
            s = after;
        } else {
            ml_builder_token(b, token);
        }
    }
}

/* ---- arguments in braces ---- */

static void put_braced(ml_builder *b, ml_span s, int depth);

/* {argument}, n times; false where the text ends first. */
static bool put_arguments(ml_builder *b, ml_span *s, int n, int depth)
{
    ml_span inner, after;
    for (int i = 0; i < n; i++) {
        if (!ml_tex_argument(*s, &inner, &after)) return false;
        ml_builder_token(b, ml_span_of("{"));
        put_braced(b, ml_tex_trim(inner), depth + 1);
        ml_builder_token(b, ml_span_of("}"));
        *s = after;
    }
    return true;
}

/* [index] as it is. */
static void put_optional(ml_builder *b, ml_span *s)
{
    if (!s->n || s->at[0] != '[') return;
    const char *end = memchr(s->at, ']', s->n);
    if (!end) return;
    size_t n = (size_t)(end - s->at) + 1;
    ml_builder_put(b, (ml_span){ s->at, n });
    *s = ml_span_skip(*s, n);
}

/* \frac, \binom and \sqrt get braces around what they take, and ".5" its zero. */
static void put_braced(ml_builder *b, ml_span s, int depth)
{
    while (s.n) {
        ml_span token = ml_tex_next(&s);
        bool point = ml_span_is(token, ".") && s.n && ml_tex_is_digit(s.at[0]);
        if (point && !(b->n && ml_tex_is_digit(b->at[b->n - 1]))) ml_builder_put(b, ml_span_of("0"));
        ml_builder_token(b, token);
        if (depth >= MAX_DEPTH) continue;
        if (ml_span_is(token, "\\frac") || ml_span_is(token, "\\binom")) put_arguments(b, &s, 2, depth);
        if (ml_span_is(token, "\\sqrt")) {
            put_optional(b, &s);
            if (s.n && s.at[0] != '(') put_arguments(b, &s, 1, depth); /* sqrt(3) as people type it */
        }
    }
}

ml_span ml_normalise_notation(ml_scratch *scratch, ml_span raw)
{
    ml_span s = strip_outside(respell(scratch, raw));
    s = strip_outside(cut_units(s));
    ml_builder plain = ml_builder_begin(scratch, s.n + 16);
    put_without_fonts(&plain, s, 0);
    s = ml_tex_trim(ml_builder_end(&plain));
    ml_builder braced = ml_builder_begin(scratch, s.n + 16);
    put_braced(&braced, s, 0);
    return ml_builder_end(&braced);
}
