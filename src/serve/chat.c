/* POST /v1/chat/completions */
#include "base/alloc.h"
#include "base/clock.h"
#include "serve/answer.h"
#include "serve/handlers.h"
#include "serve/ids.h"
#include "serve/prompt.h"
#include "serve/server_internal.h"

#include <string.h>

/* What has been sent of one choice. */
typedef struct {
    bool role, finish;
    size_t text, reasoning;
    size_t call, arguments; /* calls begun, and of the last one bytes of its arguments */
    int64_t n_scored;       /* tokens whose log-probabilities were sent */
    int64_t n_routed;       /* tokens whose routing was sent */
} sent;

typedef struct {
    ml_web *h;
    ml_params params;
    ml_served *named, *served;
    ml_answers answers;
    sent *sent; /* [n_choice] */
    char id[48], trace_id[ML_TRACE_ID_BYTES];
    json_int_t created;
} chat;

static void free_chat(void *arg)
{
    chat *c = arg;
    if (!c) return;
    ml_answers_free(&c->answers);
    ml_models_release(c->h->server->models, c->named);
    ml_params_free(&c->params);
    ml_free(c->sent);
    ml_free(c);
}

/* ---- parts of answers ---- */

static json_t *scored_token(const ml_choice *c, int64_t i)
{
    const ml_tokenizer *t = c->task.served->m.tokenizer;
    ml_scored s = ml_choice_scored(c, i, false);
    json_t *top = json_array();
    for (int64_t k = 0; k < c->all->params->n_top; k++) {
        if (s.top_id[k] < 0) continue;
        json_array_append_new(top,
                              json_pack("{s:o, s:o, s:o}", "token", ml_piece_text(t, s.top_id[k]), "logprob",
                                        ml_json_number(s.top_logprob[k]), "bytes", ml_piece_bytes(t, s.top_id[k])));
    }
    return json_pack("{s:o, s:o, s:o, s:o}", "token", ml_piece_text(t, c->id[i]), "logprob", ml_json_number(s.logprob),
                     "bytes", ml_piece_bytes(t, c->id[i]), "top_logprobs", top);
}

/* Log-probabilities of tokens [from, to); null when they were not asked for. */
static json_t *logprobs(const ml_choice *c, int64_t from, int64_t to)
{
    if (!c->all->params->logprobs) return json_null();
    json_t *list = json_array();
    for (int64_t i = from; i < to; i++) json_array_append_new(list, scored_token(c, i));
    return json_pack("{s:o}", "content", list);
}

static json_t *whole_choice(ml_choice *c)
{
    c->out.text.n = c->n_text;
    json_t *message = ml_chat_output_to_json(&c->out);
    bool calls_only = c->n_text == 0 && json_object_get(message, "tool_calls");
    if (calls_only) json_object_set_new(message, "content", json_null());
    return json_pack("{s:I, s:o, s:o, s:s}", "index", (json_int_t)c->index, "message", message, "logprobs",
                     logprobs(c, 0, c->n_counts), "finish_reason", c->finish_reason);
}

/* What is known when all are done. */
static ml_status finish(chat *c, ml_error *err)
{
    ml_answers_count(&c->answers);
    return c->params.trace ? ml_traces_keep(c->h->server->traces, &c->answers.choice[0], c->trace_id, err) : ML_OK;
}

static json_t *extra(const chat *c)
{
    return ml_answers_extra(&c->answers, c->trace_id[0] ? c->trace_id : NULL);
}

/* ---- in one piece ---- */

static ml_status reply_whole(chat *c, ml_error *err)
{
    ML_TRY(ml_answers_finish(&c->answers, err));
    ML_TRY(finish(c, err));
    json_t *choices = json_array();
    for (size_t i = 0; i < c->answers.n_choice; i++) {
        json_array_append_new(choices, whole_choice(&c->answers.choice[i]));
    }
    json_t *all = json_pack("{s:s, s:s, s:I, s:s, s:o, s:o, s:o}", "id", c->id, "object", "chat.completion", "created",
                            c->created, "model", c->named->id, "choices", choices, "usage",
                            ml_answers_usage(&c->answers), "moonlight", extra(c));
    return ml_web_reply_json(c->h, 200, all, err);
}

/* ---- as events ---- */

static json_t *chunk(const chat *c, json_t *choices)
{
    json_t *out = json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", c->id, "object", "chat.completion.chunk", "created",
                            c->created, "model", c->named->id, "choices", choices);
    if (c->params.include_usage) json_object_set_new(out, "usage", json_null()); /* the last one has it */
    return out;
}

static ml_status put_delta(const chat *c, const ml_choice *choice, json_t *delta, json_t *scores, json_t *routing,
                           ml_chars *out, ml_error *err)
{
    json_t *one = json_pack("[{s:I, s:o, s:o, s:s?}]", "index", (json_int_t)choice->index, "delta", delta, "logprobs",
                            scores, "finish_reason", NULL);
    json_t *whole = chunk(c, one);
    if (routing) json_object_set_new(whole, "moonlight", json_pack("{s:o}", "tokens", routing));
    return ml_web_put_event(out, whole, err);
}

/* The most heavily weighted expert of each expert layer for a token that the model has read. */
static json_t *top_experts(const ml_choice *c, int64_t i)
{
    const ml_routing_trace *t = &c->trace;
    json_t *list = json_array();
    for (int64_t l = 0; l < t->n_layer; l++) {
        int64_t place = ((c->n_prompt + i) * t->n_layer + l) * t->top_k, best = 0;
        for (int64_t k = 1; k < t->top_k; k++) best = t->weight[place + k] > t->weight[place + best] ? k : best;
        json_array_append_new(list, json_integer(t->expert[place + best]));
    }
    return list;
}

/* Tokens whose routing is known now: a token is read in the pass that chooses the next one. */
static json_t *new_routing(const ml_choice *c, sent *s)
{
    if (!c->all->params->trace) return NULL;
    int64_t n = c->done ? c->n_taken : c->n_taken - 1;
    if (n <= s->n_routed) return NULL;
    json_t *list = json_array();
    for (; s->n_routed < n; s->n_routed++) {
        int64_t i = s->n_routed;
        bool read = i + 1 < c->n_taken;
        json_array_append_new(list, json_pack("{s:i, s:o, s:o}", "id", c->id[i], "text",
                                              ml_piece_text(c->task.served->m.tokenizer, c->id[i]), "experts",
                                              read ? top_experts(c, i) : json_array()));
    }
    return list;
}

/* The calls that have begun, and what has come of their arguments. */
static json_t *new_calls(const ml_choice *c, sent *s)
{
    json_t *list = json_array();
    const ml_chat_output *o = &c->out;
    for (size_t i = s->call ? s->call - 1 : 0; i < o->n_call; i++) {
        const ml_chat_made_call *call = &o->calls[i];
        bool begins = i >= s->call;
        if (begins && !call->arguments.n && !call->complete) break;
        size_t from = begins ? 0 : s->arguments;
        json_t *function = json_pack("{s:s%}", "arguments", call->arguments.n ? call->arguments.data + from : "",
                                     call->arguments.n - from);
        json_t *one = json_pack("{s:I, s:o}", "index", (json_int_t)i, "function", function);
        if (begins) {
            json_object_set_new(function, "name", json_stringn(call->name.n ? call->name.data : "", call->name.n));
            json_object_set_new(one, "id", json_stringn(call->id.n ? call->id.data : "", call->id.n));
            json_object_set_new(one, "type", json_string("function"));
        }
        bool news = begins || call->arguments.n > from;
        s->call = i + 1;
        s->arguments = call->arguments.n;
        if (news) {
            json_array_append_new(list, one);
        } else {
            json_decref(one);
        }
    }
    return list;
}

/* One delta with all that is new of a choice; NULL: nothing is. */
static json_t *new_delta(const ml_choice *c, sent *s)
{
    json_t *delta = json_object();
    if (!s->role) json_object_set_new(delta, "role", json_string("assistant"));
    s->role = true;
    const ml_chat_output *o = &c->out;
    if (o->reasoning.n > s->reasoning) {
        json_object_set_new(delta, "reasoning_content",
                            json_stringn(o->reasoning.data + s->reasoning, o->reasoning.n - s->reasoning));
        s->reasoning = o->reasoning.n;
    }
    if (c->n_text > s->text) {
        json_object_set_new(delta, "content", json_stringn(o->text.data + s->text, c->n_text - s->text));
        s->text = c->n_text;
    }
    json_t *calls = new_calls(c, s);
    if (json_array_size(calls)) json_object_set(delta, "tool_calls", calls);
    json_decref(calls);
    return delta;
}

static ml_status put_news(chat *c, ml_choice *choice, sent *s, ml_chars *out, ml_error *err)
{
    if (s->finish) return ML_OK;
    json_t *delta = new_delta(choice, s), *routing = new_routing(choice, s), *scores = json_null();
    if (choice->n_counts > s->n_scored && c->params.logprobs) {
        scores = logprobs(choice, s->n_scored, choice->n_counts);
        s->n_scored = choice->n_counts;
    }
    bool news = json_object_size(delta) || routing || !json_is_null(scores);
    if (news) {
        ML_TRY(put_delta(c, choice, delta, scores, routing, out, err));
    } else {
        json_decref(delta);
    }
    if (!choice->done) return ML_OK;
    s->finish = true;
    return ml_web_put_event(out,
                            chunk(c, json_pack("[{s:I, s:{}, s:n, s:s}]", "index", (json_int_t)choice->index, "delta",
                                               "logprobs", "finish_reason", choice->finish_reason)),
                            err);
}

static ml_status put_end(chat *c, ml_chars *out, ml_error *err)
{
    ML_TRY(finish(c, err));
    if (c->params.include_usage) {
        json_t *last = chunk(c, json_array());
        json_object_set_new(last, "usage", ml_answers_usage(&c->answers));
        json_object_set_new(last, "moonlight", extra(c));
        ML_TRY(ml_web_put_event(out, last, err));
    }
    return ml_chars_append(out, "data: [DONE]\n\n", 14, err);
}

/* An answer that cannot go on says so before the stream ends. */
static ml_status put_failure(chat *c, ml_chars *out, const ml_error *failure, ml_error *err)
{
    ML_TRY(ml_web_put_event(out, ml_web_error_object(c->h, failure, NULL), err));
    return ml_chars_append(out, "data: [DONE]\n\n", 14, err);
}

static ml_status next(void *arg, ml_chars *out, bool *end, ml_error *err)
{
    chat *c = arg;
    ml_answers *a = &c->answers;
    bool begun = c->sent[0].role;
    if (begun) ml_answers_wait(a); /* the role comes at once: the client sees that it was heard */
    for (size_t i = 0; i < a->n_choice; i++) {
        ml_error failure;
        if (ml_choice_advance(&a->choice[i], &failure) != ML_OK) {
            *end = true;
            return put_failure(c, out, &failure, err);
        }
        ML_TRY(put_news(c, &a->choice[i], &c->sent[i], out, err));
    }
    *end = ml_answers_are_done(a);
    return *end ? put_end(c, out, err) : ML_OK;
}

/* ---- the handler ---- */

static ml_status begin(chat *c, ml_error *err)
{
    ml_params *p = &c->params;
    ML_TRY(ml_params_read(c->h, ML_FOR_CHAT, p, err));
    if (!p->logprobs && p->n_top) {
        return ml_web_refuse(c->h, err, 400, "top_logprobs", "top_logprobs: needs logprobs");
    }
    if (p->trace && p->n > 1) return ml_web_refuse(c->h, err, 400, "trace", "trace: expected n to be 1");
    ML_TRY(ml_models_acquire(c->h, p->model, &c->named, err));
    c->served = ml_served_model(c->named);
    ml_ids *prompt = ml_calloc(1, sizeof *prompt);
    if (!prompt) return ml_fail_memory(err, sizeof *prompt, "a prompt");
    const json_t *tools = p->tools_off || json_array_size(p->tools) == 0 ? NULL : p->tools;
    ml_status status = ml_prompt_from_messages(c->h, c->served, p->messages, tools, prompt, err);
    if (status != ML_OK) {
        ml_prompts_free(prompt, 1);
        return status;
    }
    ML_TRY(ml_answers_start(&c->answers, c->h, c->named, p, prompt, 1, &c->served->format, err));
    c->sent = ml_calloc(c->answers.n_choice, sizeof *c->sent);
    return c->sent ? ML_OK : ml_fail_memory(err, 0, "answers");
}

ml_status ml_openai_chat(ml_web *h, ml_error *err)
{
    chat *c = ml_calloc(1, sizeof *c);
    if (!c) return ml_fail_memory(err, sizeof *c, "a request");
    c->h = h;
    c->created = (json_int_t)ml_clock_unix_seconds();
    ml_make_id("chatcmpl-", c->id, sizeof c->id);
    ml_status status = begin(c, err);
    if (status == ML_OK && c->params.stream) {
        const ml_web_source source = { c, next, free_chat, true };
        return ml_web_stream(h, "text/event-stream", &source, err);
    }
    if (status == ML_OK) status = reply_whole(c, err);
    free_chat(c);
    return status;
}
