/* JSON schemas as grammars: what the grammar makes is JSON that the schema accepts.
 *
 * Honoured (docs/api.md lists them): type, properties, required, additionalProperties, patternProperties and
 * propertyNames of maps, minProperties, maxProperties, items, prefixItems, minItems, maxItems, enum, const, minLength,
 * maxLength, pattern, format, minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf, anyOf, oneOf where it
 * is seen that its schemas exclude each other, allOf, $ref within the schema, true and false, and annotations.  Any
 * other keyword is refused by name, and so is one of these where it cannot be kept to, so that nothing that is asked
 * for goes unheeded.  Not everything that a schema accepts is made: properties come in the schema's order, those it
 * does not name are left out when it names some, numbers have up to 15 digits before and behind the point (with bounds:
 * 15 in all, and no exponent), and there is at most one space behind ':' and ','. */
#ifndef ML_GRAMMAR_SCHEMA_H
#define ML_GRAMMAR_SCHEMA_H

#include "base/json.h"
#include "grammar/grammar.h"

/* ML_EINVAL naming the keyword and where it is.  Free *g also when it fails. */
ml_status ml_schema_compile(const json_t *schema, ml_grammar *g, ml_error *err);
/* The same as one more part of a grammar, not pruned: *out makes it.  `schema` NULL: any object. */
ml_status ml_schema_add(const json_t *schema, ml_grammar *g, ml_symbol *out, ml_error *err);
/* A schema of objects: what is no object is not made. */
ml_status ml_schema_add_object(const json_t *schema, ml_grammar *g, ml_symbol *out, ml_error *err);

#endif
