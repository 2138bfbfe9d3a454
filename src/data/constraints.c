#include "data/constraints.h"

#include "data/stories.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

/* Letters, digits, and bytes of UTF-8 beyond ASCII. */
static bool is_word(char c)
{
    return isalnum((unsigned char)c) || (unsigned char)c >= 0x80;
}

bool ml_constraints_has_phrase(const char *text, size_t n_bytes, const char *phrase)
{
    size_t n = strlen(phrase);
    for (size_t i = 0; n > 0 && i + n <= n_bytes; i++) {
        if (strncasecmp(text + i, phrase, n) != 0) continue;
        bool begins = i == 0 || !is_word(text[i - 1]) || !is_word(phrase[0]);
        bool ends = i + n == n_bytes || !is_word(text[i + n]) || !is_word(phrase[n - 1]);
        if (begins && ends) return true;
    }
    return false;
}

/* The first sentence with its end. */
static size_t first_sentence(const char *story)
{
    size_t n = 0;
    while (story[n] && !strchr(".!?", story[n])) n++;
    return story[n] ? n + 1 : n;
}

ml_constraint_verdict ml_constraints_check(const ml_constraints *c, const char *story)
{
    size_t n = strlen(story);
    ml_constraint_verdict v = { .n_sentence = ml_story_count_sentences(story) };
    for (size_t i = 0; i < c->n_required; i++) v.n_required += ml_constraints_has_phrase(story, n, c->required[i]);
    v.required = v.n_required == (int)c->n_required;
    v.protagonist = !*c->protagonist || ml_constraints_has_phrase(story, first_sentence(story), c->protagonist);
    v.banned = !*c->banned || !ml_constraints_has_phrase(story, n, c->banned);
    v.sentences = v.n_sentence >= c->min_sentences && (!c->max_sentences || v.n_sentence <= c->max_sentences);
    return v;
}

bool ml_constraints_satisfied(const ml_constraint_verdict *v)
{
    return v->protagonist && v->required && v->banned;
}

/* ---- JSON ---- */

json_t *ml_constraints_to_json(const ml_constraints *c)
{
    json_t *required = json_array();
    for (size_t i = 0; i < c->n_required; i++) json_array_append_new(required, json_string(c->required[i]));
    json_t *j = json_pack("{s:s, s:s, s:o}", "protagonist", c->protagonist, "theme", c->theme, "required", required);
    if (j && *c->banned) json_object_set_new(j, "banned", json_string(c->banned));
    if (j && c->max_sentences) {
        json_object_set_new(j, "min_sentences", json_integer(c->min_sentences));
        json_object_set_new(j, "max_sentences", json_integer(c->max_sentences));
    }
    return j;
}

static ml_status copy_text(const json_t *j, const char *key, const char *where, char out[ML_CONSTRAINT_TEXT],
                           ml_error *err)
{
    const char *text;
    ML_TRY(ml_json_text_or(j, key, where, "", &text, err));
    if (strlen(text) >= ML_CONSTRAINT_TEXT) {
        return ml_fail(err, ML_EFORMAT, "%s: %s: expected at most %d bytes, found %zu", where, key,
                       ML_CONSTRAINT_TEXT - 1, strlen(text));
    }
    strcpy(out, text);
    return ML_OK;
}

static ml_status read_required(const json_t *j, const char *where, ml_constraints *out, ml_error *err)
{
    json_t *list = json_object_get(j, "required");
    size_t n = json_array_size(list);
    if (list && (!json_is_array(list) || n > ML_CONSTRAINT_PHRASES)) {
        return ml_fail(err, ML_EFORMAT, "%s: required: expected at most %d phrases, found %zu", where,
                       ML_CONSTRAINT_PHRASES, n);
    }
    for (size_t i = 0; i < n; i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (!text || !*text || strlen(text) >= ML_CONSTRAINT_TEXT) {
            return ml_fail(err, ML_EFORMAT, "%s: required: expected a text of 1 to %d bytes at %zu", where,
                           ML_CONSTRAINT_TEXT - 1, i);
        }
        strcpy(out->required[out->n_required++], text);
    }
    return ML_OK;
}

ml_status ml_constraints_from_json(const json_t *j, const char *where, ml_constraints *out, ml_error *err)
{
    int64_t least, most;
    *out = (ml_constraints){ 0 };
    ML_TRY(copy_text(j, "protagonist", where, out->protagonist, err));
    ML_TRY(copy_text(j, "theme", where, out->theme, err));
    ML_TRY(copy_text(j, "banned", where, out->banned, err));
    ML_TRY(read_required(j, where, out, err));
    ML_TRY(ml_json_int_or(j, "min_sentences", where, 0, &least, err));
    ML_TRY(ml_json_int_or(j, "max_sentences", where, 0, &most, err));
    if (least < 0 || most < 0 || most > 100000 || (most && least > most)) {
        return ml_fail(err, ML_EFORMAT, "%s: expected 0 <= min_sentences <= max_sentences, found %lld and %lld", where,
                       (long long)least, (long long)most);
    }
    out->min_sentences = (int)least;
    out->max_sentences = (int)most;
    return ML_OK;
}
