#include "serve/answer.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "serve/limits.h"
#include "serve/server_internal.h"
#include "serve/stops.h"

#include <math.h>
#include <string.h>

/* ---- the scheduler's side ---- */

static void signal_news(ml_choice *c)
{
    pthread_mutex_lock(&c->all->lock);
    pthread_cond_signal(&c->all->news);
    pthread_mutex_unlock(&c->all->lock);
}

/* The n likeliest ids, by insertion: n is small.  Ties go to the lower id. */
static void find_top(const float *logits, int64_t n_valid, int64_t n, int32_t *id, float *value)
{
    int64_t found = 0;
    for (int64_t i = 0; i < n_valid; i++) {
        if (found == n && !(logits[i] > value[n - 1])) continue;
        int64_t k = found < n ? found++ : n - 1;
        for (; k > 0 && logits[i] > value[k - 1]; k--) {
            id[k] = id[k - 1];
            value[k] = value[k - 1];
        }
        id[k] = (int32_t)i;
        value[k] = logits[i];
    }
    for (; found < n; found++) id[found] = -1;
}

static void take_logits(void *arg, const float *logits, int32_t id)
{
    ml_choice *c = arg;
    int64_t n_top = c->all->params->n_top, i = atomic_load(&c->n_token);
    c->choice_logit = logits[id];
    find_top(logits, c->task.served->config.n_valid, n_top, c->top_id + i * n_top, c->top_logit);
}

static bool take_token(void *arg, int32_t id, double logprob)
{
    ml_choice *c = arg;
    int64_t i = atomic_load(&c->n_token), n_top = c->all->params->n_top;
    c->id[i] = id;
    c->logprob[i] = logprob;
    for (int64_t k = 0; k < n_top; k++) {
        c->top_logprob[i * n_top + k] = logprob + (double)c->top_logit[k] - (double)c->choice_logit;
    }
    atomic_store(&c->n_token, i + 1);
    signal_news(c);
    return true;
}

static void take_prompt_logits(void *arg, int64_t pos, const float *logits)
{
    ml_choice *c = arg;
    int64_t n_top = c->all->params->n_top, n_valid = c->task.served->config.n_valid, next = pos + 1;
    if (next >= c->n_prompt) return;
    int32_t id = c->prompt[next];
    double logprob = id < n_valid ? ml_logits_logprob(logits, n_valid, id) : -INFINITY;
    c->prompt_logprob[next] = logprob;
    find_top(logits, n_valid, n_top, c->prompt_top_id + next * n_top, c->top_logit);
    for (int64_t k = 0; k < n_top; k++) {
        c->prompt_top_logprob[next * n_top + k] = logprob + (double)c->top_logit[k] - (double)logits[id];
    }
}

static bool adjust(void *arg, const int32_t *answer, int64_t n, float *logits)
{
    ml_choice *c = arg;
    const ml_params *p = c->all->params;
    int64_t n_vocab = c->task.served->m.model->config.vocab_size;
    for (; c->count && c->n_counted < n; c->n_counted++) c->count[answer[c->n_counted]]++;
    for (int64_t i = 0; c->count && i < n_vocab; i++) {
        if (!c->count[i]) continue;
        logits[i] -= (float)(p->presence_penalty + p->frequency_penalty * c->count[i]);
    }
    for (size_t i = 0; i < p->n_bias; i++) {
        if (p->bias[i].id < n_vocab) logits[p->bias[i].id] += p->bias[i].bias;
    }
    return !c->constraint || ml_constraint_apply(c->constraint, answer, n, logits, n_vocab);
}

static void take_end(ml_task *task, ml_finish finish, const ml_error *failure)
{
    ml_choice *c = (ml_choice *)task;
    c->finish = finish;
    if (failure) c->failure = *failure;
    pthread_mutex_lock(&c->all->lock);
    atomic_store(&c->ended, true); /* the last thing: whoever sees it may free the choice once the lock is his */
    pthread_cond_signal(&c->all->news);
    pthread_mutex_unlock(&c->all->lock);
}

/* ---- beginning ---- */

static bool allocate(ml_choice *c, const ml_params *p, int64_t n_vocab)
{
    size_t n = (size_t)c->limit, n_top = (size_t)p->n_top, n_prompt = (size_t)c->n_prompt;
    bool penalties = p->frequency_penalty != 0 || p->presence_penalty != 0, echo = p->echo && p->logprobs;
    c->id = ml_calloc(n, sizeof *c->id);
    c->logprob = ml_calloc(n, sizeof *c->logprob);
    c->top_id = ml_calloc(n * n_top, sizeof *c->top_id);
    c->top_logprob = ml_calloc(n * n_top, sizeof *c->top_logprob);
    c->top_logit = ml_calloc(n_top, sizeof *c->top_logit);
    if (penalties) c->count = ml_calloc((size_t)n_vocab, sizeof *c->count);
    if (echo) {
        c->prompt_logprob = ml_calloc(n_prompt, sizeof *c->prompt_logprob);
        c->prompt_top_id = ml_calloc(n_prompt * n_top, sizeof *c->prompt_top_id);
        c->prompt_top_logprob = ml_calloc(n_prompt * n_top, sizeof *c->prompt_top_logprob);
    }
    return c->id && c->logprob && c->top_id && c->top_logprob && c->top_logit && (!penalties || c->count) &&
           (!echo || (c->prompt_logprob && c->prompt_top_id && c->prompt_top_logprob));
}

static ml_status prepare(ml_answers *a, ml_choice *c, const ml_chat_format *format, ml_error *err)
{
    const ml_params *p = a->params;
    int64_t room = a->served->config.capacity - c->n_prompt, n_vocab = a->served->m.model->config.vocab_size;
    if (room < 0) room = 0;
    c->limit = p->max_tokens >= 0 && p->max_tokens < room ? p->max_tokens : room;
    if (!allocate(c, p, n_vocab)) return ml_fail_memory(err, (size_t)c->limit * sizeof *c->logprob, "an answer");
    if (p->trace) {
        int64_t n = c->n_prompt + c->limit;
        if (n > ML_LIMIT_TRACE_TOKEN) {
            return ml_web_refuse(a->h, err, 400, "trace",
                                 "a trace of %lld tokens, prompt and max_tokens: expected %d at most", (long long)n,
                                 ML_LIMIT_TRACE_TOKEN);
        }
        ML_TRY(ml_routing_trace_make(&c->trace, a->served->m.model, n, err));
    }
    if (a->rules.any) {
        const ml_ids *stop = &a->served->stop;
        ML_TRY(ml_constraint_make(&a->rules.grammar, a->served->vocabulary, stop->id, stop->n, a->rules.mark,
                                  a->rules.n_mark, &c->constraint, err));
    }
    ml_chat_output_start(&c->out, format, a->served->m.tokenizer, c->prompt, (size_t)c->n_prompt, true);
    return ML_OK;
}

static ml_request request_of(ml_answers *a, ml_choice *c)
{
    const ml_params *p = a->params;
    bool adjusted = c->constraint || p->n_bias || p->frequency_penalty != 0 || p->presence_penalty != 0;
    ml_request q = { .prompt = c->prompt,
                     .n_prompt = c->n_prompt,
                     .sampling = p->sampling,
                     .max_tokens = p->max_tokens >= 0 && p->max_tokens < c->limit ? p->max_tokens : c->limit,
                     .stop_id = a->served->stop.id,
                     .n_stop = (int64_t)a->served->stop.n,
                     .client = a->h->client,
                     .no_cache = !p->kv_cache,
                     .adapter = a->named->adapter,
                     .trace = p->trace ? &c->trace : NULL,
                     .stats = &c->stats,
                     .adjust = adjusted ? adjust : NULL,
                     .on_logits = p->logprobs && p->n_top ? take_logits : NULL,
                     .on_token = take_token,
                     .on_prompt_logits = c->prompt_logprob ? take_prompt_logits : NULL,
                     .arg = c };
    if (c->limit == 0 && p->max_tokens != 0) q.max_tokens = 1; /* no room: refused, with both numbers */
    q.sampling.seed += (uint64_t)(c->index % p->n);
    return q;
}

static ml_status submit(ml_answers *a, ml_error *err)
{
    for (size_t i = 0; i < a->n_choice; i++) {
        ml_choice *c = &a->choice[i];
        c->task.request = request_of(a, c);
        c->task.served = a->served;
        c->task.named = a->named;
        c->task.ended = take_end;
        ml_status status = ml_scheduler_submit(a->h, &c->task, err);
        if (status == ML_OK) continue;
        for (; i < a->n_choice; i++) atomic_store(&a->choice[i].ended, true); /* never handed in */
        return status;
    }
    return ML_OK;
}

ml_status ml_answers_start(ml_answers *a, ml_web *h, ml_served *named, const ml_params *params, ml_ids *prompt,
                           size_t n_prompt, const ml_chat_format *format, ml_error *err)
{
    *a = (ml_answers){ .h = h, .named = named, .params = params, .prompt = prompt, .n_prompt = n_prompt };
    a->served = ml_served_model(named);
    a->start = ml_clock_seconds();
    size_t n = n_prompt * (size_t)params->n;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&a->news, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&a->lock, NULL);
    a->choice = ml_calloc(n, sizeof *a->choice);
    if (!a->choice) return ml_fail_memory(err, n * sizeof *a->choice, "answers");
    a->n_choice = n;
    for (size_t i = 0; i < n; i++) {
        const ml_ids *ids = &prompt[i / (size_t)params->n];
        a->choice[i] = (ml_choice){ .all = a, .index = (int64_t)i, .prompt = ids->id, .n_prompt = (int64_t)ids->n };
        atomic_store(&a->choice[i].ended, true); /* until it is handed in */
    }
    ML_TRY(ml_answer_rules_make(h, a->served, params, format, &a->rules, err));
    for (size_t i = 0; i < n; i++) ML_TRY(prepare(a, &a->choice[i], format, err));
    for (size_t i = 0; i < n; i++) atomic_store(&a->choice[i].ended, false);
    return submit(a, err);
}

static void free_choice(ml_choice *c)
{
    ml_free(c->id);
    ml_free(c->logprob);
    ml_free(c->top_id);
    ml_free(c->top_logprob);
    ml_free(c->top_logit);
    ml_free(c->count);
    ml_constraint_free(c->constraint);
    ml_free(c->prompt_logprob);
    ml_free(c->prompt_top_id);
    ml_free(c->prompt_top_logprob);
    ml_routing_trace_free(&c->trace);
    ml_chat_output_free(&c->out);
}

void ml_answers_wait(ml_answers *a)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += 50000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_mutex_lock(&a->lock);
    bool news = false;
    for (size_t i = 0; i < a->n_choice && !news; i++) {
        const ml_choice *c = &a->choice[i];
        news = !c->done && (atomic_load(&c->n_token) > c->n_taken || atomic_load(&c->ended));
    }
    if (!news) pthread_cond_timedwait(&a->news, &a->lock, &until);
    pthread_mutex_unlock(&a->lock);
}

void ml_answers_free(ml_answers *a)
{
    if (!a->served) return;
    if (a->n_choice && !ml_answers_are_done(a)) a->h->server->counters.cancelled++;
    for (size_t i = 0; i < a->n_choice; i++) {
        if (!atomic_load(&a->choice[i].ended)) ml_scheduler_cancel(a->h->server->scheduler, &a->choice[i].task);
    }
    ml_answers_await_ends(a);
    for (size_t i = 0; i < a->n_choice; i++) free_choice(&a->choice[i]);
    ml_free(a->choice);
    ml_grammar_free(&a->rules.grammar);
    for (size_t i = 0; i < a->n_prompt; i++) ml_ids_free(&a->prompt[i]);
    ml_free(a->prompt);
    pthread_mutex_destroy(&a->lock);
    pthread_cond_destroy(&a->news);
    *a = (ml_answers){ 0 };
}

/* ---- the handler's side ---- */

static bool is_stop(const ml_choice *c, int32_t id)
{
    const ml_ids *stop = &c->all->served->stop;
    for (size_t i = 0; i < stop->n; i++) {
        if (stop->id[i] == id) return true;
    }
    return false;
}

/* Whether a stop string is in the text now; then the text ends before it. */
static bool look_for_stop(ml_choice *c)
{
    const ml_params *p = c->all->params;
    const ml_chars *text = &c->out.text;
    size_t at = ml_stops_find(p->stop, p->n_stop, text->data, text->n, c->n_searched);
    c->n_searched = text->n;
    if (at == text->n) return false;
    c->n_text = at;
    return true;
}

static void end_choice(ml_choice *c, const char *reason)
{
    c->done = true;
    c->finish_reason = c->out.n_call && c->out.calls[c->out.n_call - 1].complete ? "tool_calls" : reason;
}

static void note_first_token(ml_answers *a)
{
    if (!a->timed) ml_histogram_add(&a->h->server->counters.first_token, ml_clock_seconds() - a->start);
    a->timed = true;
}

static ml_status take_one(ml_choice *c, ml_error *err)
{
    note_first_token(c->all);
    int32_t id = c->id[c->n_taken++];
    if (is_stop(c, id)) return ML_OK;
    c->n_counts = c->n_taken;
    ML_TRY(ml_chat_output_push(&c->out, id, err));
    if (!c->all->params->n_stop || !look_for_stop(c)) return ML_OK;
    c->cut = true;
    end_choice(c, "stop");
    ml_scheduler_cancel(c->all->h->server->scheduler, &c->task);
    return ML_OK;
}

/* No more tokens will come. */
static ml_status take_last(ml_choice *c, ml_error *err)
{
    if (c->failure.code != ML_OK) {
        *err = c->failure;
        return err->code;
    }
    if (c->finish == ML_FINISH_CANCEL) {
        return ml_fail(err, ML_ECANCEL, "the answer was stopped: the model is being unloaded, or the server ends");
    }
    ML_TRY(ml_chat_output_end(&c->out, err));
    bool cut = c->all->params->n_stop && look_for_stop(c);
    if (!cut) c->n_text = c->out.text.n;
    c->cut = cut;
    end_choice(c, cut || c->finish == ML_FINISH_STOP ? "stop" : "length");
    return ML_OK;
}

ml_status ml_choice_advance(ml_choice *c, ml_error *err)
{
    const ml_params *p = c->all->params;
    bool ended = atomic_load(&c->ended); /* before n_token: then those are all */
    int64_t n = atomic_load(&c->n_token);
    while (!c->done && c->n_taken < n) ML_TRY(take_one(c, err));
    if (!c->done && ended) return take_last(c, err);
    if (!c->done) c->n_text = c->out.text.n - ml_stops_held(p->stop, p->n_stop, c->out.text.data, c->out.text.n);
    return ML_OK;
}

bool ml_answers_are_done(const ml_answers *a)
{
    for (size_t i = 0; i < a->n_choice; i++) {
        if (!a->choice[i].done) return false;
    }
    return true;
}

void ml_answers_await_ends(ml_answers *a)
{
    pthread_mutex_lock(&a->lock);
    for (size_t i = 0; i < a->n_choice; i++) {
        while (!atomic_load(&a->choice[i].ended)) pthread_cond_wait(&a->news, &a->lock);
    }
    pthread_mutex_unlock(&a->lock);
}

ml_status ml_answers_finish(ml_answers *a, ml_error *err)
{
    while (!ml_answers_are_done(a)) {
        ml_answers_wait(a);
        for (size_t i = 0; i < a->n_choice; i++) ML_TRY(ml_choice_advance(&a->choice[i], err));
        if (ml_web_is_gone(a->h)) return ml_fail(err, ML_ECANCEL, "the client has gone");
    }
    ml_answers_await_ends(a);
    return ML_OK;
}

/* ---- what is said of them ---- */

void ml_answers_count(ml_answers *a)
{
    ml_counters *n = &a->h->server->counters;
    ml_answers_await_ends(a);
    for (size_t i = 0; i < a->n_choice; i++) n->completion_tokens += a->choice[i].n_taken;
    for (size_t i = 0; i < a->n_prompt; i++) n->prompt_tokens += (int64_t)a->prompt[i].n;
    n->answers++;
    ml_histogram_add(&n->whole, ml_clock_seconds() - a->start);
}

ml_scored ml_choice_scored(const ml_choice *c, int64_t i, bool prompt)
{
    int64_t n = c->all->params->n_top;
    if (prompt) {
        return (ml_scored){ c->prompt_logprob[i], c->prompt_top_id + i * n, c->prompt_top_logprob + i * n };
    }
    return (ml_scored){ c->logprob[i], c->top_id + i * n, c->top_logprob + i * n };
}

json_t *ml_answers_usage(const ml_answers *a)
{
    int64_t prompt = 0, answer = 0, reused = 0;
    for (size_t i = 0; i < a->n_prompt; i++) prompt += (int64_t)a->prompt[i].n;
    for (size_t i = 0; i < a->n_choice; i++) {
        answer += a->choice[i].n_taken;
        if (i % (size_t)a->params->n == 0) reused += a->choice[i].stats.n_reused;
    }
    return json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", (json_int_t)prompt, "completion_tokens",
                     (json_int_t)answer, "total_tokens", (json_int_t)(prompt + answer), "prompt_tokens_details",
                     "cached_tokens", (json_int_t)reused);
}

json_t *ml_answers_extra(const ml_answers *a, const char *trace_id)
{
    double queue = 0, prefill = 0, decode = 0;
    int64_t n = 0;
    for (size_t i = 0; i < a->n_choice; i++) {
        const ml_request_stats *s = &a->choice[i].stats;
        queue = fmax(queue, s->queue_seconds);
        prefill = fmax(prefill, s->prefill_seconds);
        decode = fmax(decode, s->decode_seconds);
        n += a->choice[i].n_taken;
    }
    return json_pack("{s:f, s:f, s:f, s:f, s:b, s:s?, s:I}", "queue_seconds", queue, "prefill_seconds", prefill,
                     "decode_seconds", decode, "tokens_per_second", decode > 0 ? (double)n / decode : 0.0, "kv_cache",
                     a->params->kv_cache, "trace_id", trace_id, "seed", (json_int_t)a->params->sampling.seed);
}
