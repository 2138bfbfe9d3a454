#include "token/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <string.h>

/* Unicode White_Space and its complement as class contents: PCRE2's \s also takes U+180E. */
#define SPACE_SET "\\t-\\r\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NOT_SPACE_SET                                                                                                  \
    "\\x00-\\x08\\x0e-\\x1f\\x21-\\x84\\x86-\\x9f\\xa1-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}"                \
    "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"

typedef struct {
    const char *regex;
    size_t at;
    bool in_class;
    ml_chars *out;
} rewriter;

static ml_status refuse(const rewriter *w, const char *construct, const char *instead, ml_error *err)
{
    return ml_fail(err, ML_EINVAL,
                   "split pattern, offset %zu: regex engines read %s differently; write %s instead (in %s)", w->at,
                   construct, instead, w->regex);
}

static ml_status put(rewriter *w, const char *text, ml_error *err)
{
    return ml_chars_append(w->out, text, strlen(text), err);
}

/* Copy n bytes of the regex as they are. */
static ml_status copy(rewriter *w, size_t n, ml_error *err)
{
    ML_TRY(ml_chars_append(w->out, w->regex + w->at, n, err));
    w->at += n;
    return ML_OK;
}

static bool is_script(const char *name, size_t n)
{
    char test[64];
    int length = snprintf(test, sizeof test, "\\p{sc:%.*s}", (int)n, name);
    if (length < 0 || (size_t)length >= sizeof test) return false;
    int code;
    size_t offset;
    pcre2_code *compiled = pcre2_compile((PCRE2_SPTR)test, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &offset, NULL);
    pcre2_code_free(compiled);
    return compiled != NULL;
}

/* \p{Name}: PCRE2 takes a bare script name for Script_Extensions, everybody else for Script. */
static ml_status rewrite_property(rewriter *w, ml_error *err)
{
    const char *open = w->regex + w->at + 2;
    if (*open != '{') return copy(w, *open ? 3 : 2, err); // \pL
    const char *close = strchr(open, '}');
    if (!close) return ml_fail(err, ML_EINVAL, "split pattern, offset %zu: \\p{ lacks its } (in %s)", w->at, w->regex);
    const char *name = open + 1;
    if (*name == '^') name++;
    size_t n_name = (size_t)(close - name);
    if (n_name > 1 && n_name < 32 && is_script(name, n_name)) {
        ML_TRY(copy(w, (size_t)(name - w->regex) - w->at, err));
        ML_TRY(put(w, "sc:", err));
    }
    return copy(w, (size_t)(close + 1 - w->regex) - w->at, err);
}

static ml_status rewrite_escape(rewriter *w, ml_error *err)
{
    char c = w->regex[w->at + 1];
    switch (c) {
    case 0: return ml_fail(err, ML_EINVAL, "split pattern: ends in a backslash (%s)", w->regex);
    case 's': w->at += 2; return put(w, w->in_class ? SPACE_SET : "[" SPACE_SET "]", err);
    case 'S': w->at += 2; return put(w, w->in_class ? NOT_SPACE_SET : "[^" SPACE_SET "]", err);
    case 'p':
    case 'P': return rewrite_property(w, err);
    case 'w':
    case 'W': return refuse(w, "\\w", "[\\p{L}\\p{M}\\p{N}_]", err);
    case 'x': {
        const char *close = w->regex[w->at + 2] == '{' ? strchr(w->regex + w->at, '}') : NULL;
        return copy(w, close ? (size_t)(close + 1 - w->regex) - w->at : 2, err);
    }
    case 'd':
    case 'D':
    case 'n':
    case 'r':
    case 't':
    case 'f': return copy(w, 2, err);
    default: break;
    }
    char construct[3] = { '\\', c, 0 };
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (letter) return refuse(w, construct, "a character class", err);
    return copy(w, 2, err);
}

static ml_status rewrite_in_class(rewriter *w, ml_error *err)
{
    const char *p = w->regex + w->at;
    if (*p == '[') return refuse(w, "a class inside a class", "one class", err);
    if ((*p == '&' || *p == '-' || *p == '~') && p[1] == *p) return refuse(w, "set operations", "one class", err);
    if (*p == ']') w->in_class = false;
    return copy(w, 1, err);
}

static ml_status rewrite_group(rewriter *w, ml_error *err)
{
    const char *p = w->regex + w->at;
    if (p[1] == '*') return refuse(w, "(*", "\\(*", err);
    if (p[1] != '?') return copy(w, 1, err);
    bool look_behind = p[2] == '<' && (p[3] == '=' || p[3] == '!');
    bool ignore_case = p[2] == 'i' && (p[3] == ':' || p[3] == ')');
    if (!look_behind && !ignore_case && (!p[2] || !strchr(":=!>", p[2]))) {
        return refuse(w, "this (? group", "(?:, (?i:, (?=, (?!, (?<= or (?<!", err);
    }
    return copy(w, 2, err);
}

static ml_status rewrite_next(rewriter *w, ml_error *err)
{
    const char *p = w->regex + w->at;
    if (*p == '\\') return rewrite_escape(w, err);
    if (w->in_class) return rewrite_in_class(w, err);
    switch (*p) {
    case '[':
        w->in_class = true;
        ML_TRY(copy(w, p[1] == '^' ? 2 : 1, err));
        if (w->regex[w->at] == ']') return refuse(w, "] at the beginning of a class", "\\]", err);
        return ML_OK;
    case '(': return rewrite_group(w, err);
    case '^': return refuse(w, "^", "(?<!...)", err);
    case '$': return refuse(w, "$", "(?!...)", err);
    case '}':
        if (p[1] == '+') return refuse(w, "{n,m}+", "(?>...)", err);
        return copy(w, 1, err);
    default: return copy(w, 1, err);
    }
}

ml_status ml_regex_rewrite(const char *regex, ml_chars *out, ml_error *err)
{
    rewriter w = { .regex = regex, .out = out };
    if (!*regex) return ml_fail(err, ML_EINVAL, "split pattern: is empty; use gpt2, gpt4, moonlight or a regex");
    while (regex[w.at]) ML_TRY(rewrite_next(&w, err));
    return ML_OK;
}
