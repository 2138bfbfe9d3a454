/* Conversations as text and ids: against what published templates make of them (tests/golden/make_chat.py), which
 * format a model has, and what is refused. */
#include "token/chat.h"

#include "base/alloc.h"
#include "support/support.h"
#include "token/build.h"
#include "token/chat_json.h"

#include <string.h>

static ml_error err;
static json_t *golden;

#define BYTE_TOKENIZER MOONLIGHT_SOURCE_DIR "/tests/fixtures/byte_tokenizer"
enum { FIRST_MARK = 256, BOS = FIRST_MARK, EOS };

/* The 256 bytes, then `marks`, of which the first two are BOS and EOS. */
static ml_tokenizer *tokenizer_of(const char *const *marks, size_t n)
{
    ml_tokenizer *t;
    assert_ok(ml_tokenizer_make("bytes", &t, &err));
    for (int i = 0; i < 256; i++) {
        uint8_t byte = (uint8_t)i;
        assert_ok(ml_tokenizer_put_piece(t, i, &byte, 1, 0, &err));
    }
    for (size_t i = 0; i < n; i++) {
        int flags = ML_PIECE_ADDED | (marks[i][1] == 't' || marks[i][1] == '/' ? 0 : ML_PIECE_SPECIAL);
        assert_ok(ml_tokenizer_put_piece(t, FIRST_MARK + (int64_t)i, marks[i], strlen(marks[i]), flags, &err));
    }
    if (n > 1) {
        ml_tokenizer_set_role(t, ML_ROLE_BOS, BOS);
        ml_tokenizer_set_role(t, ML_ROLE_EOS, EOS);
    }
    return t;
}

static ml_tokenizer *golden_tokenizer(void)
{
    const char *marks[64];
    json_t *list = json_object_get(golden, "marks");
    size_t n = json_array_size(list);
    assert_true(n > 20 && n < 64);
    for (size_t i = 0; i < n; i++) marks[i] = json_string_value(json_array_get(list, i));
    ml_tokenizer *t = tokenizer_of(marks, n);
    assert_ok(ml_tokenizer_finish(t, &err));
    return t;
}

static void read_case(const json_t *one, ml_chat_messages *messages, ml_chat_conversation *c)
{
    assert_ok(ml_chat_read_messages(json_object_get(one, "messages"), "golden", messages, &err));
    *c = (ml_chat_conversation){ messages->messages, messages->n, json_object_get(one, "tools"),
                                 json_is_true(json_object_get(one, "answer")) };
}

/* The whole text of a case, with a final 0: as it is, or put together from its parts. */
static ml_chars text_of(const json_t *one)
{
    ml_chars text = { 0 };
    const json_t *whole = json_object_get(one, "text"), *parts = json_object_get(one, "parts");
    for (size_t i = 0; i < json_array_size(parts) || (whole && i == 0); i++) {
        const json_t *part = whole ? whole : json_array_get(parts, i);
        if (!json_is_string(part)) {
            part = json_array_get(json_object_get(golden, "marks"), (size_t)json_integer_value(part));
        }
        assert_ok(ml_chars_append(&text, json_string_value(part), json_string_length(part), &err));
    }
    assert_ok(ml_chars_append(&text, "", 1, &err));
    return text;
}

static void check_text(const ml_chat_format *f, const ml_tokenizer *t, const ml_chat_conversation *c, const json_t *one)
{
    ml_chars text = { 0 }, wanted = text_of(one);
    assert_true(wanted.n > 20);
    assert_ok(ml_chat_render_text(f, t, c, &text, &err));
    assert_ok(ml_chars_append(&text, "", 1, &err));
    if (strcmp(text.data, wanted.data) != 0) {
        fail_msg("%s renders\n%s\nexpected\n%s", ml_chat_name(f), text.data, wanted.data);
    }
    ml_chars_free(&text);
    ml_chars_free(&wanted);
}

static void assert_same(const ml_ids *ids, const ml_ids *wanted, const json_t *one)
{
    size_t k = 0;
    while (k < ids->n && k < wanted->n && ids->id[k] == wanted->id[k]) k++;
    if (k < ids->n || k < wanted->n) {
        fail_msg("id %zu of %zu (%zu expected) is %d, expected %d, in\n%s", k, ids->n, wanted->n,
                 k < ids->n ? ids->id[k] : -1, k < wanted->n ? wanted->id[k] : -1, text_of(one).data);
    }
}

/* Bytes are their own ids. */
static void expected_ids(const json_t *parts, ml_ids *out)
{
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const json_t *part = json_array_get(parts, i);
        int32_t id = FIRST_MARK + (int32_t)json_integer_value(part);
        if (!json_is_string(part)) assert_ok(ml_ids_append(out, &id, 1, &err));
        for (size_t k = 0; k < json_string_length(part); k++) {
            id = (uint8_t)json_string_value(part)[k];
            assert_ok(ml_ids_append(out, &id, 1, &err));
        }
    }
}

static void formats_equal_their_templates(void **state)
{
    (void)state;
    ml_tokenizer *t = golden_tokenizer();
    json_t *formats = json_object_get(golden, "formats"), *cases;
    const char *name;
    size_t n_ids = 0;
    assert_int_equal(json_object_size(formats), 12);
    json_object_foreach(formats, name, cases)
    {
        ml_chat_format f;
        assert_ok(ml_chat_choose(t, name, NULL, &f, &err));
        assert_string_equal(ml_chat_name(&f), name);
        assert_true(json_array_size(cases) >= 7);
        for (size_t i = 0; i < json_array_size(cases); i++) {
            const json_t *one = json_array_get(cases, i), *parts = json_object_get(one, "parts");
            ml_chat_messages messages;
            ml_chat_conversation c;
            read_case(one, &messages, &c);
            check_text(&f, t, &c, one);
            ml_ids ids = { 0 }, wanted = { 0 };
            expected_ids(parts, &wanted);
            assert_ok(ml_chat_render(&f, t, &c, &ids, &err));
            if (parts) assert_same(&ids, &wanted, one);
            n_ids += parts != NULL;
            ml_ids_free(&ids);
            ml_ids_free(&wanted);
            ml_chat_messages_free(&messages);
        }
    }
    assert_true(n_ids > 90);
    ml_tokenizer_free(t);
}

static void kimi_with_the_published_tokenizer(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("kimi/tiktoken.model");
    ml_tokenizer *t;
    ml_chat_format f;
    json_t *formats = json_object_get(golden, "formats"), *cases;
    const char *name;
    size_t n_checked = 0;
    assert_ok(ml_tokenizer_open(test_data_path("kimi"), &t, &err));
    assert_ok(ml_chat_choose(t, NULL, NULL, &f, &err)); /* its template */
    assert_string_equal(ml_chat_name(&f), "kimi");
    assert_int_equal(f.end[0], 163586);
    json_object_foreach(formats, name, cases)
    {
        for (size_t i = 0; i < json_array_size(cases); i++) {
            const json_t *one = json_array_get(cases, i), *list = json_object_get(one, "ids_kimi");
            if (!list) continue;
            ml_chat_messages messages;
            ml_chat_conversation c;
            ml_ids ids = { 0 }, wanted = { 0 };
            for (size_t k = 0; k < json_array_size(list); k++) {
                int32_t id = (int32_t)json_integer_value(json_array_get(list, k));
                assert_ok(ml_ids_append(&wanted, &id, 1, &err));
            }
            read_case(one, &messages, &c);
            assert_ok(ml_chat_choose(t, name, NULL, &f, &err));
            assert_ok(ml_chat_render(&f, t, &c, &ids, &err));
            assert_same(&ids, &wanted, one);
            n_checked++;
            ml_ids_free(&ids);
            ml_ids_free(&wanted);
            ml_chat_messages_free(&messages);
        }
    }
    assert_true(n_checked > 15);
    ml_tokenizer_free(t);
}

/* The 130M model's ids: GPT-2's end 50256, then system, user, assistant. */
static void moonlight_moe_with_gpt2(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("gpt2/encoder.json");
    static const char *const marks[] = { "<|system|>", "<|user|>", "<|assistant|>" };
    ml_tokenizer_extra extra = { .added = marks, .n_added = 3 };
    ml_tokenizer *t;
    ml_chat_format f;
    ml_ids ids = { 0 };
    assert_ok(ml_tokenizer_open_with(test_data_path("gpt2"), &extra, &t, &err));
    assert_ok(ml_chat_choose(t, NULL, NULL, &f, &err));
    assert_string_equal(ml_chat_name(&f), "moonlight-moe");
    assert_int_equal(f.end[0], 50256);
    const ml_chat_message m[] = { { .role = ML_ROLE_SYSTEM, .text = { "", 0 } },
                                  { .role = ML_ROLE_USER, .text = { "hello", 5 } },
                                  { .role = ML_ROLE_ASSISTANT, .text = { "hi", 2 } } };
    assert_ok(ml_chat_render(&f, t, &(ml_chat_conversation){ .messages = m, .n_message = 3 }, &ids, &err));
    const int32_t wanted[] = { 50257, 50258, 31373, 50259, 5303, 50256 };
    assert_int_equal(ids.n, 6);
    assert_memory_equal(ids.id, wanted, sizeof wanted);
    ml_ids_free(&ids);
    ml_tokenizer_free(t);
}

static const char *chosen(const char *template_text, const char *stored, const char *own)
{
    ml_tokenizer *t = golden_tokenizer();
    ml_chat_format f;
    if (template_text) assert_ok(ml_tokenizer_set_chat_template(t, template_text, &err));
    if (own) assert_ok(ml_tokenizer_set_chat_format(t, own, &err));
    const char *name = ml_chat_choose(t, NULL, stored, &f, &err) == ML_OK ? ml_chat_name(&f) : "unknown";
    ml_tokenizer_free(t);
    return name;
}

/* Stand-ins with what is distinctive about the published ones, in other surroundings. */
static void templates_are_recognised(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text;
    } cases[] = {
        { "chatml", "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
                    "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}...{% endif %}" },
        { "unknown",
          "{{'<|im_start|>system\\nYou are a pirate<|im_end|>\\n'}}{{'<|im_start|>' + message['role'] + '\\n' + "
          "message['content'] + '<|im_end|>' + '\\n'}}{% if add_generation_prompt %}" },
        { "qwen2.5", "<|im_start|> You are Qwen, created by Alibaba Cloud. You are a helpful assistant. "
                     "<tools></tools>" },
        { "qwen3",
          "<|im_start|> ns.last_query_index reasoning_content.strip('\\n') + '\\n</think>\\n\\n' enable_thinking "
          "is false" },
        { "llama3", "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + "
                    "'<|eot_id|>'" },
        { "llama3.1", "date_string = \"26 Jul 2024\" <|start_header_id|> \"Cutting Knowledge Date: December 2023\\n\" "
                      "message['content'] | trim + '<|eot_id|>'" },
        { "unknown",
          "strftime_now date_string = \"26 Jul 2024\" <|start_header_id|> \"Cutting Knowledge Date: December "
          "2023\\n\" message['content'] | trim + '<|eot_id|>'" },
        { "deepseek-v2", "bos_token 'User: ' + message['content'] + '\\n\\n' 'Assistant: ' + message['content'] + "
                         "eos_token 'Assistant:'" },
        { "glm-4.5", "[gMASK]<sop> <|observation|> ns.last_user_index '/nothink' {{ '\\n<think></think>' }}" },
        { "unknown", "{{ messages }}" },
        { "unknown", "" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *name = chosen(cases[i].text, NULL, NULL);
        if (strcmp(name, cases[i].name) != 0) fail_msg("case %zu: expected %s, found %s", i, cases[i].name, name);
    }
    memset(&err, 0, sizeof err);
    chosen("{{ messages }}", NULL, NULL);
    assert_non_null(strstr(err.message, "--chat-format"));
    assert_non_null(strstr(err.message, "kimi-k2-thinking, chatml"));
}

static void published_templates_are_recognised(void **state)
{
    (void)state;
    SKIP_WITHOUT_DATA("kimi/tokenizer_config.json");
    static const char *const files[][2] = { { "kimi/templates/moonshotai-Kimi-K2.jinja", "kimi-k2-first" },
                                            { "kimi/templates/Kimi-K2-Instruct.jinja", "kimi-k2" },
                                            { "kimi/templates/Kimi-K2-Thinking.jinja", "kimi-k2-thinking" } };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char *text;
        assert_ok(ml_file_read(test_data_path(files[i][0]), &text, NULL, &err));
        assert_string_equal(chosen(text, NULL, NULL), files[i][1]);
        ml_free(text);
    }
}

static void what_is_stored_decides(void **state)
{
    (void)state;
    static const char unknown[] = "{{ messages }}";
    assert_string_equal(chosen(unknown, "chatml", "kimi"), "chatml"); /* config.json before the tokenizer's own key */
    assert_string_equal(chosen(unknown, "auto", "kimi"), "kimi");
    assert_string_equal(chosen(unknown, NULL, "none"), "none");
    assert_string_equal(chosen(NULL, NULL, NULL), "kimi"); /* by its tokens */
    ml_tokenizer *t = tokenizer_of((const char *const[]){ "<|im_start|>", "<|im_end|>" }, 2);
    ml_chat_format f;
    assert_ok(ml_tokenizer_finish(t, &err));
    assert_ok(ml_chat_choose(t, NULL, NULL, &f, &err)); /* base models have such tokens, too */
    assert_true(ml_chat_is_none(&f));
    ml_tokenizer_free(t);
    assert_string_equal(ml_chat_words[0], "auto");
    assert_string_equal(ml_chat_words[1], "none");
}

static void text_cannot_forge_a_turn(void **state)
{
    (void)state;
    ml_tokenizer *t = golden_tokenizer();
    static const char all[] = "<BOS><EOS><|endoftext|><|system|><|user|><|im_end|><|im_user|><|eot_id|><think>";
    json_t *formats = json_object_get(golden, "formats"), *cases;
    const char *name;
    json_object_foreach(formats, name, cases)
    {
        ml_chat_format f;
        assert_ok(ml_chat_choose(t, name, NULL, &f, &err));
        /* The same conversation, plain and with marks in its texts: as many marks in the ids. */
        size_t n_mark[2] = { 0, 0 };
        for (int k = 0; k < 2; k++) {
            ml_text text = k ? (ml_text){ all, sizeof all - 1 } : (ml_text){ "x", 1 };
            const ml_chat_message m[] = { { .role = ML_ROLE_SYSTEM, .text = text, .name = text },
                                          { .role = ML_ROLE_USER, .text = text, .name = text },
                                          { .role = ML_ROLE_ASSISTANT, .text = text, .reasoning = text },
                                          { .role = ML_ROLE_USER, .text = text } };
            ml_ids ids = { 0 };
            const ml_chat_conversation c = { .messages = m, .n_message = 4, .answer = true };
            assert_ok(ml_chat_render(&f, t, &c, &ids, &err));
            for (size_t i = 0; i < ids.n; i++) n_mark[k] += ids.id[i] >= FIRST_MARK;
            ml_ids_free(&ids);
        }
        assert_int_equal(n_mark[0], n_mark[1]);
        assert_true(n_mark[0] > 0);
    }
    ml_tokenizer_free(t);
}

/* Ids that a model gave stand as they are, where the format shows the whole of old answers. */
static void answers_keep_their_ids(void **state)
{
    (void)state;
    ml_tokenizer *t = golden_tokenizer();
    const int32_t odd[] = { 'n', 'o', FIRST_MARK + 16, '.' };
    const ml_chat_message m[] = { { .role = ML_ROLE_USER, .text = { "a", 1 } },
                                  { .role = ML_ROLE_ASSISTANT, .text = { "b", 1 }, .id = odd, .n_id = 4 },
                                  { .role = ML_ROLE_USER, .text = { "c", 1 } } };
    static const struct {
        const char *name;
        bool kept; /* behind a later question, too */
    } cases[] = { { "moonlight-moe", true }, { "kimi", true },     { "kimi-k2", true },
                  { "chatml", true },        { "llama3.1", true }, { "deepseek-v2", true },
                  { "qwen3", false },        { "glm-4.5", false }, { "kimi-k2-thinking", false } };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ml_chat_format f;
        ml_ids prompt = { 0 }, whole = { 0 };
        assert_ok(ml_chat_choose(t, cases[i].name, NULL, &f, &err));
        assert_ok(ml_chat_render(&f, t, &(ml_chat_conversation){ .messages = m, .n_message = 1, .answer = true },
                                 &prompt, &err));
        assert_ok(ml_chat_render(&f, t, &(ml_chat_conversation){ .messages = m, .n_message = 3, .answer = true },
                                 &whole, &err));
        assert_true(whole.n > prompt.n + 4);
        /* The prompt and the answer are the beginning of what comes next: nothing is to be computed again. */
        bool same =
            !memcmp(whole.id, prompt.id, prompt.n * sizeof *prompt.id) && !memcmp(whole.id + prompt.n, odd, sizeof odd);
        if (same != cases[i].kept) fail_msg("%s: ids are kept: %d", cases[i].name, same);
        ml_ids_free(&prompt);
        ml_ids_free(&whole);
    }
    ml_tokenizer_free(t);
}

static void default_system_messages(void **state)
{
    (void)state;
    ml_tokenizer *t = golden_tokenizer();
    static const char *const cases[][2] = { { "kimi", "You are a helpful assistant" },
                                            { "kimi-k2", "You are Kimi, an AI assistant created by Moonshot AI." },
                                            { "moonlight-moe", "You are a helpful assistant" },
                                            { "qwen2.5", "You are Qwen, created by Alibaba Cloud. You are a helpful "
                                                         "assistant." },
                                            { "llama3.1", "" },
                                            { "chatml", NULL },
                                            { "glm-4.5", NULL } };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ml_chat_format f;
        assert_ok(ml_chat_choose(t, cases[i][0], NULL, &f, &err));
        const char *text = ml_chat_default_system(&f);
        if (!cases[i][1]) assert_null(text);
        if (cases[i][1]) assert_string_equal(text, cases[i][1]);
    }
    ml_tokenizer_free(t);
}

static void render_fails(const char *format, const ml_tokenizer *t, const ml_chat_message *m, size_t n,
                         const json_t *tools, const char *part)
{
    ml_chat_format f;
    ml_ids ids = { 0 };
    int32_t before = 7;
    assert_ok(ml_chat_choose(t, format, NULL, &f, &err));
    assert_ok(ml_ids_append(&ids, &before, 1, &err));
    const ml_chat_conversation c = { .messages = m, .n_message = n, .tools = tools };
    assert_fails(ml_chat_render(&f, t, &c, &ids, &err), ML_EINVAL, part);
    assert_int_equal(ids.n, 1);
    ml_ids_free(&ids);
}

static void refusals(void **state)
{
    (void)state;
    ml_tokenizer *t, *all = golden_tokenizer();
    ml_chat_format f;
    assert_ok(ml_tokenizer_open(BYTE_TOKENIZER, &t, &err));
    assert_fails(ml_chat_choose(t, "kimi", NULL, &f, &err), ML_EINVAL, "needs the token <|im_end|>");
    assert_fails(ml_chat_choose(t, NULL, "llama3", &f, &err), ML_EINVAL, "needs the token <|start_header_id|>");
    assert_fails(ml_chat_choose(t, "vicuna", NULL, &f, &err), ML_EINVAL,
                 "there is no chat format \"vicuna\"; there are none");
    const ml_chat_message user = { .role = ML_ROLE_USER, .text = { "a", 1 } };
    const ml_chat_message tool = { .role = ML_ROLE_TOOL, .text = { "a", 1 } };
    const ml_chat_call call = { .name = { "f", 1 }, .arguments = { "{}", 2 } };
    const ml_chat_message calling = { .role = ML_ROLE_ASSISTANT, .calls = &call, .n_call = 1 };
    json_t *tools = json_pack("[{s:{s:s}}]", "function", "name", "f");
    render_fails("none", t, &user, 1, NULL, "has no turns");
    render_fails("moonlight-moe", t, &tool, 1, NULL, "no place for a message of the role \"tool\"");
    render_fails("chatml", all, &calling, 1, NULL, "no place for calls");
    render_fails("chatml", all, &user, 1, tools, "no place for tools");
    static const char *const marks[] = { "<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_system|>",
                                         "<|im_middle|>" };
    ml_tokenizer *few = tokenizer_of(marks, 5);
    assert_ok(ml_tokenizer_finish(few, &err));
    render_fails("kimi", few, &calling, 1, NULL, "calls of tools need the token <|tool_calls_section_begin|>");
    render_fails("kimi", few, &user, 1, tools, "calls of tools need the token");
    json_decref(tools);
    ml_tokenizer_free(few);
    ml_tokenizer_free(all);
    ml_tokenizer_free(t);
}

static int load_golden(void **state)
{
    (void)state;
    return ml_json_load(MOONLIGHT_SOURCE_DIR "/tests/golden/chat_cases.json", &golden, &err) == ML_OK ? 0 : -1;
}

static int free_golden(void **state)
{
    (void)state;
    json_decref(golden);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formats_equal_their_templates),
        cmocka_unit_test(kimi_with_the_published_tokenizer),
        cmocka_unit_test(moonlight_moe_with_gpt2),
        cmocka_unit_test(templates_are_recognised),
        cmocka_unit_test(published_templates_are_recognised),
        cmocka_unit_test(what_is_stored_decides),
        cmocka_unit_test(text_cannot_forge_a_turn),
        cmocka_unit_test(answers_keep_their_ids),
        cmocka_unit_test(default_system_messages),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, load_golden, free_golden);
}
