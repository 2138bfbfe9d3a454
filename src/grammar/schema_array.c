#include "grammar/schema_internal.h"

/* The schema of element i; NULL: none may come. */
static const json_t *element_schema(const json_t *schema, size_t i, bool *any)
{
    const json_t *prefix = json_object_get(schema, "prefixItems"), *items = json_object_get(schema, "items");
    const json_t *found = i < json_array_size(prefix) ? json_array_get(prefix, i) : items;
    *any = !found;
    return found;
}

const char *const ml_schema_array_keywords[] = { "items", "prefixItems", "minItems", "maxItems", "uniqueItems", NULL };

ml_status ml_schema_compile_array(ml_compiler *c, const json_t *schema, ml_symbol *out)
{
    int64_t fewest, most;
    const json_t *prefix = json_object_get(schema, "prefixItems"), *unique = json_object_get(schema, "uniqueItems");
    size_t n_prefix = json_array_size(prefix);
    if (prefix && !json_is_array(prefix)) return ml_schema_refuse(c, "prefixItems", "is no array");
    if (unique && !json_is_boolean(unique)) return ml_schema_refuse(c, "uniqueItems", "is neither true nor false");
    ML_TRY(ml_schema_read_count(c, schema, "minItems", 0, ML_SCHEMA_ITEMS, &fewest));
    ML_TRY(ml_schema_read_count(c, schema, "maxItems", -1, ML_SCHEMA_ITEMS, &most));
    if (json_is_true(unique) && (most < 0 || most > 1)) {
        return ml_schema_refuse(c, "uniqueItems", "cannot be honoured of more than one element");
    }
    /* From the last element backward: `rest` is what may follow the first i. */
    int64_t n = most >= 0 ? most : fewest > (int64_t)n_prefix ? fewest : (int64_t)n_prefix;
    if (n > ML_SCHEMA_ITEMS) return ml_schema_refuse(c, "prefixItems", "has too many entries");
    ml_symbol rest, item, more;
    bool any;
    const json_t *repeated = element_schema(schema, (size_t)n, &any);
    ML_TRY(RULE(c, &rest));
    if (most < 0 || most >= fewest) ML_TRY(ml_schema_add_empty(c, rest));
    if (most < 0) {
        if (any) {
            item = c->any;
        } else {
            ML_TRY(ml_schema_compile_any(c, repeated, &item));
        }
        ML_TRY(RULE(c, &more));
        ML_TRY(ADD(c, more, c->comma, item));
        if (n == 0) {
            ml_symbol tail;
            ML_TRY(ml_schema_repeat(c, more, 0, -1, &tail));
            ML_TRY(ADD(c, rest, item, tail));
        } else {
            ML_TRY(ml_schema_repeat(c, more, 0, -1, &rest));
        }
    }
    for (int64_t i = n; i-- > 0;) {
        const json_t *one = element_schema(schema, (size_t)i, &any);
        item = c->any;
        if (!any) ML_TRY(ml_schema_compile_any(c, one, &item));
        int32_t next;
        ML_TRY(RULE(c, &next));
        if (i > 0) {
            ML_TRY(ADD(c, next, c->comma, item, rest));
        } else {
            ML_TRY(ADD(c, next, item, rest));
        }
        if (i >= fewest) ML_TRY(ml_schema_add_empty(c, next));
        rest = next;
    }
    ML_TRY(RULE(c, out));
    return ADD(c, *out, c->open_bracket, rest, c->close_bracket);
}
