#include "reward/tex.h"

static size_t utf8_length(ml_span s)
{
    unsigned char lead = (unsigned char)s.at[0];
    size_t n = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
    return n < s.n ? n : s.n;
}

size_t ml_tex_letters(ml_span s)
{
    size_t n = 0;
    while (n < s.n && ml_tex_is_letter(s.at[n])) n++;
    return n;
}

size_t ml_tex_digits(ml_span s)
{
    size_t n = 0;
    while (n < s.n && ml_tex_is_digit(s.at[n])) n++;
    return n;
}

ml_span ml_tex_next(ml_span *rest)
{
    ml_span token = *rest;
    if (!rest->n) return token;
    size_t n = 1;
    if (rest->at[0] == '\\' && rest->n > 1) {
        n = 1 + ml_tex_letters(ml_span_skip(*rest, 1));
        if (n == 1) n = 1 + utf8_length(ml_span_skip(*rest, 1));
    } else {
        n = utf8_length(*rest);
    }
    token.n = n;
    *rest = ml_span_skip(*rest, n);
    return token;
}

bool ml_tex_is_command(ml_span token)
{
    return token.n > 1 && token.at[0] == '\\' && ml_tex_is_letter(token.at[1]);
}

ml_span ml_tex_trim(ml_span s)
{
    while (s.n && ml_tex_is_space(s.at[0])) s = ml_span_skip(s, 1);
    while (s.n && ml_tex_is_space(s.at[s.n - 1])) s.n--;
    return s;
}

bool ml_tex_group(ml_span s, ml_span *inner, ml_span *after)
{
    if (!s.n || s.at[0] != '{') return false;
    int depth = 0;
    for (ml_span rest = s; rest.n;) {
        ml_span token = ml_tex_next(&rest);
        if (token.at[0] == '{') depth++;
        if (token.at[0] == '}') depth--;
        if (depth) continue;
        *inner = (ml_span){ s.at + 1, (size_t)(token.at - s.at) - 1 };
        *after = rest;
        return true;
    }
    return false;
}

bool ml_tex_argument(ml_span s, ml_span *inner, ml_span *after)
{
    while (s.n && ml_tex_is_space(s.at[0])) s = ml_span_skip(s, 1);
    if (ml_tex_group(s, inner, after)) return true;
    *after = s;
    *inner = ml_tex_next(after);
    return inner->n > 0;
}

bool ml_tex_is_font(ml_span token)
{
    static const char *const fonts[] = {
        "\\text",   "\\textrm",     "\\textbf",       "\\textit",     "\\textnormal", "\\textup",
        "\\textsf", "\\mbox",       "\\hbox",         "\\mathrm",     "\\mathbf",     "\\mathit",
        "\\mathsf", "\\mathnormal", "\\operatorname", "\\ensuremath", "\\boldsymbol", "\\bm",
    };
    for (size_t i = 0; i < sizeof fonts / sizeof *fonts; i++) {
        if (ml_span_is(token, fonts[i])) return true;
    }
    return false;
}

ml_span ml_tex_next_at(ml_span *rest, int *depth)
{
    ml_span token = ml_tex_next(rest);
    char c = token.n == 1 ? token.at[0] : token.n == 2 && token.at[0] == '\\' ? token.at[1] : 0;
    if (token.n == 2 && c != '{' && c != '}') return token;
    if (c == '(' || c == '[' || c == '{') ++*depth;
    if (c == ')' || c == ']' || c == '}') --*depth;
    return token;
}

ml_builder ml_builder_begin(ml_scratch *scratch, size_t expected)
{
    ml_builder b = { .scratch = scratch, .at = ml_scratch_take(scratch, expected) };
    b.capacity = b.at ? expected : 0;
    return b;
}

void ml_builder_put(ml_builder *b, ml_span s)
{
    if (!s.n) return;
    if (s.n > b->capacity - b->n) {
        size_t capacity = 2 * b->capacity + s.n;
        char *at = ml_scratch_take(b->scratch, capacity);
        if (!at) return;
        if (b->n) memcpy(at, b->at, b->n);
        b->at = at;
        b->capacity = capacity;
    }
    memcpy(b->at + b->n, s.at, s.n);
    b->n += s.n;
    b->after_command = false;
}

void ml_builder_token(ml_builder *b, ml_span token)
{
    if (!token.n) return;
    if (b->after_command && ml_tex_is_letter(token.at[0])) ml_builder_put(b, ml_span_of(" "));
    ml_builder_put(b, token);
    b->after_command = ml_tex_is_command(token);
}
