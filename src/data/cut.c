#include "data/cut.h"

#include <stdio.h>
#include <string.h>

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f';
}

bool ml_cut_is_blank(const char *text, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i++) {
        if (!is_space(text[i])) return false;
    }
    return true;
}

void ml_cut_move(ml_cutter *c)
{
    c->base += c->at;
    c->at = 0;
}

static uint64_t count_lines(const char *text, size_t begin, size_t end)
{
    uint64_t n = 0;
    const char *at = text + begin, *stop = text + end;
    while (at < stop && (at = memchr(at, '\n', (size_t)(stop - at)))) {
        n++;
        at++;
    }
    return n;
}

/* ---- documents and lines ---- */

static bool ends_document(const ml_cutter *c, const char *line, size_t n)
{
    if (c->kind == ML_CUT_LINES) return true;
    if (c->rule == ML_RULE_WHOLE) return false;
    while (n && is_space(line[n - 1])) n--;
    if (c->rule == ML_RULE_BLANK) return n == 0;
    return n == strlen(c->marker) && memcmp(line, c->marker, n) == 0;
}

/* The document at text[begin..*end) is cut where `split_at` falls into it; reading goes on there. */
static void split_document(ml_cutter *c, const char *text, size_t begin, uint64_t first_line, size_t *end)
{
    if (c->kind != ML_CUT_DOCUMENTS || c->split_at <= c->base + begin || c->split_at >= c->base + *end) return;
    size_t at = (size_t)(c->split_at - c->base);
    while (at < *end && !is_space(text[at])) at++;
    if (at == *end) return;
    c->at = *end = at;
    c->line = first_line - 1 + count_lines(text, begin, at);
}

/* Up to and over the line that ends a piece, or to the end of the file; false when that is not in the window.  The
 * piece may be empty. */
static bool next_lines(ml_cutter *c, const char *text, size_t n, bool is_last, ml_piece *piece)
{
    size_t begin = c->at, at = c->at, end = n;
    uint64_t line = c->line, first_line = line + 1;
    bool ended = false;
    while (at < n && !ended) {
        const char *newline = memchr(text + at, '\n', n - at);
        size_t stop = newline ? (size_t)(newline - text) : n;
        if (!newline && !is_last) return false;
        ended = ends_document(c, text + at, stop - at);
        if (ended) end = c->kind == ML_CUT_LINES ? stop : at;
        at = newline ? stop + 1 : stop;
        line++;
    }
    if (!ended && !is_last) return false;
    c->at = at;
    c->line = line;
    while (begin < end && is_space(text[begin])) first_line += text[begin++] == '\n';
    split_document(c, text, begin, first_line, &end);
    while (end > begin && is_space(text[end - 1])) end--;
    *piece = (ml_piece){ begin, end, first_line };
    return true;
}

static ml_cut_result next_document(ml_cutter *c, const char *text, size_t n, bool is_last, ml_piece *piece)
{
    while (c->at < n) {
        if (!next_lines(c, text, n, is_last, piece)) return ML_CUT_MORE;
        if (piece->end > piece->begin) return ML_CUT_PIECE;
    }
    return is_last ? ML_CUT_END : ML_CUT_MORE;
}

/* ---- JSON ---- */

/* At the cursor. */
static ml_status fail_json(const ml_cutter *c, const char *expected, const char *text, size_t n, ml_error *err)
{
    size_t at = c->at;
    char found[32] = "the end of the file";
    unsigned char b = at < n ? (unsigned char)text[at] : 0;
    if (at < n) snprintf(found, sizeof found, b > ' ' && b < 127 ? "'%c'" : "byte %d", b);
    return ml_fail(err, ML_EFORMAT, "line %llu: expected %s, found %s", (unsigned long long)c->line + 1, expected,
                   found);
}

static void skip_space(ml_cutter *c, const char *text, size_t n)
{
    for (; c->at < n; c->at++) {
        char b = text[c->at];
        if (b != ' ' && b != '\t' && b != '\r' && b != '\n') return;
        c->line += b == '\n';
    }
}

/* Behind the closing quote of the string that begins at `at`; 0 when it does not end in the window. */
static size_t string_end(const char *text, size_t at, size_t n)
{
    for (at++; at < n; at++) {
        const char *quote = memchr(text + at, '"', n - at);
        if (!quote) return 0;
        size_t stop = (size_t)(quote - text), k = stop;
        while (k > at && text[k - 1] == '\\') k--;
        if ((stop - k) % 2 == 0) return stop + 1;
        at = stop;
    }
    return 0;
}

/* Behind the value that begins at `at`, as far as brackets and quotes tell; 0 when it does not end in the window. */
static size_t value_end(const char *text, size_t at, size_t n, bool is_last)
{
    static const char ends[] = { ' ', '\t', '\r', '\n', ',', ']', '}', '[', '{', '"' };
    size_t depth = 0;
    do {
        char b = text[at];
        if (b == '"') {
            at = string_end(text, at, n);
            if (at == 0) return 0;
        } else if (b == '{' || b == '[') {
            depth++;
            at++;
        } else if (b == '}' || b == ']') {
            depth--;
            at++;
        } else { /* a number, a word, or what stands between values */
            do at++;
            while (at < n && !memchr(ends, text[at], sizeof ends));
            if (at == n && !is_last) return 0;
        }
    } while (depth && at < n);
    return depth ? 0 : at;
}

/* What stands between values: the brackets of the array, commas.  True when the cursor is at the begin of a value. */
static ml_status to_value(ml_cutter *c, const char *text, size_t n, bool *found, ml_error *err)
{
    for (*found = false; skip_space(c, text, n), c->at < n; c->at++) {
        char b = text[c->at];
        bool is_value = !memchr(",]}:", b, 4);
        if (c->json == ML_JSON_END)
            return fail_json(c, "nothing behind the array (is it one value a line? then name the file .jsonl)", text, n,
                             err);
        if (c->json == ML_JSON_NEXT && (b == ',' || b == ']')) {
            c->json = b == ',' ? ML_JSON_ELEMENT : ML_JSON_END;
        } else if (c->json == ML_JSON_FIRST && b == ']') {
            c->json = ML_JSON_END;
        } else if (c->json == ML_JSON_BEGIN && b == '[') {
            c->json = ML_JSON_FIRST;
        } else if (c->json == ML_JSON_NEXT) {
            return fail_json(c, "',' or ']' behind an element", text, n, err);
        } else if (!is_value) {
            return fail_json(c, "a value", text, n, err);
        } else {
            if (c->json == ML_JSON_BEGIN) c->json = ML_JSON_VALUES;
            *found = true;
            return ML_OK;
        }
    }
    return ML_OK;
}

static ml_status next_value(ml_cutter *c, const char *text, size_t n, bool is_last, ml_piece *piece,
                            ml_cut_result *result, ml_error *err)
{
    bool found;
    *result = ML_CUT_MORE;
    if (c->base == 0 && c->at == 0 && n < 3 && !is_last) return ML_OK;
    if (c->base == 0 && c->at == 0 && n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) c->at = 3; /* byte order mark */
    ML_TRY(to_value(c, text, n, &found, err));
    if (found) {
        size_t begin = c->at, end = value_end(text, begin, n, is_last);
        if (end == 0 && is_last)
            return ml_fail(err, ML_EFORMAT,
                           "line %llu: expected the end of the value that begins here, found the end of "
                           "the file",
                           (unsigned long long)c->line + 1);
        if (end == 0) return ML_OK;
        *piece = (ml_piece){ begin, end, c->line + 1 };
        *result = ML_CUT_PIECE;
        c->line += count_lines(text, begin, end);
        c->at = end;
        if (c->json != ML_JSON_VALUES) c->json = ML_JSON_NEXT;
        return ML_OK;
    }
    if (!is_last) return ML_OK;
    *result = ML_CUT_END;
    bool complete = c->json == ML_JSON_BEGIN || c->json == ML_JSON_VALUES || c->json == ML_JSON_END;
    return complete ? ML_OK : fail_json(c, "the end of the array", text, n, err);
}

ml_status ml_cut_next(ml_cutter *c, const char *text, size_t n, bool is_last, ml_piece *piece, ml_cut_result *result,
                      ml_error *err)
{
    if (c->kind == ML_CUT_JSON) return next_value(c, text, n, is_last, piece, result, err);
    *result = next_document(c, text, n, is_last, piece);
    return ML_OK;
}
