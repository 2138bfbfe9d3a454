/* Context-free grammars over bytes, and over marks: special tokens, which no text can be (constraint.h says which).
 *
 * A rule has alternatives; an alternative is a sequence of symbols, each a rule or a class of bytes.  All lie in one
 * array, an alternative ended by ML_SYMBOL_END, so that a place in it says what is still to come. */
#ifndef ML_GRAMMAR_GRAMMAR_H
#define ML_GRAMMAR_GRAMMAR_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

/* >= 0: a rule; ML_SYMBOL_END; else ml_symbol_class(i) */
typedef int32_t ml_symbol;
enum { ML_SYMBOL_END = INT32_MIN };

static inline ml_symbol ml_symbol_class(int32_t i)
{
    return -1 - i;
}

/* What is read: bytes 0..255, then marks. */
enum { ML_FIRST_MARK = 256, ML_MOST_MARKS = 16, ML_N_UNIT = ML_FIRST_MARK + ML_MOST_MARKS };

typedef struct {
    uint64_t bit[(ML_N_UNIT + 63) / 64];
} ml_byte_class;

static inline bool ml_byte_class_has(const ml_byte_class *c, int32_t unit)
{
    return c->bit[unit >> 6] >> (unit & 63) & 1;
}

typedef struct {
    int32_t first; /* alternative, -1: none */
} ml_rule;

typedef struct {
    int32_t place, next; /* of its first symbol; next alternative of the rule, -1: none */
} ml_alternative;

/* Start zeroed. */
typedef struct {
    ml_symbol *symbol;
    ml_rule *rule;
    ml_alternative *alternative;
    ml_byte_class *byte_class;
    size_t n_symbol, n_rule, n_alternative, n_class;
    size_t symbol_room, rule_room, alternative_room, class_room;
    int32_t root;
    int64_t work; /* spent on making it */
} ml_grammar;

void ml_grammar_free(ml_grammar *g);
/* Count n small steps of making it.  ML_EINVAL when they are too many: what a stranger's schema may cost is bounded. */
ml_status ml_grammar_spend(ml_grammar *g, int64_t n, ml_error *err);
/* A new rule without alternatives. */
ml_status ml_grammar_rule(ml_grammar *g, int32_t *rule, ml_error *err);
/* One more alternative.  ML_EINVAL when the grammar grows too large to be used. */
ml_status ml_grammar_add(ml_grammar *g, int32_t rule, const ml_symbol *symbol, size_t n, ml_error *err);
/* The bytes from..to of `ranges`, "azAZ" for letters; n_range pairs. */
ml_status ml_grammar_class(ml_grammar *g, const char *ranges, size_t n_range, ml_symbol *out, ml_error *err);
/* Mark i. */
ml_status ml_grammar_mark(ml_grammar *g, int i, ml_symbol *out, ml_error *err);
/* A rule that is exactly this text. */
ml_status ml_grammar_literal(ml_grammar *g, const char *text, size_t n, ml_symbol *out, ml_error *err);
/* Take out alternatives that can never come to an end.  ML_EINVAL when the root has none left. */
ml_status ml_grammar_prune(ml_grammar *g, ml_error *err);

#endif
