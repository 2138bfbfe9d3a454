#include "grammar/pattern_tree.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_NODES = 2048, MOST_DEPTH = 64, MOST_TIMES = 10000, MOST_SET = 512 };

typedef struct {
    ml_tree *t;
    const char *text;
    size_t at;
    int depth;
    ml_error *err;
} parser;

/* A set of characters while it is read. */
typedef struct {
    ml_code_range range[MOST_SET];
    int n;
} set;

void ml_tree_free(ml_tree *t)
{
    ml_free(t->node);
    ml_free(t->range);
    *t = (ml_tree){ 0 };
}

static ml_status refuse(const parser *p, const char *what)
{
    return ml_fail(p->err, ML_EINVAL, "the pattern \"%.80s\": %s at byte %zu", p->text, what, p->at);
}

static ml_status add_node(parser *p, ml_tree_node node, int32_t *out)
{
    ml_tree *t = p->t;
    if (t->n_node >= MOST_NODES) return refuse(p, "it is too long");
    ML_TRY(ml_grow((void **)&t->node, &t->node_room, t->n_node + 1, sizeof *t->node, p->err));
    t->node[t->n_node] = node;
    *out = (int32_t)t->n_node++;
    return ML_OK;
}

/* ---- sets ---- */

static ml_status add_range(parser *p, set *s, int32_t from, int32_t to)
{
    if (s->n == MOST_SET) return refuse(p, "a class has too many parts");
    s->range[s->n++] = (ml_code_range){ from, to };
    return ML_OK;
}

static int compare(const void *a, const void *b)
{
    const ml_code_range *x = a, *y = b;
    return (x->from > y->from) - (x->from < y->from);
}

/* In order, apart. */
static void tidy(set *s)
{
    int n = 0;
    qsort(s->range, (size_t)s->n, sizeof s->range[0], compare);
    for (int i = 0; i < s->n; i++) {
        if (n && s->range[i].from <= s->range[n - 1].to + 1) {
            if (s->range[i].to > s->range[n - 1].to) s->range[n - 1].to = s->range[i].to;
        } else {
            s->range[n++] = s->range[i];
        }
    }
    s->n = n;
}

/* All others. */
static ml_status invert(parser *p, set *s)
{
    set out = { .n = 0 };
    int32_t next = 0;
    tidy(s);
    for (int i = 0; i < s->n; i++) {
        if (s->range[i].from > next) ML_TRY(add_range(p, &out, next, s->range[i].from - 1));
        next = s->range[i].to + 1;
    }
    if (next <= ML_CODE_LAST) ML_TRY(add_range(p, &out, next, ML_CODE_LAST));
    *s = out;
    return ML_OK;
}

static ml_status add_set(parser *p, set *s, int32_t *out)
{
    ml_tree *t = p->t;
    tidy(s);
    ml_tree_node node = { .kind = ML_TREE_SET, .first = (int32_t)t->n_range, .n = s->n };
    ML_TRY(ml_grow((void **)&t->range, &t->range_room, t->n_range + MOST_SET, sizeof *t->range, p->err));
    memcpy(t->range + t->n_range, s->range, (size_t)s->n * sizeof *t->range);
    t->n_range += (size_t)s->n;
    return add_node(p, node, out);
}

/* \d \w \s and their opposites; false: no such letter. */
static ml_status add_named(parser *p, char letter, set *s, bool *found)
{
    static const ml_code_range digit[] = { { '0', '9' } };
    static const ml_code_range word[] = { { '0', '9' }, { 'A', 'Z' }, { '_', '_' }, { 'a', 'z' } };
    static const ml_code_range space[] = { { 9, 13 },          { ' ', ' ' },       { 0xa0, 0xa0 },
                                           { 0x1680, 0x1680 }, { 0x2000, 0x200a }, { 0x2028, 0x2029 },
                                           { 0x202f, 0x202f }, { 0x205f, 0x205f }, { 0x3000, 0x3000 },
                                           { 0xfeff, 0xfeff } };
    set named = { .n = 0 };
    const ml_code_range *list = NULL;
    size_t n = 0;
    if (letter == 'd' || letter == 'D') list = digit, n = sizeof digit / sizeof digit[0];
    if (letter == 'w' || letter == 'W') list = word, n = sizeof word / sizeof word[0];
    if (letter == 's' || letter == 'S') list = space, n = sizeof space / sizeof space[0];
    *found = list != NULL;
    for (size_t i = 0; i < n; i++) ML_TRY(add_range(p, &named, list[i].from, list[i].to));
    if (list && letter < 'a') ML_TRY(invert(p, &named));
    for (int i = 0; i < named.n; i++) ML_TRY(add_range(p, s, named.range[i].from, named.range[i].to));
    return ML_OK;
}

/* ---- characters ---- */

static char peek(const parser *p)
{
    return p->text[p->at];
}

static bool take(parser *p, char c)
{
    if (peek(p) != c) return false;
    p->at++;
    return true;
}

/* One character of the pattern's UTF-8, which JSON has checked. */
static int32_t take_code(parser *p)
{
    unsigned char c = (unsigned char)p->text[p->at++];
    int more = c < 0xc0 ? 0 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
    int32_t code = more == 0 ? c : c & (0x3f >> more);
    for (; more > 0 && (peek(p) & 0xc0) == 0x80; more--) code = code << 6 | (p->text[p->at++] & 0x3f);
    return code <= ML_CODE_LAST ? code : ML_CODE_LAST;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* `n` hexadecimal digits, n 0: up to a closing brace. */
static ml_status take_hex(parser *p, int n, int32_t *out)
{
    int32_t code = 0;
    int i = 0;
    for (; (n == 0 || i < n) && hex_value(peek(p)) >= 0 && code <= ML_CODE_LAST; i++) {
        code = code << 4 | hex_value(p->text[p->at++]);
    }
    bool whole = n ? i == n : i > 0 && take(p, '}');
    if (!whole || code > ML_CODE_LAST) return refuse(p, "an escape is not complete");
    if (code >= 0xd800 && code <= 0xdfff) return refuse(p, "half a surrogate pair is no character");
    *out = code;
    return ML_OK;
}

/* Behind a backslash: a single character. */
static ml_status take_escape(parser *p, int32_t *out)
{
    static const char letters[] = "nrtfv", codes[] = "\n\r\t\f\v", plain[] = "^$\\.*+?()[]{}|/-";
    char c = peek(p);
    const char *found = c ? strchr(letters, c) : NULL;
    if (!c) return refuse(p, "an escape is not complete");
    p->at++;
    if (found) {
        *out = codes[found - letters];
        return ML_OK;
    }
    if (c == 'x') return take_hex(p, 2, out);
    if (c == 'u') return take_hex(p, take(p, '{') ? 0 : 4, out);
    *out = c;
    p->at--;
    if (!strchr(plain, c)) return refuse(p, "this escape cannot be honoured");
    p->at++;
    return ML_OK;
}

/* ---- classes ---- */

/* One member of a class: *single is its character, or -1 for a named set, which is added. */
static ml_status take_member(parser *p, set *s, int32_t *single)
{
    bool named;
    *single = -1;
    if (!take(p, '\\')) {
        if (!peek(p)) return refuse(p, "a class is not closed");
        *single = take_code(p);
        return ML_OK;
    }
    ML_TRY(add_named(p, peek(p), s, &named));
    if (named) {
        p->at++;
        return ML_OK;
    }
    return take_escape(p, single);
}

static ml_status take_class(parser *p, int32_t *out)
{
    set s = { .n = 0 };
    bool inverted = take(p, '^');
    while (!take(p, ']')) {
        int32_t from, to;
        ML_TRY(take_member(p, &s, &from));
        to = from;
        if (from >= 0 && peek(p) == '-' && p->text[p->at + 1] != ']' && p->text[p->at + 1]) {
            p->at++;
            ML_TRY(take_member(p, &s, &to));
            if (to < from) return refuse(p, "a range is not in order");
        }
        if (from >= 0) ML_TRY(add_range(p, &s, from, to));
    }
    if (inverted) ML_TRY(invert(p, &s));
    return add_set(p, &s, out);
}

static ml_status take_any(parser *p, int32_t *out)
{
    set s = { .n = 3, .range = { { '\n', '\n' }, { '\r', '\r' }, { 0x2028, 0x2029 } } };
    ML_TRY(invert(p, &s));
    return add_set(p, &s, out);
}

/* ---- the grammar of patterns ---- */

static ml_status take_either(parser *p, int32_t *out);

static ml_status take_group(parser *p, int32_t *out)
{
    if (take(p, '?')) {
        bool named = peek(p) == '<' && p->text[p->at + 1] != '=' && p->text[p->at + 1] != '!';
        if (named) {
            while (peek(p) && peek(p) != '>') p->at++;
        }
        if (!take(p, named ? '>' : ':')) return refuse(p, "this kind of group cannot be honoured");
    }
    if (++p->depth > MOST_DEPTH) return refuse(p, "groups are nested too deep");
    ML_TRY(take_either(p, out));
    p->depth--;
    return take(p, ')') ? ML_OK : refuse(p, "a group is not closed");
}

static ml_status take_atom(parser *p, int32_t *out)
{
    set s = { .n = 0 };
    int32_t code;
    bool named;
    if (take(p, '(')) return take_group(p, out);
    if (take(p, '[')) return take_class(p, out);
    if (take(p, '.')) return take_any(p, out);
    if (take(p, '^')) return add_node(p, (ml_tree_node){ .kind = ML_TREE_BEGIN }, out);
    if (take(p, '$')) return add_node(p, (ml_tree_node){ .kind = ML_TREE_END }, out);
    if (strchr("*+?{}]", peek(p))) return refuse(p, "a character stands where it means nothing");
    if (!take(p, '\\')) {
        code = take_code(p);
    } else {
        ML_TRY(add_named(p, peek(p), &s, &named));
        if (named) {
            p->at++;
            return add_set(p, &s, out);
        }
        ML_TRY(take_escape(p, &code));
    }
    ML_TRY(add_range(p, &s, code, code));
    return add_set(p, &s, out);
}

static ml_status take_number(parser *p, int32_t *out)
{
    size_t from = p->at;
    for (*out = 0; peek(p) >= '0' && peek(p) <= '9'; p->at++) {
        *out = *out * 10 + (peek(p) - '0');
        if (*out > MOST_TIMES) return refuse(p, "so many repetitions cannot be honoured");
    }
    return p->at > from ? ML_OK : refuse(p, "a number of repetitions is missing");
}

/* {n} {n,} {n,m} behind the brace */
static ml_status take_counts(parser *p, int32_t *fewest, int32_t *most)
{
    ML_TRY(take_number(p, fewest));
    *most = *fewest;
    if (take(p, ',')) {
        *most = -1;
        if (peek(p) != '}') ML_TRY(take_number(p, most));
    }
    if (!take(p, '}')) return refuse(p, "a number of repetitions is not closed");
    return *most >= 0 && *most < *fewest ? refuse(p, "repetitions are not in order") : ML_OK;
}

static ml_status take_repeated(parser *p, int32_t *out)
{
    ML_TRY(take_atom(p, out));
    ml_tree_node node = { .kind = ML_TREE_REPEAT, .a = *out, .fewest = 0, .most = -1 };
    if (take(p, '+')) {
        node.fewest = 1;
    } else if (take(p, '?')) {
        node.most = 1;
    } else if (take(p, '{')) {
        ML_TRY(take_counts(p, &node.fewest, &node.most));
    } else if (!take(p, '*')) {
        return ML_OK;
    }
    ml_tree_kind kind = p->t->node[node.a].kind;
    if (kind == ML_TREE_BEGIN || kind == ML_TREE_END) return refuse(p, "an end is repeated");
    take(p, '?'); /* lazy: the same texts */
    return add_node(p, node, out);
}

static ml_status take_joined(parser *p, int32_t *out)
{
    ML_TRY(add_node(p, (ml_tree_node){ .kind = ML_TREE_EMPTY }, out));
    while (peek(p) && peek(p) != '|' && peek(p) != ')') {
        ml_tree_node node = { .kind = ML_TREE_JOIN, .a = *out };
        ML_TRY(take_repeated(p, &node.b));
        ML_TRY(add_node(p, node, out));
    }
    return ML_OK;
}

static ml_status take_either(parser *p, int32_t *out)
{
    ML_TRY(take_joined(p, out));
    while (take(p, '|')) {
        ml_tree_node node = { .kind = ML_TREE_EITHER, .a = *out };
        ML_TRY(take_joined(p, &node.b));
        ML_TRY(add_node(p, node, out));
    }
    return ML_OK;
}

ml_status ml_tree_read(ml_tree *t, const char *pattern, int32_t *root, ml_error *err)
{
    parser p = { .t = t, .text = pattern, .err = err };
    ML_TRY(take_either(&p, root));
    return p.text[p.at] ? refuse(&p, "a group is closed that was not opened") : ML_OK;
}
