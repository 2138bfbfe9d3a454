#include "data/row_make.h"

#include "base/alloc.h"

#include <assert.h>
#include <string.h>

const char *ml_row_form_name(ml_row_form form)
{
    static const char *const names[ML_N_ROW_FORM] = { "prompt", "instruction", "chat", "preference" };
    return names[form];
}

const char *ml_row_reject_name(ml_row_reject reject)
{
    static const char *const names[ML_N_REJECT] = { "none",      "malformed",      "wrong roles",
                                                    "no answer", "empty answer",   "equal sides",
                                                    "no marker", "too many turns", "too long" };
    return names[reject];
}

bool ml_row_reject_is_bad(ml_row_reject reject)
{
    return reject != ML_REJECT_NONE && reject != ML_REJECT_TURNS && reject != ML_REJECT_TOO_LONG;
}

/* ---- chat formats: the only calls of token/chat.h ---- */

static bool has_format(const ml_row_maker *m)
{
    return !ml_chat_is_none(&m->chat);
}

/* `answer`: up to where the model is to go on; else a complete conversation with the end of its last answer. */
static ml_status render(const ml_row_maker *m, const ml_turn *turn, size_t n, bool answer, ml_ids *out, ml_error *err)
{
    ml_chat_message *message = ml_calloc(n + 1, sizeof *message);
    if (!message) return ml_fail_memory(err, n * sizeof *message, "a conversation");
    for (size_t i = 0; i < n; i++) message[i] = (ml_chat_message){ .role = turn[i].role, .text = turn[i].text };
    ml_chat_conversation c = { .messages = message, .n_message = n, .answer = answer };
    ml_status status = ml_chat_render(&m->chat, m->tokenizer, &c, out, err);
    ml_free(message);
    return status;
}

/* Formats of which the answer is found by its marker; of others it begins where the prompt for it ends. */
static bool find_markers(const ml_row_maker *m, int32_t *marker, int32_t *end)
{
    bool has_marker = !strcmp(ml_chat_name(&m->chat), "moonlight-moe");
    *end = m->chat.end[0];
    *marker = has_marker ? ml_tokenizer_find(m->tokenizer, "<|assistant|>") : -1;
    return *marker >= 0;
}

/* ---- set-up ---- */

ml_status ml_row_maker_init(ml_row_maker *m, const ml_tokenizer *tokenizer, ml_row_form form, const char *chat_format,
                            int64_t max_tokens, ml_error *err)
{
    bool is_auto = !chat_format || !strcmp(chat_format, "auto");
    *m = (ml_row_maker){ .tokenizer = tokenizer, .form = form, .max_tokens = max_tokens };
    if (form == ML_ROW_PROMPT && is_auto) chat_format = "none", is_auto = false;
    ML_TRY(ml_chat_choose(tokenizer, is_auto ? NULL : chat_format, NULL, &m->chat, err));
    if (form == ML_ROW_PROMPT && has_format(m)) {
        return ml_fail(err, ML_EINVAL, "rows of kind prompt have no chat format: use kind instruction for %s",
                       chat_format);
    }
    if ((form == ML_ROW_INSTRUCTION || form == ML_ROW_CHAT) && !has_format(m)) {
        return ml_fail(err, ML_EINVAL,
                       "rows of kind %s need a tokenizer with the tokens of a chat format: a chat model's, or add them "
                       "(data build --added, once for each of <|system|>, <|user|> and <|assistant|>), or use kind "
                       "prompt",
                       ml_row_form_name(form));
    }
    m->eos_id = ml_tokenizer_eos(tokenizer);
    if (m->eos_id < 0) m->eos_id = ml_tokenizer_find(tokenizer, "<|endoftext|>");
    if (m->eos_id >= 0 || has_format(m)) return ML_OK;
    return ml_fail(err, ML_EINVAL, "rows of kind %s need a tokenizer with an EOS token to end an answer with",
                   ml_row_form_name(form));
}

/* ---- masks ---- */

bool ml_row_find_answer(const int32_t *id, size_t n, int32_t marker, int32_t end, ml_mark_rule rule, ml_row_span *span)
{
    size_t at = n;
    for (size_t i = 0; i < n && (at == n || rule == ML_MARK_LAST); i++) {
        if (id[i] == marker) at = i;
    }
    size_t stop = at;
    while (stop < n && (stop == at || id[stop] != end)) stop++;
    if (stop < n) stop++;
    if (at == n || stop == at + 1) return false;
    *span = (ml_row_span){ (int32_t)at + 1, (int32_t)stop };
    return true;
}

/* The last answer of a complete row, which begins as the prompt for it does. */
static bool mark_answer(const ml_row_maker *m, const ml_ids *ids, const ml_ids *prompt, ml_row_span *span)
{
    size_t n_prompt = prompt->n;
    int32_t marker, end;
    ml_mark_rule rule = m->form == ML_ROW_INSTRUCTION ? ML_MARK_FIRST : ML_MARK_LAST;
    if (find_markers(m, &marker, &end)) return ml_row_find_answer(ids->id, ids->n, marker, end, rule, span);
    if (n_prompt > ids->n || memcmp(ids->id, prompt->id, n_prompt * sizeof *prompt->id)) return false;
    size_t stop = n_prompt;
    while (stop < ids->n && ids->id[stop] != end) stop++;
    if (stop < ids->n) stop++;
    *span = (ml_row_span){ (int32_t)n_prompt, (int32_t)stop };
    return n_prompt >= 1 && n_prompt < stop;
}

/* ---- dialogs ---- */

/* An optional system message, then questions and answers in turn.  An empty system message is none. */
static ml_row_reject check_dialog(const ml_dialog *d, const ml_turn **turn, size_t *n)
{
    size_t first = d->n > 0 && d->turn[0].role == ML_ROLE_SYSTEM && d->turn[0].text.n_bytes == 0;
    *turn = d->turn + first;
    *n = d->n - first;
    size_t at = *n > 0 && (*turn)[0].role == ML_ROLE_SYSTEM;
    bool answered = false;
    for (size_t i = at; i < *n; i++) {
        bool is_answer = (i - at) % 2;
        if ((*turn)[i].role != (is_answer ? ML_ROLE_ASSISTANT : ML_ROLE_USER)) return ML_REJECT_ROLES;
        if (is_answer && (*turn)[i].text.n_bytes == 0) return ML_REJECT_EMPTY_ANSWER;
        answered = answered || is_answer;
    }
    return answered ? ML_REJECT_NONE : ML_REJECT_NO_ANSWER;
}

static ml_status put_text(const ml_row_maker *m, ml_text text, ml_ids *out, ml_error *err)
{
    return ml_tokenizer_encode(m->tokenizer, text.data, text.n_bytes, false, out, err);
}

/* What the tokenizer puts before texts, a system text if there is one, the prompt. */
static ml_status put_plain_prompt(const ml_row_maker *m, const ml_turn *turn, size_t n, ml_ids *out, ml_error *err)
{
    ML_TRY(ml_tokenizer_append_prefix(m->tokenizer, out, err));
    for (size_t i = 0; i < n; i++) ML_TRY(put_text(m, turn[i].text, out, err));
    return ML_OK;
}

ml_status ml_row_make_prompt(const ml_row_maker *m, const ml_turn *turn, size_t n, ml_ids *out, ml_error *err)
{
    if (!has_format(m)) return put_plain_prompt(m, turn, n, out, err);
    return render(m, turn, n, true, out, err);
}

static ml_status make_plain(const ml_row_maker *m, const ml_turn *turn, size_t n, ml_row *row, ml_row_reject *reject,
                            ml_error *err)
{
    ML_TRY(put_plain_prompt(m, turn, n - 1, &row->ids, err));
    size_t begin = row->ids.n;
    ML_TRY(put_text(m, turn[n - 1].text, &row->ids, err));
    ML_TRY(ml_ids_append(&row->ids, &m->eos_id, 1, err));
    if (begin == 0) {
        *reject = ML_REJECT_NO_MARKER; /* neither BOS nor prompt: nothing comes before the first token */
        return ML_OK;
    }
    return ml_row_add_span(row, begin, row->ids.n, err);
}

/* The conversation up to the answer turn[n - 1]. */
static ml_status make_chat(const ml_row_maker *m, const ml_turn *turn, size_t n, ml_row *row, ml_row_reject *reject,
                           ml_error *err)
{
    ml_row_span span;
    ml_ids prompt = { 0 };
    ml_status status = render(m, turn, n - 1, true, &prompt, err);
    if (status == ML_OK) status = render(m, turn, n, false, &row->ids, err);
    if (status == ML_OK && mark_answer(m, &row->ids, &prompt, &span))
        status = ml_row_add_span(row, (size_t)span.begin, (size_t)span.end, err);
    else if (status == ML_OK)
        *reject = ML_REJECT_NO_MARKER;
    ml_ids_free(&prompt);
    return status;
}

ml_status ml_row_make(const ml_row_maker *m, const ml_dialog *dialog, ml_row row[ML_ROW_MAX_PREFIXES], size_t *n,
                      ml_row_reject *reject, ml_error *err)
{
    const ml_turn *turn;
    size_t n_turn, most = m->form == ML_ROW_CHAT ? ML_ROW_MAX_PREFIXES : 1;
    *n = 0;
    for (int i = 0; i < ML_ROW_MAX_PREFIXES; i++) ml_row_clear(&row[i]);
    *reject = check_dialog(dialog, &turn, &n_turn);
    if (*reject != ML_REJECT_NONE) return ML_OK;
    size_t n_head = turn[0].role == ML_ROLE_SYSTEM;
    if (m->form != ML_ROW_CHAT && n_turn != n_head + 2) {
        *reject = ML_REJECT_TURNS;
        return ML_OK;
    }
    for (size_t end = n_head + 2; end <= n_turn && *n < most; end += 2) {
        ml_row *next = &row[*n];
        ml_row_reject problem = ML_REJECT_NONE;
        ML_TRY(has_format(m) ? make_chat(m, turn, end, next, &problem, err)
                             : make_plain(m, turn, end, next, &problem, err));
        if (problem == ML_REJECT_NONE && (int64_t)next->ids.n > m->max_tokens) problem = ML_REJECT_TOO_LONG;
        if (problem != ML_REJECT_NONE) {
            if (*n == 0) *reject = problem;
            break;
        }
        ++*n;
    }
    return ML_OK;
}

/* ---- preferences ---- */

/* Append an answer with its end to the row, whose first n_prompt tokens ask for it. */
static ml_status put_answer(const ml_row_maker *m, const ml_preference *p, ml_text text, size_t n_prompt, ml_row *row,
                            ml_row_reject *reject, ml_error *err)
{
    size_t begin = row->ids.n;
    if (!has_format(m)) {
        ML_TRY(put_text(m, text, &row->ids, err));
        ML_TRY(ml_ids_append(&row->ids, &m->eos_id, 1, err));
        return ml_row_add_span(row, begin, row->ids.n, err);
    }
    ml_dialog whole = { 0 };
    ml_row one = { 0 };
    ml_row_span span;
    ml_ids prompt = { .id = row->ids.id, .n = n_prompt }; /* a view */
    ml_status status = ML_OK;
    for (size_t i = 0; i < p->prompt.n && status == ML_OK; i++) {
        const ml_turn *t = &p->prompt.turn[i];
        status = ml_dialog_add(&whole, t->role, t->text.data, t->text.n_bytes, err);
    }
    if (status == ML_OK) status = ml_dialog_add(&whole, ML_ROLE_ASSISTANT, text.data, text.n_bytes, err);
    if (status == ML_OK) status = render(m, whole.turn, whole.n, false, &one.ids, err);
    if (status == ML_OK && mark_answer(m, &one.ids, &prompt, &span) && (size_t)span.begin == n_prompt) {
        status = ml_ids_append(&row->ids, one.ids.id + span.begin, (size_t)(span.end - span.begin), err);
        if (status == ML_OK) status = ml_row_add_span(row, begin, row->ids.n, err);
    } else if (status == ML_OK) {
        *reject = ML_REJECT_NO_MARKER;
    }
    ml_dialog_free(&whole);
    ml_row_free(&one);
    return status;
}

ml_status ml_row_make_pair(const ml_row_maker *m, const ml_preference *p, ml_row *row, ml_row_reject *reject,
                           ml_error *err)
{
    ml_row_clear(row);
    *reject = ML_REJECT_NONE;
    const ml_dialog *d = &p->prompt;
    if (p->chosen.n_bytes == p->rejected.n_bytes && !memcmp(p->chosen.data, p->rejected.data, p->chosen.n_bytes)) {
        *reject = ML_REJECT_EQUAL_SIDES;
    } else if (p->chosen.n_bytes == 0 || p->rejected.n_bytes == 0) {
        *reject = ML_REJECT_EMPTY_ANSWER;
    } else if (d->n == 0 || d->turn[d->n - 1].role != ML_ROLE_USER) {
        *reject = ML_REJECT_ROLES;
    }
    if (*reject != ML_REJECT_NONE) return ML_OK;
    ML_TRY(ml_row_make_prompt(m, d->turn, d->n, &row->ids, err));
    size_t n_prompt = row->ids.n;
    if (n_prompt == 0) *reject = ML_REJECT_NO_MARKER;
    if (*reject == ML_REJECT_NONE) ML_TRY(put_answer(m, p, p->chosen, n_prompt, row, reject, err));
    size_t n_chosen = row->ids.n - n_prompt;
    if (*reject == ML_REJECT_NONE) ML_TRY(put_answer(m, p, p->rejected, n_prompt, row, reject, err));
    size_t n_rejected = row->ids.n - n_prompt - n_chosen, longer = n_chosen > n_rejected ? n_chosen : n_rejected;
    if (*reject == ML_REJECT_NONE && (int64_t)(n_prompt + longer) > m->max_tokens) *reject = ML_REJECT_TOO_LONG;
    return ML_OK;
}
