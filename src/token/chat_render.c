/* Conversations whose turns a table describes, and where rendering puts what it makes. */
#include "token/chat_style.h"

#include "token/char_class.h"
#include "token/internal.h"
#include "token/scan.h"

#include <string.h>

/* -- the sink -- */

static ml_status flush(ml_chat_sink *sink, ml_error *err)
{
    size_t n = sink->pending.n;
    sink->pending.n = 0;
    return n ? ml_tokenizer_encode_inside(sink->t, sink->pending.data, n, sink->ids, err) : ML_OK;
}

ml_status ml_chat_put_ids(ml_chat_sink *sink, const int32_t *id, size_t n, ml_error *err)
{
    if (sink->ids) {
        ML_TRY(flush(sink, err));
        return ml_ids_append(sink->ids, id, n, err);
    }
    for (size_t i = 0; i < n; i++) {
        size_t n_piece;
        const char *piece = ml_tokenizer_piece(sink->t, id[i], &n_piece);
        if (piece) ML_TRY(ml_chars_append(sink->text, piece, n_piece, err));
    }
    return ML_OK;
}

ml_status ml_chat_put_text(ml_chat_sink *sink, ml_text text, ml_error *err)
{
    return ml_chars_append(sink->ids ? &sink->pending : sink->text, text.data, text.n_bytes, err);
}

/* A stretch of a literal without BOS and EOS. */
static ml_status put_stretch(ml_chat_sink *sink, const char *text, size_t n, ml_error *err)
{
    size_t done = 0, at = 0, length;
    int32_t id;
    while (ml_tokenizer_find_added(sink->t, (const uint8_t *)text, n, &at, &length, &id)) {
        ML_TRY(ml_chat_put_text(sink, (ml_text){ text + done, at - done }, err));
        ML_TRY(ml_chat_put_ids(sink, &id, 1, err));
        done = at += length;
    }
    return ml_chat_put_text(sink, (ml_text){ text + done, n - done }, err);
}

ml_status ml_chat_put(ml_chat_sink *sink, const char *literal, ml_error *err)
{
    while (*literal) {
        size_t n = strcspn(literal, ML_CHAT_BOS ML_CHAT_EOS);
        ML_TRY(put_stretch(sink, literal, n, err));
        literal += n;
        if (!*literal) break;
        int32_t id = *literal == *ML_CHAT_BOS ? ml_tokenizer_bos(sink->t) : ml_tokenizer_eos(sink->t);
        if (id >= 0) ML_TRY(ml_chat_put_ids(sink, &id, 1, err));
        literal++;
    }
    return ML_OK;
}

/* -- texts -- */

/* What Python's str.strip() takes away. */
static bool is_space(const char *p, size_t n, bool only_line_feeds)
{
    if (only_line_feeds) return *p == '\n';
    if (ml_utf8_length((const uint8_t *)p, n) != (int)n) return false;
    uint32_t c = ml_char_decode((const uint8_t *)p, &n);
    return (c >= 0x1C && c <= 0x1F) || (ml_char_class(c) & ML_CHAR_SPACE);
}

ml_text ml_chat_trim(ml_text text, bool only_line_feeds, bool begin, bool end)
{
    const char *p = text.data;
    size_t n = text.n_bytes;
    while (begin && n) {
        int length = ml_utf8_length((const uint8_t *)p, n);
        if (length <= 0 || !is_space(p, (size_t)length, only_line_feeds)) break;
        p += length;
        n -= (size_t)length;
    }
    while (end && n) {
        size_t last = 1;
        while (last < n && last < 4 && ((uint8_t)p[n - last] & 0xC0) == 0x80) last++;
        if (!is_space(p + n - last, last, only_line_feeds)) break;
        n -= last;
    }
    return (ml_text){ p, n };
}

/* The first, or last, place of `part` in the text, or NULL. */
static const char *find(ml_text text, const char *part, bool last)
{
    size_t n = strlen(part);
    const char *found = NULL, *p = text.data, *end = text.data + text.n_bytes;
    while (p && (p = memmem(p, (size_t)(end - p), part, n))) {
        found = p++;
        if (!last) break;
    }
    return found;
}

void ml_chat_split_thoughts(const ml_chat_message *m, ml_text *thoughts, ml_text *text)
{
    static const char open[] = "<think>", close[] = "</think>";
    *thoughts = m->reasoning;
    *text = m->text;
    const char *first = m->text.n_bytes ? find(m->text, close, false) : NULL;
    if (m->reasoning.n_bytes || !first) return;
    const char *behind = find(m->text, close, true) + sizeof close - 1;
    *thoughts = (ml_text){ m->text.data, (size_t)(first - m->text.data) };
    const char *begin = find(*thoughts, open, true);
    if (begin) {
        begin += sizeof open - 1;
        *thoughts = (ml_text){ begin, (size_t)(first - begin) };
    }
    *thoughts = ml_chat_trim(*thoughts, true, true, true);
    *text = ml_chat_trim((ml_text){ behind, (size_t)(m->text.data + m->text.n_bytes - behind) }, true, true, false);
}

/* -- turns -- */

static ml_status fail_role(const ml_chat_style *style, ml_chat_role role, ml_error *err)
{
    return ml_fail(err, ML_EINVAL, "the chat format %s has no place for a message of the role \"%s\"", style->name,
                   ml_chat_role_name(role));
}

/* The answer's text, with its thoughts if it comes behind the last question. */
static ml_status put_answer(ml_chat_sink *sink, const ml_chat_message *m, bool recent, bool last, ml_error *err)
{
    ml_text thoughts, text;
    ml_chat_split_thoughts(m, &thoughts, &text);
    if (sink->style->think == ML_THINK_QWEN3) {
        if (!recent || !(last || thoughts.n_bytes)) return ml_chat_put_text(sink, text, err);
        ML_TRY(ml_chat_put(sink, "<think>\n", err));
        ML_TRY(ml_chat_put_text(sink, ml_chat_trim(thoughts, true, true, true), err));
        ML_TRY(ml_chat_put(sink, "\n</think>\n\n", err));
        return ml_chat_put_text(sink, ml_chat_trim(text, true, true, false), err);
    }
    ML_TRY(ml_chat_put(sink, "\n<think>", err));
    if (recent) ML_TRY(ml_chat_put_text(sink, ml_chat_trim(thoughts, false, true, true), err));
    ML_TRY(ml_chat_put(sink, "</think>", err));
    text = ml_chat_trim(text, false, true, true);
    if (text.n_bytes) ML_TRY(ml_chat_put(sink, "\n", err));
    return ml_chat_put_text(sink, text, err);
}

static ml_status put_message(ml_chat_sink *sink, const ml_chat_conversation *c, size_t i, size_t last_question,
                             ml_error *err)
{
    const ml_chat_turns *turns = &sink->style->turns;
    const ml_chat_message *m = &c->messages[i];
    bool think = sink->style->think != ML_THINK_NONE && m->role == ML_ROLE_ASSISTANT;
    bool recent = last_question == SIZE_MAX || i > last_question;
    if (!turns->before[m->role]) return fail_role(sink->style, m->role, err);
    if (m->n_call) {
        return ml_fail(err, ML_EINVAL, "the chat format %s has no place for calls of tools", sink->style->name);
    }
    if (m->n_id && (!think || recent)) {
        ML_TRY(ml_chat_put(sink, turns->answer, err));
        ML_TRY(ml_chat_put_ids(sink, m->id, m->n_id, err));
        return ml_chat_put(sink, turns->after[m->role], err);
    }
    bool first_system = i == 0 && m->role == ML_ROLE_SYSTEM && turns->first_system;
    ML_TRY(ml_chat_put(sink, first_system ? turns->first_system : turns->before[m->role], err));
    if (think) {
        ML_TRY(put_answer(sink, m, recent, i + 1 == c->n_message, err));
    } else {
        ML_TRY(ml_chat_put_text(sink, turns->trim ? ml_chat_trim(m->text, false, true, true) : m->text, err));
    }
    return ml_chat_put(sink, turns->after[m->role], err);
}

static ml_status render_turns(ml_chat_sink *sink, const ml_chat_conversation *c, ml_error *err)
{
    const ml_chat_style *style = sink->style;
    const ml_chat_turns *turns = &style->turns;
    size_t last_question = SIZE_MAX;
    for (size_t i = 0; i < c->n_message; i++) {
        if (c->messages[i].role == ML_ROLE_USER) last_question = i;
    }
    if (turns->begin) ML_TRY(ml_chat_put(sink, turns->begin, err));
    if (style->default_system && (!c->n_message || c->messages[0].role != ML_ROLE_SYSTEM)) {
        ML_TRY(ml_chat_put(sink, turns->first_system ? turns->first_system : turns->before[ML_ROLE_SYSTEM], err));
        ML_TRY(ml_chat_put_text(sink, ml_text_of(style->default_system), err));
        ML_TRY(ml_chat_put(sink, turns->after[ML_ROLE_SYSTEM], err));
    }
    for (size_t i = 0; i < c->n_message; i++) ML_TRY(put_message(sink, c, i, last_question, err));
    if (c->answer) return ml_chat_put(sink, turns->answer, err);
    bool answered = c->n_message && c->messages[c->n_message - 1].role == ML_ROLE_ASSISTANT;
    return answered && turns->finish ? ml_chat_put(sink, turns->finish, err) : ML_OK;
}

static ml_status render(ml_chat_sink *sink, const ml_chat_conversation *c, ml_error *err)
{
    const ml_chat_style *style = sink->style;
    ml_status status;
    if (!style->marks[0]) {
        status = ml_fail(err, ML_EINVAL, "the chat format none has no turns: name another with --chat-format");
    } else if (c->tools && json_array_size(c->tools) && !style->tools) {
        status = ml_fail(err, ML_EINVAL, "the chat format %s has no place for tools: leave them out", style->name);
    } else {
        status = style->kimi ? ml_chat_render_kimi(sink, c, err) : render_turns(sink, c, err);
    }
    if (status == ML_OK && sink->ids) status = flush(sink, err);
    ml_chars_free(&sink->pending);
    return status;
}

ml_status ml_chat_render(const ml_chat_format *f, const ml_tokenizer *t, const ml_chat_conversation *c, ml_ids *out,
                         ml_error *err)
{
    ml_chat_sink sink = { .style = f->style, .t = t, .ids = out };
    size_t before = out->n;
    ml_status status = render(&sink, c, err);
    if (status != ML_OK) out->n = before;
    return status;
}

ml_status ml_chat_render_text(const ml_chat_format *f, const ml_tokenizer *t, const ml_chat_conversation *c,
                              ml_chars *out, ml_error *err)
{
    ml_chat_sink sink = { .style = f->style, .t = t, .text = out };
    size_t before = out->n;
    ml_status status = render(&sink, c, err);
    if (status != ML_OK) out->n = before;
    return status;
}
