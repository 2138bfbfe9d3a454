/* POST /v1/chat/completions */
#include "base/alloc.h"
#include "serve/handlers.h"
#include "serve/prompt.h"
#include "serve/reply.h"

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
    ml_reply r;
    sent *sent; /* [n_choice] */
} chat;

static void free_chat(void *arg)
{
    chat *c = arg;
    ml_reply_free(&c->r);
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

/* ---- in one piece ---- */

static ml_status reply_whole(chat *c, ml_error *err)
{
    ml_answers *a = &c->r.answers;
    ML_TRY(ml_answers_finish(a, err));
    ML_TRY(ml_reply_finish(&c->r, err));
    json_t *choices = json_array();
    for (size_t i = 0; i < a->n_choice; i++) json_array_append_new(choices, whole_choice(&a->choice[i]));
    json_t *all = ml_reply_object(&c->r, "chat.completion", choices);
    ml_reply_add_figures(&c->r, all);
    return ml_web_reply_json(c->r.h, 200, all, err);
}

/* ---- as events ---- */

static const char chunk[] = "chat.completion.chunk";

static ml_status put_delta(const chat *c, const ml_choice *choice, json_t *delta, json_t *scores, json_t *routing,
                           ml_chars *out, ml_error *err)
{
    json_t *one = json_pack("[{s:I, s:o, s:o, s:s?}]", "index", (json_int_t)choice->index, "delta", delta, "logprobs",
                            scores, "finish_reason", NULL);
    json_t *whole = ml_reply_object(&c->r, chunk, one);
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

static ml_status put_news(void *arg, size_t i, ml_chars *out, ml_error *err)
{
    chat *c = arg;
    const ml_choice *choice = &c->r.answers.choice[i];
    sent *s = &c->sent[i];
    if (s->finish) return ML_OK;
    json_t *delta = new_delta(choice, s), *routing = new_routing(choice, s), *scores = json_null();
    if (choice->n_counts > s->n_scored && c->r.params.logprobs) {
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
    json_t *last = json_pack("[{s:I, s:{}, s:n, s:s}]", "index", (json_int_t)choice->index, "delta", "logprobs",
                             "finish_reason", choice->finish_reason);
    return ml_web_put_event(out, ml_reply_object(&c->r, chunk, last), err);
}

static ml_status next(void *arg, ml_chars *out, bool *end, ml_error *err)
{
    chat *c = arg;
    bool begun = c->sent[0].role;
    if (begun) ml_answers_wait(&c->r.answers); /* the role comes at once: the client sees that it was heard */
    return ml_reply_next(&c->r, put_news, c, chunk, out, end, err);
}

/* ---- the handler ---- */

static ml_status begin(chat *c, ml_error *err)
{
    ml_web *h = c->r.h;
    ml_params *p = &c->r.params;
    ML_TRY(ml_params_read(h, ML_FOR_CHAT, p, err));
    if (!p->logprobs && p->n_top) return ml_web_refuse(h, err, 400, "top_logprobs", "top_logprobs: needs logprobs");
    if (p->trace && p->n > 1) return ml_web_refuse(h, err, 400, "trace", "trace: expected n to be 1");
    ML_TRY(ml_models_acquire(h, p->model, &c->r.named, err));
    ML_TRY(ml_reply_start_messages(&c->r, err));
    c->sent = ml_calloc(c->r.answers.n_choice, sizeof *c->sent);
    return c->sent ? ML_OK : ml_fail_memory(err, 0, "answers");
}

ml_status ml_openai_chat(ml_web *h, ml_error *err)
{
    chat *c = ml_calloc(1, sizeof *c);
    if (!c) return ml_fail_memory(err, sizeof *c, "a request");
    ml_reply_begin(&c->r, h, "chatcmpl-");
    ml_status status = begin(c, err);
    if (status == ML_OK && c->r.params.stream) {
        const ml_web_source source = { c, next, free_chat, true };
        return ml_web_stream(h, "text/event-stream", &source, err);
    }
    if (status == ML_OK) status = reply_whole(c, err);
    free_chat(c);
    return status;
}
