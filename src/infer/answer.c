#include "infer/answer.h"

#include "base/alloc.h"
#include "infer/session.h"

/* What the engine's callbacks of one request share. */
typedef struct {
    ml_answer *item;
    size_t *n_done;
    ml_error error;
} listener;

static bool take_token(void *arg, int32_t id, double logprob)
{
    (void)logprob;
    listener *l = arg;
    return ml_ids_append(&l->item->answer, &id, 1, &l->error) == ML_OK;
}

static void take_end(void *arg, ml_finish finish)
{
    listener *l = arg;
    l->item->finish = finish;
    ++*l->n_done;
}

static ml_status submit(ml_engine *e, const ml_answer_config *c, listener *l, size_t i, ml_error *err)
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
    r.sampling.seed += i;
    l->item->answer.n = 0;
    return ml_engine_submit(e, &r, &id, err);
}

static ml_status run(ml_engine *e, const ml_answer_config *c, const size_t *n_done, ml_error *err)
{
    while (ml_engine_is_busy(e)) {
        ML_TRY(ml_engine_step(e, err));
        ml_progress_update(c->progress, (double)*n_done, NULL);
        if (ml_progress_stopped(c->progress)) return ml_fail(err, ML_ECANCEL, "stopped after %zu answers", *n_done);
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
                                .kv_dtype = ML_SESSION_KV };
    ml_engine *e = NULL;
    size_t n_done = 0;
    if (n == 0) return ML_OK;
    listener *l = ml_calloc(n, sizeof *l);
    if (!l) return ml_fail_memory(err, n * sizeof *l, "requests");
    ml_status status = ml_engine_make(model, &config, &e, err);
    for (size_t i = 0; i < n && status == ML_OK; i++) {
        l[i] = (listener){ .item = &item[i], .n_done = &n_done };
        status = submit(e, c, &l[i], i, err);
    }
    if (status == ML_OK) status = run(e, c, &n_done, err);
    for (size_t i = 0; i < n && status == ML_OK; i++) {
        if (l[i].error.code == ML_OK) continue;
        *err = l[i].error;
        status = err->code;
    }
    ml_engine_free(e);
    ml_free(l);
    return status;
}
