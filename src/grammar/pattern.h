/* Regular expressions of JSON schemas as rules of a grammar.
 *
 * A pattern is searched for (^ and $ are its ends), as ECMA-262 reads it with the flag u.  What is understood:
 *   a \. \n \t \r \f \v \xHH \uHHHH \u{H..}   . [a-z] [^a-z] \d \D \w \W \s \S
 *   () (?:) (?<name>)  |   * + ? {n} {n,} {n,m}, also lazy   ^ $
 * Anything else (\b, look-around, back references, \p) is refused, and so is what would need too many states.
 *
 *   text --(parser)--> tree --(Thompson)--> automaton of all patterns at once --(sets of states)--> one rule a set */
#ifndef ML_GRAMMAR_PATTERN_H
#define ML_GRAMMAR_PATTERN_H

#include "grammar/grammar.h"

enum { ML_PATTERN_MOST = 4 };

/* The characters between the quotes of a JSON string, escaped as need be, in which each of `pattern` [n, at most
 * ML_PATTERN_MOST] (UTF-8) is found and which are fewest..most (-1: any number) in number.  U+0000 does not come.
 * ML_EINVAL says what is not understood, and where. */
ml_status ml_pattern_compile(const char *const *pattern, size_t n, int64_t fewest, int64_t most, ml_grammar *g,
                             ml_symbol *out, ml_error *err);

#endif
