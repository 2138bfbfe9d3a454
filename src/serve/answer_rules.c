#include "serve/answer_rules.h"

#include "grammar/schema.h"
#include "serve/limits.h"

#include <string.h>

static bool any_is_strict(const json_t *tools)
{
    for (size_t i = 0; i < json_array_size(tools); i++) {
        if (json_is_true(json_object_get(json_object_get(json_array_get(tools, i), "function"), "strict"))) return true;
    }
    return false;
}

static int64_t count_calls(const json_t *messages)
{
    int64_t n = 0;
    for (size_t i = 0; i < json_array_size(messages); i++) {
        n += (int64_t)json_array_size(json_object_get(json_array_get(messages, i), "tool_calls"));
    }
    return n;
}

/* What went wrong is about this key. */
static ml_status blame(ml_web *h, const char *field, ml_status status)
{
    if (status != ML_OK) snprintf(h->field, sizeof h->field, "%s", field);
    return status;
}

static ml_status make_call_rules(ml_web *h, const ml_served *s, const ml_params *p, const ml_chat_format *format,
                                 ml_answer_rules *out, ml_error *err)
{
    const ml_call_rules rules = { .tools = p->tools,
                                  .only = p->tool,
                                  .required = p->must_call,
                                  .single = p->single_call,
                                  .thoughts = ml_chat_thinks(format),
                                  .first = ml_chat_first_call(format, count_calls(p->messages)),
                                  .schema = p->schema,
                                  .any_object = p->any_object };
    size_t n = json_dumpb(p->tools, NULL, 0, JSON_COMPACT);
    if (n > ML_LIMIT_SCHEMA_BYTES) {
        return ml_web_refuse(h, err, 400, "tools",
                             "tools of %zu bytes whose parameters are to be kept to: expected %d at most", n,
                             ML_LIMIT_SCHEMA_BYTES);
    }
    out->any = true;
    ML_TRY(blame(h, "tools", ml_chat_find_call_marks(format, s->m.tokenizer, out->mark, err)));
    out->mark[ML_MARK_THINK] = ml_tokenizer_find(s->m.tokenizer, "<think>");
    out->mark[ML_MARK_THOUGHT] = ml_tokenizer_find(s->m.tokenizer, "</think>");
    out->n_mark = ML_N_RULE_MARK;
    return blame(h, "tools", ml_call_rules_compile(&rules, &out->grammar, err));
}

ml_status ml_answer_rules_make(ml_web *h, const ml_served *s, const ml_params *p, const ml_chat_format *format,
                               ml_answer_rules *out, ml_error *err)
{
    bool tools = json_array_size(p->tools) > 0 && !p->tools_off;
    if (p->must_call && !tools) {
        return ml_web_refuse(h, err, 400, "tool_choice", "tool_choice: there are no tools to call");
    }
    bool form = p->schema || p->any_object;
    if (tools && (p->must_call || p->single_call || form || any_is_strict(p->tools))) {
        return make_call_rules(h, s, p, format, out, err);
    }
    if (!form) return ML_OK;
    out->any = true;
    return blame(h, "response_format", ml_schema_compile(p->schema, &out->grammar, err));
}
