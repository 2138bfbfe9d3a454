/* Where a parser stands in its text, and the steps it takes there: shared by parse.c and number.c alone. */
#ifndef ML_REWARD_EXACT_PARSER_H
#define ML_REWARD_EXACT_PARSER_H

#include "reward/exact/form.h"
#include "reward/tex.h"

typedef struct {
    ml_exact *x;
    ml_span rest;
    int depth;
    int in_bars;         /* open |: the next one closes */
    const char *run_end; /* letters before this are variables, one by one */
} ml_parser;

static inline ml_form stop(ml_parser *p)
{
    ml_exact_stop(p->x);
    return (ml_form){ 0 };
}

static inline void skip_spaces(ml_parser *p)
{
    while (p->rest.n && p->rest.at[0] == ' ') p->rest = ml_span_skip(p->rest, 1);
}

/* The next character, 0 at the end. */
static inline char peek(const ml_parser *p)
{
    return p->rest.n ? p->rest.at[0] : 0;
}

static inline char peek_second(const ml_parser *p)
{
    return p->rest.n > 1 ? p->rest.at[1] : 0;
}

static inline void advance(ml_parser *p, size_t n)
{
    p->rest = ml_span_skip(p->rest, n);
}

static inline bool accept(ml_parser *p, char c)
{
    if (peek(p) != c) return false;
    advance(p, 1);
    return true;
}

/* The name of the command that comes next, without its backslash; empty when none does. */
static inline ml_span peek_command(const ml_parser *p)
{
    if (peek(p) != '\\') return (ml_span){ 0 };
    ml_span name = ml_span_skip(p->rest, 1);
    name.n = ml_tex_letters(name);
    return name;
}

static inline bool accept_command(ml_parser *p, const char *name)
{
    if (!ml_span_is(peek_command(p), name)) return false;
    advance(p, 1 + strlen(name));
    return true;
}

/* A number at the next character, which is a digit or a point: 12, 1.5, 0.1\overline{6}; with may_mix also 1\frac{2}{3}
 * and 1 2/3 (number.c). */
ml_form ml_form_parse_number(ml_parser *p, bool may_mix);

#endif
