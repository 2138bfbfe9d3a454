/* What the files of schema.h share: schema.c (which keywords a schema has), schema_merge.c (several schemas at once),
 * schema_one_of.c (which exclude each other), schema_shared.c (what JSON is made of), and one for each type. */
#ifndef ML_GRAMMAR_SCHEMA_INTERNAL_H
#define ML_GRAMMAR_SCHEMA_INTERNAL_H

#include "grammar/schema.h"

#include <string.h>

enum {
    ML_SCHEMA_DEPTH = 64,
    ML_SCHEMA_LENGTH = 10000, /* minLength, maxLength */
    ML_SCHEMA_ITEMS = 2000,   /* minItems, maxItems */
    ML_SCHEMA_DIGITS = 15     /* of numbers before the point, and behind it: doubles tell so many apart */
};

/* A schema that has a rule already: schemas may refer to themselves. */
typedef struct {
    const json_t *schema;
    int32_t rule;
} ml_schema_known;

typedef struct {
    const json_t *root;
    ml_grammar *g;
    ml_schema_known *known;
    size_t n_known, room;
    json_t *own; /* schemas that were made from several: they live as long as their addresses are known */
    int depth, n_merge;
    ml_error *err;
    /* rules that all schemas share */
    ml_symbol quote, comma, colon, open_brace, close_brace, open_bracket, close_bracket;
    ml_symbol letter, string, number, integer, boolean, null, any, any_object, any_array;
    ml_symbol minus, point, digit[10];
} ml_compiler;

#define ADD(c, rule, ...)                                                                                              \
    ml_grammar_add((c)->g, rule, (const ml_symbol[]){ __VA_ARGS__ },                                                   \
                   sizeof((const ml_symbol[]){ __VA_ARGS__ }) / sizeof(ml_symbol), (c)->err)
#define LITERAL(c, text, out) ml_grammar_literal((c)->g, text, strlen(text), out, (c)->err)
#define CLASS(c, ranges, out) ml_grammar_class((c)->g, ranges, (sizeof ranges - 1) / 2, out, (c)->err)
#define RULE(c, out) ml_grammar_rule((c)->g, out, (c)->err)

/* ---- schema_shared.c ---- */
ml_status ml_schema_make_shared(ml_compiler *c);
ml_status ml_schema_add_empty(ml_compiler *c, int32_t rule);
/* `most` of a symbol, `fewest` at least; most -1: any number. */
ml_status ml_schema_repeat(ml_compiler *c, ml_symbol one, int64_t fewest, int64_t most, ml_symbol *out);
ml_status ml_schema_make_member(ml_compiler *c, ml_symbol key, ml_symbol value, ml_symbol *out);

/* ---- schema.c ---- */
/* ML_EINVAL: "the schema's keyword KEYWORD WHY" */
ml_status ml_schema_refuse(const ml_compiler *c, const char *keyword, const char *why);
/* A whole number that the key has, of [0, most]. */
ml_status ml_schema_read_count(const ml_compiler *c, const json_t *schema, const char *key, int64_t or_value,
                               int64_t most, int64_t *out);
/* Keywords that say nothing about values. */
bool ml_schema_is_annotation(const char *keyword);
bool ml_schema_is_one_of(const char *word, const char *const *list);
/* What a $ref means. */
ml_status ml_schema_resolve(const ml_compiler *c, const json_t *ref, const json_t **out);
ml_status ml_schema_compile_any(ml_compiler *c, const json_t *schema, ml_symbol *out);

/* ---- schema_merge.c ---- */
/* What an object says of one of its properties: its own schema, or that of all others; NULL: nothing. */
const json_t *ml_schema_property_of(const json_t *schema, const char *key);
/* One schema that accepts what both accept, of which none has $ref or allOf at its top; it lives as long as c. */
ml_status ml_schema_merge(ml_compiler *c, const json_t *a, const json_t *b, json_t **out);
/* The same schema without $ref and allOf at its top. */
ml_status ml_schema_flatten(ml_compiler *c, const json_t *schema, const json_t **out);
/* The schema without one keyword; *empty: nothing is left but annotations. */
ml_status ml_schema_without(ml_compiler *c, const json_t *schema, const char *keyword, json_t **out, bool *empty);

/* ---- schema_one_of.c ---- */
/* Whether no value can be accepted by both, as far as can be seen. */
ml_status ml_schema_are_disjoint(ml_compiler *c, const json_t *a, const json_t *b, bool *disjoint);

/* ---- one file each ---- */
ml_status ml_schema_compile_array(ml_compiler *c, const json_t *schema, ml_symbol *out);
ml_status ml_schema_compile_object_type(ml_compiler *c, const json_t *schema, ml_symbol *out);
ml_status ml_schema_compile_string(ml_compiler *c, const json_t *schema, ml_symbol *out);
ml_status ml_schema_compile_number(ml_compiler *c, const json_t *schema, bool integer, ml_symbol *out);
/* Keywords of the type, NULL-terminated. */
extern const char *const ml_schema_array_keywords[], *const ml_schema_object_keywords[];
extern const char *const ml_schema_string_keywords[], *const ml_schema_number_keywords[];

#endif
