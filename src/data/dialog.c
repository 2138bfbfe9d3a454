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

static ml_status add_json(ml_dialog *d, ml_chat_role role, const json_t *text, ml_error *err)
{
    return ml_dialog_add(d, role, json_string_value(text), json_string_length(text), err);
}

/* ---- the forms ---- */

static bool parse_role(const char *name, ml_chat_role *role)
{
    static const struct {
        const char *name;
        ml_chat_role role;
    } names[] = { { "system", ML_ROLE_SYSTEM },       { "user", ML_ROLE_USER },     { "human", ML_ROLE_USER },
                  { "assistant", ML_ROLE_ASSISTANT }, { "gpt", ML_ROLE_ASSISTANT }, { "model", ML_ROLE_ASSISTANT } };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(name, names[i].name) != 0) continue;
        *role = names[i].role;
        return true;
    }
    return false;
}

/* The first of these keys that holds text. */
static const json_t *text_of(const json_t *record, const char *const *keys)
{
    for (; *keys; keys++) {
        const json_t *value = json_object_get(record, *keys);
        if (json_is_string(value)) return value;
    }
    return NULL;
}

static ml_status add_messages(ml_dialog *d, const json_t *messages, const char *where, ml_error *err)
{
    static const char *const role_keys[] = { "role", "from", NULL }, *const text_keys[] = { "content", "value", NULL };
    size_t i;
    json_t *message;
    json_array_foreach(messages, i, message)
    {
        const json_t *role = text_of(message, role_keys), *text = text_of(message, text_keys);
        ml_chat_role id;
        if (!role || !text || !parse_role(json_string_value(role), &id)) {
            return ml_fail(err, ML_EFORMAT,
                           "%s: message %zu: expected \"role\" (system, user or assistant) and text under \"content\", "
                           "found role \"%.40s\"",
                           where, i, role ? json_string_value(role) : "");
        }
        ML_TRY(add_json(d, id, text, err));
    }
    return ML_OK;
}

static ml_status add_system(ml_dialog *d, const json_t *record, ml_error *err)
{
    const json_t *system = json_object_get(record, "system");
    return json_is_string(system) ? add_json(d, ML_ROLE_SYSTEM, system, err) : ML_OK;
}

/* Instruction and input become one question, two lines apart. */
static ml_status add_alpaca(ml_dialog *d, const json_t *record, const json_t *output, ml_error *err)
{
    const json_t *instruction = json_object_get(record, "instruction"), *input = json_object_get(record, "input");
    size_t n = json_string_length(instruction), m = json_is_string(input) ? json_string_length(input) : 0;
    ML_TRY(add_system(d, record, err));
    if (m == 0) {
        ML_TRY(add_json(d, ML_ROLE_USER, instruction, err));
    } else {
        d->own = ml_alloc(n + m + 2);
        if (!d->own) return ml_fail_memory(err, n + m + 2, "a question");
        memcpy(d->own, json_string_value(instruction), n);
        memcpy(d->own + n, "\n\n", 2);
        memcpy(d->own + n + 2, json_string_value(input), m);
        ML_TRY(ml_dialog_add(d, ML_ROLE_USER, d->own, n + m + 2, err));
    }
    return add_json(d, ML_ROLE_ASSISTANT, output, err);
}

ml_status ml_dialog_from_json(const json_t *record, const char *where, ml_dialog *out, ml_error *err)
{
    static const char *const answer_keys[] = { "response", "completion", "answer", NULL };
    clear(out);
    const json_t *messages = json_is_array(record) ? record : json_object_get(record, "messages");
    if (!messages) messages = json_object_get(record, "conversations");
    if (json_is_array(messages)) return add_messages(out, messages, where, err);
    const json_t *prompt = json_object_get(record, "prompt"), *answer = text_of(record, answer_keys);
    if (json_is_string(prompt) && answer) {
        ML_TRY(add_system(out, record, err));
        ML_TRY(add_json(out, ML_ROLE_USER, prompt, err));
        return add_json(out, ML_ROLE_ASSISTANT, answer, err);
    }
    const json_t *output = json_object_get(record, "output");
    if (json_is_string(json_object_get(record, "instruction")) && json_is_string(output)) {
        return add_alpaca(out, record, output, err);
    }
    return ml_fail(err, ML_EFORMAT,
                   "%s: expected \"messages\" or \"conversations\", or \"prompt\" and \"response\", or \"instruction\" "
                   "and \"output\"",
                   where);
}

/* ---- preferences ---- */

/* An answer as text, or as messages whose last is it; *before gets how many come before it. */
static bool read_answer(const json_t *side, ml_text *answer, size_t *before)
{
    const json_t *text = side;
    *before = 0;
    if (json_is_array(side) && json_array_size(side) > 0) {
        const json_t *last = json_array_get(side, json_array_size(side) - 1);
        const char *role = json_string_value(json_object_get(last, "role"));
        if (!role || strcmp(role, "assistant") != 0) return false;
        text = json_object_get(last, "content");
        *before = json_array_size(side) - 1;
    }
    if (!json_is_string(text)) return false;
    *answer = (ml_text){ json_string_value(text), json_string_length(text) };
    return true;
}

static bool same_messages(const json_t *a, const json_t *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!json_equal(json_array_get(a, i), json_array_get(b, i))) return false;
    }
    return true;
}

ml_status ml_preference_from_json(const json_t *record, const char *where, ml_preference *out, ml_error *err)
{
    const json_t *prompt = json_object_get(record, "prompt");
    const json_t *chosen = json_object_get(record, "chosen"), *rejected = json_object_get(record, "rejected");
    size_t before = 0, before_rejected = 0;
    clear(&out->prompt);
    bool good = read_answer(chosen, &out->chosen, &before) && read_answer(rejected, &out->rejected, &before_rejected);
    good = good && (prompt || (before > 0 && before == before_rejected && same_messages(chosen, rejected, before)));
    if (!good || (prompt && !json_is_string(prompt) && !json_is_array(prompt))) {
        return ml_fail(err, ML_EFORMAT,
                       "%s: expected \"prompt\", \"chosen\" and \"rejected\", each a text or messages (the last of the "
                       "answers' from the assistant)",
                       where);
    }
    ML_TRY(add_system(&out->prompt, record, err));
    if (json_is_string(prompt)) return add_json(&out->prompt, ML_ROLE_USER, prompt, err);
    if (prompt) return add_messages(&out->prompt, prompt, where, err);
    ML_TRY(add_messages(&out->prompt, chosen, where, err));
    out->prompt.n--;
    return ML_OK;
}
