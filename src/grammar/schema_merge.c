/* Several schemas at once: one that accepts what all of them accept.
 *
 * Keyword by keyword: the narrower bound, the types that both have, each property by both schemas.  A property that one
 * of them does not name is what that one says of all others (additionalProperties).  What only one schema says stays;
 * where two say what cannot be said by one schema, the keyword is refused. */
#include "grammar/schema_internal.h"

#include "base/alloc.h"

enum { MOST_MERGES = 5000, MOST_STEPS = 100, COST_OF_PAIR = 20 };

static json_t *open_const(const json_t *value)
{
    return (json_t *)(uintptr_t)value; /* the library's functions take no const */
}

static ml_status keep(ml_compiler *c, json_t *made)
{
    if (!c->own) c->own = json_array();
    if (made && c->own && json_array_append_new(c->own, made) == 0) return ML_OK;
    return ml_fail_memory(c->err, 0, "a schema");
}

/* ---- bounds and types ---- */

/* `larger`: the larger number stays. */
static const json_t *narrower(const json_t *a, const json_t *b, bool larger)
{
    return (json_number_value(a) > json_number_value(b)) == larger ? a : b;
}

static bool has_type(const json_t *type, const char *name)
{
    if (json_is_string(type)) return !strcmp(json_string_value(type), name);
    for (size_t i = 0; i < json_array_size(type); i++) {
        const char *one = json_string_value(json_array_get(type, i));
        if (one && !strcmp(one, name)) return true;
    }
    return false;
}

/* Types of both: an integer is a number. */
static json_t *common_types(const json_t *a, const json_t *b)
{
    static const char *const names[] = { "object", "array", "string", "boolean", "null" };
    json_t *out = json_array();
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (has_type(a, names[i]) && has_type(b, names[i])) json_array_append_new(out, json_string(names[i]));
    }
    bool number = has_type(a, "number") && has_type(b, "number");
    bool a_whole = has_type(a, "number") || has_type(a, "integer");
    bool b_whole = has_type(b, "number") || has_type(b, "integer");
    if (number) json_array_append_new(out, json_string("number"));
    if (!number && a_whole && b_whole) json_array_append_new(out, json_string("integer"));
    return out;
}

static json_t *common_values(const json_t *a, const json_t *b)
{
    json_t *out = json_array();
    for (size_t i = 0; i < json_array_size(a); i++) {
        for (size_t k = 0; k < json_array_size(b); k++) {
            json_t *v = json_array_get(a, i);
            if (!json_equal(v, json_array_get(b, k))) continue;
            json_array_append(out, v);
            break;
        }
    }
    return out;
}

/* Texts of both lists, each once. */
static json_t *united(const json_t *a, const json_t *b)
{
    json_t *out = json_array();
    const json_t *const lists[] = { a, b };
    for (int l = 0; l < 2; l++) {
        for (size_t i = 0; i < json_array_size(lists[l]); i++) {
            json_t *v = json_array_get(lists[l], i);
            bool known = false;
            for (size_t k = 0; k < json_array_size(out); k++) known = known || json_equal(v, json_array_get(out, k));
            if (!known) json_array_append(out, v);
        }
    }
    return out;
}

/* ---- schemas inside ---- */

/* Both of two schemas, NULL standing for one that accepts all. */
static json_t *both(const json_t *a, const json_t *b)
{
    if (!a || json_is_true(a)) return b ? json_incref(open_const(b)) : json_true();
    if (!b || json_is_true(b) || a == b || json_equal(open_const(a), open_const(b))) return json_incref(open_const(a));
    if (json_is_false(a) || json_is_false(b)) return json_false();
    return json_pack("{s:[O, O]}", "allOf", a, b);
}

const json_t *ml_schema_property_of(const json_t *schema, const char *key)
{
    const json_t *found = json_object_get(json_object_get(schema, "properties"), key);
    return found ? found : json_object_get(schema, "additionalProperties");
}

static json_t *merge_properties(const json_t *a, const json_t *b)
{
    json_t *out = json_object(), *value;
    const json_t *const from[] = { json_object_get(a, "properties"), json_object_get(b, "properties") };
    const char *key;
    for (int i = 0; i < 2; i++) {
        json_object_foreach(open_const(from[i]), key, value)
        {
            if (json_object_get(out, key)) continue;
            json_object_set_new(out, key, both(ml_schema_property_of(a, key), ml_schema_property_of(b, key)));
        }
    }
    return out;
}

static const json_t *schema_of_item(const json_t *schema, size_t i)
{
    const json_t *prefix = json_object_get(schema, "prefixItems");
    return i < json_array_size(prefix) ? json_array_get(prefix, i) : json_object_get(schema, "items");
}

static json_t *merge_prefix(const json_t *a, const json_t *b)
{
    size_t n = json_array_size(json_object_get(a, "prefixItems")),
           m = json_array_size(json_object_get(b, "prefixItems"));
    json_t *out = json_array();
    for (size_t i = 0; i < n || i < m; i++) {
        json_array_append_new(out, both(schema_of_item(a, i), schema_of_item(b, i)));
    }
    return out;
}

/* Either of one list with either of the other. */
static json_t *merge_choices(const json_t *a, const json_t *b)
{
    json_t *out = json_array();
    for (size_t i = 0; i < json_array_size(a); i++) {
        for (size_t k = 0; k < json_array_size(b); k++) {
            json_array_append_new(out, both(json_array_get(a, i), json_array_get(b, k)));
        }
    }
    return out;
}

/* ---- keywords ---- */

typedef enum { KEEP_LARGER, KEEP_SMALLER, BY_TYPE, BY_VALUES, UNITE, BOTH, CHOOSE, OR } rule;

static const struct {
    const char *key;
    rule rule;
} rules[] = {
    { "minimum", KEEP_LARGER },
    { "exclusiveMinimum", KEEP_LARGER },
    { "minLength", KEEP_LARGER },
    { "minItems", KEEP_LARGER },
    { "minProperties", KEEP_LARGER },
    { "maximum", KEEP_SMALLER },
    { "exclusiveMaximum", KEEP_SMALLER },
    { "maxLength", KEEP_SMALLER },
    { "maxItems", KEEP_SMALLER },
    { "maxProperties", KEEP_SMALLER },
    { "type", BY_TYPE },
    { "enum", BY_VALUES },
    { "required", UNITE },
    { "additionalProperties", BOTH },
    { "items", BOTH },
    { "propertyNames", BOTH },
    { "anyOf", CHOOSE },
    { "uniqueItems", OR },
};

static ml_status merge_keyword(ml_compiler *c, const char *key, const json_t *a, const json_t *b, json_t **out)
{
    *out = NULL;
    int64_t n = json_is_array(a) ? (int64_t)json_array_size(a) : 1,
            m = json_is_array(b) ? (int64_t)json_array_size(b) : 1;
    ML_TRY(ml_grammar_spend(c->g, COST_OF_PAIR * (n + 1) * (m + 1), c->err));
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if (strcmp(rules[i].key, key) != 0) continue;
        bool numbers = json_is_number(a) && json_is_number(b);
        switch (rules[i].rule) {
        case KEEP_LARGER:
            if (numbers) *out = json_incref(open_const(narrower(a, b, true)));
            break;
        case KEEP_SMALLER:
            if (numbers) *out = json_incref(open_const(narrower(a, b, false)));
            break;
        case BY_TYPE: *out = common_types(a, b); break;
        case BY_VALUES:
            if (json_is_array(a) && json_is_array(b)) *out = common_values(a, b);
            break;
        case UNITE:
            if (json_is_array(a) && json_is_array(b)) *out = united(a, b);
            break;
        case BOTH: *out = both(a, b); break;
        case CHOOSE:
            if (json_is_array(a) && json_is_array(b)) *out = merge_choices(a, b);
            break;
        case OR: *out = json_is_true(a) ? json_incref(open_const(a)) : json_incref(open_const(b)); break;
        }
    }
    if (!*out && json_equal(open_const(a), open_const(b))) *out = json_incref(open_const(a));
    return *out ? ML_OK : ml_schema_refuse(c, key, "cannot be honoured twice");
}

/* const is an enum of one. */
static json_t *with_enum(const json_t *schema)
{
    json_t *out = json_copy(open_const(schema)), *value = json_object_get(out, "const");
    if (!value) return out;
    json_t *list = json_pack("[O]", value);
    json_t *old = json_object_get(out, "enum");
    json_object_set_new(out, "enum", json_is_array(old) ? common_values(list, old) : json_incref(list));
    json_object_del(out, "const");
    json_decref(list);
    return out;
}

/* Keywords that are merged together, below. */
static bool is_joint(const char *key)
{
    static const char *const joint[] = { "properties", "prefixItems", NULL };
    return ml_schema_is_one_of(key, joint);
}

static ml_status merge_objects(ml_compiler *c, const json_t *a, const json_t *b, json_t *out)
{
    const char *key;
    json_t *value, *merged;
    json_object_foreach(open_const(a), key, value)
    {
        const json_t *other = json_object_get(b, key);
        if (ml_schema_is_annotation(key) || is_joint(key)) continue;
        if (other) {
            ML_TRY(merge_keyword(c, key, value, other, &merged));
            json_object_set_new(out, key, merged);
        } else {
            json_object_set(out, key, value);
        }
    }
    json_object_foreach(open_const(b), key, value)
    {
        if (ml_schema_is_annotation(key) || is_joint(key) || json_object_get(a, key)) continue;
        json_object_set(out, key, value);
    }
    for (int i = 0; i < 2; i++) {
        static const char *const joint[] = { "properties", "prefixItems" };
        const json_t *one = json_object_get(a, joint[i]), *other = json_object_get(b, joint[i]);
        bool sound = i == 0 ? (!one || json_is_object(one)) && (!other || json_is_object(other))
                            : (!one || json_is_array(one)) && (!other || json_is_array(other));
        if (!sound) return ml_schema_refuse(c, joint[i], i == 0 ? "is no object" : "is no array");
        if (one || other) json_object_set_new(out, joint[i], i == 0 ? merge_properties(a, b) : merge_prefix(a, b));
    }
    /* What a pattern's properties are, additionalProperties does not say. */
    const json_t *patterns = json_object_get(out, "patternProperties");
    bool alone = !json_object_get(a, "properties") && !json_object_get(b, "properties") &&
                 !json_object_get(a, "additionalProperties") && !json_object_get(b, "additionalProperties");
    return patterns && !alone ? ml_schema_refuse(c, "patternProperties", "cannot be honoured here") : ML_OK;
}

ml_status ml_schema_merge(ml_compiler *c, const json_t *a, const json_t *b, json_t **out)
{
    if (++c->n_merge > MOST_MERGES) return ml_fail(c->err, ML_EINVAL, "the schema combines too many others");
    if (json_is_true(a) || json_is_true(b) || json_is_false(a) || json_is_false(b)) {
        *out = json_is_true(a) || json_is_false(b) ? json_incref(open_const(b)) : json_incref(open_const(a));
        return keep(c, *out);
    }
    if (!json_is_object(a) || !json_is_object(b)) {
        return ml_fail(c->err, ML_EINVAL, "a schema is neither an object nor true or false");
    }
    *out = json_object();
    ML_TRY(keep(c, *out));
    json_t *one = with_enum(a), *other = with_enum(b);
    ml_status status = one && other ? merge_objects(c, one, other, *out) : ml_fail_memory(c->err, 0, "a schema");
    json_decref(one);
    json_decref(other);
    return status;
}

ml_status ml_schema_without(ml_compiler *c, const json_t *schema, const char *keyword, json_t **out, bool *empty)
{
    const char *key;
    json_t *value;
    *empty = true;
    *out = json_object();
    ML_TRY(keep(c, *out));
    json_object_foreach(open_const(schema), key, value)
    {
        if (!strcmp(key, keyword) || ml_schema_is_annotation(key)) continue;
        json_object_set(*out, key, value);
        *empty = false;
    }
    return ML_OK;
}

/* ---- $ref and allOf ---- */

static ml_status flatten(ml_compiler *c, const json_t *schema, int steps, const json_t **out);

/* `rest` and all of a list. */
static ml_status flatten_all(ml_compiler *c, const json_t *rest, const json_t *list, int steps, const json_t **out)
{
    const json_t *flat;
    json_t *merged;
    if (!json_is_array(list) || !json_array_size(list)) return ml_schema_refuse(c, "allOf", "is no array of schemas");
    ML_TRY(flatten(c, rest, steps, out));
    for (size_t i = 0; i < json_array_size(list); i++) {
        ML_TRY(flatten(c, json_array_get(list, i), steps, &flat));
        ML_TRY(ml_schema_merge(c, *out, flat, &merged));
        *out = merged;
    }
    return ML_OK;
}

static ml_status flatten(ml_compiler *c, const json_t *schema, int steps, const json_t **out)
{
    const json_t *all = json_object_get(schema, "allOf"), *ref = json_object_get(schema, "$ref"), *target, *flat;
    json_t *rest, *merged;
    bool empty;
    *out = schema;
    if (!all && !ref) return ML_OK;
    if (steps >= MOST_STEPS) return ml_schema_refuse(c, ref ? "$ref" : "allOf", "comes back to itself");
    ML_TRY(ml_schema_without(c, schema, ref ? "$ref" : "allOf", &rest, &empty));
    if (!ref) return flatten_all(c, rest, all, steps + 1, out);
    ML_TRY(ml_schema_resolve(c, ref, &target));
    ML_TRY(flatten(c, target, steps + 1, out));
    if (empty) return ML_OK;
    ML_TRY(flatten(c, rest, steps + 1, &flat));
    ML_TRY(ml_schema_merge(c, *out, flat, &merged));
    *out = merged;
    return ML_OK;
}

ml_status ml_schema_flatten(ml_compiler *c, const json_t *schema, const json_t **out)
{
    return flatten(c, schema, 0, out);
}
