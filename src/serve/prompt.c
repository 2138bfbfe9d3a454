#include "serve/prompt.h"

#include "base/alloc.h"
#include "serve/limits.h"
#include "token/chat_json.h"

static ml_status render_texts(const ml_served *s, const ml_chat_messages *m, ml_ids *out, ml_error *err)
{
    ML_TRY(ml_tokenizer_append_prefix(s->m.tokenizer, out, err));
    for (size_t i = 0; i < m->n; i++) {
        ml_text text = m->messages[i].text;
        ML_TRY(ml_tokenizer_encode(s->m.tokenizer, text.data, text.n_bytes, false, out, err));
    }
    return ML_OK;
}

static ml_status render(const ml_served *s, const ml_chat_messages *m, const json_t *tools, ml_ids *out, ml_error *err)
{
    const ml_chat_conversation whole = { m->messages, m->n, tools, true };
    if (ml_chat_is_none(&s->format)) {
        if (tools) return ml_fail(err, ML_EINVAL, "tools: this model has no chat format, and so no place for them");
        return render_texts(s, m, out, err);
    }
    return ml_chat_render(&s->format, s->m.tokenizer, &whole, out, err);
}

ml_status ml_prompt_from_messages(ml_web *h, const ml_served *s, const json_t *messages, const json_t *tools,
                                  ml_ids *out, ml_error *err)
{
    ml_chat_messages read = { 0 };
    if (json_array_size(messages) == 0) {
        return ml_web_refuse(h, err, 400, "messages", "messages: expected an array with at least one message");
    }
    if (tools) ML_TRY(ml_chat_check_tools(tools, "tools", err));
    ml_status status = ml_chat_read_messages(messages, "messages", &read, err);
    if (status == ML_OK) status = render(s, &read, tools, out, err);
    ml_chat_messages_free(&read);
    return status;
}

/* ---- prompts ---- */

static ml_status encode(const ml_served *s, const json_t *text, ml_ids *out, ml_error *err)
{
    ML_TRY(ml_tokenizer_append_prefix(s->m.tokenizer, out, err));
    return ml_tokenizer_encode(s->m.tokenizer, json_string_value(text), json_string_length(text), false, out, err);
}

static ml_status read_ids(ml_web *h, const json_t *list, const char *field, ml_ids *out, ml_error *err)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id > INT32_MAX) {
            return ml_web_refuse(h, err, 400, field, "%s: expected token ids, found something else at %zu", field, i);
        }
        ML_TRY(ml_ids_append(out, (int32_t[]){ (int32_t)id }, 1, err));
    }
    return ML_OK;
}

static ml_status read_one(ml_web *h, const ml_served *s, const json_t *v, const char *field, ml_ids *out, ml_error *err)
{
    if (json_is_string(v)) return encode(s, v, out, err);
    if (json_is_array(v)) return read_ids(h, v, field, out, err);
    return ml_web_refuse(h, err, 400, field, "%s: expected a text, texts, token ids, or arrays of token ids", field);
}

ml_status ml_prompts_from_json(ml_web *h, const ml_served *s, const json_t *value, const char *field, ml_ids **list,
                               size_t *n, ml_error *err)
{
    const json_t *first = json_array_get(value, 0);
    bool many = json_is_array(value) && !json_is_integer(first);
    size_t count = many ? json_array_size(value) : 1;
    *list = NULL;
    *n = 0;
    if (count < 1 || count > ML_LIMIT_PROMPT) {
        return ml_web_refuse(h, err, 400, field, "%s: expected 1 to %d, found %zu", field, ML_LIMIT_PROMPT, count);
    }
    ml_ids *out = ml_calloc(count, sizeof *out);
    if (!out) return ml_fail_memory(err, count * sizeof *out, "prompts");
    ml_status status = ML_OK;
    for (size_t i = 0; i < count && status == ML_OK; i++) {
        status = read_one(h, s, many ? json_array_get(value, i) : value, field, &out[i], err);
    }
    if (status != ML_OK) {
        ml_prompts_free(out, count);
        return status;
    }
    *list = out;
    *n = count;
    return ML_OK;
}

void ml_prompts_free(ml_ids *list, size_t n)
{
    for (size_t i = 0; i < n; i++) ml_ids_free(&list[i]);
    ml_free(list);
}

/* ---- tokens for JSON ---- */

json_t *ml_piece_text(const ml_tokenizer *t, int32_t id)
{
    ml_detok detok = { .replace_invalid = true, .inside = true };
    ml_chars out = { 0 };
    ml_error ignored;
    json_t *text = NULL;
    if (ml_detok_push(&detok, t, id, &out, &ignored) == ML_OK && ml_detok_flush(&detok, &out, &ignored) == ML_OK) {
        text = json_stringn(out.n ? out.data : "", out.n);
    }
    ml_chars_free(&out);
    return text ? text : json_string("");
}

json_t *ml_piece_bytes(const ml_tokenizer *t, int32_t id)
{
    size_t n = 0;
    const char *piece = ml_tokenizer_piece(t, id, &n);
    json_t *list = json_array();
    for (size_t i = 0; piece && i < n; i++) json_array_append_new(list, json_integer((unsigned char)piece[i]));
    return list;
}
