/* Pass 2: what words and commas in an answer say. */
#include "reward/normalise.h"

static char lower_of(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

static bool is_word(ml_span s, const char *word)
{
    if (s.n != strlen(word)) return false;
    for (size_t i = 0; i < s.n; i++) {
        if (lower_of(s.at[i]) != word[i]) return false;
    }
    return true;
}

static bool is_one_of(ml_span s, const char *const *words, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (is_word(s, words[i])) return true;
    }
    return false;
}

/* Also in the plural, with s or es. */
static bool is_unit(ml_span s)
{
    static const char *const units[] = {
        "inch",      "foot",   "feet",    "ft",     "yard",       "mile",       "mi",         "mm",
        "cm",        "km",     "meter",   "metre",  "millimeter", "centimeter", "centimetre", "kilometer",
        "kilometre", "acre",   "hectare", "second", "sec",        "minute",     "min",        "hour",
        "hr",        "day",    "week",    "month",  "year",       "gram",       "kg",         "kilogram",
        "ounce",     "oz",     "pound",   "lb",     "ton",        "liter",      "litre",      "gallon",
        "mph",       "dollar", "cent",    "usd",    "euro",       "unit",       "square",     "sq",
        "cubic",     "per",    "point",   "way",    "digit",      "people",     "student",    "ml",
    };
    enum { N_UNITS = sizeof units / sizeof *units };
    if (is_one_of(s, units, N_UNITS)) return true;
    if (s.n > 3 && lower_of(s.at[s.n - 1]) == 's') {
        s.n--;
        if (is_one_of(s, units, N_UNITS)) return true;
        if (lower_of(s.at[s.n - 1]) == 'e') {
            s.n--;
            return is_one_of(s, units, N_UNITS);
        }
    }
    return false;
}

/* What multiplies the number before it; 0 for other words. */
static int zeros_of(ml_span s)
{
    static const struct {
        const char *word;
        int zeros;
    } scales[] = { { "thousand", 3 }, { "million", 6 }, { "billion", 9 }, { "trillion", 12 } };
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) {
        if (is_word(s, scales[i].word)) return scales[i].zeros;
    }
    return 0;
}

/* Does the text so far end in something that can have a unit? */
static bool ends_quantity(const ml_builder *b)
{
    ml_span s = ml_tex_trim(ml_builder_end(b));
    if (!s.n) return false;
    char c = s.at[s.n - 1];
    return ml_tex_is_digit(c) || c == '}' || c == ')' || c == '%';
}

/* What may follow a unit: a power, a full stop, "/" before another unit. */
static ml_span skip_after_unit(ml_span rest)
{
    ml_span s = ml_tex_trim(rest), inner, after;
    if (s.n > 1 && s.at[0] == '^' && ml_tex_argument(ml_span_skip(s, 1), &inner, &after) && inner.n == 1 &&
        (inner.at[0] == '2' || inner.at[0] == '3'))
        return after;
    if (s.n && s.at[0] == '.') return ml_span_skip(s, 1);
    if (s.n && s.at[0] == '/') {
        ml_span next = ml_tex_trim(ml_span_skip(s, 1));
        next.n = ml_tex_letters(next);
        if (is_unit(next)) return ml_span_skip(s, 1);
    }
    return rest;
}

/* One word; *rest is what follows it. */
static void put_word(ml_builder *b, ml_span word, ml_span *rest)
{
    static const char *const times[] = { "", "", "", "*10^3", "", "", "*10^6", "", "", "*10^9", "", "", "*10^{12}" };
    int zeros = zeros_of(word);
    if (is_word(word, "or") || is_word(word, "and")) {
        ml_builder_put(b, ml_span_of(","));
    } else if (zeros && ends_quantity(b)) {
        ml_builder_put(b, ml_span_of(times[zeros]));
    } else if (is_word(word, "percent") && ends_quantity(b)) {
        ml_builder_put(b, ml_span_of("%"));
    } else if ((is_word(word, "degree") || is_word(word, "degrees")) && ends_quantity(b)) {
        ml_builder_token(b, ml_span_of("\\degree"));
    } else if (is_unit(word) && ends_quantity(b)) {
        *rest = skip_after_unit(*rest);
    } else {
        ml_builder_token(b, word);
    }
}

static ml_span read_words(ml_scratch *scratch, ml_span s)
{
    ml_builder b = ml_builder_begin(scratch, s.n + 32);
    for (ml_span rest = s; rest.n;) {
        size_t n = ml_tex_letters(rest);
        if (n > 1) {
            ml_span word = { rest.at, n };
            rest = ml_span_skip(rest, n);
            put_word(&b, word, &rest);
        } else {
            ml_builder_token(&b, ml_tex_next(&rest));
        }
    }
    return ml_tex_trim(ml_builder_end(&b));
}

/* ---- thousands ---- */

/* How many bytes at s are one group of thousands, separator and all (0: none): {,}123, ,123 or where spaces count,
 * " 123". */
static size_t thousands_group(ml_span s, bool spaces)
{
    size_t separator = 0;
    if (s.n > 3 && memcmp(s.at, "{,}", 3) == 0) separator = 3;
    if (s.n && (s.at[0] == ',' || (spaces && s.at[0] == ' '))) separator = 1;
    return separator && ml_tex_digits(ml_span_skip(s, separator)) == 3 ? separator + 3 : 0;
}

/* s begins with a digit: the bytes of a number with thousands separators there, 0 when it has none.  Inside brackets
 * or behind a comma (in_list) a plain comma may as well separate elements, unless a group begins with 0: (1,000). */
static size_t grouped_number(ml_span s, bool in_list, bool spaces)
{
    size_t n = ml_tex_digits(s), group;
    bool certain = false;
    if (n > 3 || s.at[0] == '0') return 0;
    size_t first = n;
    while ((group = thousands_group(ml_span_skip(s, n), spaces)) != 0) {
        certain = certain || group > 4 || s.at[n + 1] == '0';
        n += group;
    }
    bool goes_on = s.n - n > 1 && s.at[n] == ',' && ml_tex_is_digit(s.at[n + 1]); /* 1,234,5 */
    return n > first && (in_list ? certain : !goes_on) ? n : 0;
}

static void put_digits(ml_builder *b, ml_span s)
{
    for (size_t i = 0; i < s.n; i++) {
        if (ml_tex_is_digit(s.at[i])) ml_builder_put(b, (ml_span){ s.at + i, 1 });
    }
}

/* Depth in ( [ and \{, where commas separate; the braces of \frac{1,000}{3} do not count. */
static void count_brackets(ml_span token, int *depth)
{
    char c = token.n == 1 ? token.at[0] : 0;
    bool opens = c == '(' || c == '[' || ml_span_is(token, "\\{"), closes = c == ')' || c == ']';
    if (opens) ++*depth;
    if (closes || ml_span_is(token, "\\}")) --*depth;
}

static ml_span join_thousands(ml_scratch *scratch, ml_span s)
{
    bool spaces =
        s.n && ml_tex_is_digit(s.at[0]) && grouped_number(s, false, true) == s.n; /* 10 000 and nothing else */
    ml_builder b = ml_builder_begin(scratch, s.n + 1);
    int depth = 0;
    for (ml_span rest = s; rest.n;) {
        char before = b.n ? b.at[b.n - 1] : ' ';
        bool starts = ml_tex_is_digit(rest.at[0]) && !ml_tex_is_digit(before) && before != '.';
        size_t n = starts ? grouped_number(rest, depth > 0 || before == ',', spaces) : 0;
        if (n) {
            put_digits(&b, (ml_span){ rest.at, n });
            rest = ml_span_skip(rest, n);
            continue;
        }
        ml_span token = ml_tex_next(&rest);
        count_brackets(token, &depth);
        ml_builder_token(&b, token);
    }
    return ml_builder_end(&b);
}

ml_span ml_normalise_words(ml_scratch *scratch, ml_span notation)
{
    ml_span s = join_thousands(scratch, read_words(scratch, notation)), inner, after;
    while (ml_tex_group(s, &inner, &after) && !after.n) s = ml_tex_trim(inner);
    return s;
}
