/* JSON schemas as grammars: what the grammar makes is JSON that the schema accepts.
 *
 * Honoured: type (also a list), properties, required, additionalProperties, items, prefixItems, minItems, maxItems,
 * enum, const, anyOf, minLength, maxLength, $ref into $defs or definitions or to "#", true and false, and annotations.
 * Any other keyword is refused by name, so that nothing that is asked for goes unheeded.  Not everything that a schema
 * accepts is made: properties come in the schema's order, those it does not name are left out when it names some,
 * numbers have up to 15 digits before and behind the point, and there is at most one space behind ':' and ','. */
#ifndef ML_GRAMMAR_SCHEMA_H
#define ML_GRAMMAR_SCHEMA_H

#include "base/json.h"
#include "grammar/grammar.h"

/* ML_EINVAL naming the keyword and where it is.  Free *g also when it fails. */
ml_status ml_schema_compile(const json_t *schema, ml_grammar *g, ml_error *err);
/* Any object. */
ml_status ml_schema_compile_object(ml_grammar *g, ml_error *err);

#endif
