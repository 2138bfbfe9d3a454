/* JSON text -> values, or only checked.  One recursive descent for both: without an arena no node is kept. */
#include "data/value.h"

#include "token/scan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *text;
    size_t n, at;
    ml_arena *arena; /* NULL: check only */
    ml_error *err;
} parser;

/* Bytes between the quotes of a string. */
typedef struct {
    size_t begin, n_bytes;
    bool has_escape;
} string_span;

static ml_status parse_value(parser *p, int depth, ml_value *out);

static ml_status fail_here(const parser *p, const char *expected)
{
    if (p->at >= p->n) return ml_fail(p->err, ML_EFORMAT, "byte %zu: expected %s, found the end", p->n + 1, expected);
    unsigned char c = (unsigned char)p->text[p->at];
    bool shown = c > ' ' && c < 127;
    return ml_fail(p->err, ML_EFORMAT,
                   shown ? "byte %zu: expected %s, found '%c'" : "byte %zu: expected %s, found byte %d", p->at + 1,
                   expected, c);
}

static void skip_space(parser *p)
{
    while (p->at < p->n) {
        char c = p->text[p->at];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t') return;
        p->at++;
    }
}

static bool take(parser *p, char c)
{
    if (p->at == p->n || p->text[p->at] != c) return false;
    p->at++;
    return true;
}

/* ---- strings ---- */

/* Bytes of text[0..n) before the first quote, backslash, control character, or byte above 127. */
static size_t plain_prefix(const char *text, size_t n)
{
    const uint64_t ones = 0x0101010101010101u, tops = 0x8080808080808080u;
    size_t at = 0;
    for (; n - at >= 8; at += 8) {
        uint64_t x, quote, slash;
        memcpy(&x, text + at, 8);
        quote = x ^ (ones * '"');
        slash = x ^ (ones * '\\');
        /* the top bit of a byte is set where it is the one sought (and maybe above such a byte) */
        uint64_t found = ((quote - ones) & ~quote) | ((slash - ones) & ~slash) | ((x - ones * ' ') & ~x) | x;
        if (found & tops) break;
    }
    while (at < n) {
        unsigned char c = (unsigned char)text[at];
        if (c == '"' || c == '\\' || c < ' ' || c > 127) break;
        at++;
    }
    return at;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c = (char)(c | 32);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Four hexadecimal digits; -1 for others. */
static int32_t hex4(const char *text)
{
    int32_t value = 0;
    for (int i = 0; i < 4; i++) {
        int digit = hex_digit(text[i]);
        if (digit < 0) return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* At a backslash: pass over the escape. */
static ml_status check_escape(parser *p)
{
    size_t left = p->n - p->at;
    char c = left > 1 ? p->text[p->at + 1] : 0;
    if (c != 'u') {
        p->at++;
        if (c == 0 || !strchr("\"\\/bfnrt", c)) return fail_here(p, "one of \"\\/bfnrtu behind a backslash");
        p->at++;
        return ML_OK;
    }
    int32_t unit = left >= 6 ? hex4(p->text + p->at + 2) : -1;
    if (unit < 0) return fail_here(p, "\\u and four hexadecimal digits");
    if (unit < 0xd800 || unit > 0xdfff) {
        p->at += 6;
        return ML_OK;
    }
    bool pair = unit < 0xdc00 && left >= 12 && p->text[p->at + 6] == '\\' && p->text[p->at + 7] == 'u';
    int32_t low = pair ? hex4(p->text + p->at + 8) : -1;
    if (low < 0xdc00 || low > 0xdfff) return fail_here(p, "a character, not half of a surrogate pair");
    p->at += 12;
    return ML_OK;
}

static ml_status scan_string(parser *p, string_span *out)
{
    if (!take(p, '"')) return fail_here(p, "a string");
    *out = (string_span){ .begin = p->at };
    while (true) {
        p->at += plain_prefix(p->text + p->at, p->n - p->at);
        if (p->at == p->n) return fail_here(p, "the end of a string");
        unsigned char c = (unsigned char)p->text[p->at];
        if (c == '"') break;
        if (c == '\\') {
            out->has_escape = true;
            ML_TRY(check_escape(p));
        } else if (c < ' ') {
            return fail_here(p, "no control character within a string");
        } else {
            int n = ml_utf8_length((const uint8_t *)p->text + p->at, p->n - p->at);
            if (n <= 0) return fail_here(p, "UTF-8");
            p->at += (size_t)n;
        }
    }
    out->n_bytes = p->at++ - out->begin;
    return ML_OK;
}

static size_t put_utf8(char *out, uint32_t c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    int n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, c >>= 6) out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)(0xf00 >> n | c);
    return (size_t)n;
}

size_t ml_json_unescape(const char *text, size_t n_bytes, char *out)
{
    size_t n = 0, at = 0;
    while (true) {
        const char *slash = memchr(text + at, '\\', n_bytes - at);
        size_t k = slash ? (size_t)(slash - text) - at : n_bytes - at;
        if (k) memcpy(out + n, text + at, k);
        n += k;
        at += k;
        if (!slash) return n;
        char c = text[at + 1];
        at += 2;
        if (c != 'u') {
            const char *from = "bfnrt", *found = strchr(from, c);
            out[n++] = found ? "\b\f\n\r\t"[found - from] : c;
            continue;
        }
        uint32_t unit = (uint32_t)hex4(text + at);
        at += 4;
        if (unit >= 0xd800 && unit <= 0xdfff) {
            unit = 0x10000 + ((unit - 0xd800) << 10) + ((uint32_t)hex4(text + at + 2) - 0xdc00);
            at += 6;
        }
        n += put_utf8(out + n, unit);
    }
}

/* The bytes of a string, within the JSON text where there is nothing to resolve. */
static ml_status keep_string(parser *p, const string_span *span, const char **out, size_t *n_bytes)
{
    *out = p->text + span->begin;
    *n_bytes = span->n_bytes;
    if (!p->arena || !span->has_escape) return ML_OK;
    char *copy = ml_arena_alloc(p->arena, span->n_bytes);
    if (!copy) return ml_fail_memory(p->err, span->n_bytes, "a text");
    *n_bytes = ml_json_unescape(*out, span->n_bytes, copy);
    *out = copy;
    return ML_OK;
}

/* ---- numbers ---- */

static size_t skip_digits(parser *p)
{
    size_t begin = p->at;
    while (p->at < p->n && p->text[p->at] >= '0' && p->text[p->at] <= '9') p->at++;
    return p->at - begin;
}

static ml_status set_real(const parser *p, size_t begin, ml_value *out)
{
    char digits[400];
    size_t n = p->at - begin;
    if (n >= sizeof digits)
        return ml_fail(p->err, ML_EFORMAT, "byte %zu: a number of %zu characters is too long", begin + 1, n);
    memcpy(digits, p->text + begin, n);
    digits[n] = 0;
    out->kind = ML_VALUE_REAL;
    out->real = strtod(digits, NULL);
    if (isfinite(out->real)) return ML_OK;
    return ml_fail(p->err, ML_EFORMAT, "byte %zu: the number %.40s is too large", begin + 1, digits);
}

static ml_status parse_number(parser *p, ml_value *out)
{
    size_t begin = p->at;
    bool negative = take(p, '-'), is_whole = true, fits = true;
    size_t first = p->at;
    if (skip_digits(p) == 0) return fail_here(p, "a digit");
    if (p->text[first] == '0' && p->at - first > 1) {
        p->at = first + 1;
        return fail_here(p, "no digit behind a leading 0");
    }
    int64_t value = 0;
    for (size_t i = first; i < p->at && fits; i++) {
        int digit = p->text[i] - '0';
        fits = !__builtin_mul_overflow(value, 10, &value) &&
               !__builtin_add_overflow(value, negative ? -digit : digit, &value);
    }
    if (take(p, '.')) {
        is_whole = false;
        if (skip_digits(p) == 0) return fail_here(p, "a digit");
    }
    if (take(p, 'e') || take(p, 'E')) {
        is_whole = false;
        if (!take(p, '+')) take(p, '-');
        if (skip_digits(p) == 0) return fail_here(p, "a digit");
    }
    if (!is_whole || !fits) return set_real(p, begin, out);
    out->kind = ML_VALUE_INTEGER;
    out->integer = value;
    return ML_OK;
}

/* ---- structure ---- */

static ml_status parse_word(parser *p, const char *word, ml_value_kind kind, bool truth, ml_value *out)
{
    size_t n = strlen(word);
    if (p->n - p->at < n || memcmp(p->text + p->at, word, n) != 0) return fail_here(p, "a value");
    p->at += n;
    out->kind = kind;
    out->truth = truth;
    return ML_OK;
}

/* A node for the next child; *spare where nothing is kept. */
static ml_status add_child(const parser *p, ml_value *spare, ml_value **out)
{
    *out = p->arena ? ml_arena_alloc(p->arena, sizeof **out) : spare;
    if (!*out) return ml_fail_memory(p->err, sizeof **out, "a value: the record is too large");
    **out = (ml_value){ 0 };
    return ML_OK;
}

static ml_status parse_key(parser *p, ml_value *out)
{
    string_span span;
    skip_space(p);
    if (p->at == p->n || p->text[p->at] != '"') return fail_here(p, "a key in quotes");
    ML_TRY(scan_string(p, &span));
    ML_TRY(keep_string(p, &span, &out->key, &out->key_bytes));
    skip_space(p);
    return take(p, ':') ? ML_OK : fail_here(p, "':' behind a key");
}

/* Behind the bracket. */
static ml_status parse_children(parser *p, int depth, char close, ml_value *out)
{
    ml_value spare, *node;
    const ml_value **link = &out->child;
    bool is_object = close == '}';
    out->kind = is_object ? ML_VALUE_OBJECT : ML_VALUE_ARRAY;
    out->child = NULL;
    if (depth == ML_VALUE_MAX_DEPTH) {
        p->at--; /* the bracket */
        return fail_here(p, "less depth (128 brackets at most)");
    }
    skip_space(p);
    if (take(p, close)) return ML_OK;
    do {
        ML_TRY(add_child(p, &spare, &node));
        if (is_object) ML_TRY(parse_key(p, node));
        ML_TRY(parse_value(p, depth + 1, node));
        skip_space(p);
        out->n++;
        if (!p->arena) continue;
        *link = node;
        link = (const ml_value **)&node->next;
    } while (take(p, ','));
    if (take(p, close)) return ML_OK;
    return fail_here(p, is_object ? "',' or '}' behind a member" : "',' or ']' behind an element");
}

static ml_status parse_value(parser *p, int depth, ml_value *out)
{
    string_span span;
    skip_space(p);
    switch (p->at < p->n ? p->text[p->at] : 0) {
    case '{': p->at++; return parse_children(p, depth, '}', out);
    case '[': p->at++; return parse_children(p, depth, ']', out);
    case '"':
        ML_TRY(scan_string(p, &span));
        out->kind = ML_VALUE_TEXT;
        return keep_string(p, &span, &out->text, &out->n);
    case 't': return parse_word(p, "true", ML_VALUE_BOOL, true, out);
    case 'f': return parse_word(p, "false", ML_VALUE_BOOL, false, out);
    case 'n': return parse_word(p, "null", ML_VALUE_NULL, false, out);
    case '-':
    case '0':
    case '1':
    case '2':
    case '3':
    case '4':
    case '5':
    case '6':
    case '7':
    case '8':
    case '9': return parse_number(p, out);
    default: return fail_here(p, "a value");
    }
}

static ml_status parse_end(parser *p)
{
    skip_space(p);
    return p->at == p->n ? ML_OK : fail_here(p, "nothing behind the value");
}

ml_status ml_value_parse(ml_arena *arena, const char *text, size_t n_bytes, const ml_value **out, ml_error *err)
{
    parser p = { .text = text, .n = n_bytes, .arena = arena, .err = err };
    ml_value *root;
    *out = NULL;
    ML_TRY(add_child(&p, NULL, &root));
    ML_TRY(parse_value(&p, 0, root));
    ML_TRY(parse_end(&p));
    *out = root;
    return ML_OK;
}

/* ---- one member ---- */

/* Whether the key between the quotes is this one. */
static bool is_key(const parser *p, const string_span *span, const char *key, size_t n)
{
    char plain[256];
    const char *text = p->text + span->begin;
    if (!span->has_escape) return span->n_bytes == n && memcmp(text, key, n) == 0;
    return span->n_bytes <= sizeof plain && ml_json_unescape(text, span->n_bytes, plain) == n &&
           memcmp(plain, key, n) == 0;
}

static ml_status find_member(parser *p, const char *key, ml_json_member *out)
{
    size_t n = strlen(key);
    skip_space(p);
    if (take(p, '}')) return ML_OK;
    do {
        string_span span;
        ml_value ignored = { 0 };
        skip_space(p);
        if (p->at == p->n || p->text[p->at] != '"') return fail_here(p, "a key in quotes");
        ML_TRY(scan_string(p, &span));
        bool is_wanted = is_key(p, &span, key, n);
        skip_space(p);
        if (!take(p, ':')) return fail_here(p, "':' behind a key");
        skip_space(p);
        size_t begin = p->at;
        bool is_text = begin < p->n && p->text[begin] == '"';
        ML_TRY(is_text ? scan_string(p, &span) : parse_value(p, 1, &ignored));
        if (is_wanted && is_text)
            *out = (ml_json_member){ true, p->text + span.begin, true, span.n_bytes, span.has_escape };
        else if (is_wanted)
            *out = (ml_json_member){ true, p->text + begin, false, p->at - begin, false };
        skip_space(p);
    } while (take(p, ','));
    return take(p, '}') ? ML_OK : fail_here(p, "',' or '}' behind a member");
}

ml_status ml_json_find_member(const char *text, size_t n_bytes, const char *key, ml_json_member *out, ml_error *err)
{
    parser p = { .text = text, .n = n_bytes, .err = err };
    ml_value ignored = { 0 };
    *out = (ml_json_member){ 0 };
    skip_space(&p);
    if (take(&p, '{')) {
        out->is_object = true;
        ML_TRY(find_member(&p, key, out));
    } else {
        ML_TRY(parse_value(&p, 0, &ignored));
    }
    return parse_end(&p);
}
