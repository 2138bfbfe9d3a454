#include "token/scan.h"

#include <string.h>

/* What the patterns tell apart in ASCII.  HIGH ends every run and asks for PCRE2. */
enum { OTHER = 0, UPPER = 1, LOWER = 2, DIGIT = 4, SPACE = 8, HIGH = 16, LETTER = UPPER | LOWER };

#define HIGH_16 HIGH, HIGH, HIGH, HIGH, HIGH, HIGH, HIGH, HIGH, HIGH, HIGH, HIGH, HIGH, HIGH, HIGH, HIGH, HIGH
#define UPPER_5 UPPER, UPPER, UPPER, UPPER, UPPER
#define LOWER_5 LOWER, LOWER, LOWER, LOWER, LOWER
#define DIGIT_5 DIGIT, DIGIT, DIGIT, DIGIT, DIGIT
#define OTHER_6 0, 0, 0, 0, 0, 0
static const uint8_t class_of[256] = {
    0,       0,       0,       0,       0,       0,       0,       0,       0, SPACE, SPACE,
    SPACE,   SPACE,   SPACE,   0,       0,       OTHER_6, OTHER_6, 0,       0, 0,     0, // 0x10
    SPACE,   OTHER_6, OTHER_6, 0,       0,       0,                                      // 0x20
    DIGIT_5, DIGIT_5, OTHER_6,                                                           // 0x30
    0,       UPPER_5, UPPER_5, UPPER_5,                                                  // 0x40
    UPPER_5, UPPER_5, UPPER,   0,       0,       0,       0,       0,                    // 0x50
    0,       LOWER_5, LOWER_5, LOWER_5,                                                  // 0x60
    LOWER_5, LOWER_5, LOWER,   0,       0,       0,       0,       0,                    // 0x70
    HIGH_16, HIGH_16, HIGH_16, HIGH_16, HIGH_16, HIGH_16, HIGH_16, HIGH_16,
};

/* The first place at or behind `at` whose class is not in `classes`. */
static inline size_t run(const uint8_t *s, size_t at, size_t n, int classes)
{
    while (at < n && (class_of[s[at]] & classes)) at++;
    return at;
}

static inline size_t run_other(const uint8_t *s, size_t at, size_t n)
{
    while (at < n && class_of[s[at]] == OTHER) at++;
    return at;
}

static inline int is_high(const uint8_t *s, size_t at, size_t n)
{
    return at < n && s[at] >= 0x80;
}

/* `\s+(?!\S)|\s+` on the whitespace [at, end): all of it before the end of the text, else all but the last
 * character, which goes with what follows. */
static inline size_t space_end(size_t at, size_t end, size_t n)
{
    return end == n || end - at == 1 ? end : end - 1;
}

/* 's 't 're 've 'm 'll 'd at `at`: bytes it has, 0 for none.  `fold` is 0x20 to ignore case, 0 not to. */
static inline size_t contraction(const uint8_t *s, size_t at, size_t n, int fold)
{
    if (n - at < 2) return 0;
    int a = s[at + 1] | fold;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if (n - at < 3) return 0;
    int b = s[at + 2] | fold;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

size_t ml_scan_gpt2(const uint8_t *s, size_t at, size_t n)
{
    if (s[at] == '\'') {
        size_t k = contraction(s, at, n, 0);
        if (k) return at + k;
    }
    size_t p = at;
    if (s[at] == ' ' && at + 1 < n && class_of[s[at + 1]] != SPACE) p++;
    int c = class_of[s[p]];
    size_t end;
    if (c == HIGH) {
        return 0;
    } else if (c == OTHER) {
        end = run_other(s, p, n);
    } else {
        end = run(s, p, n, c & LETTER ? LETTER : c);
    }
    if (is_high(s, end, n)) return 0;
    return c == SPACE ? space_end(at, end, n) : end;
}

/* ` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+` where nothing before it in the pattern matched. */
static inline size_t scan_rest(const uint8_t *s, size_t at, size_t n)
{
    size_t p = at;
    if (s[at] == ' ' && at + 1 < n && class_of[s[at + 1]] == OTHER) p++;
    if (class_of[s[p]] == OTHER) {
        size_t end = run_other(s, p, n);
        if (is_high(s, end, n)) return 0;
        while (end < n && (s[end] == '\r' || s[end] == '\n')) end++;
        return end;
    }
    size_t end = run(s, at, n, SPACE);
    if (is_high(s, end, n)) return 0;
    for (size_t q = end; q > at; q--) {
        if (s[q - 1] == '\r' || s[q - 1] == '\n') return q;
    }
    return space_end(at, end, n);
}

/* `\p{N}{1,3}` */
static inline size_t scan_digits(const uint8_t *s, size_t at, size_t n)
{
    size_t most = n - at < 3 ? n : at + 3;
    size_t end = run(s, at, most, DIGIT);
    return end < most && is_high(s, end, n) ? 0 : end;
}

/* `[^\r\n\p{L}\p{N}]?` before letters: where the letters would begin. */
static inline size_t skip_prefix(const uint8_t *s, size_t at, size_t n)
{
    int c = class_of[s[at]];
    return (c & (LETTER | DIGIT)) || s[at] == '\r' || s[at] == '\n' || at + 1 >= n ? at : at + 1;
}

size_t ml_scan_gpt4(const uint8_t *s, size_t at, size_t n)
{
    if (s[at] >= 0x80) return 0;
    size_t p = skip_prefix(s, at, n);
    if (s[at] == '\'') {
        if (is_high(s, p, n)) return 0; // U+017F is an s when case is ignored
        size_t k = contraction(s, at, n, 0x20);
        if (k) return at + k;
    }
    if (is_high(s, p, n)) return 0;
    if (class_of[s[p]] & LETTER) {
        size_t end = run(s, p, n, LETTER);
        return is_high(s, end, n) ? 0 : end;
    }
    if (class_of[s[at]] == DIGIT) return scan_digits(s, at, n);
    return scan_rest(s, at, n);
}

size_t ml_scan_moonlight(const uint8_t *s, size_t at, size_t n)
{
    if (s[at] >= 0x80) return 0;
    size_t p = skip_prefix(s, at, n);
    if (is_high(s, p, n)) return 0;
    if (class_of[s[p]] & LETTER) {
        size_t end = run(s, p, n, UPPER);
        end = run(s, end, n, LOWER);
        if (end == n || s[end] < 0x80) {
            if (end == n || s[end] != '\'') return end;
            if (is_high(s, end + 1, n)) return 0; // U+017F again
            return end + contraction(s, end, n, 0x20);
        }
        return 0;
    }
    if (class_of[s[at]] == DIGIT) return scan_digits(s, at, n);
    return scan_rest(s, at, n);
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
