#include "cli/conversation.h"

#include "base/alloc.h"
#include "base/json.h"
#include "format/ends.h"
#include "token/chat_json.h"
#include "token/scan.h"

#include <string.h>

static ml_status choose_format(const ml_options *o, const char *path, const ml_loaded *m, ml_chat_format *out,
                               ml_error *err)
{
    const char *given = ml_options_text(o, "chat-format");
    const char *stored = ml_chat_words[m->model->config.chat_format];
    ml_status status = ml_chat_choose(m->tokenizer, strcmp(given, "auto") ? given : NULL, stored, out, err);
    return status == ML_OK ? ML_OK : ml_fail_prefix(err, "%s", path);
}

static ml_status load_tools(const char *path, const ml_chat_format *f, json_t **out, ml_error *err)
{
    ML_TRY(ml_json_load(path, out, err));
    ML_TRY(ml_chat_check_tools(*out, path, err));
    if (ml_chat_has_tools(f)) return ML_OK;
    return ml_fail(err, ML_EINVAL, "%s: the chat format %s has no place for tools", path, ml_chat_name(f));
}

ml_status ml_cli_conversation_make(const ml_options *o, const char *path, const ml_loaded *m, ml_cli_conversation *c,
                                   ml_error *err)
{
    *c = (ml_cli_conversation){ .tokenizer = m->tokenizer };
    ML_TRY(choose_format(o, path, m, &c->format, err));
    const char *tools = ml_options_has(o, "", "tools") ? ml_options_text(o, "tools") : NULL;
    if (tools) ML_TRY(load_tools(tools, &c->format, &c->tools, err));
    for (size_t i = 0; i < m->ends.n; i++) ML_TRY(ml_ends_add(&c->stop, m->ends.id[i], err));
    for (size_t i = 0; i < c->format.n_end; i++) ML_TRY(ml_ends_add(&c->stop, c->format.end[i], err));
    c->messages = json_array();
    return c->messages ? ML_OK : ml_fail_memory(err, 0, "a conversation");
}

void ml_cli_conversation_free(ml_cli_conversation *c)
{
    for (size_t i = 0; i < c->n; i++) ml_ids_free(&c->answers[i]);
    ml_free(c->answers);
    ml_ids_free(&c->stop);
    json_decref(c->messages);
    json_decref(c->tools);
    *c = (ml_cli_conversation){ 0 };
}

ml_status ml_cli_conversation_add(ml_cli_conversation *c, json_t *message, const int32_t *ids, size_t n, ml_error *err)
{
    if (!message || json_array_append_new(c->messages, message)) return ml_fail_memory(err, 0, "a message");
    ml_status status = ml_grow((void **)&c->answers, &c->capacity, c->n + 1, sizeof *c->answers, err);
    if (status == ML_OK) {
        c->answers[c->n++] = (ml_ids){ 0 };
        status = ml_ids_append(&c->answers[c->n - 1], ids, n, err);
    }
    if (status != ML_OK) ml_cli_conversation_cut(c, json_array_size(c->messages) - 1);
    return status;
}

json_t *ml_cli_message(const char *role, const char *text)
{
    ml_chars valid = { 0 };
    ml_error ignored;
    size_t n = strlen(text);
    bool ok = true;
    while (n && ok) {
        size_t n_valid = ml_utf8_valid_prefix((const uint8_t *)text, n);
        ok = ml_chars_append(&valid, text, n_valid, &ignored) == ML_OK;
        text += n_valid;
        n -= n_valid;
        if (!n || !ok) break;
        ok = ml_chars_append(&valid, "\xEF\xBF\xBD", 3, &ignored) == ML_OK;
        text++;
        n--;
    }
    json_t *message = ok ? json_pack("{s:s, s:s%}", "role", role, "content", valid.n ? valid.data : "", valid.n) : NULL;
    ml_chars_free(&valid);
    return message;
}

ml_status ml_cli_conversation_set_system(ml_cli_conversation *c, const char *text, ml_error *err)
{
    const char *role = json_string_value(json_object_get(json_array_get(c->messages, 0), "role"));
    bool is_there = role && !strcmp(role, "system");
    if (text && !is_there) {
        ML_TRY(ml_grow((void **)&c->answers, &c->capacity, c->n + 1, sizeof *c->answers, err));
    }
    json_t *message = text ? ml_cli_message("system", text) : NULL;
    if (text && !message) return ml_fail_memory(err, strlen(text), "a message");
    if (text && is_there) {
        json_array_set_new(c->messages, 0, message);
    } else if (text) {
        if (json_array_insert_new(c->messages, 0, message)) return ml_fail_memory(err, 0, "a message");
        memmove(c->answers + 1, c->answers, c->n++ * sizeof *c->answers);
        c->answers[0] = (ml_ids){ 0 };
    } else if (is_there) {
        json_array_remove(c->messages, 0);
        ml_ids_free(&c->answers[0]);
        memmove(c->answers, c->answers + 1, --c->n * sizeof *c->answers);
    }
    return ML_OK;
}

void ml_cli_conversation_cut(ml_cli_conversation *c, size_t n)
{
    while (json_array_size(c->messages) > n) json_array_remove(c->messages, n);
    while (c->n > n) ml_ids_free(&c->answers[--c->n]);
}

static ml_status render_text(const ml_cli_conversation *c, const ml_chat_messages *messages, ml_ids *out, ml_error *err)
{
    ML_TRY(ml_tokenizer_append_prefix(c->tokenizer, out, err));
    for (size_t i = 0; i < messages->n; i++) {
        const ml_chat_message *m = &messages->messages[i];
        if (m->n_id) {
            ML_TRY(ml_ids_append(out, m->id, m->n_id, err));
        } else {
            ML_TRY(ml_tokenizer_encode(c->tokenizer, m->text.data, m->text.n_bytes, false, out, err));
        }
    }
    return ML_OK;
}

ml_status ml_cli_conversation_render(const ml_cli_conversation *c, ml_ids *out, ml_error *err)
{
    ml_chat_messages messages = { 0 };
    ML_TRY(ml_chat_read_messages(c->messages, "the conversation", &messages, err));
    for (size_t i = 0; i < messages.n; i++) {
        messages.messages[i].id = c->answers[i].id;
        messages.messages[i].n_id = c->answers[i].n;
    }
    const ml_chat_conversation whole = { messages.messages, messages.n, c->tools, true };
    ml_status status = ml_chat_is_none(&c->format) ? render_text(c, &messages, out, err)
                                                   : ml_chat_render(&c->format, c->tokenizer, &whole, out, err);
    ml_chat_messages_free(&messages);
    return status;
}
