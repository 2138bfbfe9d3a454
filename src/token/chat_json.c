#include "token/chat_json.h"

#include "base/alloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -- JSON as Python writes it ------------------------------------------------------------------------------------ */

static ml_status put(ml_chars *out, const char *text, ml_error *err)
{
    return ml_chars_append(out, text, strlen(text), err);
}

static ml_status dump_text(const char *p, size_t n, ml_chars *out, ml_error *err)
{
    ML_TRY(put(out, "\"", err));
    for (size_t i = 0; i < n; i++) {
        static const char plain[] = "\"\\\n\r\t\f\b", letters[] = "\"\\nrtfb";
        const char *found = p[i] ? strchr(plain, p[i]) : NULL;
        char escape[8];
        if (found) {
            snprintf(escape, sizeof escape, "\\%c", letters[found - plain]);
            ML_TRY(put(out, escape, err));
        } else if ((uint8_t)p[i] < 0x20) {
            snprintf(escape, sizeof escape, "\\u%04x", (unsigned)p[i]);
            ML_TRY(put(out, escape, err));
        } else {
            ML_TRY(ml_chars_append(out, &p[i], 1, err));
        }
    }
    return put(out, "\"", err);
}

/* repr(): the shortest digits that give the number back; an exponent below 1e-4 and from 1e16 on. */
static ml_status dump_real(double value, ml_chars *out, ml_error *err)
{
    char text[40], digits[24] = "";
    int exponent = 0, n_digit = 0;
    for (int precision = 0; precision < 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision, value);
        if (strtod(text, NULL) == value) break;
    }
    const char *p = text;
    if (*p == '-') {
        ML_TRY(put(out, "-", err));
        p++;
    }
    for (; *p && *p != 'e'; p++) {
        if (*p != '.') digits[n_digit++] = *p;
    }
    if (*p == 'e') exponent = (int)strtol(p + 1, NULL, 10);
    char shown[64];
    if (exponent < -4 || exponent >= 16) {
        snprintf(shown, sizeof shown, "%c%s%se%c%02d", digits[0], n_digit > 1 ? "." : "", digits + 1,
                 exponent < 0 ? '-' : '+', abs(exponent));
    } else if (exponent < 0) {
        snprintf(shown, sizeof shown, "0.%.*s%s", -exponent - 1, "0000", digits);
    } else if (n_digit <= exponent + 1) {
        snprintf(shown, sizeof shown, "%s%.*s.0", digits, exponent + 1 - n_digit, "0000000000000000");
    } else {
        snprintf(shown, sizeof shown, "%.*s.%s", exponent + 1, digits, digits + exponent + 1);
    }
    return put(out, shown, err);
}

static ml_status dump_array(const json_t *value, ml_chars *out, ml_error *err)
{
    ML_TRY(put(out, "[", err));
    for (size_t i = 0; i < json_array_size(value); i++) {
        if (i) ML_TRY(put(out, ", ", err));
        ML_TRY(ml_chat_dump_json(json_array_get(value, i), out, err));
    }
    return put(out, "]", err);
}

static ml_status dump_object(const json_t *value, ml_chars *out, ml_error *err)
{
    json_t *object = (json_t *)(uintptr_t)value; // iterating takes no const
    ML_TRY(put(out, "{", err));
    for (void *i = json_object_iter(object), *first = i; i; i = json_object_iter_next(object, i)) {
        if (i != first) ML_TRY(put(out, ", ", err));
        ML_TRY(dump_text(json_object_iter_key(i), json_object_iter_key_len(i), out, err));
        ML_TRY(put(out, ": ", err));
        ML_TRY(ml_chat_dump_json(json_object_iter_value(i), out, err));
    }
    return put(out, "}", err);
}

ml_status ml_chat_dump_json(const json_t *value, ml_chars *out, ml_error *err)
{
    char number[32];
    switch (json_typeof(value)) {
    case JSON_OBJECT: return dump_object(value, out, err);
    case JSON_ARRAY: return dump_array(value, out, err);
    case JSON_STRING: return dump_text(json_string_value(value), json_string_length(value), out, err);
    case JSON_REAL: return dump_real(json_real_value(value), out, err);
    case JSON_INTEGER:
        snprintf(number, sizeof number, "%lld", (long long)json_integer_value(value));
        return put(out, number, err);
    case JSON_TRUE: return put(out, "true", err);
    case JSON_FALSE: return put(out, "false", err);
    case JSON_NULL: break;
    }
    return put(out, "null", err);
}

/* -- messages ---------------------------------------------------------------------------------------------------- */

typedef struct {
    const char *where;
    size_t index; /* of the message */
    ml_chat_messages *out;
    size_t n_call;
} reader;

static ml_status fail_message(const reader *r, ml_error *err, const char *key, const char *expected)
{
    return ml_fail(err, ML_EINVAL, "%s: messages[%zu]%s%s: expected %s", r->where, r->index, *key ? "." : "", key,
                   expected);
}

static ml_text text_in(const json_t *value)
{
    return (ml_text){ json_string_value(value), json_string_length(value) };
}

/* Keep a text of ours; it lives as long as the messages. */
static ml_status keep(reader *r, const ml_chars *chars, ml_text *text, ml_error *err)
{
    json_t *kept = json_stringn(chars->n ? chars->data : "", chars->n);
    if (!kept || json_array_append_new(r->out->own, kept)) return ml_fail_memory(err, chars->n, "a message");
    *text = text_in(kept);
    return ML_OK;
}

/* A text that may be missing or null. */
static ml_status read_text(const reader *r, const json_t *message, const char *key, ml_text *out, ml_error *err)
{
    const json_t *value = json_object_get(message, key);
    *out = (ml_text){ 0 };
    if (!value || json_is_null(value)) return ML_OK;
    if (!json_is_string(value)) return fail_message(r, err, key, "a text");
    *out = text_in(value);
    return ML_OK;
}

static ml_status append_parts(const reader *r, const json_t *parts, ml_chars *text, ml_error *err)
{
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const json_t *part = json_array_get(parts, i), *value = json_object_get(part, "text");
        if (!json_is_string(value))
            return fail_message(r, err, "content", "parts of the type text: there is no other here");
        ML_TRY(ml_chars_append(text, json_string_value(value), json_string_length(value), err));
    }
    return ML_OK;
}

static ml_status read_content(reader *r, const json_t *message, ml_text *out, ml_error *err)
{
    const json_t *value = json_object_get(message, "content");
    if (!json_is_array(value)) {
        if (value && !json_is_string(value) && !json_is_null(value)) {
            return fail_message(r, err, "content", "a text, an array of texts or null");
        }
        return read_text(r, message, "content", out, err);
    }
    ml_chars text = { 0 };
    ml_status status = append_parts(r, value, &text, err);
    if (status == ML_OK) status = keep(r, &text, out, err);
    ml_chars_free(&text);
    return status;
}

static ml_status read_role(const reader *r, const json_t *message, ml_chat_role *out, ml_error *err)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    for (int i = 0; role && i < ML_N_ROLE; i++) {
        if (strcmp(role, ml_chat_role_name((ml_chat_role)i)) != 0) continue;
        *out = (ml_chat_role)i;
        return ML_OK;
    }
    *out = ML_ROLE_SYSTEM;
    return role && !strcmp(role, "developer") ? ML_OK : fail_message(r, err, "role", "system, user, assistant or tool");
}

/* Arguments come as JSON in a text, or as they are. */
static ml_status read_arguments(reader *r, const json_t *value, ml_text *out, ml_error *err)
{
    if (json_is_string(value)) {
        *out = text_in(value);
        return ML_OK;
    }
    if (value && !json_is_object(value)) return fail_message(r, err, "tool_calls", "arguments as a text or an object");
    ml_chars text = { 0 };
    ml_status status = value ? ml_chat_dump_json(value, &text, err) : ml_chars_append(&text, "{}", 2, err);
    if (status == ML_OK) status = keep(r, &text, out, err);
    ml_chars_free(&text);
    return status;
}

static ml_status read_calls(reader *r, const json_t *message, ml_chat_message *m, ml_error *err)
{
    const json_t *list = json_object_get(message, "tool_calls");
    if (!list || json_is_null(list)) return ML_OK;
    if (!json_is_array(list)) return fail_message(r, err, "tool_calls", "an array");
    if (m->role != ML_ROLE_ASSISTANT && json_array_size(list)) {
        return fail_message(r, err, "tool_calls", "them in an assistant's message only");
    }
    m->calls = r->out->calls + r->n_call;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *one = json_array_get(list, i), *function = json_object_get(one, "function");
        ml_chat_call *call = &r->out->calls[r->n_call++];
        const json_t *name = json_object_get(function, "name"), *id = json_object_get(one, "id");
        if (!json_is_string(name)) return fail_message(r, err, "tool_calls", "a function with a name in each");
        call->name = text_in(name);
        if (json_is_string(id)) call->id = text_in(id);
        ML_TRY(read_arguments(r, json_object_get(function, "arguments"), &call->arguments, err));
        m->n_call++;
    }
    return ML_OK;
}

static ml_status read_message(reader *r, const json_t *message, ml_chat_message *m, ml_error *err)
{
    if (!json_is_object(message)) return fail_message(r, err, "", "an object with role and content");
    ML_TRY(read_role(r, message, &m->role, err));
    ML_TRY(read_content(r, message, &m->text, err));
    ML_TRY(read_text(r, message, "name", &m->name, err));
    ML_TRY(read_text(r, message, "reasoning_content", &m->reasoning, err));
    ML_TRY(read_text(r, message, "tool_call_id", &m->call_id, err));
    return read_calls(r, message, m, err);
}

static size_t count_calls(const json_t *list)
{
    size_t n = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        n += json_array_size(json_object_get(json_array_get(list, i), "tool_calls"));
    }
    return n;
}

ml_status ml_chat_read_messages(const json_t *list, const char *where, ml_chat_messages *out, ml_error *err)
{
    *out = (ml_chat_messages){ 0 };
    if (!json_is_array(list)) return ml_fail(err, ML_EINVAL, "%s: expected an array of messages", where);
    size_t n = json_array_size(list), n_call = count_calls(list);
    out->messages = ml_calloc(n + 1, sizeof *out->messages);
    out->calls = ml_calloc(n_call + 1, sizeof *out->calls);
    out->own = json_array();
    ml_status status = out->messages && out->calls && out->own ? ML_OK : ml_fail_memory(err, n, "messages");
    reader r = { .where = where, .out = out };
    for (; r.index < n && status == ML_OK; r.index++) {
        status = read_message(&r, json_array_get(list, r.index), &out->messages[r.index], err);
    }
    out->n = n;
    if (status != ML_OK) ml_chat_messages_free(out);
    return status;
}

void ml_chat_messages_free(ml_chat_messages *m)
{
    ml_free(m->messages);
    ml_free(m->calls);
    json_decref(m->own);
    *m = (ml_chat_messages){ 0 };
}

ml_status ml_chat_check_tools(const json_t *tools, const char *where, ml_error *err)
{
    if (!json_is_array(tools)) return ml_fail(err, ML_EINVAL, "%s: expected an array of tool definitions", where);
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *function = json_object_get(json_array_get(tools, i), "function");
        if (json_is_string(json_object_get(function, "name"))) continue;
        return ml_fail(err, ML_EINVAL,
                       "%s: tools[%zu]: expected {\"type\": \"function\", \"function\": {\"name\": ...}}", where, i);
    }
    return ML_OK;
}
