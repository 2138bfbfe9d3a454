#include "infer/continuation.h"

#include "base/log.h"
#include "infer/runner.h"
#include "infer/session.h"

#include <string.h>

enum { MAX_SEQ = 64, LOGIT_ROWS = 32 };

typedef struct {
    ml_runner *runner;
    ml_continuation *items;
    int64_t n_item, batch, n_vocab;
    int32_t *id, *pos, *seq, *target, *row; /* [most] */
    float *logprob, *logits;                /* [most], [LOGIT_ROWS, vocab] */
} work;

static ml_status check(const ml_model *m, const ml_continuation *items, int64_t n, int64_t *longest, ml_error *err)
{
    *longest = 1;
    for (int64_t i = 0; i < n; i++) {
        if (items[i].n_context < 1 || items[i].n_context > items[i].n_id) {
            return ml_fail(err, ML_EINVAL, "item %lld has %lld tokens of context: expected 1 to its %lld tokens",
                           (long long)i, (long long)items[i].n_context, (long long)items[i].n_id);
        }
        if (items[i].n_id > m->config.max_position_embeddings) {
            return ml_fail(err, ML_EINVAL, "item %lld has %lld tokens; the model has %lld positions", (long long)i,
                           (long long)items[i].n_id, (long long)m->config.max_position_embeddings);
        }
        if (items[i].n_id > *longest) *longest = items[i].n_id;
    }
    return ML_OK;
}

/* Items from `first` on that fit into one pass; *n_token of them. */
static int64_t gather(work *w, int64_t first, int64_t *n_token)
{
    int64_t n = 0, n_seq = 0;
    while (first + n_seq < w->n_item && n_seq < MAX_SEQ) {
        const ml_continuation *s = &w->items[first + n_seq];
        if (n_seq > 0 && n + s->n_id > w->batch) break;
        for (int64_t t = 0; t < s->n_id; t++, n++) {
            w->id[n] = s->id[t];
            w->pos[n] = (int32_t)t;
            w->seq[n] = (int32_t)n_seq;
            w->target[n] = t + 1 >= s->n_context && t + 1 < s->n_id ? s->id[t + 1] : -1;
        }
        n_seq++;
    }
    *n_token = n;
    return n_seq;
}

static bool is_top(const float *logit, int64_t n, int32_t id)
{
    for (int64_t i = 0; i < n; i++) {
        if (logit[i] > logit[id] || (logit[i] == logit[id] && i < id)) return false;
    }
    return true;
}

/* Clear `greedy` of the items whose tokens are not all the likeliest. */
static ml_status find_greedy(work *w, int64_t first, int64_t n, ml_error *err)
{
    for (int64_t t = 0; t < n;) {
        int64_t n_row = 0;
        for (; t < n && n_row < LOGIT_ROWS; t++) {
            if (w->target[t] >= 0) w->row[n_row++] = (int32_t)t;
        }
        ML_TRY(ml_runner_logits(w->runner, n_row, w->row, w->logits, err));
        for (int64_t r = 0; r < n_row; r++) {
            int32_t at = w->row[r];
            if (!is_top(w->logits + r * w->n_vocab, w->n_vocab, w->target[at])) {
                w->items[first + w->seq[at]].greedy = false;
            }
        }
    }
    return ML_OK;
}

static ml_status run_pass(work *w, int64_t first, int64_t *n_seq, ml_error *err)
{
    int64_t n;
    *n_seq = gather(w, first, &n);
    ml_pages *pages = ml_runner_pages(w->runner);
    for (int64_t s = 0; s < *n_seq; s++) {
        ml_pages_truncate(pages, s, 0);
        bool room = ml_pages_reserve(pages, s, w->items[first + s].n_id);
        if (!room) return ml_fail(err, ML_ENOMEM, "the cache has no room for item %lld", (long long)(first + s));
    }
    ML_TRY(ml_runner_forward(w->runner, n, 0, w->id, w->pos, w->seq, err));
    ML_TRY(ml_runner_logprob(w->runner, w->target, w->logprob, err));
    for (int64_t s = 0; s < *n_seq; s++) {
        w->items[first + s].logprob = 0;
        w->items[first + s].greedy = true;
    }
    for (int64_t t = 0; t < n; t++) {
        if (w->target[t] >= 0) w->items[first + w->seq[t]].logprob += (double)w->logprob[t];
    }
    return find_greedy(w, first, n, err);
}

ml_status ml_continuation_score(ml_model *model, ml_continuation *items, int64_t n, int64_t batch, ml_dtype kv_dtype,
                                void (*on_item)(void *arg, int64_t n_done), void *arg, ml_error *err)
{
    int64_t longest;
    ML_TRY(check(model, items, n, &longest, err));
    work w = { .items = items, .n_item = n, .batch = batch, .n_vocab = model->config.vocab_size };
    int64_t most = longest > batch ? longest : batch;
    ml_runner_config config = {
        .n_seq = MAX_SEQ, .capacity = longest, .cache_token = most, .max_token = most, .kv_dtype = kv_dtype
    };
    ml_status status = ml_runner_make(model, &config, &w.runner, err);
    w.id = ml_calloc((size_t)most, sizeof *w.id);
    w.pos = ml_calloc((size_t)most, sizeof *w.pos);
    w.seq = ml_calloc((size_t)most, sizeof *w.seq);
    w.target = ml_calloc((size_t)most, sizeof *w.target);
    w.row = ml_calloc(LOGIT_ROWS, sizeof *w.row);
    w.logprob = ml_calloc((size_t)most, sizeof *w.logprob);
    w.logits = ml_calloc((size_t)(LOGIT_ROWS * w.n_vocab), sizeof *w.logits);
    bool all = w.id && w.pos && w.seq && w.target && w.row && w.logprob && w.logits;
    if (status == ML_OK && !all) status = ml_fail_memory(err, (size_t)most * sizeof *w.logits, "scores");
    for (int64_t i = 0, n_seq; status == ML_OK && i < n; i += n_seq) {
        status = ml_stop_requested() ? ml_fail(err, ML_ECANCEL, "stopped") : run_pass(&w, i, &n_seq, err);
        if (status == ML_OK && on_item) on_item(arg, i + n_seq);
    }
    ml_runner_free(w.runner);
    ml_free(w.id);
    ml_free(w.pos);
    ml_free(w.seq);
    ml_free(w.target);
    ml_free(w.row);
    ml_free(w.logprob);
    ml_free(w.logits);
    return status;
}
