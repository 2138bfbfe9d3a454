#include "data/problems.h"

#include "data/records.h"

#include <string.h>

static const size_t ARENA_BYTES = (size_t)64 << 20; /* of one record */

static const ml_value *find_first(const ml_value *record, const char *const *keys)
{
    for (; *keys; keys++) {
        const ml_value *value = ml_value_find(record, *keys);
        if (value && value->kind != ML_VALUE_NULL) return value;
    }
    return NULL;
}

/* ---- what is asked ---- */

static ml_status ask_text(const ml_value *text, const char *instruction, json_t **out, ml_error *err)
{
    ml_chars whole = { 0 };
    ml_status status = ml_chars_append(&whole, text->text, text->n, err);
    if (status == ML_OK && *instruction) status = ml_chars_append(&whole, "\n\n", 2, err);
    if (status == ML_OK) status = ml_chars_append(&whole, instruction, strlen(instruction), err);
    if (status == ML_OK) {
        *out = json_pack("[{s:s, s:s%}]", "role", "user", "content", whole.n ? whole.data : "", whole.n);
        if (!*out) status = ml_fail_memory(err, whole.n, "a problem");
    }
    ml_chars_free(&whole);
    return status;
}

static bool ends_with_user(const json_t *messages)
{
    const json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    const char *role = json_string_value(json_object_get(last, "role"));
    return role && !strcmp(role, "user") && json_is_string(json_object_get(last, "content"));
}

static ml_status read_question(const ml_record_batch *batch, size_t i, const ml_value *record, const char *instruction,
                               json_t **out, ml_error *err)
{
    static const char *const bare[] = { "problem", "question", NULL };
    const ml_value *prompt = ml_value_find(record, "prompt"), *text = find_first(record, bare);
    if (prompt && prompt->kind == ML_VALUE_TEXT) return ask_text(prompt, "", out, err);
    if (prompt && prompt->kind == ML_VALUE_ARRAY) {
        *out = ml_value_to_json(prompt);
        if (!*out) return ml_fail_memory(err, 0, "a problem");
        if (ends_with_user(*out)) return ML_OK;
        json_decref(*out);
        *out = NULL;
        return ml_record_fail(batch, i, err, "\"prompt\": expected messages, the last one a user's with a text");
    }
    if (text && text->kind == ML_VALUE_TEXT) return ask_text(text, instruction, out, err);
    return ml_record_fail(
        batch, i, err, "expected a text at \"problem\" or \"question\", or a text or messages at \"prompt\", found %s",
        ml_value_kind_name(prompt ? prompt : text));
}

/* ---- the answer ---- */

static ml_status read_label(const ml_record_batch *batch, size_t i, const ml_value *record, char **out, ml_error *err)
{
    static const char *const keys[] = { "label", "answer", "solution", NULL };
    const ml_value *value = find_first(record, keys);
    char digits[32];
    if (value && value->kind == ML_VALUE_INTEGER) {
        snprintf(digits, sizeof digits, "%lld", (long long)value->integer);
        *out = ml_strdup(digits);
    } else if (value && value->kind == ML_VALUE_TEXT && !memchr(value->text, 0, value->n)) {
        *out = ml_alloc(value->n + 1);
        if (*out) memcpy(*out, value->text, value->n);
        if (*out) (*out)[value->n] = 0;
    } else {
        return ml_record_fail(batch, i, err,
                              "expected a text or whole number at \"label\", \"answer\" or \"solution\", found %s",
                              ml_value_kind_name(value));
    }
    return *out ? ML_OK : ml_fail_memory(err, value->n + 1, "the answer of a problem");
}

/* ---- records ---- */

static ml_status add(ml_problems *p, const ml_record_batch *batch, size_t i, ml_arena *arena, const char *instruction,
                     ml_error *err)
{
    const ml_value *record;
    ml_arena_release(arena, 0);
    ML_TRY(ml_record_value(batch, i, arena, &record, err));
    ML_TRY(ml_grow((void **)&p->problem, &p->capacity, p->n + 1, sizeof *p->problem, err));
    ml_problem *new = &p->problem[p->n++];
    *new = (ml_problem){ .number = batch->record[i].number };
    ML_TRY(read_question(batch, i, record, instruction, &new->messages, err));
    return read_label(batch, i, record, &new->label, err);
}

static ml_status read_all(ml_records *r, int64_t limit, const char *instruction, ml_record_batch *batch,
                          ml_arena *arena, ml_problems *out, ml_error *err)
{
    size_t before = out->n;
    for (;;) {
        ML_TRY(ml_records_read(r, 256, (size_t)1 << 20, batch, err));
        if (batch->n == 0) return ML_OK;
        for (size_t i = 0; i < batch->n; i++) {
            if (limit > 0 && out->n - before >= (size_t)limit) return ML_OK;
            ML_TRY(add(out, batch, i, arena, instruction, err));
        }
    }
}

ml_status ml_problems_read(const char *path, int64_t limit, const char *instruction, ml_problems *out, ml_error *err)
{
    const ml_records_config config = { .rule = ML_RULE_WHOLE, .marker = "<|endoftext|>" };
    ml_records *r = NULL;
    ml_record_batch batch = { 0 };
    ml_arena arena = { 0 };
    size_t before = out->n;
    ml_status status = ml_records_open(&path, 1, &config, &r, err);
    if (status == ML_OK) status = ml_arena_init(&arena, ARENA_BYTES, err);
    if (status == ML_OK) status = read_all(r, limit, instruction, &batch, &arena, out, err);
    if (status == ML_OK && out->n == before) {
        status = ml_fail(err, ML_EINVAL, "%s: expected one problem or more, found none", path);
    }
    ml_record_batch_free(&batch);
    ml_arena_free(&arena);
    ml_records_free(r);
    return status;
}

void ml_problems_free(ml_problems *p)
{
    for (size_t i = 0; i < p->n; i++) {
        json_decref(p->problem[i].messages);
        ml_free(p->problem[i].label);
    }
    ml_free(p->problem);
    *p = (ml_problems){ 0 };
}

const char *ml_problem_text(const ml_problem *p)
{
    const json_t *last = json_array_get(p->messages, json_array_size(p->messages) - 1);
    return json_string_value(json_object_get(last, "content"));
}
