/* Kimi's formats: a name between two marks before each text, and calls of tools.
 *
 *   <|im_system|>tool_declare<|im_middle|>[definitions]<|im_end|>
 *   <|im_system|>system<|im_middle|>S<|im_end|><|im_user|>user<|im_middle|>U<|im_end|>
 *   <|im_assistant|>assistant<|im_middle|>A<|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:0
 *     <|tool_call_argument_begin|>{...}<|tool_call_end|><|tool_calls_section_end|><|im_end|>
 *   <|im_system|>tool<|im_middle|>## Return of functions.NAME:0, line feed, result<|im_end|> */
#include "token/chat_style.h"

#include "base/alloc.h"
#include "token/chat_json.h"

#include <stdio.h>
#include <string.h>

const char *const ml_chat_call_marks[ML_N_CALL_MARK] = {
    "<|tool_calls_section_begin|>", "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>",
    "<|tool_calls_section_end|>",
};

ml_status ml_chat_find_call_marks(const ml_chat_format *f, const ml_tokenizer *t, int32_t id[ML_N_CALL_MARK],
                                  ml_error *err)
{
    if (!f->style->tools) {
        return ml_fail(err, ML_EINVAL, "the chat format %s has no calls of tools", f->style->name);
    }
    for (int i = 0; i < ML_N_CALL_MARK; i++) {
        id[i] = ml_tokenizer_find(t, ml_chat_call_marks[i]);
        if (id[i] >= 0) continue;
        return ml_fail(err, ML_EINVAL, "calls of tools need the token %s, which this tokenizer does not have",
                       ml_chat_call_marks[i]);
    }
    return ML_OK;
}

int64_t ml_chat_first_call(const ml_chat_format *f, int64_t n_call)
{
    return f->style->kimi && f->style->kimi->call_ids == ML_CALL_ID_COUNTER ? n_call : 0;
}

/* A call that was rendered, for the result that comes back. */
typedef struct {
    ml_text id; /* as the message had it */
    ml_chars shown;
    bool answered;
} shown_call;

typedef struct {
    ml_chat_sink *sink;
    const ml_chat_kimi *kimi;
    shown_call *calls;
    size_t n_call, capacity;
} kimi_render;

static const char *mark_of(ml_chat_role role)
{
    return role == ML_ROLE_USER ? "<|im_user|>" : role == ML_ROLE_ASSISTANT ? "<|im_assistant|>" : "<|im_system|>";
}

static ml_status open_message(kimi_render *r, ml_chat_role role, ml_text name, ml_error *err)
{
    ML_TRY(ml_chat_put(r->sink, mark_of(role), err));
    bool named = r->kimi->names && name.n_bytes;
    ML_TRY(ml_chat_put_text(r->sink, named ? name : ml_text_of(ml_chat_role_name(role)), err));
    return ml_chat_put(r->sink, "<|im_middle|>", err);
}

/* Does the id look like those that models give? */
static bool is_full_id(ml_text id)
{
    static const char prefix[] = "functions.";
    return id.n_bytes > sizeof prefix && !memcmp(id.data, prefix, sizeof prefix - 1) &&
           memchr(id.data, ':', id.n_bytes);
}

static ml_status append_id(ml_chars *out, ml_text name, size_t number, ml_error *err)
{
    char text[32];
    int n = snprintf(text, sizeof text, ":%zu", number);
    ML_TRY(ml_chars_append(out, "functions.", strlen("functions."), err));
    ML_TRY(ml_chars_append(out, name.data, name.n_bytes, err));
    return ml_chars_append(out, text, (size_t)n, err);
}

static ml_status put_call(kimi_render *r, const ml_chat_call *call, size_t index, ml_error *err)
{
    size_t number = r->kimi->call_ids == ML_CALL_ID_INDEX ? index : r->n_call;
    ML_TRY(ml_grow((void **)&r->calls, &r->capacity, r->n_call + 1, sizeof *r->calls, err));
    shown_call *shown = &r->calls[r->n_call++];
    *shown = (shown_call){ .id = call->id };
    if (r->kimi->call_ids == ML_CALL_ID_COUNTER && is_full_id(call->id)) {
        ML_TRY(ml_chars_append(&shown->shown, call->id.data, call->id.n_bytes, err));
    } else {
        ML_TRY(append_id(&shown->shown, call->name, number, err));
    }
    ML_TRY(ml_chat_put(r->sink, ml_chat_call_marks[ML_MARK_CALL_BEGIN], err));
    ML_TRY(ml_chat_put_text(r->sink, (ml_text){ shown->shown.data, shown->shown.n }, err));
    ML_TRY(ml_chat_put(r->sink, ml_chat_call_marks[ML_MARK_ARGUMENTS], err));
    ML_TRY(ml_chat_put_text(r->sink, call->arguments, err));
    return ml_chat_put(r->sink, ml_chat_call_marks[ML_MARK_CALL_END], err);
}

static ml_status put_calls(kimi_render *r, const ml_chat_message *m, ml_error *err)
{
    if (!m->n_call) return ML_OK;
    ML_TRY(ml_chat_put(r->sink, ml_chat_call_marks[ML_MARK_SECTION_BEGIN], err));
    for (size_t i = 0; i < m->n_call; i++) ML_TRY(put_call(r, &m->calls[i], i, err));
    return ml_chat_put(r->sink, ml_chat_call_marks[ML_MARK_SECTION_END], err);
}

/* Calls whose text is not rendered count, too. */
static ml_status note_calls(kimi_render *r, const ml_chat_message *m, ml_error *err)
{
    for (size_t i = 0; i < m->n_call; i++) {
        ML_TRY(ml_grow((void **)&r->calls, &r->capacity, r->n_call + 1, sizeof *r->calls, err));
        shown_call *shown = &r->calls[r->n_call++];
        *shown = (shown_call){ .id = m->calls[i].id };
        ML_TRY(ml_chars_append(&shown->shown, m->calls[i].id.data, m->calls[i].id.n_bytes, err));
    }
    return ML_OK;
}

/* The call that a result belongs to: the one of its id, else the first without a result; NULL when there is none. */
static shown_call *find_call(kimi_render *r, ml_text id)
{
    shown_call *first = NULL;
    for (size_t i = 0; i < r->n_call; i++) {
        shown_call *call = &r->calls[i];
        if (call->answered) continue;
        if (!first) first = call;
        if (id.n_bytes && call->id.n_bytes == id.n_bytes && !memcmp(call->id.data, id.data, id.n_bytes)) return call;
    }
    return first;
}

static ml_status put_result(kimi_render *r, const ml_chat_message *m, ml_error *err)
{
    if (!r->kimi->behind_return) return ml_chat_put_text(r->sink, m->text, err);
    ML_TRY(ml_chat_put(r->sink, "## Return of ", err));
    shown_call *call = r->kimi->call_ids == ML_CALL_ID_COUNTER ? find_call(r, m->call_id) : NULL;
    if (call) {
        call->answered = true;
        ML_TRY(ml_chat_put_text(r->sink, (ml_text){ call->shown.data, call->shown.n }, err));
    } else if (m->call_id.n_bytes || r->kimi->call_ids == ML_CALL_ID_INDEX) {
        ML_TRY(ml_chat_put_text(r->sink, m->call_id, err));
    } else {
        ml_chars made = { 0 };
        ml_status status = append_id(&made, m->name.n_bytes ? m->name : ml_text_of("unknown"), r->n_call, err);
        if (status == ML_OK) status = ml_chat_put_text(r->sink, (ml_text){ made.data, made.n }, err);
        ml_chars_free(&made);
        ML_TRY(status);
    }
    ML_TRY(ml_chat_put(r->sink, r->kimi->behind_return, err));
    return ml_chat_put_text(r->sink, m->text, err);
}

/* `shown`: thoughts of this answer are. */
static ml_status put_answer(kimi_render *r, const ml_chat_message *m, bool shown, ml_error *err)
{
    if (r->sink->style->think == ML_THINK_NONE) {
        ML_TRY(ml_chat_put_text(r->sink, m->text, err));
        return put_calls(r, m, err);
    }
    ML_TRY(ml_chat_put(r->sink, "<think>", err));
    if (shown) ML_TRY(ml_chat_put_text(r->sink, m->reasoning, err));
    ML_TRY(ml_chat_put(r->sink, "</think>", err));
    ML_TRY(ml_chat_put_text(r->sink, m->text, err));
    return put_calls(r, m, err);
}

static ml_status put_message(kimi_render *r, const ml_chat_message *m, bool recent, ml_error *err)
{
    bool whole = m->role == ML_ROLE_ASSISTANT && m->n_id && (recent || r->sink->style->think == ML_THINK_NONE);
    ML_TRY(open_message(r, m->role, m->name, err));
    if (whole) {
        ML_TRY(ml_chat_put_ids(r->sink, m->id, m->n_id, err));
        ML_TRY(note_calls(r, m, err));
    } else if (m->role == ML_ROLE_ASSISTANT) {
        ML_TRY(put_answer(r, m, recent, err));
    } else {
        ML_TRY(m->role == ML_ROLE_TOOL ? put_result(r, m, err) : ml_chat_put_text(r->sink, m->text, err));
    }
    return ml_chat_put(r->sink, "<|im_end|>", err);
}

static ml_status declare_tools(kimi_render *r, const json_t *tools, ml_error *err)
{
    if (!tools || !json_array_size(tools)) return ML_OK;
    ml_chars text = { 0 };
    ml_status status = ml_chat_dump_json(tools, &text, err);
    if (status == ML_OK) status = ml_chat_put(r->sink, "<|im_system|>tool_declare<|im_middle|>", err);
    if (status == ML_OK) status = ml_chat_put_text(r->sink, (ml_text){ text.data, text.n }, err);
    if (status == ML_OK) status = ml_chat_put(r->sink, "<|im_end|>", err);
    ml_chars_free(&text);
    return status;
}

static ml_status put_default_system(kimi_render *r, ml_error *err)
{
    ML_TRY(open_message(r, ML_ROLE_SYSTEM, (ml_text){ 0 }, err));
    ML_TRY(ml_chat_put_text(r->sink, ml_text_of(r->sink->style->default_system), err));
    ML_TRY(ml_chat_put(r->sink, "<|im_end|>", err));
    return r->kimi->behind_default ? ml_chat_put(r->sink, r->kimi->behind_default, err) : ML_OK;
}

/* What calls need beside the format's own marks. */
static ml_status check_call_marks(const kimi_render *r, const ml_chat_conversation *c, ml_error *err)
{
    bool used = json_array_size(c->tools) > 0;
    for (size_t i = 0; i < c->n_message; i++) used = used || c->messages[i].n_call > 0;
    for (size_t i = 0; used && i < ML_N_CALL_MARK; i++) {
        if (ml_tokenizer_find(r->sink->t, ml_chat_call_marks[i]) >= 0) continue;
        return ml_fail(err, ML_EINVAL, "calls of tools need the token %s, which this tokenizer does not have",
                       ml_chat_call_marks[i]);
    }
    return ML_OK;
}

static ml_status render(kimi_render *r, const ml_chat_conversation *c, ml_error *err)
{
    size_t n_old = 0; /* messages up to the last answer without calls: their thoughts are forgotten */
    for (size_t i = 0; i < c->n_message; i++) {
        if (c->messages[i].role == ML_ROLE_ASSISTANT && !c->messages[i].n_call) n_old = i + 1;
    }
    ML_TRY(check_call_marks(r, c, err));
    ML_TRY(declare_tools(r, c->tools, err));
    if (!c->n_message || c->messages[0].role != ML_ROLE_SYSTEM) ML_TRY(put_default_system(r, err));
    for (size_t i = 0; i < c->n_message; i++) ML_TRY(put_message(r, &c->messages[i], i >= n_old, err));
    return c->answer ? ml_chat_put(r->sink, "<|im_assistant|>assistant<|im_middle|>", err) : ML_OK;
}

ml_status ml_chat_render_kimi(ml_chat_sink *sink, const ml_chat_conversation *c, ml_error *err)
{
    kimi_render r = { .sink = sink, .kimi = sink->style->kimi };
    ml_status status = render(&r, c, err);
    for (size_t i = 0; i < r.n_call; i++) ml_chars_free(&r.calls[i].shown);
    ml_free(r.calls);
    return status;
}
