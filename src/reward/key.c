/* The string that an answer is compared by. */
#include "reward/normalise.h"

ml_span ml_normalise_drop_marks(ml_scratch *scratch, ml_span text, bool *dropped)
{
    ml_builder b = ml_builder_begin(scratch, text.n + 1);
    *dropped = false;
    for (ml_span rest = text; rest.n;) {
        ml_span token = ml_tex_next(&rest);
        bool mark = ml_span_is(token, "%") || ml_span_is(token, "\\degree");
        *dropped = *dropped || mark;
        if (!mark) ml_builder_token(&b, token);
    }
    return ml_builder_end(&b);
}

/* A space means something between two digits (1 1/2) and behind a command (\pi r). */
static bool keeps_space(const ml_builder *b, ml_span rest)
{
    rest = ml_tex_trim(rest);
    if (!b->n || !rest.n) return false;
    return ml_tex_is_digit(b->at[b->n - 1]) && ml_tex_is_digit(rest.at[0]);
}

static void put_lower(ml_builder *b, ml_span token)
{
    char c = token.at[0];
    if (token.n == 1 && c >= 'A' && c <= 'Z') c = (char)(c - 'A' + 'a');
    ml_builder_token(b, token.n == 1 ? (ml_span){ &c, 1 } : token);
}

/* ^{2} and _{8} as ^2 and _8, {,} as a comma; *rest moves behind what was taken. */
static bool put_short_group(ml_builder *b, ml_span token, ml_span *rest)
{
    ml_span inner, after;
    bool script = ml_span_is(token, "^") || ml_span_is(token, "_");
    if (script && ml_tex_group(*rest, &inner, &after) && inner.n == 1) {
        ml_builder_token(b, token);
        ml_builder_token(b, inner);
        *rest = after;
        return true;
    }
    if (ml_span_is(token, "{") && rest->n > 1 && rest->at[0] == ',' && rest->at[1] == '}') {
        ml_builder_token(b, ml_span_of(","));
        *rest = ml_span_skip(*rest, 2);
        return true;
    }
    return false;
}

static ml_span without_leading_zeros(ml_span digits)
{
    while (digits.n > 1 && digits.at[0] == '0') digits = ml_span_skip(digits, 1);
    return digits;
}

/* -a/b, -\frac{a}{b} or \frac{-a}{b} for whole a and b, to one of them. */
static bool read_plain_fraction(ml_span s, ml_key_fraction *f)
{
    *f = (ml_key_fraction){ .negative = s.n && s.at[0] == '-' };
    if (f->negative) s = ml_span_skip(s, 1);
    bool command = s.n > 6 && memcmp(s.at, "\\frac{", 6) == 0;
    if (command) s = ml_span_skip(s, 6);
    if (command && s.n && s.at[0] == '-' && !f->negative) {
        f->negative = true;
        s = ml_span_skip(s, 1);
    }
    f->num = (ml_span){ s.at, ml_tex_digits(s) };
    s = ml_span_skip(s, f->num.n);
    size_t middle = command ? 2 : 1;
    if (!f->num.n || s.n <= middle || memcmp(s.at, command ? "}{" : "/", middle) != 0) return false;
    s = ml_span_skip(s, middle);
    f->den = (ml_span){ s.at, ml_tex_digits(s) };
    return f->den.n && s.n == f->den.n + command && (!command || s.at[s.n - 1] == '}');
}

static ml_span fraction_key(ml_scratch *scratch, const ml_key_fraction *f)
{
    ml_builder b = ml_builder_begin(scratch, f->num.n + f->den.n + 16);
    if (f->negative) ml_builder_put(&b, ml_span_of("-"));
    ml_builder_put(&b, ml_span_of("\\frac{"));
    ml_builder_put(&b, without_leading_zeros(f->num));
    ml_builder_put(&b, ml_span_of("}{"));
    ml_builder_put(&b, without_leading_zeros(f->den));
    ml_builder_put(&b, ml_span_of("}"));
    return ml_builder_end(&b);
}

ml_span ml_normalise_key(ml_scratch *scratch, ml_span text, bool lower)
{
    bool dropped;
    ml_builder b = ml_builder_begin(scratch, text.n + 1);
    for (ml_span rest = ml_normalise_drop_marks(scratch, text, &dropped); rest.n;) {
        ml_span token = ml_tex_next(&rest);
        if (ml_span_is(token, " ") && !keeps_space(&b, rest)) continue;
        if (ml_span_is(token, "+") && !b.n) continue;
        if (put_short_group(&b, token, &rest)) continue;
        if (lower) {
            put_lower(&b, token);
        } else {
            ml_builder_token(&b, token);
        }
    }
    ml_span key = ml_builder_end(&b);
    ml_key_fraction f;
    if (ml_span_is(key, "0.5")) return ml_span_of("\\frac{1}{2}");
    if (ml_span_is(key, "-0.5")) return ml_span_of("-\\frac{1}{2}");
    return read_plain_fraction(key, &f) ? fraction_key(scratch, &f) : key;
}

bool ml_normalise_read_fraction(ml_span key, ml_key_fraction *out)
{
    ml_span s = key;
    bool negative = s.n && s.at[0] == '-';
    if (negative) s = ml_span_skip(s, 1);
    ml_span whole = { s.at, ml_tex_digits(s) };
    s = ml_span_skip(s, whole.n);
    if (s.n && s.at[0] == ' ') { /* 1 1/2 */
        s = ml_span_skip(s, 1);
    } else if (s.n && s.at[0] == '/') {
        s = (ml_span){ whole.at, s.n + whole.n };
        whole.n = 0;
    }
    if (!read_plain_fraction(s, out)) return false;
    if (whole.n && out->negative) return false;
    out->negative = out->negative || negative;
    out->whole = whole;
    return true;
}
