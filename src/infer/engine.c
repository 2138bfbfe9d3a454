#include "infer/engine_internal.h"

#include "base/alloc.h"
#include "base/clock.h"

#include <string.h>

enum { DEFAULT_CHUNK = 512 };

static void free_job(ml_job *j)
{
    if (!j) return;
    ml_free(j->token);
    ml_free(j->stop_id);
    ml_sampler_free(j->sampler);
    ml_free(j);
}

static ml_status make_arrays(ml_engine *e, ml_error *err)
{
    size_t n_slot = (size_t)e->config.n_slot, n = n_slot + (size_t)e->config.chunk;
    size_t n_vocab = (size_t)e->model->config.vocab_size;
    e->slot = ml_calloc(n_slot, sizeof *e->slot);
    e->order = ml_calloc(n_slot, sizeof *e->order);
    e->id = ml_calloc(n, sizeof *e->id);
    e->pos = ml_calloc(n, sizeof *e->pos);
    e->seq = ml_calloc(n, sizeof *e->seq);
    e->want = ml_calloc(n_slot, sizeof *e->want);
    e->row = ml_calloc(n_slot, sizeof *e->row);
    e->want_slot = ml_calloc(n_slot, sizeof *e->want_slot);
    e->logits = ml_runner_alloc_logits(e->model, n_slot * n_vocab);
    e->adjusted = ml_calloc(n_vocab, sizeof *e->adjusted);
    e->draw = ml_calloc(n_slot, sizeof *e->draw);
    e->drawn = ml_calloc(n_slot, sizeof *e->drawn);
    bool all = e->slot && e->order && e->id && e->pos && e->seq && e->want && e->row && e->want_slot && e->logits &&
               e->adjusted && e->draw && e->drawn;
    return all ? ML_OK : ml_fail_memory(err, n_slot * n_vocab * sizeof *e->logits, "an engine");
}

ml_status ml_engine_make(ml_model *model, const ml_engine_config *config, ml_engine **out, ml_error *err)
{
    *out = NULL;
    ml_engine *e = ml_calloc(1, sizeof *e);
    if (!e) return ml_fail_memory(err, sizeof *e, "an engine");
    e->model = model;
    e->config = *config;
    if (e->config.chunk == 0) e->config.chunk = DEFAULT_CHUNK;
    ml_runner_config runner = { .n_seq = config->n_slot,
                                .capacity = config->capacity,
                                .cache_token = config->cache_token,
                                .max_token = config->n_slot + e->config.chunk,
                                .kv_dtype = config->kv_dtype };
    ml_status status = ml_runner_make(model, &runner, &e->runner, err);
    if (status == ML_OK && config->reuse) status = ml_prefix_make(&e->prefix, ml_runner_pages(e->runner), err);
    if (status == ML_OK) status = make_arrays(e, err);
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
        ml_job *next = e->first->next;
        free_job(e->first);
        e->first = next;
    }
    ml_prefix_free(&e->prefix);
    ml_runner_free(e->runner);
    ml_free(e->slot);
    ml_free(e->order);
    ml_free(e->id);
    ml_free(e->pos);
    ml_free(e->seq);
    ml_free(e->want);
    ml_free(e->row);
    ml_free(e->want_slot);
    ml_runner_free_logits(e->model, e->logits);
    ml_free(e->adjusted);
    ml_free(e->draw);
    ml_free(e->drawn);
    ml_free(e->late);
    ml_free(e);
}

static bool listens(const ml_request *q)
{
    return q->on_prompt_logits || q->on_prompt_hidden;
}

ml_status ml_engine_check(const ml_model *model, const ml_engine_config *c, const ml_request *q, ml_error *err)
{
    int64_t fewest = listens(q) || q->trace ? 0 : 1, longest = c->capacity - (q->max_tokens ? 1 : 0);
    int64_t n_vocab = model->config.vocab_size;
    if (q->n_prompt < 1) return ml_fail(err, ML_EINVAL, "the prompt is empty: give at least one token");
    if (q->max_tokens < fewest) {
        return ml_fail(err, ML_EINVAL, "max_tokens: expected %lld or more, found %lld", (long long)fewest,
                       (long long)q->max_tokens);
    }
    if (q->n_prompt > longest) {
        return ml_fail(err, ML_EINVAL, "the prompt of %lld tokens %s a context of %lld", (long long)q->n_prompt,
                       q->max_tokens ? "leaves no room for an answer in" : "does not fit into", (long long)c->capacity);
    }
    for (int64_t i = 0; i < q->n_prompt; i++) {
        if (q->prompt[i] >= 0 && q->prompt[i] < n_vocab) continue;
        return ml_fail(err, ML_EINVAL, "token id %d at position %lld is outside the model's vocabulary of %lld",
                       q->prompt[i], (long long)i, (long long)n_vocab);
    }
    if (q->adapter && q->adapter->model && q->adapter->model != model) {
        return ml_fail(err, ML_EINVAL, "the request's adapter was made for another model than the engine's");
    }
    return ml_sampling_check(&q->sampling, err);
}

static ml_status make_job(const ml_engine *e, const ml_request *q, ml_job **out, ml_error *err)
{
    ml_job *j = ml_calloc(1, sizeof *j);
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
    j->node = ML_PREFIX_ROOT;
    const ml_adapter *adapter = q->adapter ? q->adapter : e->model->adapter;
    j->computed_by = adapter == &ml_adapter_none ? NULL : adapter;
    /* Who listens to the prompt wants every token of it run; who does without the cache rewrites its pages. */
    j->shares = e->config.reuse && !listens(q) && !q->trace && !q->no_cache;
    j->submitted = ml_clock_seconds();
    return ML_OK;
}

ml_status ml_engine_submit(ml_engine *e, const ml_request *request, int64_t *id, ml_error *err)
{
    ML_TRY(ml_engine_check(e->model, &e->config, request, err));
    ml_job *j;
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
    e->stats.n_waiting++;
    return ML_OK;
}

void ml_engine_cancel(ml_engine *e, int64_t id)
{
    for (ml_job *j = e->first; j; j = j->next) {
        if (j->id == id) j->cancelled = true;
    }
    for (int64_t s = 0; s < e->config.n_slot; s++) {
        if (e->slot[s] && e->slot[s]->id == id) e->slot[s]->cancelled = true;
    }
}

void ml_engine_forget_adapter(ml_engine *e, const ml_adapter *adapter)
{
    ml_runner_forget_adapter(e->runner, adapter);
    if (e->config.reuse) ml_prefix_forget(&e->prefix, adapter);
}

bool ml_engine_is_busy(const ml_engine *e)
{
    return e->first || e->n_order > 0;
}

ml_engine_stats ml_engine_get_stats(const ml_engine *e)
{
    ml_engine_stats s = e->stats;
    const ml_pages *p = ml_runner_pages(e->runner);
    s.n_running = e->n_order;
    s.n_page = p->n_page;
    s.n_free_page = p->n_free;
    s.n_kept_page = e->prefix.n_node;
    return s;
}

void ml_job_end(ml_job *j, ml_finish finish)
{
    ml_request_stats *s = j->request.stats;
    double now = ml_clock_seconds(), started = j->started > 0 ? j->started : now, read = j->read > 0 ? j->read : now;
    if (s) {
        *s = (ml_request_stats){ .n_reused = j->n_reused,
                                 .queue_seconds = started - j->submitted,
                                 .prefill_seconds = read - started,
                                 .decode_seconds = now - read };
    }
    if (j->request.on_end) j->request.on_end(j->request.arg, finish);
    free_job(j);
}
