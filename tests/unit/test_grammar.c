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

#define SHAPES                                                                                                         \
    "{\"oneOf\": [{\"$ref\": \"#/$defs/c\"}, {\"$ref\": \"#/$defs/s\"}], \"discriminator\": {\"propertyName\": "       \
    "\"k\"}, "                                                                                                         \
    "\"$defs\": {\"c\": {\"type\": \"object\", \"properties\": {\"k\": {\"const\": \"c\"}, \"r\": {\"type\": "         \
    "\"integer\"}},"                                                                                                   \
    "\"required\": [\"k\", \"r\"]}, \"s\": {\"type\": \"object\", \"properties\": {\"k\": {\"enum\": [\"s\", "         \
    "\"q\"]}},"                                                                                                        \
    "\"required\": [\"k\"]}}}"
#define DERIVED                                                                                                        \
    "{\"$defs\": {\"base\": {\"type\": \"object\", \"properties\": {\"id\": {\"type\": \"integer\"}}, \"required\": "  \
    "[\"id\"]}}, \"allOf\": [{\"$ref\": \"#/$defs/base\"}, {\"properties\": {\"id\": {\"minimum\": 7}, \"n\": "        \
    "{\"$ref\": \"#\"}}}], \"properties\": {\"s\": {\"type\": \"string\"}}, \"required\": [\"s\"]}"
#define MONTH "{\"type\": \"integer\", \"minimum\": 1, \"maximum\": 12}"
#define RATE "{\"type\": \"number\", \"exclusiveMinimum\": -0.5, \"maximum\": 10.25}"
#define OPEN "{\"type\": \"number\", \"exclusiveMinimum\": 0, \"exclusiveMaximum\": 1}"

/* Values by the rules of JSON schema and of the formats' standards. */
static const example keywords[] = {
    { MONTH, "1", 'y' },
    { MONTH, "12", 'y' },
    { MONTH, "13", 'n' },
    { MONTH, "0", 'n' },
    { MONTH, "-1", 'n' },
    { MONTH, "01", 'n' },
    { MONTH, "2", 'y' },
    { MONTH, "20", 'n' },
    { "{\"type\": \"integer\", \"minimum\": -15, \"maximum\": -3}", "-15", 'y' },
    { "{\"type\": \"integer\", \"minimum\": -15, \"maximum\": -3}", "-16", 'n' },
    { "{\"type\": \"integer\", \"minimum\": -15, \"maximum\": -3}", "-2", 'n' },
    { "{\"type\": \"integer\", \"minimum\": -15, \"maximum\": -3}", "-9", 'y' },
    { "{\"type\": \"integer\", \"minimum\": -15, \"maximum\": -3}", "4", 'n' },
    { "{\"type\": \"integer\", \"minimum\": 0}", "0", 'y' },
    { "{\"type\": \"integer\", \"minimum\": 0}", "999999999999999", 'y' },
    { "{\"type\": \"integer\", \"minimum\": 0}", "-", 'n' },
    { "{\"type\": \"integer\", \"minimum\": 0.5, \"exclusiveMaximum\": 3}", "0", 'n' },
    { "{\"type\": \"integer\", \"minimum\": 0.5, \"exclusiveMaximum\": 3}", "2", 'y' },
    { "{\"type\": \"integer\", \"minimum\": 0.5, \"exclusiveMaximum\": 3}", "3", 'n' },
    { "{\"type\": \"integer\", \"maximum\": 9223372036854775807}", "-77", 'y' },
    { "{\"type\": \"integer\", \"multipleOf\": 5, \"maximum\": 99}", "95", 'y' },
    { "{\"type\": \"integer\", \"multipleOf\": 5, \"maximum\": 99}", "-20", 'y' },
    { "{\"type\": \"integer\", \"multipleOf\": 5, \"maximum\": 99}", "96", 'n' },
    { "{\"type\": \"integer\", \"format\": \"int32\"}", "2147483647", 'y' },
    { "{\"type\": \"integer\", \"format\": \"int32\"}", "2147483648", 'n' },
    { "{\"type\": \"integer\", \"format\": \"int32\"}", "-2147483648", 'y' },
    { RATE, "-0.5", 'n' },
    { RATE, "-0.4", 'y' },
    { RATE, "-0.49", 'y' },
    { RATE, "10.25", 'y' },
    { RATE, "10.250", 'y' },
    { RATE, "10.251", 'n' },
    { RATE, "10.3", 'n' },
    { RATE, "9.99", 'y' },
    { RATE, "11", 'n' },
    { RATE, "0", 'y' },
    { OPEN, "0", 'm' },
    { OPEN, "0.0", 'm' },
    { OPEN, "0.001", 'y' },
    { OPEN, "1", 'n' },
    { OPEN, "0.99999999999999", 'y' },
    { "{\"type\": \"number\", \"multipleOf\": 0.01, \"minimum\": 1}", "1.25", 'y' },
    { "{\"type\": \"number\", \"multipleOf\": 0.01, \"minimum\": 1}", "1.255", 'n' },
    { "{\"minimum\": 5}", "4", 'm' }, /* 40 */
    { "{\"minimum\": 5}", "4.", 'n' },
    { "{\"pattern\": \"^a+$\"}", "\"aaa\"", 'y' },
    { "{\"pattern\": \"^a+$\"}", "\"\"", 'n' },
    { "{\"pattern\": \"^a+$\"}", "\"ab", 'n' },
    { "{\"pattern\": \"b\"}", "\"abc\"", 'y' }, /* searched for */
    { "{\"pattern\": \"b\"}", "\"acc", 'm' },
    { "{\"pattern\": \"b\"}", "\"acc\"", 'n' },
    { "{\"pattern\": \"^b\"}", "\"ab", 'n' },
    { "{\"pattern\": \"b$\"}", "\"bab\"", 'y' },
    { "{\"pattern\": \"b$\"}", "\"ba\"", 'n' },
    { "{\"pattern\": \"^$\"}", "\"\"", 'y' },
    { "{\"pattern\": \"$^\"}", "\"a\"", 'n' },
    { "{\"pattern\": \"$^\"}", "\"\"", 'y' },
    { "{\"pattern\": \"^(a|b|)c{2,3}?$\"}", "\"cc\"", 'y' },
    { "{\"pattern\": \"^(a|b|)c{2,3}?$\"}", "\"bccc\"", 'y' },
    { "{\"pattern\": \"^(a|b|)c{2,3}?$\"}", "\"bcccc", 'n' },
    { "{\"pattern\": \"^[^a-c]$\"}", "\"\xe2\x98\x83\"", 'y' },
    { "{\"pattern\": \"^[^a-c]$\"}", "\"b", 'n' },
    { "{\"pattern\": \"^[^a-c]$\"}", "\"\\\"\"", 'y' },             /* a quote, escaped */
    { "{\"pattern\": \"^[^a-c]$\"}", "\"\\n\"", 'y' },              /* a line feed, escaped */
    { "{\"pattern\": \"^[^a-c]$\"}", "\"\n", 'n' },                 /* but not as it is */
    { "{\"pattern\": \"^.$\"}", "\"\\n\"", 'n' },                   /* . is no line feed */
    { "{\"pattern\": \"^[^a-c]$\"}", "\"\xf0\x9f\x98\x80\"", 'y' }, /* one character */
    { "{\"pattern\": \"^[\\u00e9-\\u2603]$\"}", "\"\xc3\xa9\"", 'y' },
    { "{\"pattern\": \"^[\\u00e9-\\u2603]$\"}", "\"\xc3\xa8\"", 'n' },
    { "{\"pattern\": \"^[\\u00e9-\\u2603]$\"}", "\"\xe2\x98\x83\"", 'y' },
    { "{\"pattern\": \"^[\\u00e9-\\u2603]$\"}", "\"\xe2\x98\x84\"", 'n' },
    { "{\"pattern\": \"^\\\\d{3}-\\\\w+\\\\s\\\\.[\\\\]\\\\-]$\"}", "\"123-a_9 .]\"", 'y' },
    { "{\"pattern\": \"^\\\\d{3}-\\\\w+\\\\s\\\\.[\\\\]\\\\-]$\"}", "\"123-a_9 .x", 'n' },
    { "{\"pattern\": \"^(?<y>x)(?:y)$\"}", "\"xy\"", 'y' },
    { "{\"pattern\": \"^a*$\", \"minLength\": 2, \"maxLength\": 3}", "\"a\"", 'n' },
    { "{\"pattern\": \"^a*$\", \"minLength\": 2, \"maxLength\": 3}", "\"aaa\"", 'y' },
    { "{\"pattern\": \"^a*$\", \"minLength\": 2, \"maxLength\": 3}", "\"aaaa", 'n' },
    { "{\"pattern\": \"^aa\", \"format\": \"uuid\"}", "\"ab", 'n' },
    { "{\"format\": \"date\"}", "\"2024-02-29\"", 'y' },
    { "{\"format\": \"date\"}", "\"2023-02-29\"", 'n' },
    { "{\"format\": \"date\"}", "\"1900-02-29\"", 'n' },
    { "{\"format\": \"date\"}", "\"2000-02-29\"", 'y' },
    { "{\"format\": \"date\"}", "\"2024-04-31\"", 'n' },
    { "{\"format\": \"date\"}", "\"2024-13", 'n' },
    { "{\"format\": \"time\"}", "\"23:59:59.5+01:00\"", 'y' },
    { "{\"format\": \"time\"}", "\"24", 'n' },
    { "{\"format\": \"date-time\"}", "\"2024-01-31T00:00:00Z\"", 'y' },
    { "{\"format\": \"date-time\"}", "\"2024-01-31 ", 'n' },
    { "{\"format\": \"duration\"}", "\"P1DT2H\"", 'y' },
    { "{\"format\": \"duration\"}", "\"P\"", 'n' },
    { "{\"format\": \"uuid\"}", "\"123e4567-e89b-12d3-a456-426614174000\"", 'y' },
    { "{\"format\": \"email\"}", "\"a.b+c@example.co.uk\"", 'y' },
    { "{\"format\": \"email\"}", "\".a", 'n' },
    { "{\"format\": \"email\"}", "\"a@b\"", 'n' },
    { "{\"format\": \"ipv4\"}", "\"255.1.20.0\"", 'y' },
    { "{\"format\": \"ipv4\"}", "\"256", 'n' },
    { "{\"format\": \"ipv4\"}", "\"1.2.3\"", 'n' },
    { "{\"format\": \"uri\"}", "\"https://example.com:80/a/b?c=d#e\"", 'y' },
    { "{\"format\": \"uri\"}", "\"/a", 'n' },
    { "{\"enum\": [1, 5, 9], \"minimum\": 4, \"type\": \"integer\"}", "5", 'y' },
    { "{\"enum\": [1, 5, 9], \"minimum\": 4, \"type\": \"integer\"}", "1", 'n' },
    { "{\"const\": 1, \"enum\": [1, 5]}", "1", 'y' },
    { "{\"const\": 1, \"enum\": [1, 5]}", "5", 'n' },
    { SHAPES, "{\"k\":\"c\",\"r\":1}", 'y' },
    { SHAPES, "{\"k\":\"q\"}", 'y' },
    { SHAPES, "{\"k\":\"c\"}", 'n' },
    { "{\"oneOf\": [{\"type\": \"null\"}, {\"type\": \"string\"}]}", "null", 'y' },
    { "{\"oneOf\": [{\"const\": 1}, {\"const\": 2}]}", "2", 'y' },
    { DERIVED, "{\"s\":\"\",\"id\":7}", 'y' },
    { DERIVED, "{\"s\":\"\",\"id\":6}", 'n' },
    { DERIVED, "{\"s\":\"\",\"id\":8,\"n\":{\"s\":\"x\",\"id\":9}}", 'y' },
    { DERIVED, "{\"id\":8}", 'n' },
    { DERIVED, "{\"s\":\"\",\"id\":8,\"n\":{\"id\"", 'n' },
    { "{\"$ref\": \"#/$defs/a~1b\", \"maxLength\": 1, \"$defs\": {\"a/b\": {\"type\": \"string\"}}}", "\"x\"", 'y' },
    { "{\"$ref\": \"#/$defs/a~1b\", \"maxLength\": 1, \"$defs\": {\"a/b\": {\"type\": \"string\"}}}", "\"xx", 'n' },
    { "{\"anyOf\": [{\"required\": [\"a\"]}, {\"required\": [\"b\"]}], \"properties\": {\"a\": {}, \"b\": {}}}",
      "{\"b\":1}", 'y' },
    { "{\"anyOf\": [{\"required\": [\"a\"]}, {\"required\": [\"b\"]}], \"properties\": {\"a\": {}, \"b\": {}}}", "{}",
      'n' },
    { "{\"anyOf\": [{\"minimum\": 5}, {\"const\": 1}], \"type\": \"integer\"}", "1", 'y' },
    { "{\"anyOf\": [{\"minimum\": 5}, {\"const\": 1}], \"type\": \"integer\"}", "2", 'm' },
    { "{\"anyOf\": [{\"minimum\": 5}, {\"const\": 1}], \"type\": \"integer\"}", "2.", 'n' },
    { "{\"allOf\": [{\"properties\": {\"a\": true}, \"additionalProperties\": false}, {\"properties\": {\"b\": "
      "true}}]}",
      "{\"b\"", 'n' },
    { "{\"allOf\": [{\"items\": {\"minimum\": 2}}, {\"prefixItems\": [{\"type\": \"integer\"}], \"items\": {\"type\": "
      "\"integer\"}}]}",
      "[2,33]", 'y' },
    { "{\"allOf\": [{\"items\": {\"minimum\": 2}}, {\"prefixItems\": [{\"type\": \"integer\"}], \"items\": {\"type\": "
      "\"integer\"}}]}",
      "[1]", 'n' },
    { "{\"patternProperties\": {\"^x-\": {\"type\": \"integer\"}}, \"additionalProperties\": false}",
      "{\"x-a\":1,\"x-\":2}", 'y' },
    { "{\"patternProperties\": {\"^x-\": {\"type\": \"integer\"}}, \"additionalProperties\": false}", "{\"y", 'n' },
    { "{\"propertyNames\": {\"enum\": [\"a\", \"b\"]}, \"additionalProperties\": {\"type\": \"null\"}}", "{\"b\":null}",
      'y' },
    { "{\"propertyNames\": {\"enum\": [\"a\", \"b\"]}, \"additionalProperties\": {\"type\": \"null\"}}", "{\"c", 'n' },
    { "{\"type\": \"object\", \"minProperties\": 1, \"maxProperties\": 2}", "{}", 'n' },
    { "{\"type\": \"object\", \"minProperties\": 1, \"maxProperties\": 2}", "{\"a\":1,\"b\":1}", 'y' },
    { "{\"type\": \"object\", \"minProperties\": 1, \"maxProperties\": 2}", "{\"a\":1,\"b\":1,", 'n' },
    { "{\"type\": \"array\", \"uniqueItems\": true, \"maxItems\": 1}", "[1]", 'y' },
    { "{\"type\": \"array\", \"uniqueItems\": false}", "[1,1]", 'y' },
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
    check_all(keywords, sizeof keywords / sizeof keywords[0]);
}

static void test_what_cannot_be_honoured_is_refused(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        { "{\"pattern\": \"(?=a)\"}", "group" },
        { "{\"pattern\": \"\\\\bword\"}", "escape" },
        { "{\"pattern\": \"(a)\\\\1\"}", "escape" },
        { "{\"pattern\": \"\\\\p{L}\"}", "escape" },
        { "{\"pattern\": \"[a\"}", "not closed" },
        { "{\"pattern\": \"(a\"}", "not closed" },
        { "{\"pattern\": \"a)\"}", "not opened" },
        { "{\"pattern\": \"[b-a]\"}", "order" },
        { "{\"pattern\": \"a{3,2}\"}", "order" },
        { "{\"pattern\": \"a{99999}\"}", "repetitions" },
        { "{\"pattern\": \"((a{99}){99}){99}\"}", "repetitions" },
        { "{\"pattern\": \"(((((){9999}){9999}){9999}){9999})\"}", "complex" },
        { "{\"pattern\": \"^(.*a.{30}|.*b.{30})$\"}", "too" },
        { "{\"pattern\": \"*\"}", "means nothing" },
        { "{\"pattern\": \"\\\\ud800\"}", "surrogate" },
        { "{\"pattern\": 3}", "pattern" },
        { "{\"pattern\": \"x\", \"format\": \"uuid\"}", "no value" },
        { "{\"format\": \"regex\"}", "format" },
        { "{\"type\": \"integer\", \"format\": \"date\"}", "format" },
        { "{\"type\": \"integer\", \"minimum\": \"3\"}", "minimum" },
        { "{\"type\": \"number\", \"minimum\": 0.12345678901234567}", "minimum" },
        { "{\"type\": \"integer\", \"multipleOf\": 101}", "multipleOf" },
        { "{\"type\": \"number\", \"multipleOf\": 0.3}", "multipleOf" },
        { "{\"type\": \"number\", \"multipleOf\": 0}", "multipleOf" },
        { "{\"type\": \"integer\", \"minimum\": 4, \"maximum\": 3}", "no value" },
        { "{\"type\": \"integer\", \"exclusiveMinimum\": 4, \"exclusiveMaximum\": 5}", "no value" },
        { "{\"type\": \"integer\", \"minimum\": 1e15}", "no value" },
        { "{\"oneOf\": [{\"type\": \"integer\"}, {\"type\": \"number\"}]}", "oneOf" },
        { "{\"oneOf\": [{\"required\": [\"a\"]}, {\"required\": [\"b\"]}]}", "oneOf" },
        { "{\"oneOf\": [{\"enum\": [1, 2]}, {\"enum\": [2.0]}]}", "oneOf" },
        { "{\"oneOf\": [true, {\"type\": \"null\"}]}", "oneOf" },
        { "{\"allOf\": []}", "allOf" },
        { "{\"allOf\": [{\"$ref\": \"#\"}]}", "itself" },
        { "{\"allOf\": [{\"type\": \"string\"}, {\"type\": \"integer\"}]}", "no value" },
        { "{\"allOf\": [{\"pattern\": \"a\"}, {\"pattern\": \"b\"}]}", "pattern" },
        { "{\"not\": {}}", "not" },
        { "{\"if\": {}}", "if" },
        { "{\"type\": \"array\", \"uniqueItems\": true}", "uniqueItems" },
        { "{\"type\": \"array\", \"contains\": {}}", "contains" },
        { "{\"type\": \"number\", \"properties\": {\"a\": {\"if\": true}}, \"divisibleBy\": 2}", "divisibleBy" },
        { "{\"properties\": {\"a\": {\"dependentRequired\": {}}}}", "dependentRequired" },
        { "{\"properties\": {\"a\": {}}, \"patternProperties\": {\"b\": {}}}", "patternProperties" },
        { "{\"patternProperties\": {\"a\": {}, \"b\": {}}}", "patternProperties" },
        { "{\"properties\": {\"a\": {}}, \"minProperties\": 1}", "minProperties" },
        { "{\"type\": \"object\", \"minProperties\": 2}", "minProperties" },
        { "{\"properties\": {\"a\": {}, \"b\": {}}, \"maxProperties\": 1}", "maxProperties" },
        { "{\"enum\": [[1]], \"minItems\": 1}", "enum" },
        { "{\"enum\": [\"a\"], \"minLength\": 2}", "no value" },
        { "{\"const\": 3, \"enum\": [4]}", "no value" },
        { "{\"$ref\": \"#/$defs/none\"}", "$ref" },
        { "{\"$ref\": \"http://example.com/x\"}", "$ref" },
        { "{\"$ref\": 3}", "$ref" },
        { "{\"type\": \"text\"}", "names no type" },
        { "{\"type\": 3}", "type" },
        { "{\"enum\": 3}", "enum" },
        { "{\"anyOf\": 3}", "anyOf" },
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

/* docs/limits.md: what a schema may cost and describe, to the last step and symbol. */
static void test_bounds_of_grammars(void **state)
{
    (void)state;
    ml_grammar g = { 0 };
    assert_ok(ml_grammar_spend(&g, 49999999, &err));
    assert_ok(ml_grammar_spend(&g, 1, &err));
    assert_int_equal(ml_grammar_spend(&g, 1, &err), ML_EINVAL);
    assert_non_null(strstr(err.message, "too complex"));
    int32_t rule;
    assert_ok(ml_grammar_rule(&g, &rule, &err));
    for (int i = 0; i < 99999; i++) assert_ok(ml_grammar_add(&g, rule, &rule, 1, &err)); /* with its end: two */
    assert_ok(ml_grammar_add(&g, rule, NULL, 0, &err));
    assert_int_equal(ml_grammar_add(&g, rule, &rule, 1, &err), ML_EINVAL); /* 200,001 */
    assert_non_null(strstr(err.message, "too much"));
    assert_ok(ml_grammar_add(&g, rule, NULL, 0, &err));
    assert_int_equal(ml_grammar_add(&g, rule, NULL, 0, &err), ML_EINVAL);
    assert_ok(ml_grammar_prune(&g, &err)); /* to nothing, by way of what refers to itself */
    ml_grammar_free(&g);
}

/* Rules that name the one before, or the one behind: found to end either way, and no step for each pair of them. */
static void test_long_chains_end(void **state)
{
    (void)state;
    for (int forward = 0; forward < 2; forward++) {
        ml_grammar g = { 0 };
        enum { N = 60000 };
        int32_t rule, never, byte;
        for (int32_t i = 0; i < N; i++) assert_ok(ml_grammar_rule(&g, &rule, &err));
        assert_ok(ml_grammar_rule(&g, &never, &err));
        assert_ok(ml_grammar_class(&g, "aa", 1, &byte, &err));
        for (int32_t i = 0; i < N; i++) {
            ml_symbol next = forward ? i + 1 : i - 1;
            bool last = forward ? i == N - 1 : i == 0;
            assert_ok(ml_grammar_add(&g, i, last ? &byte : &next, 1, &err));
        }
        assert_ok(ml_grammar_add(&g, 0, &never, 1, &err));
        g.root = forward ? 0 : N - 1;
        assert_ok(ml_grammar_prune(&g, &err));
        int n_first = 0;
        for (int32_t a = g.rule[0].first; a >= 0; a = g.alternative[a].next) n_first++;
        assert_int_equal(n_first, 1);
        g.root = never;
        assert_int_equal(ml_grammar_prune(&g, &err), ML_EINVAL);
        ml_grammar_free(&g);
    }
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
        assert_ok(ml_constraint_make(&g, v, &end, 1, NULL, 0, &c, &err));
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
        cmocka_unit_test(test_texts_and_schemas), cmocka_unit_test(test_what_cannot_be_honoured_is_refused),
        cmocka_unit_test(test_large_schemas),     cmocka_unit_test(test_bounds_of_grammars),
        cmocka_unit_test(test_long_chains_end),   cmocka_unit_test(test_every_random_answer_is_valid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
