#include "infer/engine.h"

#include "base/alloc.h"
#include "infer/sampler.h"

#include <string.h>

enum { DEFAULT_CHUNK = 512 };

/* A request from submission to its end.  In a slot it owns pages. */
typedef struct job {
    struct job *next; /* in the queue */
    int64_t id;
    ml_request request;
    int32_t *token; /* [n_prompt + max_tokens] prompt, then answer */
    int32_t *stop_id;
    int64_t n_token;  /* in `token` */
    int64_t n_cached; /* of them, that went through the model */
    int64_t limit;    /* of n_token */
    ml_sampler *sampler;
    bool cancelled;
} job;

struct ml_engine {
    ml_model *model;
    ml_engine_config config;
    ml_runner *runner;
    job *first, *last; /* the queue */
    job **slot;        /* [n_slot] NULL when free */
    int64_t *order;    /* [n_order] slots in use, the oldest request first */
    int64_t n_order;
    int64_t next_id;
    /* the pass being made: [n_slot + chunk], wanted rows and their slots [n_slot] */
    int32_t *id, *pos, *seq, *want;
    int64_t *want_slot;
    int64_t n, n_want;
    float *logits; /* [n_slot, vocab] */
};

static void free_job(job *j)
{
    if (!j) return;
    ml_free(j->token);
    ml_free(j->stop_id);
    ml_sampler_free(j->sampler);
    ml_free(j);
}

ml_status ml_engine_make(ml_model *model, const ml_engine_config *config, ml_engine **out, ml_error *err)
{
    *out = NULL;
    ml_engine *e = ml_calloc(1, sizeof *e);
    if (!e) return ml_fail_memory(err, sizeof *e, "an engine");
    e->model = model;
    e->config = *config;
    if (e->config.chunk == 0) e->config.chunk = DEFAULT_CHUNK;
    size_t n_slot = (size_t)config->n_slot, n = n_slot + (size_t)e->config.chunk;
    size_t n_logit = n_slot * (size_t)model->config.vocab_size;
    ml_runner_config runner = { .n_seq = config->n_slot,
                                .capacity = config->capacity,
                                .cache_token = config->cache_token,
                                .max_token = (int64_t)n,
                                .kv_dtype = config->kv_dtype };
    ml_status status = ml_runner_make(model, &runner, &e->runner, err);
    if (status == ML_OK) {
        e->slot = ml_calloc(n_slot, sizeof *e->slot);
        e->order = ml_calloc(n_slot, sizeof *e->order);
        e->id = ml_calloc(n, sizeof *e->id);
        e->pos = ml_calloc(n, sizeof *e->pos);
        e->seq = ml_calloc(n, sizeof *e->seq);
        e->want = ml_calloc(n_slot, sizeof *e->want);
        e->want_slot = ml_calloc(n_slot, sizeof *e->want_slot);
        e->logits = ml_calloc(n_logit, sizeof *e->logits);
        bool all = e->slot && e->order && e->id && e->pos && e->seq && e->want && e->want_slot && e->logits;
        if (!all) status = ml_fail_memory(err, n_logit * sizeof *e->logits, "an engine");
    }
    if (status != ML_OK) {
        ml_engine_free(e);
        return status;
    }
    *out = e;
    return ML_OK;
}

void ml_engine_free(ml_engine *e)
{
    if (!e) return;
    for (int64_t s = 0; e->slot && s < e->config.n_slot; s++) free_job(e->slot[s]);
    while (e->first) {
        job *next = e->first->next;
        free_job(e->first);
        e->first = next;
    }
    ml_runner_free(e->runner);
    ml_free(e->slot);
    ml_free(e->order);
    ml_free(e->id);
    ml_free(e->pos);
    ml_free(e->seq);
    ml_free(e->want);
    ml_free(e->want_slot);
    ml_free(e->logits);
    ml_free(e);
}

/* ---- requests in ---- */

static ml_status check_request(const ml_engine *e, const ml_request *q, ml_error *err)
{
    if (q->n_prompt < 1) return ml_fail(err, ML_EINVAL, "the prompt is empty: give at least one token");
    if (q->max_tokens < 1) {
        return ml_fail(err, ML_EINVAL, "max_tokens: expected 1 or more, found %lld", (long long)q->max_tokens);
    }
    if (q->n_prompt >= e->config.capacity) {
        return ml_fail(err, ML_EINVAL, "the prompt of %lld tokens leaves no room for an answer in a context of %lld",
                       (long long)q->n_prompt, (long long)e->config.capacity);
    }
    if (q->adapter && q->adapter->model && q->adapter->model != e->model) {
        return ml_fail(err, ML_EINVAL, "the request's adapter was made for another model than the engine's");
    }
    for (int64_t i = 0; i < q->n_prompt; i++) {
        if (q->prompt[i] >= 0 && q->prompt[i] < e->model->config.vocab_size) continue;
        return ml_fail(err, ML_EINVAL, "token id %d at position %lld is outside the model's vocabulary of %lld",
                       q->prompt[i], (long long)i, (long long)e->model->config.vocab_size);
    }
    return ML_OK;
}

static ml_status make_job(const ml_engine *e, const ml_request *q, job **out, ml_error *err)
{
    job *j = ml_calloc(1, sizeof *j);
    *out = j;
    if (!j) return ml_fail_memory(err, sizeof *j, "a request");
    j->request = *q;
    int64_t room = e->config.capacity - q->n_prompt;
    j->limit = q->n_prompt + (q->max_tokens < room ? q->max_tokens : room);
    j->token = ml_calloc((size_t)j->limit, sizeof *j->token);
    j->stop_id = ml_calloc((size_t)q->n_stop + 1, sizeof *j->stop_id);
    if (!j->token || !j->stop_id) return ml_fail_memory(err, (size_t)j->limit * sizeof *j->token, "a request");
    memcpy(j->token, q->prompt, (size_t)q->n_prompt * sizeof *j->token);
    if (q->n_stop) memcpy(j->stop_id, q->stop_id, (size_t)q->n_stop * sizeof *j->stop_id);
    j->request.prompt = j->token;
    j->request.stop_id = j->stop_id;
    j->n_token = q->n_prompt;
    return ml_sampler_make(&q->sampling, e->model->config.vocab_size, e->config.n_valid, &j->sampler, err);
}

ml_status ml_engine_submit(ml_engine *e, const ml_request *request, int64_t *id, ml_error *err)
{
    ML_TRY(check_request(e, request, err));
    job *j;
    ml_status status = make_job(e, request, &j, err);
    if (status != ML_OK) {
        free_job(j);
        return status;
    }
    *id = j->id = ++e->next_id;
    if (e->last) {
        e->last->next = j;
    } else {
        e->first = j;
    }
    e->last = j;
    return ML_OK;
}

void ml_engine_cancel(ml_engine *e, int64_t id)
{
    for (job *j = e->first; j; j = j->next) {
        if (j->id == id) j->cancelled = true;
    }
    for (int64_t s = 0; s < e->config.n_slot; s++) {
        if (e->slot[s] && e->slot[s]->id == id) e->slot[s]->cancelled = true;
    }
}

bool ml_engine_is_busy(const ml_engine *e)
{
    return e->first || e->n_order > 0;
}

/* ---- slots ---- */

static void end_job(job *j, ml_finish finish)
{
    if (j->request.on_end) j->request.on_end(j->request.arg, finish);
    free_job(j);
}

static void leave_slot(ml_engine *e, int64_t slot, ml_finish finish)
{
    job *j = e->slot[slot];
    e->slot[slot] = NULL;
    ml_pages_truncate(ml_runner_pages(e->runner), slot, 0);
    int64_t n = 0;
    for (int64_t i = 0; i < e->n_order; i++) {
        if (e->order[i] != slot) e->order[n++] = e->order[i];
    }
    e->n_order = n;
    end_job(j, finish);
}

static void end_cancelled(ml_engine *e)
{
    for (int64_t s = 0; s < e->config.n_slot; s++) {
        if (e->slot[s] && e->slot[s]->cancelled) leave_slot(e, s, ML_FINISH_CANCEL);
    }
    job *keep = NULL, *gone = NULL, *last = NULL;
    for (job *j = e->first, *next; j; j = next) {
        next = j->next;
        j->next = NULL;
        if (j->cancelled) {
            j->next = gone;
            gone = j;
        } else {
            if (last) {
                last->next = j;
            } else {
                keep = j;
            }
            last = j;
        }
    }
    e->first = keep;
    e->last = last;
    for (job *next; gone; gone = next) {
        next = gone->next;
        end_job(gone, ML_FINISH_CANCEL);
    }
}

/* From the queue into free slots, in order; the first that finds no room makes the others wait. */
static void fill_slots(ml_engine *e)
{
    for (int64_t s = 0; s < e->config.n_slot && e->first; s++) {
        if (e->slot[s]) continue;
        job *j = e->first;
        if (!ml_pages_reserve(ml_runner_pages(e->runner), s, j->limit)) return;
        e->first = j->next;
        if (!e->first) e->last = NULL;
        j->next = NULL;
        e->slot[s] = j;
        ml_runner_set_adapter(e->runner, s, j->request.adapter);
        e->order[e->n_order++] = s;
    }
}

/* ---- a pass ---- */

static bool is_generating(const job *j)
{
    return j->n_cached >= j->request.n_prompt;
}

static void push_token(ml_engine *e, int64_t slot, int64_t pos)
{
    e->id[e->n] = e->slot[slot]->token[pos];
    e->pos[e->n] = (int32_t)pos;
    e->seq[e->n++] = (int32_t)slot;
}

static void want_last(ml_engine *e, int64_t slot)
{
    e->want[e->n_want] = (int32_t)e->n - 1;
    e->want_slot[e->n_want++] = slot;
}

/* Tokens of the pass: generated ones, then prompts.  How many are generated. */
static int64_t gather(ml_engine *e)
{
    e->n = e->n_want = 0;
    for (int64_t i = 0; i < e->n_order; i++) {
        job *j = e->slot[e->order[i]];
        if (!is_generating(j)) continue;
        push_token(e, e->order[i], j->n_cached++);
        want_last(e, e->order[i]);
    }
    int64_t n_decode = e->n, left = e->config.chunk;
    for (int64_t i = 0; i < e->n_order && left > 0; i++) {
        job *j = e->slot[e->order[i]];
        if (is_generating(j)) continue;
        for (; left > 0 && j->n_cached < j->request.n_prompt; left--) push_token(e, e->order[i], j->n_cached++);
        if (j->n_cached == j->request.n_prompt) want_last(e, e->order[i]);
    }
    return n_decode;
}

static bool is_stop(const job *j, int32_t id)
{
    for (int64_t i = 0; i < j->request.n_stop; i++) {
        if (j->stop_id[i] == id) return true;
    }
    return false;
}

/* The next token of a sequence whose logits are there. */
static void choose(ml_engine *e, int64_t slot, const float *logits)
{
    job *j = e->slot[slot];
    double logprob;
    int32_t id = ml_sampler_choose(j->sampler, logits, j->token, j->n_token, &logprob);
    j->token[j->n_token++] = id;
    bool go_on = !j->request.on_token || j->request.on_token(j->request.arg, id, logprob);
    if (!go_on) {
        leave_slot(e, slot, ML_FINISH_CANCEL);
    } else if (is_stop(j, id)) {
        leave_slot(e, slot, ML_FINISH_STOP);
    } else if (j->n_token == j->limit) {
        leave_slot(e, slot, ML_FINISH_LENGTH);
    }
}

ml_status ml_engine_step(ml_engine *e, ml_error *err)
{
    end_cancelled(e);
    fill_slots(e);
    if (e->n_order == 0) return ML_OK;
    int64_t n_decode = gather(e), n_vocab = e->model->config.vocab_size;
    ML_TRY(ml_runner_forward(e->runner, e->n, n_decode, e->id, e->pos, e->seq, err));
    ML_TRY(ml_runner_logits(e->runner, e->n_want, e->want, e->logits, err));
    for (int64_t i = 0; i < e->n_want; i++) choose(e, e->want_slot[i], e->logits + i * n_vocab);
    return ML_OK;
}
