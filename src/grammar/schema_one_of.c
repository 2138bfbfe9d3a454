/* oneOf: exactly one schema accepts.  Where they exclude each other that is anyOf, and only then it is honoured.
 *
 * Two schemas are seen to exclude each other when they have no type in common, no value in common of which each lists
 * its own, or, of objects, a property that one requires and the other does not allow, or that both require and whose
 * schemas exclude each other. */
#include "grammar/schema_internal.h"

enum { N_TYPE = 7, COST_OF_PAIR = 100 };

static const char *const types[N_TYPE] = { "object", "array", "string", "number", "integer", "boolean", "null" };

/* One bit a type that it may accept.  A number may be an integer. */
static unsigned type_bits(const json_t *schema)
{
    const json_t *type = json_object_get(schema, "type");
    unsigned bits = 0;
    if (json_is_false(schema)) return 0;
    if (!type) return (1u << N_TYPE) - 1;
    for (int i = 0; i < N_TYPE; i++) {
        bool has = json_is_string(type) && !strcmp(json_string_value(type), types[i]);
        for (size_t k = 0; k < json_array_size(type); k++) {
            const char *name = json_string_value(json_array_get(type, k));
            has = has || (name && !strcmp(name, types[i]));
        }
        if (has) bits |= 1u << i;
    }
    if (bits & 1u << 3) bits |= 1u << 4;
    return bits;
}

/* The values that it lists; NULL: it lists none.  A new reference. */
static json_t *listed_values(const json_t *schema)
{
    json_t *value = json_object_get(schema, "const"), *list = json_object_get(schema, "enum");
    if (value) return json_pack("[O]", value);
    return json_is_array(list) ? json_incref(list) : NULL;
}

static bool share_values(const json_t *a, const json_t *b)
{
    for (size_t i = 0; i < json_array_size(a); i++) {
        for (size_t k = 0; k < json_array_size(b); k++) {
            json_t *x = json_array_get(a, i), *y = json_array_get(b, k);
            bool numbers = json_is_number(x) && json_is_number(y); /* 1 and 1.0 are one value */
            if (numbers ? json_number_value(x) == json_number_value(y) : json_equal(x, y)) return true;
        }
    }
    return false;
}

/* Of all values that one lists, none is of a type that the other accepts. */
static bool lists_other_types(const json_t *values, unsigned bits)
{
    for (size_t i = 0; i < json_array_size(values); i++) {
        const json_t *v = json_array_get(values, i);
        unsigned kind = json_is_object(v)    ? 1u
                        : json_is_array(v)   ? 2u
                        : json_is_string(v)  ? 4u
                        : json_is_number(v)  ? 8u | 16u
                        : json_is_boolean(v) ? 32u
                                             : 64u;
        if (kind & bits) return false;
    }
    return true;
}

static bool requires(const json_t *schema, const char *key)
{
    const json_t *list = json_object_get(schema, "required");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (name && !strcmp(name, key)) return true;
    }
    return false;
}

static ml_status are_disjoint(ml_compiler *c, const json_t *a, const json_t *b, int depth, bool *disjoint);

/* Objects by a property that `a` requires. */
static ml_status differ_in_property(ml_compiler *c, const json_t *a, const json_t *b, int depth, bool *disjoint)
{
    const json_t *list = json_object_get(a, "required");
    for (size_t i = 0; i < json_array_size(list) && !*disjoint; i++) {
        const char *key = json_string_value(json_array_get(list, i));
        const json_t *mine = key ? ml_schema_property_of(a, key) : NULL,
                     *other = key ? ml_schema_property_of(b, key) : NULL;
        if (json_is_false(other)) *disjoint = !json_object_get(b, "patternProperties");
        if (mine && other && requires(b, key)) ML_TRY(are_disjoint(c, mine, other, depth + 1, disjoint));
    }
    return ML_OK;
}

static ml_status are_disjoint(ml_compiler *c, const json_t *a, const json_t *b, int depth, bool *disjoint)
{
    *disjoint = false;
    ML_TRY(ml_grammar_spend(c->g, COST_OF_PAIR, c->err));
    if (depth > 4) return ML_OK;
    ML_TRY(ml_schema_flatten(c, a, &a));
    ML_TRY(ml_schema_flatten(c, b, &b));
    unsigned bits = type_bits(a), other_bits = type_bits(b);
    json_t *values = listed_values(a), *others = listed_values(b);
    int64_t n = (int64_t)json_array_size(values), m = (int64_t)json_array_size(others);
    ml_status status = ml_grammar_spend(c->g, (n + 1) * (m + 1), c->err);
    if (status != ML_OK) goto done;
    if (!(bits & other_bits)) *disjoint = true;
    if (values && others && !share_values(values, others)) *disjoint = true;
    if (values && lists_other_types(values, other_bits)) *disjoint = true;
    if (others && lists_other_types(others, bits)) *disjoint = true;
done:
    json_decref(values);
    json_decref(others);
    ML_TRY(status);
    if (*disjoint || (bits & other_bits) != 1u) return ML_OK; /* not objects alone */
    ML_TRY(differ_in_property(c, a, b, depth, disjoint));
    return *disjoint ? ML_OK : differ_in_property(c, b, a, depth, disjoint);
}

ml_status ml_schema_are_disjoint(ml_compiler *c, const json_t *a, const json_t *b, bool *disjoint)
{
    return are_disjoint(c, a, b, 0, disjoint);
}
