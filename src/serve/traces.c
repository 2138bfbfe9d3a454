#include "serve/traces.h"

#include "base/alloc.h"
#include "serve/ids.h"
#include "serve/limits.h"
#include "serve/prompt.h"
#include "serve/server_internal.h"

#include <math.h>
#include <string.h>

typedef struct {
    char id[ML_TRACE_ID_BYTES], owner[ML_OWNER_BYTES], model[ML_MODEL_ID_BYTES];
    ml_routing_trace trace; /* its model may be gone */
    int32_t *token;         /* [n] */
    double *logprob;        /* [n] NaN: of the prompt */
    json_t *text;           /* [n] */
    int64_t n, n_prompt, n_read;
} record;

struct ml_traces {
    pthread_mutex_t lock;
    record *record[ML_LIMIT_TRACE]; /* the latest first */
};

ml_status ml_traces_make(ml_traces **out, ml_error *err)
{
    ml_traces *t = ml_calloc(1, sizeof *t);
    *out = t;
    if (!t) return ml_fail_memory(err, sizeof *t, "traces");
    pthread_mutex_init(&t->lock, NULL);
    return ML_OK;
}

static void free_record(record *r)
{
    if (!r) return;
    ml_routing_trace_free(&r->trace);
    ml_free(r->token);
    ml_free(r->logprob);
    json_decref(r->text);
    ml_free(r);
}

void ml_traces_free(ml_traces *t)
{
    if (!t) return;
    for (int i = 0; i < ML_LIMIT_TRACE; i++) free_record(t->record[i]);
    pthread_mutex_destroy(&t->lock);
    ml_free(t);
}

/* The record of an answer; it takes over the routing. */
static ml_status make_record(ml_choice *c, record **out, ml_error *err)
{
    record *r = ml_calloc(1, sizeof *r);
    *out = r;
    if (!r) return ml_fail_memory(err, sizeof *r, "a trace");
    const ml_served *s = c->task.served;
    r->n_prompt = c->n_prompt;
    r->n = c->n_prompt + c->n_taken;
    /* The last token of an answer was chosen and not read; without an answer all were. */
    r->n_read = c->n_taken ? r->n - 1 : r->n;
    r->token = ml_calloc((size_t)r->n, sizeof *r->token);
    r->logprob = ml_calloc((size_t)r->n, sizeof *r->logprob);
    r->text = json_array();
    if (!r->token || !r->logprob || !r->text) {
        free_record(r);
        return ml_fail_memory(err, (size_t)r->n * sizeof *r->logprob, "a trace");
    }
    for (int64_t i = 0; i < r->n; i++) {
        r->token[i] = i < r->n_prompt ? c->prompt[i] : c->id[i - r->n_prompt];
        r->logprob[i] = i < r->n_prompt ? NAN : c->logprob[i - r->n_prompt];
        json_array_append_new(r->text, ml_piece_text(s->m.tokenizer, r->token[i]));
    }
    snprintf(r->owner, sizeof r->owner, "%s", c->all->h->owner);
    snprintf(r->model, sizeof r->model, "%s", c->task.named->id);
    r->trace = c->trace;
    r->trace.model = NULL;
    c->trace = (ml_routing_trace){ 0 };
    ml_make_id("trace-", r->id, sizeof r->id);
    return ML_OK;
}

ml_status ml_traces_keep(ml_traces *t, ml_choice *c, char id[ML_TRACE_ID_BYTES], ml_error *err)
{
    record *r;
    ML_TRY(make_record(c, &r, err));
    memcpy(id, r->id, ML_TRACE_ID_BYTES);
    pthread_mutex_lock(&t->lock);
    free_record(t->record[ML_LIMIT_TRACE - 1]);
    memmove(t->record + 1, t->record, (ML_LIMIT_TRACE - 1) * sizeof *t->record);
    t->record[0] = r;
    pthread_mutex_unlock(&t->lock);
    return ML_OK;
}

/* ---- as JSON ---- */

static json_t *one_layer(const ml_routing_trace *t, int64_t place)
{
    json_t *experts = json_array(), *weights = json_array();
    for (int64_t k = 0; k < t->top_k; k++) {
        json_array_append_new(experts, json_integer(t->expert[place * t->top_k + k]));
        json_array_append_new(weights, ml_json_number((double)t->weight[place * t->top_k + k]));
    }
    return json_pack("{s:o, s:o, s:o, s:o}", "experts", experts, "weights", weights, "margin",
                     ml_json_number((double)t->margin[place]), "entropy", ml_json_number((double)t->entropy[place]));
}

/* Layers [from, to) of the trace for token i. */
static json_t *one_token(const record *r, int64_t i, int64_t from, int64_t to)
{
    json_t *layers = json_array();
    for (int64_t l = from; l < to && i < r->n_read; l++) {
        json_array_append_new(layers, one_layer(&r->trace, i * r->trace.n_layer + l));
    }
    json_t *logprob = ml_json_number(r->logprob[i]);
    return json_pack("{s:i, s:O, s:b, s:o, s:o}", "id", r->token[i], "text", json_array_get(r->text, (size_t)i),
                     "prompt", i < r->n_prompt, "logprob", logprob, "layers", layers);
}

/* How many tokens each expert got, and the mean entropy. */
static void add_sums(const record *r, int64_t first, int64_t layer, json_t *usage, json_t *entropy)
{
    const ml_routing_trace *t = &r->trace;
    json_t *counts = json_array();
    double sum = 0;
    for (int64_t e = 0; e < t->n_expert; e++) {
        int64_t n = 0;
        for (int64_t i = first; i < r->n_read; i++) {
            for (int64_t k = 0; k < t->top_k; k++) n += t->expert[(i * t->n_layer + layer) * t->top_k + k] == e;
        }
        json_array_append_new(counts, json_integer(n));
    }
    for (int64_t i = first; i < r->n_read; i++) sum += (double)t->entropy[i * t->n_layer + layer];
    json_array_append_new(usage, counts);
    json_array_append_new(entropy, ml_json_number(r->n_read > first ? sum / (double)(r->n_read - first) : 0));
}

static json_t *record_to_json(const record *r, int64_t only_layer, bool with_prompt)
{
    const ml_routing_trace *t = &r->trace;
    int64_t from = only_layer < 0 ? 0 : only_layer - t->first_layer, to = only_layer < 0 ? t->n_layer : from + 1;
    if (from < 0 || to > t->n_layer) from = to = 0;
    int64_t first = with_prompt ? 0 : r->n_prompt;
    json_t *layers = json_array(), *tokens = json_array(), *usage = json_array(), *entropy = json_array();
    for (int64_t l = from; l < to; l++) {
        json_array_append_new(layers, json_integer(t->first_layer + l));
        add_sums(r, first, l, usage, entropy);
    }
    for (int64_t i = first; i < r->n; i++) json_array_append_new(tokens, one_token(r, i, from, to));
    return json_pack("{s:s, s:s, s:I, s:I, s:o, s:o, s:o, s:o}", "id", r->id, "model", r->model, "n_expert",
                     (json_int_t)t->n_expert, "top_k", (json_int_t)t->top_k, "layers", layers, "tokens", tokens,
                     "usage", usage, "entropy", entropy);
}

static json_t *find_as_json(ml_traces *t, const char *id, const char *owner, int64_t layer, bool with_prompt)
{
    json_t *found = NULL;
    pthread_mutex_lock(&t->lock);
    for (int i = 0; i < ML_LIMIT_TRACE && t->record[i] && !found; i++) {
        const record *r = t->record[i];
        if (!strcmp(r->id, id) && !strcmp(r->owner, owner)) found = record_to_json(r, layer, with_prompt);
    }
    pthread_mutex_unlock(&t->lock);
    return found;
}

/* ---- handlers ---- */

static ml_status reply_trace(ml_web *h, const char *id, ml_error *err)
{
    int64_t layer, prompt;
    ML_TRY(ml_web_int_argument(h, "layer", 0, 1000, -1, &layer, err));
    ML_TRY(ml_web_int_argument(h, "prompt", 0, 1, 1, &prompt, err));
    json_t *found = find_as_json(h->server->traces, id, h->owner, layer, prompt != 0);
    if (!found) {
        return ml_web_refuse(h, err, 404, "id", "there is no trace %.100s: the last %d are kept", id, ML_LIMIT_TRACE);
    }
    return ml_web_reply_json(h, 200, found, err);
}

ml_status ml_api_trace_get(ml_web *h, ml_error *err)
{
    return reply_trace(h, h->id, err);
}

static ml_status make_prompt(ml_web *h, const ml_served *s, const ml_params *p, ml_ids **list, ml_error *err)
{
    size_t n;
    if (!p->messages == !p->prompt) {
        return ml_web_refuse(h, err, 400, "prompt", "expected prompt or messages");
    }
    if (p->prompt && !json_is_string(p->prompt)) {
        return ml_web_refuse(h, err, 400, "prompt", "prompt: expected a text");
    }
    if (p->prompt) return ml_prompts_from_json(h, s, p->prompt, "prompt", list, &n, err);
    *list = ml_calloc(1, sizeof **list);
    if (!*list) return ml_fail_memory(err, sizeof **list, "a prompt");
    return ml_prompt_from_messages(h, s, p->messages, NULL, *list, err);
}

static ml_status run_traced(ml_web *h, ml_served *named, ml_params *p, char id[ML_TRACE_ID_BYTES], ml_error *err)
{
    ml_ids *prompt = NULL;
    ml_answers a = { 0 };
    ml_served *s = ml_served_model(named);
    p->trace = true;
    p->n_top = 0;
    ml_status status = make_prompt(h, s, p, &prompt, err);
    if (status != ML_OK) {
        ml_prompts_free(prompt, prompt ? 1 : 0);
        return status;
    }
    status = ml_answers_start(&a, h, named, p, prompt, 1, &s->format, err);
    if (status == ML_OK) status = ml_answers_finish(&a, err);
    if (status == ML_OK) status = ml_traces_keep(h->server->traces, &a.choice[0], id, err);
    ml_answers_free(&a);
    return status;
}

ml_status ml_api_trace_make(ml_web *h, ml_error *err)
{
    ml_params p;
    ml_served *s = NULL;
    char id[ML_TRACE_ID_BYTES];
    ml_status status = ml_params_read(h, ML_FOR_TRACE, &p, err);
    if (status == ML_OK) status = ml_models_acquire(h, p.model, &s, err);
    if (status == ML_OK) status = run_traced(h, s, &p, id, err);
    ml_models_release(h->server->models, s);
    ml_params_free(&p);
    return status == ML_OK ? reply_trace(h, id, err) : status;
}
