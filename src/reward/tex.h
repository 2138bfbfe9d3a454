/* Reading and rebuilding LaTeX token by token.
 *
 * A token is a command (a backslash with letters, or with one other character), or one character (UTF-8 sequences
 * are kept whole).  Bytes are never trusted to be valid; a group without its end is not a group. */
#ifndef ML_REWARD_TEX_H
#define ML_REWARD_TEX_H

#include "reward/scratch.h"

static inline bool ml_tex_is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static inline bool ml_tex_is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static inline bool ml_tex_is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* Take the next token off *rest; empty at the end. */
ml_span ml_tex_next(ml_span *rest);
bool ml_tex_is_command(ml_span token); /* with letters */
/* Letters, digits at the beginning. */
size_t ml_tex_letters(ml_span s);
size_t ml_tex_digits(ml_span s);
ml_span ml_tex_trim(ml_span s);
/* s begins with '{': what it holds, up to its own '}' (\{ and \} are no braces).  *after is what follows. */
bool ml_tex_group(ml_span s, ml_span *inner, ml_span *after);
/* What an argument of a command may be: a group, else one token, spaces skipped.  False at the end of the text. */
bool ml_tex_argument(ml_span s, ml_span *inner, ml_span *after);
/* \text, \mbox, \mathrm, ...: commands whose argument is set in another font and means what it says. */
bool ml_tex_is_font(ml_span token);
/* One step over *rest: the next token; ( [ { \{ have added one to *depth, ) ] } \} taken one off. */
ml_span ml_tex_next_at(ml_span *rest, int *depth);

/* Text under construction in scratch memory; grows as needed, and quietly stops when that is full. */
typedef struct {
    ml_scratch *scratch;
    char *at;
    size_t n, capacity;
    bool after_command; /* the last token was a command of letters */
} ml_builder;

ml_builder ml_builder_begin(ml_scratch *scratch, size_t expected);
void ml_builder_put(ml_builder *b, ml_span s);
/* Put a token; where letters would run into a command's name a space keeps them apart. */
void ml_builder_token(ml_builder *b, ml_span token);
static inline ml_span ml_builder_end(const ml_builder *b)
{
    return (ml_span){ b->at, b->n };
}

#endif
