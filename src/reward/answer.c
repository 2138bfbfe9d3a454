/* Are two answers the same?  reward.h has the rules. */
#include "base/alloc.h"
#include "reward/exact/exact.h"
#include "reward/normalise.h"
#include "reward/reward.h"
#include "reward/shape.h"

enum {
    MAX_DEPTH = 4,                /* of tuples in tuples */
    MAX_WORK = 4 * ML_EXACT_WORK, /* of the exact evaluator for one answer, however many parts it has */
};

/* What a comparison works in.  Most are decided by strings, so the evaluator's memory is taken when it is first asked.
 */
typedef struct {
    ml_scratch text;
    ml_exact_space exact;
    bool out_of_memory;
} workspace;

static ml_exact_space *exact_space(workspace *w)
{
    if (!w->exact.scratch.base) {
        w->exact.scratch = (ml_scratch){ .base = ml_alloc(ML_EXACT_SCRATCH), .capacity = ML_EXACT_SCRATCH };
        w->exact.work_left = MAX_WORK;
    }
    w->out_of_memory = !w->exact.scratch.base;
    return w->out_of_memory ? NULL : &w->exact;
}

/* ---- left-hand sides ---- */

/* left = right, or left \in right (relation "\in"); no relation: left is empty. */
typedef struct {
    ml_span left, right;
    bool is_equation;
} relation;

/* Splits at the one "=" or "\in" outside brackets. */
static relation read_relation(ml_span text)
{
    relation none = { .right = text }, r = none;
    int depth = 0, n = 0;
    for (ml_span rest = text; rest.n;) {
        ml_span token = ml_tex_next_at(&rest, &depth);
        bool equals = ml_span_is(token, "=");
        if (depth || (!equals && !ml_span_is(token, "\\in"))) continue;
        r.left = ml_tex_trim((ml_span){ text.at, (size_t)(token.at - text.at) });
        r.right = ml_tex_trim(rest);
        r.is_equation = equals;
        n++;
    }
    return n == 1 && r.left.n && r.right.n ? r : none;
}

/* Does the left side only name what the right side is: x, x_1, \theta, f(x), (a, b)?  Letters, commas, parentheses
 * and indices, no more than four letters or Greek names. */
static bool is_name(ml_span left)
{
    int n_names = 0;
    for (ml_span rest = left; rest.n;) {
        ml_span token = ml_tex_next(&rest), inner, after;
        if (ml_tex_is_letter(token.at[0]) || ml_tex_is_command(token)) {
            static const char *const operators[] = { "\\frac", "\\sqrt", "\\cdot", "\\times", "\\pm", "\\binom" };
            for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
                if (ml_span_is(token, operators[i])) return false;
            }
            n_names++;
        } else if (ml_span_is(token, "_")) {
            if (!ml_tex_argument(rest, &inner, &after)) return false;
            rest = after;
        } else if (token.n != 1 || !strchr("(), '", token.at[0])) {
            return false;
        }
    }
    return n_names >= 1 && n_names <= 4;
}

/* A variable's name (x, x_1, AB), not f(x) or (a, b): two different ones cannot have meant the same. */
static bool is_variable(ml_span left)
{
    return left.n && !memchr(left.at, '(', left.n) && !memchr(left.at, ',', left.n);
}

/* An answer, or a part of one, with what it is said to be. */
typedef struct {
    ml_span text;   /* all of it */
    ml_span name;   /* "x" of "x = 3"; empty when there is none */
    ml_span body;   /* behind the name, or all */
    ml_span key;    /* body, as a string to compare */
    relation whole; /* text, as an equation */
} part;

static part read_part(ml_scratch *scratch, ml_span text)
{
    part p = { .text = text, .body = text, .whole = read_relation(text) };
    if (p.whole.left.n && is_name(p.whole.left)) {
        p.name = p.whole.left;
        p.body = p.whole.right;
    }
    p.key = ml_normalise_key(scratch, p.body, true);
    return p;
}

static bool names_differ(ml_scratch *scratch, const part *a, const part *b)
{
    if (!is_variable(a->name) || !is_variable(b->name)) return false;
    return !ml_span_equal(ml_normalise_key(scratch, a->name, false), ml_normalise_key(scratch, b->name, false));
}

/* ---- values ---- */

/* Letters and spaces alone are a word or a sequence, not a product. */
static bool is_word(ml_span key)
{
    for (size_t i = 0; i < key.n; i++) {
        if (!ml_tex_is_letter(key.at[i]) && key.at[i] != ' ') return false;
    }
    return true;
}

static bool equal_values(workspace *w, ml_span a, ml_span b)
{
    bool marks_a, marks_b;
    ml_exact_space *exact = exact_space(w);
    ml_span plain_a = ml_normalise_drop_marks(&w->text, a, &marks_a);
    ml_span plain_b = ml_normalise_drop_marks(&w->text, b, &marks_b);
    if (!exact) return false;
    if (ml_exact_compare(exact, plain_a, plain_b) == ML_EXACT_EQUAL) return true;
    return (marks_a || marks_b) && ml_exact_compare(exact, a, b) == ML_EXACT_EQUAL;
}

static bool equal_equations(workspace *w, const part *a, const part *b)
{
    ml_exact_space *exact = exact_space(w);
    if (!exact || !a->whole.is_equation || !b->whole.is_equation || (a->name.n && b->name.n)) return false;
    return ml_exact_compare_equations(exact, a->whole.left, a->whole.right, b->whole.left, b->whole.right) ==
           ML_EXACT_EQUAL;
}

static bool equal_parts(workspace *w, const part *given, const part *expected)
{
    ml_key_fraction f, g;
    if (names_differ(&w->text, given, expected)) return false;
    if (ml_span_equal(given->key, expected->key)) return given->key.n > 0;
    if (is_word(given->key) || is_word(expected->key)) return false;
    if (ml_normalise_read_fraction(given->key, &f)) {
        bool both = !f.whole.n && ml_normalise_read_fraction(expected->key, &g) && !g.whole.n;
        ml_exact_space *exact = both ? NULL : exact_space(w);
        if (!exact || !ml_exact_is_reduced(exact, f.num, f.den)) return false;
    }
    return equal_values(w, given->body, expected->body) || equal_equations(w, given, expected);
}

/* ---- shapes ---- */

static bool equal_texts(workspace *w, ml_span given, ml_span expected, int depth);

static bool equal_in_order(workspace *w, const ml_shape *given, const ml_shape *expected, int depth)
{
    for (int i = 0; i < expected->n; i++) {
        if (!equal_texts(w, given->parts[i], expected->parts[i], depth)) return false;
    }
    return true;
}

/* Every part of one side is used once.  Taking the first that fits is enough, since sameness is transitive. */
static bool equal_in_any_order(workspace *w, const ml_shape *given, const ml_shape *expected, int depth)
{
    bool used[ML_SHAPE_MAX_PARTS] = { false };
    for (int i = 0; i < expected->n; i++) {
        int k = 0;
        while (k < given->n && (used[k] || !equal_texts(w, given->parts[k], expected->parts[i], depth))) k++;
        if (k == given->n) return false;
        used[k] = true;
    }
    return true;
}

static bool equal_shapes(workspace *w, const ml_shape *given, const ml_shape *expected, int depth)
{
    if (given->kind != expected->kind || given->open != expected->open || given->close != expected->close ||
        given->n != expected->n || given->n_rows != expected->n_rows || given->too_many || expected->too_many)
        return false;
    if (ml_shape_is_ordered(expected->kind)) return equal_in_order(w, given, expected, depth + 1);
    return equal_in_any_order(w, given, expected, depth + 1);
}

/* The part of a single, without the parentheses around it. */
static part open_single(ml_scratch *scratch, part p, ml_span inside)
{
    if (inside.n == p.body.n) return p;
    if (!p.name.n) return read_part(scratch, inside);
    p.body = inside;
    p.key = ml_normalise_key(scratch, inside, true);
    return p;
}

/* Scratch memory is given back after each part, so that a long list needs no more than its longest. */
static bool equal_texts(workspace *w, ml_span given, ml_span expected, int depth)
{
    if (depth > MAX_DEPTH) return false;
    ml_scratch *scratch = &w->text;
    size_t used = scratch->used;
    bool same = false;
    part a = read_part(scratch, given), b = read_part(scratch, expected);
    ml_shape shape_a = ml_shape_read(scratch, a.body), shape_b = ml_shape_read(scratch, b.body);
    bool comparable = !scratch->full && !names_differ(scratch, &a, &b);
    if (comparable && shape_a.kind == ML_SHAPE_SINGLE && shape_b.kind == ML_SHAPE_SINGLE) {
        a = open_single(scratch, a, shape_a.parts[0]);
        b = open_single(scratch, b, shape_b.parts[0]);
        same = equal_parts(w, &a, &b);
    } else if (comparable) {
        same = equal_shapes(w, &shape_a, &shape_b, depth);
    }
    scratch->used = used;
    return same && !scratch->full;
}

static bool same_answer(workspace *w, ml_span given, ml_span expected)
{
    ml_scratch *scratch = &w->text;
    given = ml_normalise_notation(scratch, given);
    expected = ml_normalise_notation(scratch, expected);
    part a = read_part(scratch, given), b = read_part(scratch, expected);
    if (names_differ(scratch, &a, &b)) return false;
    ml_span key_a = ml_normalise_key(scratch, a.body, false), key_b = ml_normalise_key(scratch, b.body, false);
    if (!key_a.n || !key_b.n) return false;
    if (ml_span_equal(key_a, key_b)) return true;
    given = ml_normalise_words(scratch, given);
    expected = ml_normalise_words(scratch, expected);
    a = read_part(scratch, given);
    b = read_part(scratch, expected);
    if (a.key.n && ml_span_equal(a.key, b.key)) return true;
    return equal_texts(w, given, expected, 0);
}

ml_status ml_reward_same_answer(ml_span given, ml_span expected, bool *same, ml_error *err)
{
    given = ml_tex_trim(given);
    expected = ml_tex_trim(expected);
    *same = expected.n && ml_span_equal(given, expected);
    if (*same || given.n > ML_ANSWER_MAX || expected.n > ML_ANSWER_MAX) return ML_OK;
    size_t bytes = 24 * 1024 + 32 * (given.n + expected.n); /* a score of copies, and the parts of shapes */
    workspace w = { .text = { .base = ml_alloc(bytes), .capacity = bytes } };
    if (!w.text.base) return ml_fail_memory(err, bytes, "comparing two answers");
    *same = same_answer(&w, given, expected) && !w.text.full;
    ml_free(w.text.base);
    ml_free(w.exact.scratch.base);
    return w.out_of_memory ? ml_fail_memory(err, ML_EXACT_SCRATCH, "evaluating two answers") : ML_OK;
}
