/* Characters of a JSON string as symbols of a grammar: UTF-8, or the escape that JSON needs for them. */
#ifndef ML_GRAMMAR_CHARACTERS_H
#define ML_GRAMMAR_CHARACTERS_H

#include "grammar/grammar.h"
#include "grammar/pattern_tree.h"

/* One character of ranges [n], which ascend and lie apart; surrogates and U+0000 are left out.  *out is a rule without
 * alternatives when nothing is left. */
ml_status ml_characters_compile(ml_grammar *g, const ml_code_range *range, size_t n, ml_symbol *out, ml_error *err);

#endif
