/* Answers read token by token, and messages as JSON. */
#include "token/chat_output.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "support/support.h"
#include "token/build.h"
#include "token/chat_json.h"

#include <string.h>

static ml_error err;

/* Bytes are their own ids; these follow. */
enum {
    IM_END = 256,
    IM_SYSTEM,
    IM_USER,
    IM_ASSISTANT,
    IM_MIDDLE,
    SECTION,
    SECTION_END,
    CALL,
    ARGUMENTS,
    CALL_END,
    IM_START,
    THINK,
    THINK_END,
    N_ALL
};
static const char *const marks[N_ALL - 256] = { "<|im_end|>",
                                                "<|im_system|>",
                                                "<|im_user|>",
                                                "<|im_assistant|>",
                                                "<|im_middle|>",
                                                "<|tool_calls_section_begin|>",
                                                "<|tool_calls_section_end|>",
                                                "<|tool_call_begin|>",
                                                "<|tool_call_argument_begin|>",
                                                "<|tool_call_end|>",
                                                "<|im_start|>",
                                                "<think>",
                                                "</think>" };

/* Without thoughts, <think> is text. */
static ml_tokenizer *make_tokenizer(bool thoughts)
{
    ml_tokenizer *t;
    assert_ok(ml_tokenizer_make("bytes", &t, &err));
    for (int i = 0; i < 256; i++) {
        uint8_t byte = (uint8_t)i;
        assert_ok(ml_tokenizer_put_piece(t, i, &byte, 1, 0, &err));
    }
    for (int i = 256; i < (thoughts ? N_ALL : THINK); i++) {
        bool special = i < SECTION || i == IM_START; /* those of calls and thoughts are not, as published */
        const char *mark = marks[i - 256];
        assert_ok(
            ml_tokenizer_put_piece(t, i, mark, strlen(mark), ML_PIECE_ADDED | (special ? ML_PIECE_SPECIAL : 0), &err));
    }
    assert_ok(ml_tokenizer_finish(t, &err));
    return t;
}

static void start(ml_chat_output *o, const ml_tokenizer *t, const char *format)
{
    ml_chat_format f;
    const int32_t prompt = 'p';
    assert_ok(ml_chat_choose(t, format, NULL, &f, &err));
    ml_chat_output_start(o, &f, t, &prompt, 1, true);
}

/* Bytes of a text, with marks of the tokenizer in it as ids. */
static void push_text(ml_chat_output *o, const ml_tokenizer *t, const char *text)
{
    ml_ids ids = { 0 };
    assert_ok(ml_tokenizer_encode(t, text, strlen(text), true, &ids, &err));
    size_t n = 0;
    for (size_t i = 0; i < ids.n; i++) {
        assert_ok(ml_chat_output_push(o, ids.id[i], &err));
        assert_true(o->text.n + o->reasoning.n >= n); /* what is out stays */
        n = o->text.n + o->reasoning.n;
    }
    ml_ids_free(&ids);
}

static void assert_chars(const ml_chars *chars, const char *wanted)
{
    if (chars->n != strlen(wanted) || (chars->n && memcmp(chars->data, wanted, chars->n) != 0)) {
        fail_msg("found \"%.*s\", expected \"%s\"", (int)chars->n, chars->n ? chars->data : "", wanted);
    }
}

static void check(const char *format, bool thoughts, const char *text, const char *reasoning, const char *content)
{
    ml_tokenizer *t = make_tokenizer(thoughts);
    ml_chat_output o = { 0 };
    start(&o, t, format);
    push_text(&o, t, text);
    assert_ok(ml_chat_output_end(&o, &err));
    assert_chars(&o.reasoning, reasoning);
    assert_chars(&o.text, content);
    assert_int_equal(o.n_call, 0);
    ml_chat_output_free(&o);
    ml_tokenizer_free(t);
}

static void plain_text(void **state)
{
    (void)state;
    check("chatml", true, "Hello \xE4\xB8\xAD!", "", "Hello \xE4\xB8\xAD!");
    check("chatml", true, " \n two  ", "", " \n two  ");
    check("chatml", false, "<think>x</think>", "", "<think>x</think>"); /* a format without thoughts */
    check("kimi", true,
          "a\xFF"
          "b\xE4\xB8",
          "",
          "a\xEF\xBF\xBD"
          "b\xEF\xBF\xBD");
}

static void thoughts(void **state)
{
    (void)state;
    for (int tokens = 0; tokens < 2; tokens++) {
        check("qwen3", tokens, "<think>\nhm\n\nso\n</think>\n\nYes.\n", "hm\n\nso", "Yes.\n");
        check("qwen3", tokens, "\n <think>a</think>b", "a", "b");
        check("qwen3", tokens, "<think>\n\n</think>\n\nNo.", "", "No.");
        check("qwen3", tokens, "<think>never ends\n", "never ends", "");
        check("qwen3", tokens, "<think>a </thin k> b</think> c", "a </thin k> b", " c");
        check("qwen3", tokens, "<think", "", "<think");
        check("qwen3", tokens, "  <thinner>", "", "  <thinner>");
        check("qwen3", tokens, "x<think>y</think>", "", tokens ? "xy" : "x<think>y</think>"); /* not at the beginning */
        check("qwen3", tokens, "", "", "");
        check("kimi-k2-thinking", tokens, "<think>a</think>b", "a", "b");
    }
}

#define MARKS_OF_CALLS "<|tool_calls_section_begin|><|tool_call_begin|>"

static void calls(void **state)
{
    (void)state;
    ml_tokenizer *t = make_tokenizer(true);
    ml_chat_output o = { 0 };
    start(&o, t, "kimi");
    push_text(&o, t, "Let me see.<|tool_calls_section_begin|>\n<|tool_call_begin|> functions.get_weather:0\n");
    assert_int_equal(o.n_call, 1);
    assert_int_equal(o.calls[0].name.n, 0);
    push_text(&o, t, "<|tool_call_argument_begin|>");
    assert_chars(&o.calls[0].id, "functions.get_weather:0"); /* as soon as arguments begin */
    assert_chars(&o.calls[0].name, "get_weather");
    push_text(&o, t, "{\"city\":");
    assert_chars(&o.calls[0].arguments, "{\"city\":");
    assert_false(o.calls[0].complete);
    push_text(&o, t, " \"\xE6\x9D\xB1\xE4\xBA\xAC\"}<|tool_call_end|>");
    assert_true(o.calls[0].complete);
    push_text(&o, t,
              " <|tool_call_begin|>functions.a.b:c:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
              "<|tool_call_begin|>odd<|tool_call_argument_begin|>x<|tool_call_end|>"
              "<|tool_calls_section_end|>Done.");
    assert_ok(ml_chat_output_end(&o, &err));
    assert_chars(&o.text, "Let me see.Done.");
    assert_int_equal(o.n_call, 3);
    assert_chars(&o.calls[0].arguments, "{\"city\": \"\xE6\x9D\xB1\xE4\xBA\xAC\"}");
    assert_chars(&o.calls[1].id, "functions.a.b:c:1");
    assert_chars(&o.calls[1].name, "a.b:c");
    assert_chars(&o.calls[2].name, "odd");
    json_t *message = ml_chat_output_to_json(&o), *wanted;
    static const char text[] =
        "{\"role\": \"assistant\", \"content\": \"Let me see.Done.\", \"tool_calls\": ["
        "{\"id\": \"functions.get_weather:0\", \"type\": \"function\", \"function\": {\"name\": \"get_weather\", "
        "\"arguments\": \"{\\\"city\\\": \\\"\xE6\x9D\xB1\xE4\xBA\xAC\\\"}\"}}, "
        "{\"id\": \"functions.a.b:c:1\", \"type\": \"function\", \"function\": {\"name\": \"a.b:c\", \"arguments\": "
        "\"{}\"}}, "
        "{\"id\": \"odd\", \"type\": \"function\", \"function\": {\"name\": \"odd\", \"arguments\": \"x\"}}]}";
    assert_ok(ml_json_parse(text, sizeof text - 1, "wanted", &wanted, &err));
    assert_true(json_equal(message, wanted));
    json_decref(message);
    json_decref(wanted);
    ml_chat_output_free(&o);
    ml_tokenizer_free(t);
}

static void calls_that_are_broken(void **state)
{
    (void)state;
    ml_tokenizer *t = make_tokenizer(true);
    ml_chat_output o = { 0 };
    start(&o, t, "kimi");
    push_text(&o, t, "x" MARKS_OF_CALLS "functions.f:0<|tool_call_argument_begin|>{\"a");
    assert_ok(ml_chat_output_end(&o, &err)); /* the answer was cut off */
    assert_int_equal(o.n_call, 1);
    assert_false(o.calls[0].complete);
    assert_chars(&o.calls[0].arguments, "{\"a");
    json_t *message = ml_chat_output_to_json(&o);
    assert_null(json_object_get(message, "tool_calls"));
    json_decref(message);
    ml_chat_output_free(&o);

    start(&o, t, "kimi"); /* marks out of place say nothing; a new call ends the one before */
    push_text(&o, t,
              "<|tool_call_argument_begin|>a<|tool_call_end|>b<|tool_calls_section_end|>c<|tool_call_begin|>"
              "functions.f:0<|tool_call_begin|>functions.g:1<|tool_call_argument_begin|>{}"
              "<|tool_calls_section_end|>d");
    assert_ok(ml_chat_output_end(&o, &err));
    assert_chars(&o.text, "abcd");
    assert_int_equal(o.n_call, 2);
    assert_false(o.calls[0].complete || o.calls[1].complete);
    ml_chat_output_free(&o);

    start(&o, t, "kimi"); /* text that looks like marks is text */
    for (const char *p = MARKS_OF_CALLS "f"; *p; p++) assert_ok(ml_chat_output_push(&o, (uint8_t)*p, &err));
    assert_ok(ml_chat_output_end(&o, &err));
    assert_chars(&o.text, MARKS_OF_CALLS "f");
    assert_int_equal(o.n_call, 0);
    ml_chat_output_free(&o);

    start(&o, t, "chatml"); /* and in a format without calls the tokens are text */
    push_text(&o, t, MARKS_OF_CALLS);
    assert_int_equal(o.n_call, 0);
    assert_chars(&o.text, MARKS_OF_CALLS);
    assert_fails(ml_chat_output_push(&o, 9999, &err), ML_EINVAL, "9999");
    ml_chat_output_free(&o);
    ml_tokenizer_free(t);
}

/* What was rendered as an answer is read back as the same. */
static void rendered_calls_come_back(void **state)
{
    (void)state;
    static const char text[] =
        "[{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"Let me see.\", "
        "\"reasoning_content\": \"look\", \"tool_calls\": [{\"id\": \"functions.f:0\", \"type\": \"function\", "
        "\"function\": {\"name\": \"f\", \"arguments\": \"{\\\"a\\\": [1, 2]}\"}}, {\"id\": \"functions.g_h:1\", "
        "\"type\": "
        "\"function\", \"function\": {\"name\": \"g_h\", \"arguments\": \"{}\"}}]}]";
    static const char *const formats[] = { "kimi", "kimi-k2-first", "kimi-k2", "kimi-k2-thinking" };
    ml_tokenizer *t = make_tokenizer(true);
    json_t *list;
    assert_ok(ml_json_parse(text, sizeof text - 1, "messages", &list, &err));
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        ml_chat_messages m;
        ml_chat_format f;
        ml_ids prompt = { 0 }, whole = { 0 };
        assert_ok(ml_chat_read_messages(list, "messages", &m, &err));
        assert_ok(ml_chat_choose(t, formats[i], NULL, &f, &err));
        assert_ok(ml_chat_render(&f, t, &(ml_chat_conversation){ m.messages, 1, NULL, true }, &prompt, &err));
        assert_ok(ml_chat_render(&f, t, &(ml_chat_conversation){ m.messages, 2, NULL, false }, &whole, &err));
        assert_memory_equal(prompt.id, whole.id, prompt.n * sizeof *whole.id);
        assert_int_equal(whole.id[whole.n - 1], IM_END);
        ml_chat_output o = { 0 };
        ml_chat_output_start(&o, &f, t, prompt.id, prompt.n, true);
        for (size_t k = prompt.n; k + 1 < whole.n; k++) assert_ok(ml_chat_output_push(&o, whole.id[k], &err));
        assert_ok(ml_chat_output_end(&o, &err));
        json_t *message = ml_chat_output_to_json(&o), *wanted = json_deep_copy(json_array_get(list, 1));
        if (i < 3) json_object_del(wanted, "reasoning_content"); /* has no place there */
        assert_true(json_equal(message, wanted));
        json_decref(message);
        json_decref(wanted);
        ml_chat_output_free(&o);
        ml_ids_free(&prompt);
        ml_ids_free(&whole);
        ml_chat_messages_free(&m);
    }
    json_decref(list);
    ml_tokenizer_free(t);
}

/* Any ids in any order: all text comes out once, in UTF-8, and memory is given back. */
static void any_ids(void **state)
{
    (void)state;
    static const char *const formats[] = { "kimi", "kimi-k2-thinking", "qwen3", "chatml", "none" };
    ml_alloc_stats before = ml_alloc_get_stats();
    ml_rng rng = ml_rng_make(9, 9);
    for (int k = 0; k < 4000; k++) {
        ml_tokenizer *t = NULL;
        static ml_tokenizer *both[2];
        if (k == 0) both[0] = make_tokenizer(false), both[1] = make_tokenizer(true);
        t = both[k & 1];
        ml_chat_output o = { 0 };
        start(&o, t, formats[ml_rng_below(&rng, 5)]);
        size_t n = ml_rng_below(&rng, 60);
        for (size_t i = 0; i < n; i++) {
            uint64_t size = (uint64_t)ml_tokenizer_vocab_size(t), kind = ml_rng_below(&rng, 4);
            int32_t id = kind == 0   ? (int32_t)ml_rng_below(&rng, 256)
                         : kind == 1 ? (int32_t)(256 + ml_rng_below(&rng, size - 256))
                         : kind == 2 ? "<think></think>\n"[ml_rng_below(&rng, 16)]
                                     : "a\n <"[ml_rng_below(&rng, 4)];
            assert_ok(ml_chat_output_push(&o, id, &err));
        }
        assert_ok(ml_chat_output_end(&o, &err));
        json_t *message = ml_chat_output_to_json(&o);
        assert_non_null(message);
        json_decref(message);
        ml_chat_output_free(&o);
        if (k == 3999) ml_tokenizer_free(both[0]), ml_tokenizer_free(both[1]);
    }
    assert_int_equal(ml_alloc_get_stats().n_live, before.n_live);
}

/* Expected texts are Python's json.dumps(value, ensure_ascii=False). */
static void json_is_python_s(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "[1e+16, 1.2345678901234568e+17, 0.0001, 1.234e-05, 1e+22, -0.0, 5e-324, 1.7976931348623157e+308, 100.0, -2.5, "
        "0.3333333333333333, 123456.789, 9007199254740992.0, 1000000000000000.0, 0.30000000000000004]",
        "{\"b\": {\"z\": null, \"a\": [true, false, -12, 9223372036854775807]}, \"a\": {}, \"c\": []}",
        "\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\xC3\xA9\xE2\x80\xA8\"",
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *value = json_loads(cases[i], JSON_DECODE_ANY, NULL);
        ml_chars out = { 0 };
        assert_non_null(value);
        assert_ok(ml_chat_dump_json(value, &out, &err));
        assert_chars(&out, cases[i]);
        ml_chars_free(&out);
        json_decref(value);
    }
}

static void reads(const char *text, ml_chat_messages *m, json_t **list)
{
    assert_ok(ml_json_parse(text, strlen(text), "test", list, &err));
    assert_ok(ml_chat_read_messages(*list, "test", m, &err));
}

static void messages_fail(const char *text, const char *part)
{
    json_t *list;
    ml_chat_messages m;
    assert_ok(ml_json_parse(text, strlen(text), "test", &list, &err));
    assert_fails(ml_chat_read_messages(list, "test", &m, &err), ML_EINVAL, part);
    assert_null(m.messages);
    json_decref(list);
}

static void messages_from_json(void **state)
{
    (void)state;
    json_t *list;
    ml_chat_messages m;
    reads("[{\"role\": \"developer\", \"content\": [{\"type\": \"text\", \"text\": \"a\"}, {\"type\": \"text\", "
          "\"text\": "
          "\"b\"}]}, {\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"function\": {\"name\": \"f\", "
          "\"arguments\": {\"x\": 1.5}}}, {\"id\": \"i\", \"function\": {\"name\": \"g\"}}]}, {\"role\": \"tool\", "
          "\"content\": "
          "\"c\", \"tool_call_id\": \"i\", \"name\": \"g\"}, {\"role\": \"assistant\", \"tool_calls\": []}]",
          &m, &list);
    assert_int_equal(m.n, 4);
    assert_int_equal(m.messages[0].role, ML_ROLE_SYSTEM);
    assert_int_equal(m.messages[0].text.n_bytes, 2);
    assert_memory_equal(m.messages[0].text.data, "ab", 2);
    assert_int_equal(m.messages[1].text.n_bytes, 0);
    assert_int_equal(m.messages[1].n_call, 2);
    assert_int_equal(m.messages[1].calls[0].arguments.n_bytes, strlen("{\"x\": 1.5}"));
    assert_memory_equal(m.messages[1].calls[0].arguments.data, "{\"x\": 1.5}", 10);
    assert_memory_equal(m.messages[1].calls[1].arguments.data, "{}", 2);
    assert_memory_equal(m.messages[2].call_id.data, "i", 1);
    assert_memory_equal(m.messages[2].name.data, "g", 1);
    assert_int_equal(m.messages[3].n_call, 0);
    ml_chat_messages_free(&m);
    json_decref(list);
    messages_fail("{}", "test: expected an array");
    messages_fail("[3]", "messages[0]: expected an object");
    messages_fail("[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"boss\"}]", "messages[1].role");
    messages_fail("[{\"content\": \"a\"}]", "messages[0].role");
    messages_fail("[{\"role\": \"user\", \"content\": 3}]", "messages[0].content");
    messages_fail("[{\"role\": \"user\", \"content\": [{\"type\": \"image_url\"}]}]", "there is no other here");
    messages_fail("[{\"role\": \"user\", \"name\": 3}]", "messages[0].name");
    messages_fail("[{\"role\": \"user\", \"tool_calls\": [{\"function\": {\"name\": \"f\"}}]}]",
                  "assistant's message only");
    messages_fail("[{\"role\": \"assistant\", \"tool_calls\": 3}]", "tool_calls: expected an array");
    messages_fail("[{\"role\": \"assistant\", \"tool_calls\": [{}]}]", "a function with a name");
    messages_fail("[{\"role\": \"assistant\", \"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": 3}}]}]",
                  "arguments as a text or an object");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_text),
        cmocka_unit_test(thoughts),
        cmocka_unit_test(calls),
        cmocka_unit_test(calls_that_are_broken),
        cmocka_unit_test(rendered_calls_come_back),
        cmocka_unit_test(any_ids),
        cmocka_unit_test(json_is_python_s),
        cmocka_unit_test(messages_from_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
