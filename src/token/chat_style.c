/* The chat formats, and which one a model has. */
#include "token/chat_style.h"

#include <stdio.h>
#include <string.h>

#define NAME(name) name,
const char *const ml_chat_words[] = { "auto", ML_CHAT_FORMATS(NAME) NULL };

#define KIMI_MARKS "<|im_end|>", "<|im_system|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>"
#define KIMI_ENDS "<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_system|>", "[EOS]", "[EOT]"
#define KIMI_SYSTEM "You are Kimi, an AI assistant created by Moonshot AI."
#define HEADER(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"
#define CHATML(role) "<|im_start|>" role "\n"
#define CHATML_END "<|im_end|>\n"
#define CHATML_TURNS                                                                                                   \
    {                                                                                                                  \
        .before = { CHATML("system"), CHATML("user"), CHATML("assistant") },                                           \
        .after = { CHATML_END, CHATML_END, CHATML_END }, .answer = CHATML("assistant")                                 \
    }

static const ml_chat_kimi kimi_moonlight = { .call_ids = ML_CALL_ID_INDEX };
static const ml_chat_kimi kimi_k2_first = { .call_ids = ML_CALL_ID_INDEX, .behind_return = "\\n" }; // two characters
static const ml_chat_kimi kimi_k2 = {
    .names = true, .call_ids = ML_CALL_ID_COUNTER, .behind_return = "\n", .behind_default = "\n"
};
static const ml_chat_kimi kimi_thinking = { .names = true, .call_ids = ML_CALL_ID_COUNTER, .behind_return = "\n" };

/* In the order of ML_CHAT_FORMATS.  Templates are tried from the first to the last; what is looked for in them has no
 * line feeds, which stand as such in some copies and as \n in others. */
static const ml_chat_style styles[] = {
    { .name = "none" },
    { .name = "moonlight-moe",
      .marks = { "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>" },
      .ends = { "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>" },
      .by_tokens = true,
      .default_system = "You are a helpful assistant",
      .turns = { .before = { "<|system|>", "<|user|>", "<|assistant|>" },
                 .after = { "", "", "" },
                 .answer = "<|assistant|>",
                 .finish = "<|endoftext|>" } },
    { .name = "kimi",
      .marks = { KIMI_MARKS },
      .ends = { KIMI_ENDS },
      .has = { "<|im_middle|>", "<|im_system|>tool_declare", "You are a helpful assistant" },
      .lacks = { "tool_calls_section_begin" },
      .by_tokens = true,
      .default_system = "You are a helpful assistant",
      .tools = true,
      .kimi = &kimi_moonlight },
    { .name = "kimi-k2-first",
      .marks = { KIMI_MARKS },
      .ends = { KIMI_ENDS },
      .has = { "<|im_middle|>", "tool_calls_section_begin", "You are a helpful assistant", "loop.index0" },
      .lacks = { "<think>" },
      .default_system = "You are a helpful assistant",
      .tools = true,
      .kimi = &kimi_k2_first },
    { .name = "kimi-k2",
      .marks = { KIMI_MARKS },
      .ends = { KIMI_ENDS },
      .has = { "<|im_middle|>", "tool_calls_section_begin", KIMI_SYSTEM, "role_name" },
      .lacks = { "<think>" },
      .default_system = KIMI_SYSTEM,
      .tools = true,
      .kimi = &kimi_k2 },
    { .name = "kimi-k2-thinking",
      .marks = { KIMI_MARKS },
      .ends = { KIMI_ENDS },
      .has = { "<|im_middle|>", "tool_calls_section_begin", KIMI_SYSTEM, "role_name", "<think></think>", "hist_msgs" },
      .default_system = KIMI_SYSTEM,
      .tools = true,
      .think = ML_THINK_KIMI,
      .kimi = &kimi_thinking },
    { .name = "chatml",
      .marks = { "<|im_start|>", "<|im_end|>" },
      .ends = { "<|im_end|>", "<|im_start|>" },
      .has = { "'<|im_start|>' + message['role'] + '", "' + message['content'] + '<|im_end|>'",
               "add_generation_prompt" },
      .lacks = { "You are", "tool", "think", "bos_token", "trim", "strip", "is defined", "system" },
      .turns = CHATML_TURNS },
    { .name = "qwen2.5",
      .marks = { "<|im_start|>", "<|im_end|>" },
      .ends = { "<|im_end|>", "<|im_start|>" },
      .has = { "<|im_start|>", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
               "<tools></tools>" },
      .lacks = { "think", "image" },
      .default_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
      .turns = CHATML_TURNS },
    { .name = "qwen3",
      .marks = { "<|im_start|>", "<|im_end|>" },
      .ends = { "<|im_end|>", "<|im_start|>" },
      .has = { "<|im_start|>", "ns.last_query_index", "reasoning_content.strip('", "</think>",
               "enable_thinking is false" },
      .lacks = { "image", "vision", "bos_token", "<param" },
      .think = ML_THINK_QWEN3,
      .turns = CHATML_TURNS },
    { .name = "llama3",
      .marks = { "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>" },
      .ends = { "<|eot_id|>", "<|end_of_text|>", "<|start_header_id|>" },
      .has = { "'<|start_header_id|>' + message['role'] + '<|end_header_id|>",
               "message['content'] | trim + '<|eot_id|>'" },
      .lacks = { "Knowledge", "tool", "date", "You are" },
      .turns = { .begin = ML_CHAT_BOS,
                 .before = { HEADER("system"), HEADER("user"), HEADER("assistant") },
                 .after = { "<|eot_id|>", "<|eot_id|>", "<|eot_id|>" },
                 .answer = HEADER("assistant"),
                 .trim = true } },
    { .name = "llama3.1",
      .marks = { "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>" },
      .ends = { "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|start_header_id|>" },
      .has = { "<|start_header_id|>", "Cutting Knowledge Date: December 2023", "date_string = \"26 Jul 2024\"",
               "message['content'] | trim + '<|eot_id|>'" },
      .lacks = { "strftime_now" },
      .default_system = "",
      .turns = { .begin = ML_CHAT_BOS,
                 .first_system = HEADER("system") "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n",
                 .before = { HEADER("system"), HEADER("user"), HEADER("assistant") },
                 .after = { "<|eot_id|>", "<|eot_id|>", "<|eot_id|>" },
                 .answer = HEADER("assistant"),
                 .trim = true } },
    { .name = "deepseek-v2",
      .marks = { ML_CHAT_EOS },
      .ends = { ML_CHAT_EOS },
      .has = { "bos_token", "'User: ' + message['content'] + '", "'Assistant: ' + message['content'] + eos_token",
               "'Assistant:'" },
      .lacks = { "tool", "think", "<|" },
      .turns = { .begin = ML_CHAT_BOS,
                 .before = { "", "User: ", "Assistant: " },
                 .after = { "\n\n", "\n\n", ML_CHAT_EOS },
                 .answer = "Assistant:" } },
    { .name = "glm-4.5",
      .marks = { "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>" },
      .ends = { "<|user|>", "<|observation|>", "<|endoftext|>", "<|system|>", "<|assistant|>" },
      .has = { "[gMASK]<sop>", "<|observation|>", "ns.last_user_index", "'/nothink'", "<think></think>" },
      .lacks = { "clear_thinking" },
      .think = ML_THINK_GLM,
      .turns = { .begin = "[gMASK]<sop>",
                 .before = { "<|system|>\n", "<|user|>\n", "<|assistant|>" },
                 .after = { "", "", "" },
                 .answer = "<|assistant|>" } },
};
enum { N_STYLE = sizeof styles / sizeof styles[0] };
_Static_assert(N_STYLE + 2 == sizeof ml_chat_words / sizeof ml_chat_words[0], "a style for each name");

const char *ml_chat_name(const ml_chat_format *f)
{
    return f->style->name;
}

bool ml_chat_is_none(const ml_chat_format *f)
{
    return f->style == &styles[0];
}

const char *ml_chat_default_system(const ml_chat_format *f)
{
    return f->style->default_system;
}

bool ml_chat_has_tools(const ml_chat_format *f)
{
    return f->style->tools;
}

bool ml_chat_thinks(const ml_chat_format *f)
{
    return f->style->think != ML_THINK_NONE;
}

const char *ml_chat_role_name(ml_chat_role role)
{
    static const char *const names[ML_N_ROLE] = { "system", "user", "assistant", "tool" };
    return names[role];
}

static int32_t find_mark(const ml_tokenizer *t, const char *mark)
{
    if (!strcmp(mark, ML_CHAT_BOS)) return ml_tokenizer_bos(t);
    if (!strcmp(mark, ML_CHAT_EOS)) return ml_tokenizer_eos(t);
    return ml_tokenizer_find(t, mark);
}

/* The first mark that the tokenizer lacks, or NULL. */
static const char *find_missing(const ml_tokenizer *t, const ml_chat_style *style)
{
    for (size_t i = 0; i < ML_CHAT_MAX_MARKS && style->marks[i]; i++) {
        if (find_mark(t, style->marks[i]) >= 0) continue;
        return !strcmp(style->marks[i], ML_CHAT_EOS) ? "EOS" : style->marks[i];
    }
    return NULL;
}

static void fill(const ml_tokenizer *t, const ml_chat_style *style, ml_chat_format *f)
{
    *f = (ml_chat_format){ .style = style };
    for (size_t i = 0; i < ML_CHAT_MAX_ENDS && style->ends[i]; i++) {
        int32_t id = find_mark(t, style->ends[i]);
        if (id >= 0) f->end[f->n_end++] = id;
    }
}

/* "none, moonlight-moe, ..." */
static void list_names(char *out, size_t capacity)
{
    size_t n = 0;
    *out = 0;
    for (size_t i = 0; i < N_STYLE && n < capacity; i++) {
        n += (size_t)snprintf(out + n, capacity - n, "%s%s", i ? ", " : "", styles[i].name);
    }
}

static ml_status choose_named(const ml_tokenizer *t, const char *name, ml_chat_format *out, ml_error *err)
{
    char names[512];
    for (size_t i = 0; i < N_STYLE; i++) {
        if (strcmp(name, styles[i].name) != 0) continue;
        const char *missing = find_missing(t, &styles[i]);
        if (!missing) {
            fill(t, &styles[i], out);
            return ML_OK;
        }
        return ml_fail(err, ML_EINVAL, "the chat format %s needs the token %s, which this tokenizer does not have",
                       name, missing);
    }
    list_names(names, sizeof names);
    return ml_fail(err, ML_EINVAL, "there is no chat format \"%.100s\"; there are %s", name, names);
}

static bool is_template_of(const ml_chat_style *style, const char *text)
{
    enum { N_HAS = sizeof style->has / sizeof style->has[0], N_LACKS = sizeof style->lacks / sizeof style->lacks[0] };
    if (!style->has[0]) return false;
    for (size_t i = 0; i < N_HAS && style->has[i]; i++) {
        if (!strstr(text, style->has[i])) return false;
    }
    for (size_t i = 0; i < N_LACKS && style->lacks[i]; i++) {
        if (strstr(text, style->lacks[i])) return false;
    }
    return true;
}

static ml_status choose_by_template(const ml_tokenizer *t, const char *text, ml_chat_format *out, ml_error *err)
{
    char names[512];
    for (size_t i = 0; i < N_STYLE; i++) {
        if (is_template_of(&styles[i], text)) return choose_named(t, styles[i].name, out, err);
    }
    list_names(names, sizeof names);
    return ml_fail(err, ML_EINVAL,
                   "the chat template stored with this tokenizer is none that is known here: say with --chat-format "
                   "how turns are marked (%s)",
                   names);
}

ml_status ml_chat_choose(const ml_tokenizer *t, const char *given, const char *stored, ml_chat_format *out,
                         ml_error *err)
{
    if (given) return choose_named(t, given, out, err);
    if (stored && strcmp(stored, "auto") != 0) return choose_named(t, stored, out, err);
    const char *own = ml_tokenizer_chat_format(t), *text = ml_tokenizer_chat_template(t);
    if (own) return choose_named(t, own, out, err);
    if (text) return choose_by_template(t, text, out, err);
    size_t found = 0;
    for (size_t i = 0; i < N_STYLE; i++) {
        if (styles[i].by_tokens && !find_missing(t, &styles[i])) found = i;
    }
    fill(t, &styles[found], out);
    return ML_OK;
}
