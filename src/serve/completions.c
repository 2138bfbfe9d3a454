/* POST /v1/completions */
#include "base/alloc.h"
#include "serve/handlers.h"
#include "serve/prompt.h"
#include "serve/reply.h"

#include <math.h>
#include <string.h>

/* What has been sent of one choice. */
typedef struct {
    bool prompt, finish;
    size_t text;
    int64_t n_scored, n_routed;
    int64_t offset; /* characters of the tokens before n_scored */
} sent;

typedef struct {
    ml_reply r;
    sent *sent; /* [n_choice] */
} completion;

static const char object[] = "text_completion";

static void free_completion(void *arg)
{
    completion *c = arg;
    ml_reply_free(&c->r);
    ml_free(c->sent);
    ml_free(c);
}

/* ---- log-probabilities ---- */

static int64_t count_characters(const char *text)
{
    int64_t n = 0;
    for (; *text; text++) n += (*text & 0xc0) != 0x80;
    return n;
}

typedef struct {
    json_t *tokens, *logprobs, *top, *offsets;
} columns;

/* The likeliest tokens, and the one at hand, which need not be among them. */
static json_t *top_of(const ml_choice *c, const ml_scored *s, const char *own)
{
    const ml_tokenizer *t = c->task.served->m.tokenizer;
    json_t *top = json_object();
    for (int64_t k = 0; k < c->all->params->n_top; k++) {
        if (s->top_id[k] < 0) continue;
        json_t *text = ml_piece_text(t, s->top_id[k]);
        /* Two tokens may look alike: the likelier one keeps its place. */
        if (!json_object_get(top, json_string_value(text))) {
            json_object_set_new(top, json_string_value(text), ml_json_number(s->top_logprob[k]));
        }
        json_decref(text);
    }
    if (!json_object_get(top, own) && isfinite(s->logprob)) json_object_set_new(top, own, json_real(s->logprob));
    return top;
}

/* The token at i of the prompt or the answer, at a place of the text; the place behind it is returned. */
static int64_t add_token(const ml_choice *c, int64_t i, bool prompt, int64_t offset, columns *out)
{
    json_t *text = ml_piece_text(c->task.served->m.tokenizer, prompt ? c->prompt[i] : c->id[i]);
    bool scored = !prompt || i > 0;
    ml_scored s = ml_choice_scored(c, i, prompt);
    json_array_append_new(out->offsets, json_integer(offset));
    offset += count_characters(json_string_value(text));
    json_array_append(out->tokens, text);
    json_array_append_new(out->logprobs, scored ? ml_json_number(s.logprob) : json_null());
    json_array_append_new(out->top, scored ? top_of(c, &s, json_string_value(text)) : json_null());
    json_decref(text);
    return offset;
}

/* Answer tokens that are scored: at the end also the one that ended it, as OpenAI's server does; who sums the prompt's
 * log-probabilities leaves out one token behind it, whichever that is. */
static int64_t n_scored(const ml_choice *c)
{
    return c->done ? c->n_taken : c->n_counts;
}

/* Of the prompt, where it was not sent, and answer tokens [n_scored, to). */
static json_t *logprobs(const ml_choice *c, sent *s, bool prompt, int64_t to)
{
    if (!c->all->params->logprobs) return json_null();
    columns out = { json_array(), json_array(), json_array(), json_array() };
    for (int64_t i = 0; prompt && i < c->n_prompt; i++) s->offset = add_token(c, i, true, s->offset, &out);
    for (; s->n_scored < to; s->n_scored++) s->offset = add_token(c, s->n_scored, false, s->offset, &out);
    return json_pack("{s:o, s:o, s:o, s:o}", "tokens", out.tokens, "token_logprobs", out.logprobs, "top_logprobs",
                     out.top, "text_offset", out.offsets);
}

/* ---- texts ---- */

static ml_status append_prompt(const ml_choice *c, ml_chars *out, ml_error *err)
{
    const ml_detok how = { .skip_special = true, .replace_invalid = true };
    return ml_detok_append(how, c->task.served->m.tokenizer, c->prompt, (size_t)c->n_prompt, out, err);
}

static json_t *choice_object(const ml_choice *c, json_t *text, json_t *scores, const char *reason)
{
    return json_pack("{s:I, s:o, s:o, s:s?}", "index", (json_int_t)c->index, "text", text, "logprobs", scores,
                     "finish_reason", reason);
}

/* The new text of a choice, with the prompt before it when it is wanted and was not sent. */
static ml_status new_text(const ml_choice *c, sent *s, json_t **out, ml_error *err)
{
    ml_chars text = { 0 };
    ml_status status = ML_OK;
    if (c->all->params->echo && !s->prompt) status = append_prompt(c, &text, err);
    if (status == ML_OK && c->n_text > s->text) {
        status = ml_chars_append(&text, c->out.text.data + s->text, c->n_text - s->text, err);
    }
    s->text = c->n_text > s->text ? c->n_text : s->text;
    s->prompt = true;
    *out = status == ML_OK ? json_stringn(text.n ? text.data : "", text.n) : NULL;
    ml_chars_free(&text);
    return status;
}

/* ---- in one piece ---- */

static ml_status reply_whole(completion *c, ml_error *err)
{
    ml_answers *a = &c->r.answers;
    ML_TRY(ml_answers_finish(a, err));
    ML_TRY(ml_reply_finish(&c->r, err));
    json_t *choices = json_array(), *text;
    for (size_t i = 0; i < a->n_choice; i++) {
        ml_choice *choice = &a->choice[i];
        ml_status status = new_text(choice, &c->sent[i], &text, err);
        if (status != ML_OK) {
            json_decref(choices);
            return status;
        }
        json_t *scores = logprobs(choice, &c->sent[i], c->r.params.echo, n_scored(choice));
        json_array_append_new(choices, choice_object(choice, text, scores, choice->finish_reason));
    }
    json_t *all = ml_reply_object(&c->r, object, choices);
    ml_reply_add_figures(&c->r, all);
    return ml_web_reply_json(c->r.h, 200, all, err);
}

/* ---- as events ---- */

static ml_status put_news(void *arg, size_t i, ml_chars *out, ml_error *err)
{
    completion *c = arg;
    const ml_choice *choice = &c->r.answers.choice[i];
    sent *s = &c->sent[i];
    if (s->finish) return ML_OK;
    bool echo = c->r.params.echo && !s->prompt;
    if (echo && !choice->done && choice->n_taken == 0) return ML_OK; /* the prompt has not been read */
    bool news = echo || choice->n_text > s->text || (c->r.params.logprobs && choice->n_counts > s->n_scored);
    if (!news && !choice->done) return ML_OK;
    json_t *text;
    ML_TRY(new_text(choice, s, &text, err));
    json_t *scores = logprobs(choice, s, echo, n_scored(choice));
    s->finish = choice->done;
    const char *reason = choice->done ? choice->finish_reason : NULL;
    json_t *one = json_pack("[o]", choice_object(choice, text, scores, reason));
    return ml_web_put_event(out, ml_reply_object(&c->r, object, one), err);
}

static ml_status next(void *arg, ml_chars *out, bool *end, ml_error *err)
{
    completion *c = arg;
    ml_answers_wait(&c->r.answers);
    return ml_reply_next(&c->r, put_news, c, object, out, end, err);
}

/* ---- the handler ---- */

static ml_status begin(completion *c, ml_error *err)
{
    ml_web *h = c->r.h;
    ml_params *p = &c->r.params;
    ml_chat_format none;
    ml_ids *prompt;
    size_t n;
    ML_TRY(ml_params_read(h, ML_FOR_COMPLETION, p, err));
    if (!p->prompt) return ml_web_refuse(h, err, 400, "prompt", "prompt: expected a text or token ids");
    if (p->max_tokens == 0 && !p->echo) {
        return ml_web_refuse(h, err, 400, "max_tokens", "max_tokens: 0 makes sense with echo only");
    }
    if (p->max_tokens == 0 && !p->logprobs) p->logprobs = true; /* the prompt is read in any case */
    ML_TRY(ml_models_acquire(h, p->model, &c->r.named, err));
    const ml_served *served = ml_served_model(c->r.named);
    ML_TRY(ml_chat_choose(served->m.tokenizer, "none", NULL, &none, err));
    ML_TRY(ml_prompts_from_json(h, served, p->prompt, "prompt", &prompt, &n, err));
    if (p->trace && (p->n > 1 || n > 1)) {
        ml_prompts_free(prompt, n);
        return ml_web_refuse(h, err, 400, "trace", "trace: expected one prompt, and n to be 1");
    }
    ML_TRY(ml_answers_start(&c->r.answers, h, c->r.named, p, prompt, n, &none, err));
    c->sent = ml_calloc(c->r.answers.n_choice, sizeof *c->sent);
    return c->sent ? ML_OK : ml_fail_memory(err, 0, "answers");
}

ml_status ml_openai_completions(ml_web *h, ml_error *err)
{
    completion *c = ml_calloc(1, sizeof *c);
    if (!c) return ml_fail_memory(err, sizeof *c, "a request");
    ml_reply_begin(&c->r, h, "cmpl-");
    ml_status status = begin(c, err);
    if (status == ML_OK && c->r.params.stream) {
        const ml_web_source source = { c, next, free_completion, true };
        return ml_web_stream(h, "text/event-stream", &source, err);
    }
    if (status == ML_OK) status = reply_whole(c, err);
    free_completion(c);
    return status;
}
