#include "data/dialog.h"

#include "base/alloc.h"

#include <string.h>

static void clear(ml_dialog *d)
{
    ml_free(d->own);
    d->own = NULL;
    d->n = 0;
}

void ml_dialog_free(ml_dialog *d)
{
    ml_free(d->turn);
    ml_free(d->own);
    memset(d, 0, sizeof *d);
}

void ml_preference_free(ml_preference *p)
{
    ml_dialog_free(&p->prompt);
    memset(p, 0, sizeof *p);
}

ml_status ml_dialog_add(ml_dialog *d, ml_chat_role role, const char *text, size_t n_bytes, ml_error *err)
{
    void *items = d->turn;
    ML_TRY(ml_grow(&items, &d->capacity, d->n + 1, sizeof *d->turn, err));
    d->turn = items;
    d->turn[d->n++] = (ml_turn){ role, { text, n_bytes } };
    return ML_OK;
}

static bool is_text(const ml_value *v)
{
    return v && v->kind == ML_VALUE_TEXT;
}

static bool is_array(const ml_value *v)
{
    return v && v->kind == ML_VALUE_ARRAY;
}

static ml_status add_value(ml_dialog *d, ml_chat_role role, const ml_value *text, ml_error *err)
{
    return ml_dialog_add(d, role, text->text, text->n, err);
}

/* ---- the forms ---- */

static const char *const role_keys[] = { "role", "from", NULL }, *const text_keys[] = { "content", "value", NULL };

static bool parse_role(const ml_value *name, ml_chat_role *role)
{
    static const struct {
        const char *name;
        ml_chat_role role;
    } names[] = { { "system", ML_ROLE_SYSTEM },       { "user", ML_ROLE_USER },     { "human", ML_ROLE_USER },
                  { "assistant", ML_ROLE_ASSISTANT }, { "gpt", ML_ROLE_ASSISTANT }, { "model", ML_ROLE_ASSISTANT } };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (!ml_value_is(name, names[i].name)) continue;
        *role = names[i].role;
        return true;
    }
    return false;
}

/* The first of these keys that holds text. */
static const ml_value *text_of(const ml_value *record, const char *const *keys)
{
    for (; *keys; keys++) {
        const ml_value *value = ml_value_find(record, *keys);
        if (is_text(value)) return value;
    }
    return NULL;
}

static ml_status add_messages(ml_dialog *d, const ml_value *messages, ml_error *err)
{
    size_t i = 0;
    for (const ml_value *message = messages->child; message; message = message->next, i++) {
        const ml_value *role = text_of(message, role_keys), *text = text_of(message, text_keys);
        ml_chat_role id;
        if (!text || !parse_role(role, &id)) {
            return ml_fail(err, ML_EFORMAT,
                           "message %zu: expected \"role\" (system, user or assistant) and text under \"content\", "
                           "found role \"%.*s\"",
                           i, role ? (int)(role->n < 40 ? role->n : 40) : 0, role ? role->text : "");
        }
        ML_TRY(add_value(d, id, text, err));
    }
    return ML_OK;
}

static ml_status add_system(ml_dialog *d, const ml_value *record, ml_error *err)
{
    const ml_value *system = ml_value_find(record, "system");
    return is_text(system) ? add_value(d, ML_ROLE_SYSTEM, system, err) : ML_OK;
}

/* Instruction and input become one question, two lines apart. */
static ml_status add_alpaca(ml_dialog *d, const ml_value *record, const ml_value *output, ml_error *err)
{
    const ml_value *instruction = ml_value_find(record, "instruction"), *input = ml_value_find(record, "input");
    size_t n = instruction->n, m = is_text(input) ? input->n : 0;
    ML_TRY(add_system(d, record, err));
    if (m == 0) {
        ML_TRY(add_value(d, ML_ROLE_USER, instruction, err));
    } else {
        d->own = ml_alloc(n + m + 2);
        if (!d->own) return ml_fail_memory(err, n + m + 2, "a question");
        memcpy(d->own, instruction->text, n);
        memcpy(d->own + n, "\n\n", 2);
        memcpy(d->own + n + 2, input->text, m);
        ML_TRY(ml_dialog_add(d, ML_ROLE_USER, d->own, n + m + 2, err));
    }
    return add_value(d, ML_ROLE_ASSISTANT, output, err);
}

ml_status ml_dialog_read(const ml_value *record, ml_dialog *out, ml_error *err)
{
    static const char *const prompt_keys[] = { "prompt", "question", NULL };
    static const char *const answer_keys[] = { "response", "completion", "answer", NULL };
    clear(out);
    const ml_value *messages = is_array(record) ? record : ml_value_find(record, "messages");
    if (!messages) messages = ml_value_find(record, "conversations");
    if (is_array(messages)) return add_messages(out, messages, err);
    const ml_value *prompt = text_of(record, prompt_keys), *answer = text_of(record, answer_keys);
    if (prompt && answer) {
        ML_TRY(add_system(out, record, err));
        ML_TRY(add_value(out, ML_ROLE_USER, prompt, err));
        return add_value(out, ML_ROLE_ASSISTANT, answer, err);
    }
    const ml_value *output = ml_value_find(record, "output");
    if (is_text(ml_value_find(record, "instruction")) && is_text(output)) return add_alpaca(out, record, output, err);
    return ml_fail(err, ML_EFORMAT,
                   "expected \"messages\" or \"conversations\", or \"prompt\" and \"response\", or \"instruction\" "
                   "and \"output\", found %s",
                   record && record->kind == ML_VALUE_OBJECT ? "none of them" : ml_value_kind_name(record));
}

/* ---- preferences ---- */

/* An answer as text, as a message, or as messages whose last is it; *before gets how many come before it. */
static bool read_answer(const ml_value *side, ml_text *answer, size_t *before)
{
    const ml_value *text = side, *last = side;
    ml_chat_role role;
    *before = 0;
    if (is_array(side) && side->n > 0) {
        last = side->child;
        while (last->next) last = last->next;
        *before = side->n - 1;
    }
    if (last && last->kind == ML_VALUE_OBJECT) {
        if (!parse_role(text_of(last, role_keys), &role) || role != ML_ROLE_ASSISTANT) return false;
        text = text_of(last, text_keys);
    }
    if (!is_text(text)) return false;
    *answer = (ml_text){ text->text, text->n };
    return true;
}

static bool same_text(const ml_value *a, const ml_value *b)
{
    return is_text(a) && is_text(b) && a->n == b->n && memcmp(a->text, b->text, a->n) == 0;
}

/* Whether the first n messages of both are by the same and say the same. */
static bool same_messages(const ml_value *a, const ml_value *b, size_t n)
{
    a = a->child;
    b = b->child;
    for (size_t i = 0; i < n; i++, a = a->next, b = b->next) {
        if (!same_text(text_of(a, role_keys), text_of(b, role_keys))) return false;
        if (!same_text(text_of(a, text_keys), text_of(b, text_keys))) return false;
    }
    return true;
}

ml_status ml_preference_read(const ml_value *record, ml_preference *out, ml_error *err)
{
    const ml_value *prompt = ml_value_find(record, "prompt");
    if (!prompt) prompt = ml_value_find(record, "conversations");
    const ml_value *chosen = ml_value_find(record, "chosen"), *rejected = ml_value_find(record, "rejected");
    size_t before = 0, before_rejected = 0;
    clear(&out->prompt);
    if (prompt && prompt->kind == ML_VALUE_NULL) prompt = NULL; /* a column of a file of which others have one */
    bool good = read_answer(chosen, &out->chosen, &before) && read_answer(rejected, &out->rejected, &before_rejected);
    good = good && (prompt || (before > 0 && before == before_rejected && same_messages(chosen, rejected, before)));
    if (!good || (prompt && !is_text(prompt) && !is_array(prompt))) {
        return ml_fail(err, ML_EFORMAT,
                       "expected \"prompt\", \"chosen\" and \"rejected\", each a text or messages (the last of the "
                       "answers' from the assistant)");
    }
    ML_TRY(add_system(&out->prompt, record, err));
    if (is_text(prompt)) return add_value(&out->prompt, ML_ROLE_USER, prompt, err);
    if (prompt) return add_messages(&out->prompt, prompt, err);
    ML_TRY(add_messages(&out->prompt, chosen, err));
    out->prompt.n--;
    return ML_OK;
}
