#include "serve/scheduler.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "serve/models_internal.h"
#include "serve/server_internal.h"

#include <string.h>

struct ml_scheduler {
    ml_models *models;
    int64_t queue;
    pthread_t thread;
    bool stop;
};

/* ---- tasks ---- */

static void link_task(ml_served *s, ml_task *t)
{
    t->previous = NULL;
    t->next = s->tasks;
    if (s->tasks) s->tasks->previous = t;
    s->tasks = t;
    s->n_task++;
}

static void unlink_task(ml_served *s, ml_task *t)
{
    if (t->previous) t->previous->next = t->next;
    if (t->next) t->next->previous = t->previous;
    if (s->tasks == t) s->tasks = t->next;
    s->n_task--;
}

/* The task is its owner's again. */
static void end_task(ml_models *m, ml_task *t, ml_finish finish, const ml_error *failure)
{
    pthread_mutex_lock(&m->lock);
    unlink_task(t->served, t);
    pthread_cond_broadcast(&m->quiet);
    pthread_mutex_unlock(&m->lock);
    t->ended(t, finish, failure);
}

static void on_end(void *arg, ml_finish finish)
{
    ml_task *t = arg;
    end_task(t->models, t, finish, NULL);
}

/* That a prompt is too long is said as OpenAI's clients look for it. */
static void blame_prompt(ml_web *h, const ml_request *q, int64_t context)
{
    static const char *const keys[] = { "messages", "prompt", "input" };
    if (q->n_prompt + (q->max_tokens ? 1 : 0) <= context) return;
    h->code = "context_length_exceeded";
    for (size_t i = sizeof keys / sizeof keys[0]; i-- > 0;) {
        if (json_object_get(h->json, keys[i])) snprintf(h->field, sizeof h->field, "%s", keys[i]);
    }
}

ml_status ml_scheduler_submit(ml_web *h, ml_task *t, ml_error *err)
{
    ml_models *m = h->server->models;
    ml_served *s = t->served;
    int64_t most = s->config.n_slot + h->server->scheduler->queue;
    ml_status status = ml_engine_check(s->m.model, &s->config, &t->request, err);
    if (status != ML_OK) {
        blame_prompt(h, &t->request, s->config.capacity);
        return status;
    }
    t->request.on_end = on_end;
    t->models = m;
    t->in_engine = false;
    atomic_store(&t->cancel, false);
    pthread_mutex_lock(&m->lock);
    bool open = s->state == ML_STATE_LOADED && t->named->state == ML_STATE_LOADED && !h->server->scheduler->stop,
         room = s->n_task < most;
    if (open && room) link_task(s, t);
    pthread_cond_signal(&m->work);
    pthread_mutex_unlock(&m->lock);
    if (!open) return ml_web_refuse(h, err, 503, NULL, "the model %s is being unloaded", t->named->id);
    if (!room) {
        return ml_web_refuse(h, err, 429, NULL, "%lld requests are being answered or wait: try again later",
                             (long long)most);
    }
    return ML_OK;
}

void ml_scheduler_cancel(ml_scheduler *s, ml_task *task)
{
    atomic_store(&task->cancel, true);
    pthread_mutex_lock(&s->models->lock);
    pthread_cond_signal(&s->models->work);
    pthread_mutex_unlock(&s->models->lock);
}

/* ---- the thread ---- */

/* A task that has not reached the engine: the oldest, since new ones are put in front. */
static ml_task *oldest_new(ml_served *s)
{
    ml_task *found = NULL;
    for (ml_task *t = s->tasks; t && !t->in_engine; t = t->next) found = t;
    return found;
}

static bool has_work(const ml_scheduler *c, const ml_served *s)
{
    return s->tasks && (s->state == ML_STATE_LOADED || s->state == ML_STATE_CLOSING || c->stop);
}

/* The next model with something to do, after the last one; NULL: none. */
static ml_served *next_served(ml_scheduler *c)
{
    ml_models *m = c->models;
    for (size_t i = 0; i < m->n; i++) {
        ml_served *s = m->served[(m->next + i) % m->n];
        if (!has_work(c, s)) continue;
        m->next = (m->next + i + 1) % m->n;
        return s;
    }
    return NULL;
}

/* The engine cannot go on: its tasks end with the reason, and another takes its place, unless the model's device is
 * lost. */
static void replace_engine(ml_models *m, ml_served *s, const ml_error *failure)
{
    ml_engine_stats old = ml_engine_get_stats(s->engine);
    s->gone.n_pass += old.n_pass;
    s->gone.n_prompt_token += old.n_prompt_token;
    s->gone.n_decode_token += old.n_decode_token;
    s->gone.n_reused_token += old.n_reused_token;
    ml_engine_free(s->engine);
    s->engine = NULL;
    ml_error err;
    ml_device *device = s->m.model->device;
    ml_status status = device ? ml_device_wait(device, &err) : ML_OK;
    if (status == ML_OK) status = ml_engine_make(s->m.model, &s->config, &s->engine, &err);
    if (status != ML_OK) { /* before its tasks end: no new ones may come that nobody would take up */
        pthread_mutex_lock(&m->lock);
        s->state = ML_STATE_FAILED;
        s->failure = err;
        pthread_mutex_unlock(&m->lock);
    }
    while (s->tasks) end_task(m, s->tasks, ML_FINISH_CANCEL, failure);
}

/* Hand new tasks to the engine and tell it who no longer wants an answer. */
static void update_engine(ml_scheduler *c, ml_served *s)
{
    ml_models *m = c->models;
    ml_error err;
    for (;;) {
        pthread_mutex_lock(&m->lock);
        ml_task *t = oldest_new(s);
        if (t) t->in_engine = true;
        pthread_mutex_unlock(&m->lock);
        if (!t) break;
        ml_status status = ml_engine_submit(s->engine, &t->request, &t->id, &err);
        if (status != ML_OK) end_task(m, t, ML_FINISH_CANCEL, &err);
    }
    pthread_mutex_lock(&m->lock);
    bool all = s->state != ML_STATE_LOADED || c->stop;
    for (ml_task *t = s->tasks; t; t = t->next) {
        bool gone = t->named->state != ML_STATE_LOADED || atomic_load(&t->cancel);
        if (t->in_engine && (all || gone)) ml_engine_cancel(s->engine, t->id);
    }
    pthread_mutex_unlock(&m->lock);
}

static void step(ml_scheduler *c, ml_served *s)
{
    ml_error err;
    update_engine(c, s);
    ml_status status = ml_engine_step(s->engine, &err);
    if (status != ML_OK) replace_engine(c->models, s, &err);
}

static void *run(void *arg)
{
    ml_scheduler *c = arg;
    ml_models *m = c->models;
    pthread_mutex_lock(&m->lock);
    for (;;) {
        ml_served *s = next_served(c);
        if (!s && c->stop) break;
        if (!s) {
            pthread_cond_wait(&m->work, &m->lock);
            continue;
        }
        ml_adapters_between_passes(s);
        s->stepping = true;
        pthread_mutex_unlock(&m->lock);
        step(c, s);
        pthread_mutex_lock(&m->lock);
        s->stepping = false;
        if (s->engine) s->stats = ml_engine_get_stats(s->engine);
        pthread_cond_broadcast(&m->quiet);
    }
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

ml_status ml_scheduler_start(ml_models *models, int64_t queue, ml_scheduler **out, ml_error *err)
{
    ml_scheduler *s = ml_calloc(1, sizeof *s);
    *out = NULL;
    if (!s) return ml_fail_memory(err, sizeof *s, "a scheduler");
    s->models = models;
    s->queue = queue;
    if (pthread_create(&s->thread, NULL, run, s) != 0) {
        ml_free(s);
        return ml_fail_errno(err, "a thread could not be started");
    }
    *out = s;
    return ML_OK;
}

void ml_scheduler_stop(ml_scheduler *s)
{
    if (!s) return;
    pthread_mutex_lock(&s->models->lock);
    s->stop = true;
    pthread_cond_broadcast(&s->models->work);
    pthread_mutex_unlock(&s->models->lock);
    pthread_join(s->thread, NULL);
}

void ml_scheduler_free(ml_scheduler *s)
{
    ml_free(s);
}
