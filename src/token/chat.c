#include "token/chat.h"

#include <string.h>

const char *const ml_chat_default_system = "You are a helpful assistant";

/* Texts of the marks: system, user, assistant, end, middle (NULL: none). */
static const struct {
    const char *name;
    const char *role[ML_N_ROLE];
    const char *end, *middle;
} formats[ML_N_CHAT] = {
    [ML_CHAT_NONE] = { "none", { NULL }, NULL, NULL },
    [ML_CHAT_MOONLIGHT_MOE] = { "moonlight-moe", { "<|system|>", "<|user|>", "<|assistant|>" }, "<|endoftext|>", NULL },
    [ML_CHAT_KIMI] = { "kimi", { "<|im_system|>", "<|im_user|>", "<|im_assistant|>" }, "<|im_end|>", "<|im_middle|>" },
};

const char *ml_chat_name(ml_chat_kind kind)
{
    return formats[kind].name;
}

const char *ml_chat_role_name(ml_chat_role role)
{
    static const char *const names[ML_N_ROLE] = { "system", "user", "assistant" };
    return names[role];
}

/* The first mark that the tokenizer lacks, or NULL. */
static const char *fill(const ml_tokenizer *t, ml_chat_kind kind, ml_chat_format *f)
{
    *f = (ml_chat_format){ .kind = kind, .role = { -1, -1, -1 }, .middle = -1, .end = -1 };
    if (kind == ML_CHAT_NONE) return NULL;
    for (int i = 0; i < ML_N_ROLE; i++) {
        f->role[i] = ml_tokenizer_find(t, formats[kind].role[i]);
        if (f->role[i] < 0) return formats[kind].role[i];
    }
    f->end = ml_tokenizer_find(t, formats[kind].end);
    if (f->end < 0) return formats[kind].end;
    if (!formats[kind].middle) return NULL;
    f->middle = ml_tokenizer_find(t, formats[kind].middle);
    return f->middle < 0 ? formats[kind].middle : NULL;
}

ml_status ml_chat_choose(const ml_tokenizer *t, const char *name, ml_chat_format *out, ml_error *err)
{
    for (int kind = ML_N_CHAT - 1; kind >= 0; kind--) {
        if (name && strcmp(name, formats[kind].name) != 0) continue;
        const char *missing = fill(t, (ml_chat_kind)kind, out);
        if (!missing) return ML_OK;
        if (name) {
            return ml_fail(err, ML_EINVAL, "the chat format %s needs the token %s, which this tokenizer does not have",
                           name, missing);
        }
    }
    return ml_fail(err, ML_EINVAL, "there is no chat format \"%s\"; there are none, moonlight-moe, kimi", name);
}

static ml_status open_message(const ml_chat_format *f, const ml_tokenizer *t, ml_chat_role role, ml_ids *out,
                              ml_error *err)
{
    ML_TRY(ml_ids_append(out, &f->role[role], 1, err));
    if (f->middle < 0) return ML_OK;
    const char *name = ml_chat_role_name(role);
    ML_TRY(ml_tokenizer_encode(t, name, strlen(name), false, out, err));
    return ml_ids_append(out, &f->middle, 1, err);
}

static ml_status put_message(const ml_chat_format *f, const ml_tokenizer *t, ml_chat_role role, ml_text text,
                             ml_ids *out, ml_error *err)
{
    ML_TRY(open_message(f, t, role, out, err));
    ML_TRY(ml_tokenizer_encode(t, text.data, text.n_bytes, false, out, err));
    return f->kind == ML_CHAT_KIMI && role != ML_ROLE_ASSISTANT ? ml_ids_append(out, &f->end, 1, err) : ML_OK;
}

ml_status ml_chat_append(const ml_chat_format *f, const ml_tokenizer *t, ml_chat_role follows,
                         const ml_chat_message *message, ml_ids *out, ml_error *err)
{
    size_t before = out->n;
    ml_status status = ML_OK;
    /* An answer stays open until it is known whether something follows. */
    if (f->kind == ML_CHAT_KIMI && follows == ML_ROLE_ASSISTANT) status = ml_ids_append(out, &f->end, 1, err);
    if (status == ML_OK && follows == ML_N_ROLE && message->role != ML_ROLE_SYSTEM) {
        ml_text text = { ml_chat_default_system, strlen(ml_chat_default_system) };
        status = put_message(f, t, ML_ROLE_SYSTEM, text, out, err);
    }
    if (status == ML_OK) status = put_message(f, t, message->role, message->text, out, err);
    if (status != ML_OK) out->n = before;
    return status;
}

ml_status ml_chat_open_answer(const ml_chat_format *f, const ml_tokenizer *t, ml_ids *out, ml_error *err)
{
    return open_message(f, t, ML_ROLE_ASSISTANT, out, err);
}

ml_status ml_chat_render(const ml_chat_format *f, const ml_tokenizer *t, const ml_chat_message *messages,
                         size_t n_message, bool answer, ml_ids *out, ml_error *err)
{
    if (f->kind == ML_CHAT_NONE) return ml_fail(err, ML_EINVAL, "the tokenizer has no tokens of a chat format");
    size_t before = out->n;
    ml_status status = ML_OK;
    ml_chat_role follows = ML_N_ROLE;
    for (size_t i = 0; i < n_message && status == ML_OK; i++) {
        status = ml_chat_append(f, t, follows, &messages[i], out, err);
        follows = messages[i].role;
    }
    bool ends = follows == ML_ROLE_ASSISTANT && (!answer || f->kind == ML_CHAT_KIMI);
    if (status == ML_OK && ends) status = ml_ids_append(out, &f->end, 1, err);
    if (status == ML_OK && answer) status = ml_chat_open_answer(f, t, out, err);
    if (status != ML_OK) out->n = before;
    return status;
}
