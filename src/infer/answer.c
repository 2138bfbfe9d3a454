#include "infer/answer.h"

#include "base/alloc.h"

/* What all requests share. */
typedef struct {
    const ml_answer_config *config;
    struct listener *listeners; /* [n] */
    size_t n, n_given, n_done;
    ml_error error; /* of a callback */
} work;

/* What the engine's callbacks of one request get. */
typedef struct listener {
    work *w;
    ml_answer *item;
    size_t i;
} listener;

static bool take_token(void *arg, int32_t id, double logprob)
{
    (void)logprob;
    listener *l = arg;
    return ml_ids_append(&l->item->answer, &id, 1, &l->w->error) == ML_OK;
}

static void take_end(void *arg, ml_finish finish)
{
    listener *l = arg;
    work *w = l->w;
    l->item->finish = finish;
    w->n_done++;
    if (w->config->on_answer && w->error.code == ML_OK) w->config->on_answer(w->config->arg, l->i, &w->error);
}

static ml_status submit(ml_engine *e, const ml_answer_config *c, listener *l, ml_error *err)
{
    int64_t id;
    ml_request r = { .prompt = l->item->prompt.id,
                     .n_prompt = (int64_t)l->item->prompt.n,
                     .sampling = c->sampling,
                     .max_tokens = c->max_tokens,
                     .stop_id = c->stop_id,
                     .n_stop = c->n_stop,
                     .on_token = take_token,
                     .on_end = take_end,
                     .arg = l };
    r.sampling.seed += l->i;
    l->item->answer.n = 0;
    ml_status status = ml_engine_submit(e, &r, &id, err);
    return status == ML_OK ? ML_OK : ml_fail_prefix(err, "prompt %zu", l->i + 1);
}

/* The engine keeps a sampler for each request, so only some wait there. */
static ml_status submit_more(ml_engine *e, work *w, ml_error *err)
{
    for (; w->n_given < w->n && w->n_given - w->n_done < 2 * (size_t)w->config->parallel; w->n_given++) {
        ML_TRY(submit(e, w->config, &w->listeners[w->n_given], err));
    }
    return ML_OK;
}

static ml_status run(ml_engine *e, work *w, ml_error *err)
{
    while (w->n_done < w->n) {
        ML_TRY(submit_more(e, w, err));
        ML_TRY(ml_engine_step(e, err));
        if (w->error.code != ML_OK) {
            *err = w->error;
            return err->code;
        }
        ml_progress_update(w->config->progress, (double)w->n_done, w->config->note);
        if (ml_progress_stopped(w->config->progress)) {
            return ml_fail(err, ML_ECANCEL, "stopped after %zu answers", w->n_done);
        }
    }
    return ML_OK;
}

/* Before anything is generated: that no prompt is too long. */
static ml_status check(const ml_engine_config *config, const ml_answer *item, size_t n, ml_error *err)
{
    for (size_t i = 0; i < n; i++) {
        if (item[i].prompt.n > 0 && (int64_t)item[i].prompt.n < config->capacity) continue;
        return ml_fail(err, ML_EINVAL, "prompt %zu has %zu tokens: expected 1 to %lld, so that an answer has room",
                       i + 1, item[i].prompt.n, (long long)config->capacity - 1);
    }
    return ML_OK;
}

ml_status ml_answer_all(ml_model *model, const ml_answer_config *c, ml_answer *item, size_t n, ml_error *err)
{
    int64_t longest = 1, most = model->config.max_position_embeddings;
    for (size_t i = 0; i < n; i++) longest = (int64_t)item[i].prompt.n > longest ? (int64_t)item[i].prompt.n : longest;
    ml_engine_config config = { .n_slot = (int64_t)n < c->parallel ? (int64_t)n : c->parallel,
                                .capacity = longest + c->max_tokens < most ? longest + c->max_tokens : most,
                                .n_valid = c->n_valid,
                                .kv_dtype = c->kv_dtype };
    ml_engine *e = NULL;
    if (n == 0) return ML_OK;
    ML_TRY(check(&config, item, n, err));
    listener *l = ml_calloc(n, sizeof *l);
    if (!l) return ml_fail_memory(err, n * sizeof *l, "requests");
    work w = { .config = c, .listeners = l, .n = n };
    for (size_t i = 0; i < n; i++) l[i] = (listener){ .w = &w, .item = &item[i], .i = i };
    ml_status status = ml_engine_make(model, &config, &e, err);
    if (status == ML_OK) status = run(e, &w, err);
    ml_engine_free(e);
    ml_free(l);
    return status;
}
