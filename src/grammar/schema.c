#include "grammar/schema.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_DEPTH = 64, MOST_LENGTH = 10000, MOST_ITEMS = 2000, N_DIGIT = 15 };

/* A schema that has a rule already: schemas may refer to themselves. */
typedef struct {
    const json_t *schema;
    int32_t rule;
} known;

typedef struct {
    const json_t *root;
    ml_grammar *g;
    known *known;
    size_t n_known, room;
    int depth;
    ml_error *err;
    /* rules that all schemas share */
    ml_symbol quote, comma, colon, open_brace, close_brace, open_bracket, close_bracket;
    ml_symbol letter, string, number, integer, boolean, null, any, any_object, any_array;
} compiler;

#define ADD(c, rule, ...)                                                                                              \
    ml_grammar_add((c)->g, rule, (const ml_symbol[]){ __VA_ARGS__ },                                                   \
                   sizeof((const ml_symbol[]){ __VA_ARGS__ }) / sizeof(ml_symbol), (c)->err)
#define LITERAL(c, text, out) ml_grammar_literal((c)->g, text, strlen(text), out, (c)->err)
#define CLASS(c, ranges, out) ml_grammar_class((c)->g, ranges, (sizeof ranges - 1) / 2, out, (c)->err)
#define RULE(c, out) ml_grammar_rule((c)->g, out, (c)->err)

static ml_status add_empty(compiler *c, int32_t rule)
{
    return ml_grammar_add(c->g, rule, NULL, 0, c->err);
}

/* ---- what JSON is made of ---- */

/* `most` of a symbol, `fewest` at least; most -1: any number. */
static ml_status repeat(compiler *c, ml_symbol one, int64_t fewest, int64_t most, ml_symbol *out)
{
    int32_t rest, next;
    ML_TRY(RULE(c, &rest));
    ML_TRY(add_empty(c, rest));
    if (most < 0) ML_TRY(ADD(c, rest, one, rest));
    for (int64_t i = most < 0 ? fewest : most; i > 0; i--) {
        ML_TRY(RULE(c, &next));
        ML_TRY(ADD(c, next, one, rest));
        if (i > fewest) ML_TRY(add_empty(c, next));
        rest = next;
    }
    *out = rest;
    return ML_OK;
}

/* A character of a string: whole UTF-8 sequences only (RFC 3629), and escapes that are no surrogates. */
static ml_status make_letter(compiler *c)
{
    ml_symbol plain, slash, simple, u, hex, not_d, d, low, tail, two, e0, e0_tail, three, ed, ed_tail, f0, f0_tail,
        four, f4, f4_tail;
    ML_TRY(CLASS(c, "\x20\x21\x23\x5b\x5d\x7f", &plain));
    ML_TRY(CLASS(c, "\\\\", &slash));
    ML_TRY(CLASS(c, "\"\"\\\\//bbffnnrrtt", &simple));
    ML_TRY(CLASS(c, "uu", &u));
    ML_TRY(CLASS(c, "09afAF", &hex));
    ML_TRY(CLASS(c, "09acefACEF", &not_d));
    ML_TRY(CLASS(c, "ddDD", &d));
    ML_TRY(CLASS(c, "07", &low));
    ML_TRY(CLASS(c, "\x80\xbf", &tail));
    ML_TRY(CLASS(c, "\xc2\xdf", &two));
    ML_TRY(CLASS(c, "\xe0\xe0", &e0));
    ML_TRY(CLASS(c, "\xa0\xbf", &e0_tail));
    ML_TRY(CLASS(c, "\xe1\xec\xee\xef", &three));
    ML_TRY(CLASS(c, "\xed\xed", &ed));
    ML_TRY(CLASS(c, "\x80\x9f", &ed_tail));
    ML_TRY(CLASS(c, "\xf0\xf0", &f0));
    ML_TRY(CLASS(c, "\x90\xbf", &f0_tail));
    ML_TRY(CLASS(c, "\xf1\xf3", &four));
    ML_TRY(CLASS(c, "\xf4\xf4", &f4));
    ML_TRY(CLASS(c, "\x80\x8f", &f4_tail));
    ML_TRY(RULE(c, &c->letter));
    ML_TRY(ADD(c, c->letter, plain));
    ML_TRY(ADD(c, c->letter, slash, simple));
    ML_TRY(ADD(c, c->letter, slash, u, not_d, hex, hex, hex));
    ML_TRY(ADD(c, c->letter, slash, u, d, low, hex, hex));
    ML_TRY(ADD(c, c->letter, two, tail));
    ML_TRY(ADD(c, c->letter, e0, e0_tail, tail));
    ML_TRY(ADD(c, c->letter, three, tail, tail));
    ML_TRY(ADD(c, c->letter, ed, ed_tail, tail));
    ML_TRY(ADD(c, c->letter, f0, f0_tail, tail, tail));
    ML_TRY(ADD(c, c->letter, four, tail, tail, tail));
    return ADD(c, c->letter, f4, f4_tail, tail, tail);
}

static ml_status make_string(compiler *c, int64_t fewest, int64_t most, ml_symbol *out)
{
    ml_symbol letters;
    ML_TRY(repeat(c, c->letter, fewest, most, &letters));
    ML_TRY(RULE(c, out));
    return ADD(c, *out, c->quote, letters, c->quote);
}

static ml_status make_numbers(compiler *c)
{
    ml_symbol minus, sign, zero, first, digit, digits, whole, point, fraction, e, either, exponent;
    ML_TRY(LITERAL(c, "-", &minus));
    ML_TRY(RULE(c, &sign));
    ML_TRY(ADD(c, sign, minus));
    ML_TRY(add_empty(c, sign));
    ML_TRY(CLASS(c, "00", &zero));
    ML_TRY(CLASS(c, "19", &first));
    ML_TRY(CLASS(c, "09", &digit));
    ML_TRY(repeat(c, digit, 0, N_DIGIT - 1, &digits));
    ML_TRY(RULE(c, &whole));
    ML_TRY(ADD(c, whole, zero));
    ML_TRY(ADD(c, whole, first, digits));
    ML_TRY(RULE(c, &c->integer));
    ML_TRY(ADD(c, c->integer, sign, whole));
    ML_TRY(LITERAL(c, ".", &point));
    ML_TRY(repeat(c, digit, 1, N_DIGIT, &digits));
    ML_TRY(RULE(c, &fraction));
    ML_TRY(ADD(c, fraction, point, digits));
    ML_TRY(add_empty(c, fraction));
    ML_TRY(CLASS(c, "eeEE", &e));
    ML_TRY(CLASS(c, "++--", &either));
    ML_TRY(repeat(c, digit, 1, 2, &digits));
    ML_TRY(RULE(c, &exponent));
    ML_TRY(ADD(c, exponent, e, digits));
    ML_TRY(ADD(c, exponent, e, either, digits));
    ML_TRY(add_empty(c, exponent));
    ML_TRY(RULE(c, &c->number));
    return ADD(c, c->number, sign, whole, fraction, exponent);
}

static ml_status make_words(compiler *c)
{
    ml_symbol yes, no;
    ML_TRY(LITERAL(c, "true", &yes));
    ML_TRY(LITERAL(c, "false", &no));
    ML_TRY(LITERAL(c, "null", &c->null));
    ML_TRY(RULE(c, &c->boolean));
    ML_TRY(ADD(c, c->boolean, yes));
    return ADD(c, c->boolean, no);
}

/* A mark, and maybe a space behind it. */
static ml_status make_mark(compiler *c, const char *mark, ml_symbol *out)
{
    ml_symbol text, space;
    ML_TRY(LITERAL(c, mark, &text));
    ML_TRY(CLASS(c, "  ", &space));
    ML_TRY(RULE(c, out));
    ML_TRY(ADD(c, *out, text));
    return ADD(c, *out, text, space);
}

/* `open`, any number of `item` with commas between, `close`. */
static ml_status make_list(compiler *c, ml_symbol open, ml_symbol item, ml_symbol close, int32_t rule)
{
    ml_symbol more, items;
    int32_t one_more;
    ML_TRY(RULE(c, &one_more));
    ML_TRY(ADD(c, one_more, c->comma, item));
    ML_TRY(repeat(c, one_more, 0, -1, &more));
    ML_TRY(RULE(c, &items));
    ML_TRY(add_empty(c, items));
    ML_TRY(ADD(c, items, item, more));
    return ADD(c, rule, open, items, close);
}

static ml_status make_member(compiler *c, ml_symbol key, ml_symbol value, ml_symbol *out)
{
    ML_TRY(RULE(c, out));
    return ADD(c, *out, key, c->colon, value);
}

static ml_status make_any(compiler *c)
{
    ml_symbol member;
    ML_TRY(RULE(c, &c->any));
    ML_TRY(RULE(c, &c->any_object));
    ML_TRY(RULE(c, &c->any_array));
    ML_TRY(make_member(c, c->string, c->any, &member));
    ML_TRY(make_list(c, c->open_brace, member, c->close_brace, c->any_object));
    ML_TRY(make_list(c, c->open_bracket, c->any, c->close_bracket, c->any_array));
    const ml_symbol all[] = { c->string, c->number, c->boolean, c->null, c->any_object, c->any_array };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) ML_TRY(ADD(c, c->any, all[i]));
    return ML_OK;
}

static ml_status make_shared(compiler *c)
{
    ML_TRY(CLASS(c, "\"\"", &c->quote));
    ML_TRY(CLASS(c, "{{", &c->open_brace));
    ML_TRY(CLASS(c, "}}", &c->close_brace));
    ML_TRY(CLASS(c, "[[", &c->open_bracket));
    ML_TRY(CLASS(c, "]]", &c->close_bracket));
    ML_TRY(make_mark(c, ",", &c->comma));
    ML_TRY(make_mark(c, ":", &c->colon));
    ML_TRY(make_letter(c));
    ML_TRY(make_string(c, 0, -1, &c->string));
    ML_TRY(make_numbers(c));
    ML_TRY(make_words(c));
    return make_any(c);
}

/* ---- schemas ---- */

static ml_status refuse(const compiler *c, const char *keyword, const char *why)
{
    return ml_fail(c->err, ML_EINVAL, "the schema's keyword %.60s %s", keyword, why);
}

static bool is_one_of(const char *word, const char *const *list)
{
    for (; *list; list++) {
        if (!strcmp(word, *list)) return true;
    }
    return false;
}

static const char *const annotations[] = { "title", "description", "default",    "examples", "$schema",
                                           "$id",   "$comment",    "deprecated", "readOnly", "writeOnly",
                                           "$defs", "definitions", NULL };

/* Every keyword must be one of `allowed`, or an annotation. */
static ml_status check_keywords(const compiler *c, const json_t *schema, const char *const *allowed)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)schema, key, value)
    {
        if (is_one_of(key, annotations) || is_one_of(key, allowed)) continue;
        return refuse(c, key, "cannot be honoured here");
    }
    return ML_OK;
}

static ml_status compile(compiler *c, const json_t *schema, ml_symbol *out);

static ml_status read_count(const compiler *c, const json_t *schema, const char *key, int64_t or_value, int64_t most,
                            int64_t *out)
{
    const json_t *v = json_object_get(schema, key);
    *out = v ? json_integer_value(v) : or_value;
    if (!v || (json_is_integer(v) && *out >= 0 && *out <= most)) return ML_OK;
    return ml_fail(c->err, ML_EINVAL, "the schema's keyword %s: expected a whole number from 0 to %lld", key,
                   (long long)most);
}

static ml_status compile_string(compiler *c, const json_t *schema, ml_symbol *out)
{
    int64_t fewest, most;
    ML_TRY(read_count(c, schema, "minLength", 0, MOST_LENGTH, &fewest));
    ML_TRY(read_count(c, schema, "maxLength", -1, MOST_LENGTH, &most));
    if (most >= 0 && most < fewest) return RULE(c, out); /* nothing */
    return make_string(c, fewest, most, out);
}

/* ---- arrays ---- */

/* The schema of element i; NULL: none may come. */
static const json_t *element_schema(const json_t *schema, size_t i, bool *any)
{
    const json_t *prefix = json_object_get(schema, "prefixItems"), *items = json_object_get(schema, "items");
    const json_t *found = i < json_array_size(prefix) ? json_array_get(prefix, i) : items;
    *any = !found;
    return found;
}

static ml_status compile_array(compiler *c, const json_t *schema, ml_symbol *out)
{
    int64_t fewest, most;
    size_t n_prefix = json_array_size(json_object_get(schema, "prefixItems"));
    ML_TRY(read_count(c, schema, "minItems", 0, MOST_ITEMS, &fewest));
    ML_TRY(read_count(c, schema, "maxItems", -1, MOST_ITEMS, &most));
    /* From the last element backward: `rest` is what may follow the first i. */
    int64_t n = most >= 0 ? most : fewest > (int64_t)n_prefix ? fewest : (int64_t)n_prefix;
    if (n > MOST_ITEMS) return refuse(c, "prefixItems", "has too many entries");
    ml_symbol rest, item, more;
    bool any;
    const json_t *repeated = element_schema(schema, (size_t)n, &any);
    ML_TRY(RULE(c, &rest));
    if (most < 0 || most >= fewest) ML_TRY(add_empty(c, rest));
    if (most < 0) {
        if (any) {
            item = c->any;
        } else {
            ML_TRY(compile(c, repeated, &item));
        }
        ML_TRY(RULE(c, &more));
        ML_TRY(ADD(c, more, c->comma, item));
        if (n == 0) {
            ml_symbol tail;
            ML_TRY(repeat(c, more, 0, -1, &tail));
            ML_TRY(ADD(c, rest, item, tail));
        } else {
            ML_TRY(repeat(c, more, 0, -1, &rest));
        }
    }
    for (int64_t i = n; i-- > 0;) {
        const json_t *one = element_schema(schema, (size_t)i, &any);
        item = c->any;
        if (!any) ML_TRY(compile(c, one, &item));
        int32_t next;
        ML_TRY(RULE(c, &next));
        if (i > 0) {
            ML_TRY(ADD(c, next, c->comma, item, rest));
        } else {
            ML_TRY(ADD(c, next, item, rest));
        }
        if (i >= fewest) ML_TRY(add_empty(c, next));
        rest = next;
    }
    ML_TRY(RULE(c, out));
    return ADD(c, *out, c->open_bracket, rest, c->close_bracket);
}

/* ---- objects ---- */

static ml_status compile_key(compiler *c, const char *key, ml_symbol *out)
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
static ml_status list_properties(compiler *c, const json_t *schema, json_t *out)
{
    const json_t *properties = json_object_get(schema, "properties"), *required = json_object_get(schema, "required");
    const json_t *others = json_object_get(schema, "additionalProperties");
    if (properties && !json_is_object(properties)) return refuse(c, "properties", "is no object");
    if (required && !json_is_array(required)) return refuse(c, "required", "is no array");
    json_object_update(out, (json_t *)(uintptr_t)properties);
    for (size_t i = 0; i < json_array_size(required); i++) {
        const char *key = json_string_value(json_array_get(required, i));
        if (!key) return refuse(c, "required", "holds what is no text");
        if (json_object_get(out, key)) continue;
        json_object_set_new(out, key, others ? json_incref((json_t *)(uintptr_t)others) : json_true());
    }
    return ML_OK;
}

/* From the last property backward, two rules each: what follows when none has come before it, and when one has. */
static ml_status compile_members(compiler *c, const json_t *properties, const json_t *required, ml_symbol *out)
{
    size_t n = json_object_size(properties), i = n;
    const char **keys = ml_calloc(n, sizeof *keys), *key;
    json_t *value;
    if (!keys) return ml_fail_memory(c->err, n * sizeof *keys, "a grammar");
    json_object_foreach((json_t *)(uintptr_t)properties, key, value) keys[n - i--] = key;
    ml_symbol first, later, name, schema, member;
    ml_status status = RULE(c, &first);
    if (status == ML_OK) status = add_empty(c, first);
    later = first;
    for (i = n; i-- > 0 && status == ML_OK;) {
        int32_t next_first = 0, next_later = 0;
        bool needed = is_required(required, keys[i]);
        ML_TRY_GOTO(compile_key(c, keys[i], &name));
        ML_TRY_GOTO(compile(c, json_object_get(properties, keys[i]), &schema));
        ML_TRY_GOTO(make_member(c, name, schema, &member));
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

static ml_status compile_object(compiler *c, const json_t *schema, ml_symbol *out)
{
    const json_t *others = json_object_get(schema, "additionalProperties");
    ml_symbol value = c->any, member, members;
    json_t *properties = json_object();
    ml_status status;
    ML_TRY_GOTO(list_properties(c, schema, properties));
    ML_TRY_GOTO(RULE(c, out));
    if (json_object_size(properties) || json_is_false(others)) {
        ML_TRY_GOTO(compile_members(c, properties, json_object_get(schema, "required"), &members));
        ML_TRY_GOTO(ADD(c, *out, c->open_brace, members, c->close_brace));
    } else {
        if (others) ML_TRY_GOTO(compile(c, others, &value));
        ML_TRY_GOTO(make_member(c, c->string, value, &member));
        ML_TRY_GOTO(make_list(c, c->open_brace, member, c->close_brace, *out));
    }
done:
    json_decref(properties); /* its values live in the schema, or are true and have no address of their own */
    return status;
}

/* ---- all kinds ---- */

static const char *const type_keywords[] = { "type",      "properties",  "required", "additionalProperties",
                                             "items",     "prefixItems", "minItems", "maxItems",
                                             "minLength", "maxLength",   NULL };

static ml_status compile_type(compiler *c, const json_t *schema, const char *type, ml_symbol *out)
{
    *out = -1;
    if (!strcmp(type, "object")) return compile_object(c, schema, out);
    if (!strcmp(type, "array")) return compile_array(c, schema, out);
    if (!strcmp(type, "string")) return compile_string(c, schema, out);
    if (!strcmp(type, "number")) *out = c->number;
    if (!strcmp(type, "integer")) *out = c->integer;
    if (!strcmp(type, "boolean")) *out = c->boolean;
    if (!strcmp(type, "null")) *out = c->null;
    return *out >= 0 ? ML_OK : refuse(c, "type", "names no type of JSON");
}

/* Where no type is said, one that the keywords speak of; what it makes is accepted all the same. */
static const char *implied_type(const json_t *schema)
{
    static const char *const words[][2] = {
        { "properties", "object" }, { "required", "object" },   { "additionalProperties", "object" },
        { "items", "array" },       { "prefixItems", "array" }, { "minItems", "array" },
        { "maxItems", "array" },    { "minLength", "string" },  { "maxLength", "string" }
    };
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (json_object_get(schema, words[i][0])) return words[i][1];
    }
    return NULL;
}

static const char *const all_types[] = { "object", "array", "string", "number", "boolean", "null", NULL };

static ml_status compile_types(compiler *c, const json_t *schema, int32_t rule)
{
    const json_t *type = json_object_get(schema, "type");
    ml_symbol one;
    ML_TRY(check_keywords(c, schema, type_keywords));
    const char *single = type ? json_string_value(type) : implied_type(schema);
    if (single) {
        ML_TRY(compile_type(c, schema, single, &one));
        return ADD(c, rule, one);
    }
    if (type && !json_is_array(type)) return refuse(c, "type", "is neither a text nor an array");
    for (size_t i = 0; type ? i < json_array_size(type) : all_types[i] != NULL; i++) {
        const char *name = type ? json_string_value(json_array_get(type, i)) : all_types[i];
        if (!name) return refuse(c, "type", "names no type of JSON");
        ML_TRY(compile_type(c, schema, name, &one));
        ML_TRY(ADD(c, rule, one));
    }
    return ML_OK;
}

static bool is_of_type(const json_t *value, const char *type)
{
    if (!strcmp(type, "integer")) return json_is_integer(value);
    if (!strcmp(type, "number")) return json_is_number(value);
    if (!strcmp(type, "string")) return json_is_string(value);
    if (!strcmp(type, "boolean")) return json_is_boolean(value);
    if (!strcmp(type, "null")) return json_is_null(value);
    return strcmp(type, "object") ? json_is_array(value) : json_is_object(value);
}

static bool fits_type(const json_t *value, const json_t *type)
{
    if (json_is_string(type)) return is_of_type(value, json_string_value(type));
    for (size_t i = 0; i < json_array_size(type); i++) {
        const char *name = json_string_value(json_array_get(type, i));
        if (name && is_of_type(value, name)) return true;
    }
    return !type;
}

static ml_status compile_value(compiler *c, const json_t *schema, const json_t *value, int32_t rule)
{
    ml_symbol literal;
    if (!fits_type(value, json_object_get(schema, "type"))) return ML_OK;
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    if (!text) return ml_fail_memory(c->err, 0, "a grammar");
    ml_status status = LITERAL(c, text, &literal);
    free(text);
    return status == ML_OK ? ADD(c, rule, literal) : status;
}

static ml_status compile_enum(compiler *c, const json_t *schema, int32_t rule)
{
    static const char *const allowed[] = { "enum", "const", "type", NULL };
    const json_t *list = json_object_get(schema, "enum"), *value = json_object_get(schema, "const");
    ML_TRY(check_keywords(c, schema, allowed));
    if (list && value) return refuse(c, "const", "cannot be honoured beside enum");
    if (value) return compile_value(c, schema, value, rule);
    if (!json_is_array(list)) return refuse(c, "enum", "is no array");
    for (size_t i = 0; i < json_array_size(list); i++) ML_TRY(compile_value(c, schema, json_array_get(list, i), rule));
    return ML_OK;
}

static ml_status compile_any_of(compiler *c, const json_t *schema, int32_t rule)
{
    static const char *const allowed[] = { "anyOf", NULL };
    const json_t *list = json_object_get(schema, "anyOf");
    ml_symbol one;
    ML_TRY(check_keywords(c, schema, allowed));
    if (!json_is_array(list)) return refuse(c, "anyOf", "is no array");
    for (size_t i = 0; i < json_array_size(list); i++) {
        ML_TRY(compile(c, json_array_get(list, i), &one));
        ML_TRY(ADD(c, rule, one));
    }
    return ML_OK;
}

static ml_status compile_ref(compiler *c, const json_t *schema, int32_t rule)
{
    static const char *const allowed[] = { "$ref", NULL };
    const char *ref = json_string_value(json_object_get(schema, "$ref")), *name = NULL;
    const json_t *found = NULL;
    ml_symbol one;
    ML_TRY(check_keywords(c, schema, allowed));
    if (ref && !strcmp(ref, "#")) found = c->root;
    if (ref && !strncmp(ref, "#/$defs/", 8)) name = ref + 8;
    if (name) found = json_object_get(json_object_get(c->root, "$defs"), name);
    if (ref && !strncmp(ref, "#/definitions/", 14)) {
        found = json_object_get(json_object_get(c->root, "definitions"), ref + 14);
    }
    if (!found) return refuse(c, "$ref", "refers to nothing in $defs or definitions");
    ML_TRY(compile(c, found, &one));
    return ADD(c, rule, one);
}

static ml_status compile_new(compiler *c, const json_t *schema, int32_t rule)
{
    if (json_is_true(schema)) return ADD(c, rule, c->any);
    if (json_is_false(schema)) return ML_OK;
    if (!json_is_object(schema)) return ml_fail(c->err, ML_EINVAL, "a schema is neither an object nor true or false");
    if (json_object_get(schema, "$ref")) return compile_ref(c, schema, rule);
    if (json_object_get(schema, "anyOf")) return compile_any_of(c, schema, rule);
    if (json_object_get(schema, "enum") || json_object_get(schema, "const")) return compile_enum(c, schema, rule);
    return compile_types(c, schema, rule);
}

static ml_status compile(compiler *c, const json_t *schema, ml_symbol *out)
{
    for (size_t i = 0; i < c->n_known && json_is_object(schema); i++) {
        if (c->known[i].schema != schema) continue;
        *out = c->known[i].rule;
        return ML_OK;
    }
    ML_TRY(ml_grow((void **)&c->known, &c->room, c->n_known + 1, sizeof *c->known, c->err));
    ML_TRY(RULE(c, out));
    c->known[c->n_known++] = (known){ schema, *out };
    if (++c->depth > MOST_DEPTH) return ml_fail(c->err, ML_EINVAL, "the schema is nested too deep");
    ML_TRY(compile_new(c, schema, *out));
    c->depth--;
    return ML_OK;
}

/* ---- the whole ---- */

static ml_status run(compiler *c, const json_t *schema, ml_symbol *root)
{
    ML_TRY(make_shared(c));
    if (!schema) {
        *root = c->any_object;
        return ML_OK;
    }
    return compile(c, schema, root);
}

static ml_status compile_whole(const json_t *schema, ml_grammar *g, ml_error *err)
{
    compiler c = { .root = schema, .g = g, .err = err };
    ml_symbol root = 0;
    *g = (ml_grammar){ 0 };
    ml_status status = run(&c, schema, &root);
    ml_free(c.known);
    g->root = root;
    return status == ML_OK ? ml_grammar_prune(g, err) : status;
}

ml_status ml_schema_compile(const json_t *schema, ml_grammar *g, ml_error *err)
{
    return compile_whole(schema, g, err);
}

ml_status ml_schema_compile_object(ml_grammar *g, ml_error *err)
{
    return compile_whole(NULL, g, err);
}
