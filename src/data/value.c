#include "data/value.h"

#include "token/scan.h"

#include <string.h>

const char *ml_value_kind_name(const ml_value *value)
{
    static const char *const names[] = {
        "null", "a boolean", "an integer", "a number", "text", "an array", "an object"
    };
    return value ? names[value->kind] : "nothing";
}

const ml_value *ml_value_find(const ml_value *object, const char *key)
{
    if (!object || object->kind != ML_VALUE_OBJECT) return NULL;
    const ml_value *found = NULL;
    size_t n = strlen(key);
    for (const ml_value *v = object->child; v; v = v->next) {
        if (v->key_bytes == n && memcmp(v->key, key, n) == 0) found = v;
    }
    return found;
}

bool ml_value_is(const ml_value *value, const char *text)
{
    return value && value->kind == ML_VALUE_TEXT && value->n == strlen(text) &&
           memcmp(value->text, text, value->n) == 0;
}

static json_t *children_to_json(const ml_value *value)
{
    bool is_array = value->kind == ML_VALUE_ARRAY;
    json_t *out = is_array ? json_array() : json_object();
    for (const ml_value *v = value->child; v && out; v = v->next) {
        json_t *item = ml_value_to_json(v);
        int failed =
            is_array ? json_array_append_new(out, item) : json_object_setn_new(out, v->key, v->key_bytes, item);
        if (!failed) continue;
        json_decref(out);
        out = NULL;
    }
    return out;
}

json_t *ml_value_to_json(const ml_value *value)
{
    switch (value->kind) {
    case ML_VALUE_NULL: return json_null();
    case ML_VALUE_BOOL: return json_boolean(value->truth);
    case ML_VALUE_INTEGER: return json_integer(value->integer);
    case ML_VALUE_REAL: return json_real(value->real);
    case ML_VALUE_TEXT: return json_stringn(value->n ? value->text : "", value->n);
    case ML_VALUE_ARRAY:
    case ML_VALUE_OBJECT: return children_to_json(value);
    }
    return NULL;
}
