#include "reward/shape.h"

#include "reward/tex.h"

static void add_part(ml_shape *s, ml_span part)
{
    if (s->n == ML_SHAPE_MAX_PARTS) {
        s->too_many = true;
    } else {
        s->parts[s->n++] = ml_tex_trim(part);
    }
}

/* Split at a token outside brackets; without it the whole text is the one part. */
static void split(ml_shape *s, ml_span text, const char *separator)
{
    int depth = 0;
    const char *begin = text.at;
    for (ml_span rest = text; rest.n;) {
        ml_span token = ml_tex_next_at(&rest, &depth);
        if (depth || !ml_span_is(token, separator)) continue;
        add_part(s, (ml_span){ begin, (size_t)(token.at - begin) });
        begin = token.at + token.n;
    }
    add_part(s, (ml_span){ begin, (size_t)(text.at + text.n - begin) });
}

static bool has_outside(ml_span text, const char *separator)
{
    int depth = 0;
    for (ml_span rest = text; rest.n;) {
        ml_span token = ml_tex_next_at(&rest, &depth);
        if (!depth && ml_span_is(token, separator)) return true;
    }
    return false;
}

/* Is the whole text inside one pair of brackets?  Any of ( [ closes with any of ) ], as intervals do. */
static bool is_bracketed(ml_span text, ml_span *inner, char *open, char *close)
{
    int depth = 0;
    ml_span rest = text, first = ml_tex_next_at(&rest, &depth), token = first;
    if (depth != 1 || ml_span_is(first, "{")) return false;
    while (rest.n && depth) token = ml_tex_next_at(&rest, &depth);
    if (depth || rest.n) return false;
    *open = first.at[first.n - 1];
    *close = token.at[token.n - 1];
    if ((*open == '{') != (*close == '}')) return false;
    *inner = ml_tex_trim((ml_span){ first.at + first.n, (size_t)(token.at - first.at) - first.n });
    return true;
}

/* \begin{pmatrix} ... \end{pmatrix} and its kin, with nothing before or behind. */
static bool read_matrix(ml_shape *s, ml_span text)
{
    static const char *const kinds[] = { "pmatrix", "bmatrix", "matrix", "Bmatrix", "smallmatrix", "array", "vmatrix" };
    enum { N_KINDS = sizeof kinds / sizeof *kinds };
    ml_span name, rest = text, after;
    if (!ml_span_is(ml_tex_next(&rest), "\\begin") || !ml_tex_group(rest, &name, &rest)) return false;
    size_t kind = 0;
    while (kind < N_KINDS && !ml_span_is(name, kinds[kind])) kind++;
    size_t n_end = strlen("\\end{}") + name.n;
    if (kind == N_KINDS || rest.n < n_end) return false;
    if (ml_span_is(name, "array") && !ml_tex_group(rest, &after, &rest)) return false; /* its columns: {ccc} */
    if (rest.n < n_end) return false;
    ml_span body = { rest.at, rest.n - n_end }, end = ml_span_skip(rest, body.n), end_name;
    if (!ml_span_is(ml_tex_next(&end), "\\end") || !ml_tex_group(end, &end_name, &end)) return false;
    if (!ml_span_equal(name, end_name)) return false;
    body = ml_tex_trim(body);
    if (body.n > 1 && memcmp(body.at + body.n - 2, "\\\\", 2) == 0) body.n -= 2; /* a last row may be closed */
    ml_span rows[ML_SHAPE_MAX_PARTS];
    ml_shape lines = { .parts = rows };
    split(&lines, body, "\\\\");
    s->kind = ML_SHAPE_MATRIX;
    s->open = ml_span_is(name, "vmatrix") ? 'v' : 'p';
    s->n_rows = lines.n;
    s->too_many = lines.too_many;
    for (int i = 0; i < lines.n; i++) split(s, lines.parts[i], "&");
    return true;
}

/* The part with \pm once becomes two, with + and with -; more than one, or \mp, is left alone. */
static void add_both_signs(ml_scratch *scratch, ml_shape *s, ml_span part)
{
    ml_span sign = { 0 };
    int n_sign = 0;
    for (ml_span rest = part; rest.n;) {
        ml_span token = ml_tex_next(&rest);
        if (ml_span_is(token, "\\mp")) n_sign = 2;
        if (!ml_span_is(token, "\\pm")) continue;
        sign = token;
        n_sign++;
    }
    if (n_sign != 1) {
        add_part(s, part);
        return;
    }
    for (int i = 0; i < 2; i++) {
        ml_builder b = ml_builder_begin(scratch, part.n + 1);
        ml_builder_put(&b, (ml_span){ part.at, (size_t)(sign.at - part.at) });
        ml_builder_put(&b, ml_span_of(i ? "-" : "+"));
        ml_builder_put(&b, (ml_span){ sign.at + sign.n, (size_t)(part.at + part.n - sign.at) - sign.n });
        add_part(s, ml_builder_end(&b));
    }
}

static void expand_signs(ml_scratch *scratch, ml_shape *s)
{
    ml_span parts[ML_SHAPE_MAX_PARTS];
    int n = s->n;
    memcpy(parts, s->parts, (size_t)n * sizeof *parts);
    s->n = 0;
    for (int i = 0; i < n; i++) add_both_signs(scratch, s, parts[i]);
    if (s->kind == ML_SHAPE_SINGLE && s->n > 1) s->kind = ML_SHAPE_LIST;
}

ml_shape ml_shape_read(ml_scratch *scratch, ml_span text)
{
    ml_shape s = { .kind = ML_SHAPE_SINGLE, .parts = ml_scratch_take(scratch, ML_SHAPE_MAX_PARTS * sizeof *s.parts) };
    ml_span inner;
    char open, close;
    if (!s.parts) {
        s.too_many = true;
        return s;
    }
    text = ml_tex_trim(text);
    if (read_matrix(&s, text)) return s;
    if (has_outside(text, "\\cup")) {
        s.kind = ML_SHAPE_UNION;
        split(&s, text, "\\cup");
        return s;
    }
    if (has_outside(text, ",")) {
        s.kind = ML_SHAPE_LIST;
        split(&s, text, ",");
    } else if (is_bracketed(text, &inner, &open, &close)) {
        bool set = open == '{', many = has_outside(inner, ",");
        if (!set && !many && open == '(' && close == ')' && inner.n) return ml_shape_read(scratch, inner);
        if (set || many) {
            s.kind = set ? ML_SHAPE_SET : ML_SHAPE_TUPLE;
            s.open = open;
            s.close = close;
            split(&s, inner, ",");
        } else {
            add_part(&s, text);
        }
    } else {
        add_part(&s, text);
    }
    if (!ml_shape_is_ordered(s.kind)) expand_signs(scratch, &s);
    return s;
}
