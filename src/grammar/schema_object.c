#include "grammar/schema_internal.h"

#include "base/alloc.h"
#include "grammar/pattern.h"

#include <stdlib.h>

static ml_status compile_key(ml_compiler *c, const char *key, ml_symbol *out)
{
    json_t *text = json_string(key);
    char *dumped = text ? json_dumps(text, JSON_ENCODE_ANY) : NULL;
    json_decref(text);
    if (!dumped) return ml_fail_memory(c->err, 0, "a grammar");
    ml_status status = LITERAL(c, dumped, out);
    free(dumped);
    return status;
}

static bool is_required(const json_t *required, const char *key)
{
    for (size_t i = 0; i < json_array_size(required); i++) {
        if (!strcmp(json_string_value(json_array_get(required, i)), key)) return true;
    }
    return false;
}

/* All properties that may come: those that are described, then those that are only required. */
static ml_status list_properties(ml_compiler *c, const json_t *schema, json_t *out)
{
    const json_t *properties = json_object_get(schema, "properties"), *required = json_object_get(schema, "required");
    const json_t *others = json_object_get(schema, "additionalProperties");
    if (properties && !json_is_object(properties)) return ml_schema_refuse(c, "properties", "is no object");
    if (required && !json_is_array(required)) return ml_schema_refuse(c, "required", "is no array");
    json_object_update(out, (json_t *)(uintptr_t)properties);
    for (size_t i = 0; i < json_array_size(required); i++) {
        const char *key = json_string_value(json_array_get(required, i));
        if (!key) return ml_schema_refuse(c, "required", "holds what is no text");
        if (json_object_get(out, key)) continue;
        json_object_set_new(out, key, others ? json_incref((json_t *)(uintptr_t)others) : json_true());
    }
    return ML_OK;
}

/* From the last property backward, two rules each: what follows when none has come before it, and when one has. */
static ml_status compile_members(ml_compiler *c, const json_t *properties, const json_t *required, ml_symbol *out)
{
    size_t n = json_object_size(properties), i = n;
    const char **keys = ml_calloc(n, sizeof *keys), *key;
    json_t *value;
    if (!keys) return ml_fail_memory(c->err, n * sizeof *keys, "a grammar");
    json_object_foreach((json_t *)(uintptr_t)properties, key, value) keys[n - i--] = key;
    ml_symbol first, later, name, schema, member;
    ml_status status = RULE(c, &first);
    if (status == ML_OK) status = ml_schema_add_empty(c, first);
    later = first;
    for (i = n; i-- > 0 && status == ML_OK;) {
        int32_t next_first = 0, next_later = 0;
        bool needed = is_required(required, keys[i]);
        ML_TRY_GOTO(compile_key(c, keys[i], &name));
        ML_TRY_GOTO(ml_schema_compile_any(c, json_object_get(properties, keys[i]), &schema));
        ML_TRY_GOTO(ml_schema_make_member(c, name, schema, &member));
        ML_TRY_GOTO(RULE(c, &next_first));
        ML_TRY_GOTO(RULE(c, &next_later));
        ML_TRY_GOTO(ADD(c, next_first, member, later));
        ML_TRY_GOTO(ADD(c, next_later, c->comma, member, later));
        if (!needed) ML_TRY_GOTO(ADD(c, next_first, first));
        if (!needed) ML_TRY_GOTO(ADD(c, next_later, later));
        first = next_first;
        later = next_later;
    }
done:
    ml_free(keys);
    *out = first;
    return status;
}

/* Of an object whose properties have names: counts that hold for whatever is made. */
static ml_status check_counts(ml_compiler *c, const json_t *schema, const json_t *properties)
{
    int64_t fewest, most, n = (int64_t)json_object_size(properties);
    const json_t *required = json_object_get(schema, "required");
    const char *key;
    json_t *value;
    int64_t n_required = 0;
    json_object_foreach((json_t *)(uintptr_t)properties, key, value) n_required += is_required(required, key);
    ML_TRY(ml_schema_read_count(c, schema, "minProperties", 0, INT32_MAX, &fewest));
    ML_TRY(ml_schema_read_count(c, schema, "maxProperties", n, INT32_MAX, &most));
    if (fewest > n_required) return ml_schema_refuse(c, "minProperties", "cannot be honoured: fewer are required");
    if (most < n) return ml_schema_refuse(c, "maxProperties", "cannot be honoured: more may come");
    if (json_object_get(schema, "patternProperties")) {
        return ml_schema_refuse(c, "patternProperties", "cannot be honoured beside properties");
    }
    if (json_object_get(schema, "propertyNames")) {
        return ml_schema_refuse(c, "propertyNames", "cannot be honoured beside properties");
    }
    return ML_OK;
}

/* Names that are found by a pattern, and the schema of their values. */
static ml_status read_pattern(ml_compiler *c, const json_t *patterns, ml_symbol *name, const json_t **value)
{
    ml_symbol inside;
    json_t *object = (json_t *)(uintptr_t)patterns;
    if (json_object_size(patterns) != 1) return ml_schema_refuse(c, "patternProperties", "has not exactly one pattern");
    const char *pattern = json_object_iter_key(json_object_iter(object));
    *value = json_object_iter_value(json_object_iter(object));
    ML_TRY(ml_pattern_compile(&pattern, 1, 0, -1, c->g, &inside, c->err));
    ML_TRY(RULE(c, name));
    return ADD(c, *name, c->quote, inside, c->quote);
}

/* The names that a map may have. */
static ml_status compile_names(ml_compiler *c, const json_t *names, ml_symbol *out)
{
    const json_t *flat;
    json_t *text = json_pack("{s:s}", "type", "string"), *merged;
    ml_status status;
    *out = c->string;
    ML_TRY_GOTO(ml_schema_flatten(c, names, &flat));
    ML_TRY_GOTO(ml_schema_merge(c, flat, text, &merged));
    ML_TRY_GOTO(ml_schema_compile_any(c, merged, out));
done:
    json_decref(text);
    return status;
}

/* Any names, each with a value of one schema.  A name may come twice, which counts as one property. */
static ml_status compile_map(ml_compiler *c, const json_t *schema, ml_symbol *out)
{
    const json_t *others = json_object_get(schema, "additionalProperties"), *names, *patterns;
    ml_symbol name = c->string, value = c->any, member, more, rest, members;
    int64_t fewest, most;
    ML_TRY(ml_schema_read_count(c, schema, "minProperties", 0, INT32_MAX, &fewest));
    ML_TRY(ml_schema_read_count(c, schema, "maxProperties", -1, ML_SCHEMA_ITEMS, &most));
    if (fewest > 1) return ml_schema_refuse(c, "minProperties", "cannot be honoured where names are free");
    names = json_object_get(schema, "propertyNames");
    patterns = json_object_get(schema, "patternProperties");
    if (names && patterns) return ml_schema_refuse(c, "propertyNames", "cannot be honoured beside patternProperties");
    if (names) ML_TRY(compile_names(c, names, &name));
    if (patterns) ML_TRY(read_pattern(c, patterns, &name, &others));
    if (others) ML_TRY(ml_schema_compile_any(c, others, &value));
    ML_TRY(ml_schema_make_member(c, name, value, &member));
    ML_TRY(RULE(c, &more));
    ML_TRY(ADD(c, more, c->comma, member));
    ML_TRY(ml_schema_repeat(c, more, 0, most < 0 ? -1 : most > 0 ? most - 1 : 0, &rest));
    ML_TRY(RULE(c, &members));
    if (most != 0) ML_TRY(ADD(c, members, member, rest));
    if (fewest == 0) ML_TRY(ml_schema_add_empty(c, members));
    return ADD(c, *out, c->open_brace, members, c->close_brace);
}

const char *const ml_schema_object_keywords[] = { "properties",           "required",
                                                  "additionalProperties", "patternProperties",
                                                  "propertyNames",        "minProperties",
                                                  "maxProperties",        NULL };

ml_status ml_schema_compile_object_type(ml_compiler *c, const json_t *schema, ml_symbol *out)
{
    bool closed = json_is_false(json_object_get(schema, "additionalProperties"));
    bool patterned = json_object_get(schema, "patternProperties") != NULL;
    json_t *properties = json_object();
    ml_symbol members;
    ml_status status;
    ML_TRY_GOTO(list_properties(c, schema, properties));
    ML_TRY_GOTO(RULE(c, out));
    if (json_object_size(properties) || (closed && !patterned)) {
        ML_TRY_GOTO(check_counts(c, schema, properties));
        ML_TRY_GOTO(compile_members(c, properties, json_object_get(schema, "required"), &members));
        ML_TRY_GOTO(ADD(c, *out, c->open_brace, members, c->close_brace));
    } else {
        ML_TRY_GOTO(compile_map(c, schema, out));
    }
done:
    json_decref(properties); /* its values live in the schema, or are true and have no address of their own */
    return status;
}
