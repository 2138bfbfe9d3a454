#include "grammar/schema_internal.h"

#include "base/alloc.h"
#include "grammar/matcher.h"

#include <stdlib.h>

ml_status ml_schema_refuse(const ml_compiler *c, const char *keyword, const char *why)
{
    return ml_fail(c->err, ML_EINVAL, "the schema's keyword %.60s %s", keyword, why);
}

bool ml_schema_is_one_of(const char *word, const char *const *list)
{
    for (; *list; list++) {
        if (!strcmp(word, *list)) return true;
    }
    return false;
}

bool ml_schema_is_annotation(const char *keyword)
{
    static const char *const annotations[] = { "title",     "description", "default",     "examples",      "example",
                                               "$schema",   "$id",         "$comment",    "deprecated",    "readOnly",
                                               "writeOnly", "$defs",       "definitions", "discriminator", NULL };
    return ml_schema_is_one_of(keyword, annotations);
}

ml_status ml_schema_read_count(const ml_compiler *c, const json_t *schema, const char *key, int64_t or_value,
                               int64_t most, int64_t *out)
{
    const json_t *v = json_object_get(schema, key);
    *out = v ? json_integer_value(v) : or_value;
    if (!v || (json_is_integer(v) && *out >= 0 && *out <= most)) return ML_OK;
    return ml_fail(c->err, ML_EINVAL, "the schema's keyword %s: expected a whole number from 0 to %lld", key,
                   (long long)most);
}

/* ---- types ---- */

/* Every keyword must be of one of the types, which are a bit each; those of other types do no harm, since what is made
 * is of these alone. */
static ml_status check_keywords(const ml_compiler *c, const json_t *schema)
{
    static const char *const *const lists[] = { ml_schema_object_keywords, ml_schema_array_keywords,
                                                ml_schema_string_keywords, ml_schema_number_keywords };
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)schema, key, value)
    {
        bool known = !strcmp(key, "type") || ml_schema_is_annotation(key);
        for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) known = known || ml_schema_is_one_of(key, lists[i]);
        if (!known) return ml_schema_refuse(c, key, "cannot be honoured here");
    }
    return ML_OK;
}

static ml_status compile_type(ml_compiler *c, const json_t *schema, const char *type, ml_symbol *out)
{
    *out = -1;
    if (!strcmp(type, "object")) return ml_schema_compile_object_type(c, schema, out);
    if (!strcmp(type, "array")) return ml_schema_compile_array(c, schema, out);
    if (!strcmp(type, "string")) return ml_schema_compile_string(c, schema, out);
    if (!strcmp(type, "number")) return ml_schema_compile_number(c, schema, false, out);
    if (!strcmp(type, "integer")) return ml_schema_compile_number(c, schema, true, out);
    if (!strcmp(type, "boolean")) *out = c->boolean;
    if (!strcmp(type, "null")) *out = c->null;
    return *out >= 0 ? ML_OK : ml_schema_refuse(c, "type", "names no type of JSON");
}

/* Where no type is said, one that the keywords speak of; what it makes is accepted all the same. */
static const char *implied_type(const json_t *schema)
{
    static const struct {
        const char *const *keywords;
        const char *type;
    } of[] = { { ml_schema_object_keywords, "object" },
               { ml_schema_array_keywords, "array" },
               { ml_schema_string_keywords, "string" },
               { ml_schema_number_keywords, "number" } };
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++) {
        for (const char *const *key = of[i].keywords; *key; key++) {
            if (json_object_get(schema, *key)) return of[i].type;
        }
    }
    return NULL;
}

static ml_status compile_types(ml_compiler *c, const json_t *schema, int32_t rule)
{
    static const char *const all_types[] = { "object", "array", "string", "number", "boolean", "null", NULL };
    const json_t *type = json_object_get(schema, "type");
    ml_symbol one;
    ML_TRY(check_keywords(c, schema));
    const char *single = type ? json_string_value(type) : implied_type(schema);
    if (single) {
        ML_TRY(compile_type(c, schema, single, &one));
        return ADD(c, rule, one);
    }
    if (type && !json_is_array(type)) return ml_schema_refuse(c, "type", "is neither a text nor an array");
    for (size_t i = 0; type ? i < json_array_size(type) : all_types[i] != NULL; i++) {
        const char *name = type ? json_string_value(json_array_get(type, i)) : all_types[i];
        if (!name) return ml_schema_refuse(c, "type", "names no type of JSON");
        ML_TRY(compile_type(c, schema, name, &one));
        ML_TRY(ADD(c, rule, one));
    }
    return ML_OK;
}

/* ---- values ---- */

static bool is_of_type(const json_t *value, const char *type)
{
    if (!strcmp(type, "integer")) return json_is_integer(value);
    if (!strcmp(type, "number")) return json_is_number(value);
    if (!strcmp(type, "string")) return json_is_string(value);
    if (!strcmp(type, "boolean")) return json_is_boolean(value);
    if (!strcmp(type, "null")) return json_is_null(value);
    return strcmp(type, "object") ? json_is_array(value) : json_is_object(value);
}

static ml_status fits_type(const ml_compiler *c, const json_t *value, const json_t *type, bool *fits)
{
    static const char *const names[] = { "integer", "number", "string", "boolean", "null", "array", "object", NULL };
    size_t n = json_is_array(type) ? json_array_size(type) : type ? 1 : 0;
    *fits = !type;
    for (size_t i = 0; i < n; i++) {
        const char *name = json_string_value(json_is_array(type) ? json_array_get(type, i) : type);
        if (!name || !ml_schema_is_one_of(name, names)) return ml_schema_refuse(c, "type", "names no type of JSON");
        *fits = *fits || is_of_type(value, name);
    }
    return ML_OK;
}

/* What values are compared with: of those that are neither objects nor arrays the grammar of a schema makes each that
 * the schema accepts, but for numbers with many digits. */
typedef struct {
    ml_grammar g;
    ml_matcher *m; /* NULL: it makes nothing */
} judge;

static ml_status make_judge(ml_compiler *c, const json_t *schema, judge *j)
{
    ml_compiler other = { .root = c->root, .g = &j->g, .err = c->err, .depth = c->depth };
    ml_status status;
    ml_error none; /* that nothing can be made is no failure */
    j->g.work = c->g->work;
    ML_TRY_GOTO(ml_schema_make_shared(&other));
    ML_TRY_GOTO(ml_schema_compile_any(&other, schema, &j->g.root));
    if (ml_grammar_prune(&j->g, &none) == ML_OK) status = ml_matcher_make(&j->g, &j->m, c->err);
done:
    c->g->work = j->g.work;
    ml_free(other.known);
    json_decref(other.own);
    return status;
}

static void free_judge(judge *j)
{
    ml_matcher_free(j->m);
    ml_grammar_free(&j->g);
}

static ml_status accepts(const ml_compiler *c, const judge *j, const char *text, bool *out)
{
    *out = false;
    if (!j->m) return ML_OK;
    int32_t s = ml_matcher_start(j->m);
    for (; *text; text++) ML_TRY(ml_matcher_step(j->m, s, (uint8_t)*text, &s, c->err));
    *out = ml_matcher_accepts(j->m, s);
    return ML_OK;
}

/* One listed value, when the judge (NULL: there is none) accepts it. */
static ml_status compile_value(ml_compiler *c, const json_t *value, const json_t *type, const judge *j, int32_t rule)
{
    ml_symbol literal;
    bool fits;
    ML_TRY(fits_type(c, value, type, &fits));
    if (!fits) return ML_OK;
    if (j && (json_is_object(value) || json_is_array(value))) {
        return ml_schema_refuse(c, "enum", "with objects or arrays cannot be honoured beside other keywords");
    }
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    if (!text) return ml_fail_memory(c->err, 0, "a grammar");
    ml_status status = j ? accepts(c, j, text, &fits) : ML_OK;
    if (status == ML_OK && fits) status = LITERAL(c, text, &literal);
    if (status == ML_OK && fits) status = ADD(c, rule, literal);
    free(text);
    return status;
}

static ml_status compile_values(ml_compiler *c, const json_t *list, const json_t *type, const json_t *rest,
                                int32_t rule)
{
    judge j = { .m = NULL };
    ml_status status = rest ? make_judge(c, rest, &j) : ML_OK;
    for (size_t i = 0; i < json_array_size(list) && status == ML_OK; i++) {
        status = compile_value(c, json_array_get(list, i), type, rest ? &j : NULL, rule);
    }
    free_judge(&j);
    return status;
}

static bool lists(const json_t *list, const json_t *value)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (json_equal(json_array_get(list, i), (json_t *)(uintptr_t)value)) return true;
    }
    return false;
}

/* enum and const, and what else the schema says: the type is compared with each value, the rest is judged. */
static ml_status compile_enum(ml_compiler *c, const json_t *schema, int32_t rule)
{
    const json_t *list = json_object_get(schema, "enum"), *value = json_object_get(schema, "const");
    json_t *rest;
    bool empty;
    if (list && !json_is_array(list)) return ml_schema_refuse(c, "enum", "is no array");
    if (value && list && !lists(list, value)) return ML_OK; /* nothing */
    ML_TRY(ml_schema_without(c, schema, "const", &rest, &empty));
    ML_TRY(ml_schema_without(c, rest, "enum", &rest, &empty));
    ML_TRY(ml_schema_without(c, rest, "type", &rest, &empty));
    json_t *one = value ? json_pack("[O]", value) : NULL;
    ml_status status =
        compile_values(c, value ? one : list, json_object_get(schema, "type"), empty ? NULL : rest, rule);
    json_decref(one);
    return status;
}

/* ---- choices ---- */

static ml_status check_one_of(ml_compiler *c, const json_t *list)
{
    bool disjoint;
    for (size_t i = 0; i < json_array_size(list); i++) {
        for (size_t k = i + 1; k < json_array_size(list); k++) {
            ML_TRY(ml_schema_are_disjoint(c, json_array_get(list, i), json_array_get(list, k), &disjoint));
            if (!disjoint) {
                return ml_schema_refuse(c, "oneOf", "cannot be honoured: two of its schemas may accept the same value");
            }
        }
    }
    return ML_OK;
}

/* anyOf and oneOf: each schema of the list, together with what else is said. */
static ml_status compile_choice(ml_compiler *c, const json_t *schema, const char *keyword, int32_t rule)
{
    const json_t *list = json_object_get(schema, keyword), *flat;
    json_t *rest, *merged;
    ml_symbol one;
    bool empty;
    if (!json_is_array(list)) return ml_schema_refuse(c, keyword, "is no array");
    if (!strcmp(keyword, "oneOf")) ML_TRY(check_one_of(c, list));
    ML_TRY(ml_schema_without(c, schema, keyword, &rest, &empty));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *branch = json_array_get(list, i);
        if (!empty) {
            ML_TRY(ml_schema_flatten(c, branch, &flat));
            ML_TRY(ml_schema_merge(c, flat, rest, &merged));
            branch = merged;
        }
        ML_TRY(ml_schema_compile_any(c, branch, &one));
        ML_TRY(ADD(c, rule, one));
    }
    return ML_OK;
}

/* ---- references ---- */

/* A part of a pointer, "~1" being "/" and "~0" "~"; false: it is too long. */
static bool take_part(const char **at, char *out, size_t room)
{
    size_t n = 0;
    for (; **at && **at != '/'; ++*at) {
        char ch = **at;
        if (ch == '~' && ((*at)[1] == '0' || (*at)[1] == '1')) ch = *++*at == '0' ? '~' : '/';
        if (n + 1 >= room) return false;
        out[n++] = ch;
    }
    out[n] = 0;
    return true;
}

ml_status ml_schema_resolve(const ml_compiler *c, const json_t *ref, const json_t **out)
{
    const char *at = json_string_value(ref);
    char part[256];
    *out = at && *at == '#' ? c->root : NULL;
    if (at) at += *at == '#';
    while (*out && *at) {
        if (*at++ != '/' || !take_part(&at, part, sizeof part)) *out = NULL;
        if (json_is_array(*out)) {
            char *end;
            unsigned long i = strtoul(part, &end, 10);
            *out = *part && !*end ? json_array_get(*out, i) : NULL;
        } else {
            *out = json_object_get(*out, part);
        }
    }
    if (*out) return ML_OK;
    return ml_schema_refuse(c, "$ref", "refers to nothing in this schema");
}

/* ---- all kinds ---- */

static ml_status compile_new(ml_compiler *c, const json_t *schema, int32_t rule)
{
    const json_t *ref = json_object_get(schema, "$ref"), *target;
    ml_symbol one;
    if (json_is_true(schema)) return ADD(c, rule, c->any);
    if (json_is_false(schema)) return ML_OK;
    if (!json_is_object(schema)) {
        return ml_fail(c->err, ML_EINVAL, "a schema is neither an object nor true or false");
    }
    if (ref || json_object_get(schema, "allOf")) {
        json_t *rest;
        bool alone = false;
        if (ref) ML_TRY(ml_schema_without(c, schema, "$ref", &rest, &alone));
        if (alone) {
            ML_TRY(ml_schema_resolve(c, ref, &target)); /* its own rule: it may be what we are in */
        } else {
            ML_TRY(ml_schema_flatten(c, schema, &target));
        }
        ML_TRY(ml_schema_compile_any(c, target, &one));
        return ADD(c, rule, one);
    }
    if (json_object_get(schema, "anyOf")) return compile_choice(c, schema, "anyOf", rule);
    if (json_object_get(schema, "oneOf")) return compile_choice(c, schema, "oneOf", rule);
    if (json_object_get(schema, "enum") || json_object_get(schema, "const")) return compile_enum(c, schema, rule);
    return compile_types(c, schema, rule);
}

ml_status ml_schema_compile_any(ml_compiler *c, const json_t *schema, ml_symbol *out)
{
    for (size_t i = 0; i < c->n_known && json_is_object(schema); i++) {
        if (c->known[i].schema != schema) continue;
        *out = c->known[i].rule;
        return ML_OK;
    }
    ML_TRY(ml_grow((void **)&c->known, &c->room, c->n_known + 1, sizeof *c->known, c->err));
    ML_TRY(RULE(c, out));
    c->known[c->n_known++] = (ml_schema_known){ schema, *out };
    if (++c->depth > ML_SCHEMA_DEPTH) return ml_fail(c->err, ML_EINVAL, "the schema is nested too deep");
    ML_TRY(compile_new(c, schema, *out));
    c->depth--;
    return ML_OK;
}

/* ---- the whole ---- */

static ml_status compile_root(ml_compiler *c, const json_t *schema, ml_symbol *root)
{
    ML_TRY(ml_schema_make_shared(c));
    if (schema) return ml_schema_compile_any(c, schema, root);
    *root = c->any_object;
    return ML_OK;
}

/* `objects`: of what the schema accepts, objects alone. */
static ml_status add(const json_t *schema, bool objects, ml_grammar *g, ml_symbol *out, ml_error *err)
{
    ml_compiler c = { .root = schema, .g = g, .err = err };
    json_t *object = json_pack("{s:s}", "type", "object"), *merged;
    const json_t *flat;
    ml_status status = ML_OK;
    if (objects && schema) {
        ML_TRY_GOTO(ml_schema_flatten(&c, schema, &flat));
        ML_TRY_GOTO(ml_schema_merge(&c, flat, object, &merged));
        schema = merged;
    }
    ML_TRY_GOTO(compile_root(&c, schema, out));
done:
    ml_free(c.known);
    json_decref(c.own);
    json_decref(object);
    return status;
}

ml_status ml_schema_add(const json_t *schema, ml_grammar *g, ml_symbol *out, ml_error *err)
{
    return add(schema, false, g, out, err);
}

ml_status ml_schema_add_object(const json_t *schema, ml_grammar *g, ml_symbol *out, ml_error *err)
{
    return add(schema, true, g, out, err);
}

ml_status ml_schema_compile(const json_t *schema, ml_grammar *g, ml_error *err)
{
    *g = (ml_grammar){ 0 };
    ML_TRY(add(schema, false, g, &g->root, err));
    return ml_grammar_prune(g, err);
}
