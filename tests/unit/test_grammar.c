/* Schemas, the automaton behind them, and the tokens that it allows. */
#include "grammar/constraint.h"
#include "grammar/schema.h"
#include "support/support.h"

#include "base/alloc.h"
#include "base/rng.h"

#include <math.h>
#include <string.h>

static ml_error err;

/* 'y': a whole value; 'm': the beginning of one; 'n': neither. */
static char verdict(const ml_grammar *g, const char *text, size_t n)
{
    ml_matcher *m;
    assert_ok(ml_matcher_make(g, &m, &err));
    int32_t s = ml_matcher_start(m);
    for (size_t i = 0; i < n; i++) assert_ok(ml_matcher_step(m, s, (uint8_t)text[i], &s, &err));
    char out = s == ML_STATE_DEAD ? 'n' : ml_matcher_accepts(m, s) ? 'y' : 'm';
    ml_matcher_free(m);
    return out;
}

typedef struct {
    const char *schema, *text;
    char want;
} example;

static const example examples[] = {
    { "true", "{\"a\": [1,-2.5e+3,null,true,\"x\\n\\u00e9\"]}", 'y' },
    { "true", "[1,", 'm' },
    { "true", "[1,]", 'n' },
    { "true", "01", 'n' },
    { "true", "-", 'm' },
    { "true", "1.", 'm' },
    { "true", "\"\\ud800\"", 'n' }, /* half a surrogate pair is no character */
    { "true", "\"\xc3\xa9\xe2\x98\x83\xf0\x9f\x98\x80\"", 'y' },
    { "true", "\"\xc0\x80\"", 'n' },     /* overlong */
    { "true", "\"\xed\xa0\x80\"", 'n' }, /* a surrogate */
    { "true", "\"\xff", 'n' },
    { "true", "\"\x01", 'n' }, /* control characters are escaped */
    { "{\"type\": \"integer\"}", "12", 'y' },
    { "{\"type\": \"integer\"}", "1.0", 'n' },
    { "{\"type\": \"boolean\"}", "tru", 'm' },
    { "{\"type\": [\"null\", \"integer\"]}", "null", 'y' },
    { "{\"type\": [\"null\", \"integer\"]}", "\"", 'n' },
    { "{\"type\": \"string\", \"minLength\": 2, \"maxLength\": 3}", "\"a\"", 'n' },
    { "{\"type\": \"string\", \"minLength\": 2, \"maxLength\": 3}", "\"a\xc3\xa9\"", 'y' }, /* characters, not bytes */
    { "{\"type\": \"string\", \"minLength\": 2, \"maxLength\": 3}", "\"abc\"", 'y' },
    { "{\"type\": \"string\", \"minLength\": 2, \"maxLength\": 3}", "\"abcd", 'n' },
    { "{\"minLength\": 1}", "\"a\"", 'y' },
    { "{\"type\": \"string\", \"maxLength\": 0}", "\"\"", 'y' },
    { "{\"type\": \"array\", \"items\": {\"type\": \"integer\"}}", "[]", 'y' },
    { "{\"type\": \"array\", \"items\": {\"type\": \"integer\"}}", "[1, 2,3]", 'y' },
    { "{\"type\": \"array\", \"items\": {\"type\": \"integer\"}}", "[\"", 'n' },
    { "{\"type\": \"array\", \"minItems\": 2, \"maxItems\": 3}", "[1]", 'n' },
    { "{\"type\": \"array\", \"minItems\": 2, \"maxItems\": 3}", "[1,2,3]", 'y' },
    { "{\"type\": \"array\", \"minItems\": 2, \"maxItems\": 3}", "[1,2,3,", 'n' },
    { "{\"type\": \"array\", \"minItems\": 1}", "[1,2,3,4]", 'y' },
    { "{\"type\": \"array\", \"minItems\": 1}", "[]", 'n' },
    { "{\"prefixItems\": [{\"type\": \"integer\"}], \"items\": {\"type\": \"string\"}}", "[1,\"a\",\"b\"]", 'y' },
    { "{\"prefixItems\": [{\"type\": \"integer\"}], \"items\": {\"type\": \"string\"}}", "[]", 'y' },
    { "{\"prefixItems\": [{\"type\": \"integer\"}], \"items\": {\"type\": \"string\"}}", "[1,2", 'n' },
    { "{\"prefixItems\": [{\"type\": \"integer\"}], \"items\": false}", "[1]", 'y' },
    { "{\"prefixItems\": [{\"type\": \"integer\"}], \"items\": false}", "[1,", 'n' },
    { "{\"enum\": [\"a\", 1, null, {\"k\": [2]}]}", "{\"k\":[2]}", 'y' },
    { "{\"enum\": [\"a\", 1, null]}", "\"b", 'n' },
    { "{\"enum\": [\"a\", 1], \"type\": \"integer\"}", "\"", 'n' },
    { "{\"const\": \"\xc3\xa9\"}", "\"\xc3\xa9\"", 'y' },
    { "{\"anyOf\": [{\"type\": \"integer\"}, {\"const\": \"no\"}]}", "\"no\"", 'y' },
    { "{\"type\": \"object\"}", "{}", 'y' },
    { "{\"type\": \"object\"}", "{\"x\":{\"y\": [{}]}}", 'y' },
    { "{\"type\": \"object\", \"additionalProperties\": {\"type\": \"integer\"}}", "{\"x\":1,\"y\":2}", 'y' },
    { "{\"type\": \"object\", \"additionalProperties\": {\"type\": \"integer\"}}", "{\"x\":\"", 'n' },
    { "{\"type\": \"object\", \"additionalProperties\": false}", "{}", 'y' },
    { "{\"type\": \"object\", \"additionalProperties\": false}", "{\"", 'n' },
    { "{\"required\": [\"k\"]}", "{\"k\":5}", 'y' },
    { "{\"required\": [\"k\"]}", "{}", 'n' },
};

#define PERSON                                                                                                         \
    "{\"type\": \"object\", \"title\": \"P\", \"properties\": {\"name\": {\"type\": \"string\"}, "                     \
    "\"age\": {\"type\": \"integer\"}, \"tags\": {\"type\": \"array\", \"items\": {\"enum\": [\"x\", \"y\"]}}}, "      \
    "\"required\": [\"name\", \"tags\"], \"additionalProperties\": false}"
#define TREE                                                                                                           \
    "{\"$ref\": \"#/$defs/node\", \"$defs\": {\"node\": {\"type\": \"object\", \"properties\": {\"v\": "               \
    "{\"type\": \"integer\"}, \"l\": {\"anyOf\": [{\"type\": \"null\"}, {\"$ref\": \"#/$defs/node\"}]}}, "             \
    "\"required\": [\"v\", \"l\"]}}}"

static const example larger[] = {
    { PERSON, "{\"name\": \"a\", \"age\": 3, \"tags\": [\"x\",\"y\"]}", 'y' },
    { PERSON, "{\"name\":\"a\",\"tags\":[]}", 'y' },
    { PERSON, "{\"name\":\"a\"}", 'n' },
    { PERSON, "{\"age\":3", 'n' }, /* name must come first */
    { PERSON, "{\"name\":\"a\",\"tags\":[\"z", 'n' },
    { PERSON, "{\"name\":\"a\",\"tags\":[],", 'n' },
    { TREE, "{\"v\":1,\"l\":{\"v\":2,\"l\":{\"v\":3,\"l\":null}}}", 'y' },
    { TREE, "{\"v\":1,\"l\":{\"v\":2}}", 'n' },
    { TREE, "{\"v\":1,\"l\":{\"v\":2,\"l\":", 'm' },
    { "{\"properties\": {\"a\": {}, \"b\": {}}}", "{\"b\":1}", 'y' },
    { "{\"properties\": {\"a\": {}, \"b\": {}}}", "{}", 'y' },
    { "{\"properties\": {\"a\": {}, \"b\": {}}}", "{\"a\":1,\"b\":2}", 'y' },
    { "{\"properties\": {\"a\": {}, \"b\": {}}}", "{\"b\":2,\"a\"", 'n' },
};

static void compile(const char *text, ml_grammar *g)
{
    json_t *schema = json_loads(text, JSON_DECODE_ANY, NULL);
    assert_non_null(schema);
    assert_ok(ml_schema_compile(schema, g, &err));
    json_decref(schema);
}

static void check_all(const example *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        ml_grammar g;
        compile(list[i].schema, &g);
        char found = verdict(&g, list[i].text, strlen(list[i].text));
        if (found != list[i].want) {
            fail_msg("%s: \"%s\": expected %c, found %c", list[i].schema, list[i].text, list[i].want, found);
        }
        ml_grammar_free(&g);
    }
}

static void test_texts_and_schemas(void **state)
{
    (void)state;
    check_all(examples, sizeof examples / sizeof examples[0]);
    check_all(larger, sizeof larger / sizeof larger[0]);
}

static void test_what_cannot_be_honoured_is_refused(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        { "{\"type\": \"string\", \"pattern\": \"a+\"}", "pattern" },
        { "{\"type\": \"integer\", \"minimum\": 3}", "minimum" },
        { "{\"oneOf\": [true]}", "oneOf" },
        { "{\"allOf\": [true]}", "allOf" },
        { "{\"not\": {}}", "not" },
        { "{\"type\": \"string\", \"format\": \"date\"}", "format" },
        { "{\"type\": \"array\", \"uniqueItems\": true}", "uniqueItems" },
        { "{\"type\": \"number\", \"properties\": {\"a\": {\"if\": true}}, \"multipleOf\": 2}", "multipleOf" },
        { "{\"properties\": {\"a\": {\"dependentRequired\": {}}}}", "dependentRequired" },
        { "{\"anyOf\": [true], \"type\": \"string\"}", "type" },
        { "{\"enum\": [1], \"minLength\": 1}", "minLength" },
        { "{\"$ref\": \"#/$defs/none\"}", "$ref" },
        { "{\"$ref\": \"http://example.com/x\"}", "$ref" },
        { "{\"type\": \"text\"}", "names no type" },
        { "{\"type\": 3}", "type" },
        { "{\"enum\": 3}", "enum" },
        { "{\"required\": [3]}", "required" },
        { "{\"minItems\": -1}", "minItems" },
        { "{\"minItems\": 1e9}", "minItems" },
        { "[]", "neither an object" },
        { "false", "no value" },
        { "{\"enum\": []}", "no value" },
        { "{\"$ref\": \"#\"}", "no value" },
        { "{\"type\": \"string\", \"minLength\": 5, \"maxLength\": 4}", "no value" },
        { "{\"properties\": {\"a\": {\"$ref\": \"#\"}}, \"required\": [\"a\"]}", "no value" }, /* never ends */
        { "{\"required\": [\"a\"], \"additionalProperties\": false}", "no value" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ml_grammar g;
        json_t *schema = json_loads(bad[i][0], JSON_DECODE_ANY, NULL);
        assert_non_null(schema);
        memset(&err, 0, sizeof err);
        if (ml_schema_compile(schema, &g, &err) != ML_EINVAL || !strstr(err.message, bad[i][1])) {
            fail_msg("%s: \"%s\" lacks \"%s\"", bad[i][0], err.message, bad[i][1]);
        }
        ml_grammar_free(&g);
        json_decref(schema);
    }
}

/* A schema nested deep, and one with very many properties, end with an answer either way. */
static void test_large_schemas(void **state)
{
    (void)state;
    ml_grammar g;
    json_t *deep = json_true(), *wide = json_object();
    for (int i = 0; i < 100; i++) deep = json_pack("{s:s, s:o}", "type", "array", "items", deep);
    assert_int_equal(ml_schema_compile(deep, &g, &err), ML_EINVAL);
    assert_non_null(strstr(err.message, "deep"));
    ml_grammar_free(&g);
    json_decref(deep);
    for (int i = 0; i < 400; i++) {
        char key[16];
        snprintf(key, sizeof key, "key_%d", i);
        json_object_set_new(wide, key, json_pack("{s:s, s:i}", "type", "string", "maxLength", 1000));
    }
    wide = json_pack("{s:o}", "properties", wide);
    assert_int_equal(ml_schema_compile(wide, &g, &err), ML_EINVAL);
    assert_non_null(strstr(err.message, "too much"));
    ml_grammar_free(&g);
    json_decref(wide);
}

/* ---- tokens ---- */

static ml_tokenizer *open_tokenizer(void)
{
    char path[ML_PATH_MAX];
    ml_tokenizer *t;
    snprintf(path, sizeof path, "%s/tests/golden/tokenizer_small.json", MOONLIGHT_SOURCE_DIR);
    assert_ok(ml_tokenizer_open(path, &t, &err));
    return t;
}

/* Whether a token leads anywhere, byte by byte: what the mask must say. */
static bool is_allowed(const ml_grammar *g, const ml_tokenizer *t, const ml_chars *text, int32_t id)
{
    ml_chars whole = { 0 };
    size_t n;
    const char *p = ml_tokenizer_is_added(t, id) ? NULL : ml_tokenizer_piece(t, id, &n);
    if (!p || !n) return false;
    assert_ok(ml_chars_append(&whole, text->data, text->n, &err));
    assert_ok(ml_chars_append(&whole, p, n, &err));
    bool allowed = verdict(g, whole.data, whole.n) != 'n';
    ml_chars_free(&whole);
    return allowed;
}

/* Random answers of a model that knows nothing: each must be JSON that the schema accepts. */
static void test_every_random_answer_is_valid(void **state)
{
    (void)state;
    ml_tokenizer *t = open_tokenizer();
    ml_vocabulary *v;
    assert_ok(ml_vocabulary_make(t, &v, &err));
    int32_t n_vocab = ml_tokenizer_vocab_size(t), end = n_vocab;
    float *logits = ml_calloc((size_t)n_vocab + 1, sizeof *logits);
    static const char *const schemas[] = { PERSON, TREE, "{\"type\": [\"integer\", \"null\"]}",
                                           "{\"type\": \"string\", \"maxLength\": 5}" };
    ml_rng rng = ml_rng_make(3, 4);
    for (int round = 0; round < 60; round++) {
        ml_grammar g;
        ml_constraint *c;
        compile(schemas[round % 4], &g);
        assert_ok(ml_constraint_make(&g, v, &end, 1, &c, &err));
        int32_t answer[4096];
        int64_t n = 0;
        ml_chars text = { 0 };
        bool ended = false;
        while (n < 4096) {
            /* Prefer short tokens and closing marks a little, so that it ends. */
            for (int32_t i = 0; i <= n_vocab; i++) logits[i] = (float)ml_rng_uniform(&rng);
            for (const char *mark = "\"}]ln"; *mark; mark++) {
                for (int32_t i = 0; i < n_vocab; i++) {
                    size_t size;
                    const char *p = ml_tokenizer_piece(t, i, &size);
                    if (p && size == 1 && *p == *mark) logits[i] += 0.5f;
                }
            }
            if (!ml_constraint_apply(c, answer, n, logits, n_vocab + 1)) {
                ended = true;
                break;
            }
            if (n < 6) {
                for (int32_t i = 0; i < n_vocab; i += 7) {
                    assert_int_equal(isfinite(logits[i]), is_allowed(&g, t, &text, i));
                }
            }
            int32_t best = 0;
            for (int32_t i = 1; i <= n_vocab; i++) best = logits[i] > logits[best] ? i : best;
            assert_true(isfinite(logits[best]));
            if (best == end) {
                ended = true;
                break;
            }
            size_t size;
            const char *p = ml_tokenizer_piece(t, best, &size);
            answer[n++] = best;
            assert_ok(ml_chars_append(&text, p, size, &err));
        }
        assert_int_equal(verdict(&g, text.data, text.n), ended ? 'y' : 'm');
        if (ended) {
            json_error_t error;
            json_t *value =
                json_loadb(text.data, text.n, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
            if (!value) fail_msg("%.*s: %s", (int)text.n, text.data, error.text);
            json_decref(value);
        }
        ml_chars_free(&text);
        ml_constraint_free(c);
        ml_grammar_free(&g);
    }
    ml_free(logits);
    ml_vocabulary_free(v);
    ml_tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts_and_schemas),
        cmocka_unit_test(test_what_cannot_be_honoured_is_refused),
        cmocka_unit_test(test_large_schemas),
        cmocka_unit_test(test_every_random_answer_is_valid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
