#include "token/scan.h"

#include "token/char_class.h"

#include <string.h>

/* [^\s\p{L}\p{N}] is what is none of these. */
enum { NOT_OTHER = ML_CHAR_LETTER | ML_CHAR_NUMBER | ML_CHAR_SPACE };

static inline unsigned class_at(const uint8_t *s, size_t at, size_t *n_bytes)
{
    if (s[at] < 0x80) {
        *n_bytes = 1;
        return ml_char_classes[0][s[at]];
    }
    return ml_char_class(ml_char_decode(s + at, n_bytes));
}

/* Where the run of characters in `classes` that begins at `at` ends. */
static inline size_t run(const uint8_t *s, size_t at, size_t n, unsigned classes)
{
    size_t n_bytes;
    while (at < n && (class_at(s, at, &n_bytes) & classes)) at += n_bytes;
    return at;
}

static inline size_t run_other(const uint8_t *s, size_t at, size_t n)
{
    size_t n_bytes;
    while (at < n && !(class_at(s, at, &n_bytes) & NOT_OTHER)) at += n_bytes;
    return at;
}

/* `\s+(?!\S)|\s+` on the whitespace that begins at `at`: all of it before the end of the text, else all but the last
 * character, which goes with what follows.  With `lines`, `\s*[\r\n]+` comes before: up to the last line end. */
static inline size_t scan_spaces(const uint8_t *s, size_t at, size_t n, int lines)
{
    size_t end = at, last = at, line = 0, n_bytes;
    while (end < n && (class_at(s, end, &n_bytes) & ML_CHAR_SPACE)) {
        if (s[end] == '\r' || s[end] == '\n') line = end + 1;
        last = end;
        end += n_bytes;
    }
    if (lines && line) return line;
    return end == n || last == at ? end : last;
}

/* 's 't 're 've 'm 'll 'd at `at`: bytes it has, 0 for none.  `fold` is 0x20 to ignore case, 0 not to. */
static inline size_t contraction(const uint8_t *s, size_t at, size_t n, int fold)
{
    if (n - at < 2) return 0;
    int a = s[at + 1] | fold;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if (n - at < 3) return 0;
    if (fold && s[at + 1] == 0xC5 && s[at + 2] == 0xBF) return 3; // U+017F is an s when case is ignored
    int b = s[at + 2] | fold;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

size_t ml_scan_gpt2(const uint8_t *s, size_t at, size_t n)
{
    if (s[at] == '\'') {
        size_t k = contraction(s, at, n, 0);
        if (k) return at + k;
    }
    size_t p = at, n_bytes;
    unsigned c = class_at(s, at, &n_bytes);
    if (s[at] == ' ' && at + 1 < n) {
        unsigned next = class_at(s, at + 1, &n_bytes);
        if (!(next & ML_CHAR_SPACE)) {
            p++;
            c = next;
        }
    }
    if (c & ML_CHAR_LETTER) return run(s, p, n, ML_CHAR_LETTER);
    if (c & ML_CHAR_NUMBER) return run(s, p, n, ML_CHAR_NUMBER);
    return c & ML_CHAR_SPACE ? scan_spaces(s, at, n, 0) : run_other(s, p, n);
}

/* `\p{N}{1,3}` */
static inline size_t scan_digits(const uint8_t *s, size_t at, size_t n)
{
    size_t n_bytes;
    for (int i = 0; i < 3 && at < n && (class_at(s, at, &n_bytes) & ML_CHAR_NUMBER); i++) at += n_bytes;
    return at;
}

/* `\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+` where nothing before it in the pattern matched; c is
 * the class of the first character. */
static inline size_t scan_rest(const uint8_t *s, size_t at, size_t n, unsigned c)
{
    if (c & ML_CHAR_NUMBER) return scan_digits(s, at, n);
    size_t p = at, n_bytes;
    if (s[at] == ' ' && at + 1 < n) {
        unsigned next = class_at(s, at + 1, &n_bytes);
        if (!(next & NOT_OTHER)) {
            p++;
            c = next;
        }
    }
    if (c & ML_CHAR_SPACE) return scan_spaces(s, at, n, 1);
    size_t end = run_other(s, p, n);
    while (end < n && (s[end] == '\r' || s[end] == '\n')) end++;
    return end;
}

/* `[^\r\n\p{L}\p{N}]?` before letters: where the letters would begin. */
static inline size_t skip_prefix(const uint8_t *s, size_t at, unsigned c, size_t n_bytes)
{
    return (c & (ML_CHAR_LETTER | ML_CHAR_NUMBER)) || s[at] == '\r' || s[at] == '\n' ? at : at + n_bytes;
}

size_t ml_scan_gpt4(const uint8_t *s, size_t at, size_t n)
{
    if (s[at] == '\'') {
        size_t k = contraction(s, at, n, 0x20);
        if (k) return at + k;
    }
    size_t n_bytes, ignored;
    unsigned c = class_at(s, at, &n_bytes);
    size_t p = skip_prefix(s, at, c, n_bytes);
    if (p < n && (class_at(s, p, &ignored) & ML_CHAR_LETTER)) return run(s, p, n, ML_CHAR_LETTER);
    return scan_rest(s, at, n, c);
}

/* Moonlight's letters: upper is [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}] without Han, lower the same with \p{Ll} for the first
 * two; what has no case is both. */
enum { BOTH = ML_CHAR_CASELESS | ML_CHAR_MARK, UPPER = ML_CHAR_UPPER | BOTH, LOWER = ML_CHAR_LOWER | BOTH };

static inline unsigned letter_at(const uint8_t *s, size_t at, size_t *n_bytes)
{
    unsigned c = class_at(s, at, n_bytes);
    return c & ML_CHAR_HAN ? 0 : c;
}

/* `upper*lower+` from `at`: its end, or 0.  Where upper* leaves no lower behind it, it gives back characters until the
 * last one it gave is a lower.  *upper_end is where upper* ends when it gives back nothing. */
static inline size_t scan_word(const uint8_t *s, size_t at, size_t n, size_t *upper_end)
{
    size_t p = at, both_end = 0, n_bytes;
    unsigned c;
    while (p < n && ((c = letter_at(s, p, &n_bytes)) & UPPER)) {
        p += n_bytes;
        if (c & BOTH) both_end = p;
    }
    *upper_end = p;
    if (p == n || !(letter_at(s, p, &n_bytes) & LOWER)) return both_end;
    while (p < n && (letter_at(s, p, &n_bytes) & LOWER)) p += n_bytes;
    return p;
}

size_t ml_scan_moonlight(const uint8_t *s, size_t at, size_t n)
{
    size_t n_bytes, upper_end;
    unsigned c = class_at(s, at, &n_bytes);
    if (c & ML_CHAR_HAN) return run(s, at, n, ML_CHAR_HAN);
    size_t p = skip_prefix(s, at, c, n_bytes);
    size_t end = scan_word(s, p, n, &upper_end);
    if (!end && p > at && (c & ML_CHAR_MARK)) {
        size_t ignored;
        end = scan_word(s, at, n, &ignored); // a mark that is no prefix is a letter
    }
    if (!end && upper_end > p) end = upper_end;
    if (end) return end < n && s[end] == '\'' ? end + contraction(s, end, n, 0x20) : end;
    return scan_rest(s, at, n, c);
}

int ml_utf8_length(const uint8_t *p, size_t n)
{
    uint8_t c = p[0];
    if (c < 0x80) return 1;
    if (c < 0xC2 || c > 0xF4) return 0;
    int length = c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
    /* The second byte is narrower after these: no overlong forms, no surrogates, nothing above U+10FFFF. */
    uint8_t low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
    uint8_t high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    for (int i = 1; i < length; i++) {
        if ((size_t)i >= n) return -1;
        if (p[i] < low || p[i] > high) return 0;
        low = 0x80;
        high = 0xBF;
    }
    return length;
}

size_t ml_utf8_valid_prefix(const uint8_t *text, size_t n)
{
    size_t at = 0;
    while (at < n) {
        uint64_t eight;
        while (n - at >= sizeof eight) {
            memcpy(&eight, text + at, sizeof eight);
            if (eight & 0x8080808080808080u) break;
            at += sizeof eight;
        }
        if (at == n) break;
        int length = ml_utf8_length(text + at, n - at);
        if (length <= 0) break;
        at += (size_t)length;
    }
    return at;
}
