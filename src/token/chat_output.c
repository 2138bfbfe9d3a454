#include "token/chat_output.h"

#include "base/alloc.h"
#include "token/chat_style.h"

static const char think_open[] = "<think>", think_close[] = "</think>";

void ml_chat_output_start(ml_chat_output *o, const ml_chat_format *f, const ml_tokenizer *t, const int32_t *ids,
                          size_t n, bool replace_invalid)
{
    bool thinks = f->style->think != ML_THINK_NONE;
    *o = (ml_chat_output){ .t = t, .place = thinks ? ML_CHAT_IN_START : ML_CHAT_IN_TEXT };
    o->detok.replace_invalid = replace_invalid;
    o->detok.skip_special = true;
    o->detok.inside = n && !ml_tokenizer_is_added(t, ids[n - 1]);
    for (int i = 0; i < ML_N_CALL_MARK; i++) {
        o->mark[i] = f->style->tools ? ml_tokenizer_find(t, ml_chat_call_marks[i]) : -1;
    }
    o->think[0] = thinks ? ml_tokenizer_find(t, think_open) : -1;
    o->think[1] = thinks ? ml_tokenizer_find(t, think_close) : -1;
}

void ml_chat_output_free(ml_chat_output *o)
{
    for (size_t i = 0; i < o->n_call; i++) {
        ml_chars_free(&o->calls[i].id);
        ml_chars_free(&o->calls[i].name);
        ml_chars_free(&o->calls[i].arguments);
    }
    ml_free(o->calls);
    ml_chars_free(&o->reasoning);
    ml_chars_free(&o->text);
    ml_chars_free(&o->fresh);
    ml_chars_free(&o->held);
    *o = (ml_chat_output){ 0 };
}

/* -- thoughts: <think> at the beginning, as a token or as text ---------------------------------------------------- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* Bytes at the end of the n that a mark may begin with. */
static size_t held_back(const char *p, size_t n, const char *mark)
{
    size_t n_mark = strlen(mark), k = n < n_mark - 1 ? n : n_mark - 1;
    while (k && memcmp(p + n - k, mark, k) != 0) k--;
    return k;
}

static void drop(ml_chars *chars, size_t n)
{
    chars->n -= n;
    if (chars->n) memmove(chars->data, chars->data + n, chars->n);
}

/* Hand over the first n bytes of what is held; line feeds between thoughts and text belong to neither. */
static ml_status release(ml_chat_output *o, ml_chars *to, size_t n, ml_error *err)
{
    size_t skip = 0;
    bool first = !to->n && o->has_thought;
    while (first && skip < n && o->held.data[skip] == '\n') skip++;
    const char *rest = n ? o->held.data + skip : ""; /* nothing may be held, nowhere */
    ML_TRY(ml_chars_append(to, rest, n - skip, err));
    drop(&o->held, n);
    return ML_OK;
}

static void open_thoughts(ml_chat_output *o)
{
    o->place = ML_CHAT_IN_THOUGHTS;
    o->has_thought = true;
}

/* Line feeds at the end of thoughts are held until something else follows. */
static ml_status close_thoughts(ml_chat_output *o, ml_error *err)
{
    size_t n = o->held.n;
    while (n && o->held.data[n - 1] == '\n') n--;
    ML_TRY(release(o, &o->reasoning, n, err));
    o->held.n = 0;
    o->place = ML_CHAT_IN_TEXT;
    return ML_OK;
}

/* Before anything but white space: is it <think>? */
static void look_for_open(ml_chat_output *o, bool end)
{
    size_t blank = 0, n_mark = sizeof think_open - 1;
    while (blank < o->held.n && is_blank(o->held.data[blank])) blank++;
    size_t n = o->held.n - blank;
    if (n >= n_mark && !memcmp(o->held.data + blank, think_open, n_mark)) {
        drop(&o->held, blank + n_mark);
        open_thoughts(o);
        return;
    }
    if (!end && n < n_mark && !memcmp(o->held.data + blank, think_open, n)) return;
    o->place = ML_CHAT_IN_TEXT;
}

static ml_status look_for_close(ml_chat_output *o, bool end, ml_error *err)
{
    const char *found = memmem(o->held.data, o->held.n, think_close, sizeof think_close - 1);
    if (found) {
        size_t at = (size_t)(found - o->held.data), n = at;
        while (n && o->held.data[n - 1] == '\n') n--;
        ML_TRY(release(o, &o->reasoning, n, err));
        drop(&o->held, at - n + sizeof think_close - 1);
        o->place = ML_CHAT_IN_TEXT;
        return ML_OK;
    }
    size_t n = o->held.n - (end ? 0 : held_back(o->held.data, o->held.n, think_close));
    while (n && o->held.data[n - 1] == '\n') n--;
    return release(o, &o->reasoning, n, err);
}

/* Move what is held on as far as it is clear. */
static ml_status settle(ml_chat_output *o, bool end, ml_error *err)
{
    if (o->place == ML_CHAT_IN_START && o->held.n) look_for_open(o, end);
    if (o->place == ML_CHAT_IN_THOUGHTS && o->held.n) ML_TRY(look_for_close(o, end, err));
    if (o->place == ML_CHAT_IN_TEXT && o->held.n) ML_TRY(release(o, &o->text, o->held.n, err));
    return ML_OK;
}

/* -- calls -------------------------------------------------------------------------------------------------------- */

static ml_chat_made_call *last_call(ml_chat_output *o)
{
    return &o->calls[o->n_call - 1];
}

static ml_status open_call(ml_chat_output *o, ml_error *err)
{
    ML_TRY(ml_grow((void **)&o->calls, &o->capacity, o->n_call + 1, sizeof *o->calls, err));
    o->calls[o->n_call++] = (ml_chat_made_call){ 0 };
    o->place = ML_CHAT_IN_CALL;
    return ML_OK;
}

/* functions.NAME:N, or whatever the model wrote instead. */
static ml_status take_name(ml_chat_made_call *call, ml_error *err)
{
    static const char prefix[] = "functions.";
    ml_text id = ml_chat_trim((ml_text){ call->id.data, call->id.n }, false, true, true);
    if (id.n_bytes) memmove(call->id.data, id.data, id.n_bytes);
    call->id.n = id.n_bytes;
    const char *begin = call->id.data;
    size_t n = call->id.n, n_prefix = sizeof prefix - 1;
    if (n > n_prefix && !memcmp(begin, prefix, n_prefix)) {
        begin += n_prefix;
        n -= n_prefix;
    }
    const char *colon = n ? memrchr(begin, ':', n) : NULL;
    return ml_chars_append(&call->name, begin, colon ? (size_t)(colon - begin) : n, err);
}

/* Leave what is open; a call without its end stays incomplete. */
static ml_status take_mark(ml_chat_output *o, int mark, ml_error *err)
{
    switch (mark) {
    case ML_MARK_CALL_BEGIN: return open_call(o, err);
    case ML_MARK_ARGUMENTS:
        if (o->place != ML_CHAT_IN_CALL) return ML_OK;
        o->place = ML_CHAT_IN_ARGUMENTS;
        return take_name(last_call(o), err);
    case ML_MARK_CALL_END:
        if (o->place == ML_CHAT_IN_ARGUMENTS) last_call(o)->complete = true;
        if (o->place == ML_CHAT_IN_ARGUMENTS || o->place == ML_CHAT_IN_CALL) o->place = ML_CHAT_IN_SECTION;
        return ML_OK;
    case ML_MARK_SECTION_BEGIN: o->place = ML_CHAT_IN_SECTION; return ML_OK;
    default: o->place = ML_CHAT_IN_TEXT; return ML_OK;
    }
}

/* -- ids ---------------------------------------------------------------------------------------------------------- */

/* What the last id became goes where the answer is. */
static ml_status take_fresh(ml_chat_output *o, ml_error *err)
{
    const char *p = o->fresh.data;
    size_t n = o->fresh.n;
    switch (o->place) {
    case ML_CHAT_IN_CALL: return ml_chars_append(&last_call(o)->id, p, n, err);
    case ML_CHAT_IN_ARGUMENTS: return ml_chars_append(&last_call(o)->arguments, p, n, err);
    case ML_CHAT_IN_SECTION: // between calls there is nothing to say
        while (n && is_blank(*p)) p++, n--;
        return ml_chars_append(&o->text, p, n, err);
    default: break;
    }
    ML_TRY(ml_chars_append(&o->held, p, n, err));
    return settle(o, false, err);
}

/* Bytes of a character that never came whole belong to what came before a mark. */
static ml_status finish_bytes(ml_chat_output *o, ml_error *err)
{
    o->fresh.n = 0;
    ML_TRY(ml_detok_flush(&o->detok, &o->fresh, err));
    return o->fresh.n ? take_fresh(o, err) : ML_OK;
}

static ml_status take_think_mark(ml_chat_output *o, bool open, ml_error *err)
{
    if (open && o->place == ML_CHAT_IN_START) {
        o->held.n = 0; // white space
        open_thoughts(o);
    }
    if (!open && o->place == ML_CHAT_IN_THOUGHTS) return close_thoughts(o, err);
    return ML_OK;
}

ml_status ml_chat_output_push(ml_chat_output *o, int32_t id, ml_error *err)
{
    for (int i = 0; i < ML_N_CALL_MARK; i++) {
        if (id != o->mark[i]) continue;
        ML_TRY(finish_bytes(o, err));
        ML_TRY(settle(o, true, err));
        o->detok.inside = false;
        return take_mark(o, i, err);
    }
    for (int i = 0; i < 2; i++) {
        if (id != o->think[i]) continue;
        ML_TRY(finish_bytes(o, err));
        return take_think_mark(o, i == 0, err);
    }
    o->fresh.n = 0;
    ML_TRY(ml_detok_push(&o->detok, o->t, id, &o->fresh, err));
    return o->fresh.n ? take_fresh(o, err) : ML_OK;
}

ml_status ml_chat_output_end(ml_chat_output *o, ml_error *err)
{
    ML_TRY(finish_bytes(o, err));
    return settle(o, true, err);
}

/* -- JSON --------------------------------------------------------------------------------------------------------- */

static json_t *text_of(const ml_chars *chars)
{
    return json_stringn(chars->n ? chars->data : "", chars->n);
}

static json_t *call_to_json(const ml_chat_made_call *call)
{
    json_t *function = json_pack("{s:o, s:o}", "name", text_of(&call->name), "arguments", text_of(&call->arguments));
    return json_pack("{s:o, s:s, s:o}", "id", text_of(&call->id), "type", "function", "function", function);
}

json_t *ml_chat_output_to_json(const ml_chat_output *o)
{
    json_t *message = json_pack("{s:s, s:o}", "role", "assistant", "content", text_of(&o->text)), *calls = json_array();
    bool ok = message && calls;
    if (ok && o->reasoning.n) ok = json_object_set_new(message, "reasoning_content", text_of(&o->reasoning)) == 0;
    for (size_t i = 0; i < o->n_call && ok; i++) {
        if (o->calls[i].complete) ok = json_array_append_new(calls, call_to_json(&o->calls[i])) == 0;
    }
    if (ok && json_array_size(calls)) ok = json_object_set(message, "tool_calls", calls) == 0;
    json_decref(calls);
    if (ok) return message;
    json_decref(message);
    return NULL;
}
