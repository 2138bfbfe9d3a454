#include "infer/perplexity.h"

#include "base/log.h"
#include "base/thread.h"
#include "infer/generate.h"
#include "infer/runner.h"
#include "infer/session.h"

#include <math.h>
#include <string.h>

enum { COMPARED_ROWS = 32 }; /* logits of two models at a time */

typedef struct {
    double sum, squares;
    int64_t n;
} mean;

typedef struct {
    const ml_perplexity_config *config;
    int64_t n_window, per_pass, n_vocab;
    ml_runner *runner, *base;
    int32_t *id, *pos, *seq, *target; /* of a pass: [per_pass * window] */
    float *logprob;
    int32_t *row;           /* [COMPARED_ROWS] */
    float *logits, *wanted; /* [COMPARED_ROWS, vocab] of the model and of base */
    double kl[COMPARED_ROWS];
    bool same[COMPARED_ROWS];
    mean nll, base_nll, divergence;
    int64_t n_same;
} work;

static void add(mean *m, double x)
{
    m->sum += x;
    m->squares += x * x;
    m->n++;
}

static double average(const mean *m)
{
    return m->n ? m->sum / (double)m->n : 0;
}

/* Standard error of the average. */
static double error_of(const mean *m)
{
    if (m->n < 2) return 0;
    double variance = (m->squares - m->sum * average(m)) / (double)(m->n - 1);
    return sqrt(fmax(variance, 0) / (double)m->n);
}

/* Text tokens of a window: one place is the BOS token's. */
static int64_t text_per_window(const ml_perplexity_config *c)
{
    return c->window - (c->bos >= 0);
}

int64_t ml_perplexity_count_windows(const ml_perplexity_config *c)
{
    int64_t text = text_per_window(c);
    if (text < 1) return 0;
    int64_t n = c->n_id / text + (c->n_id % text != 0);
    return c->max_window && c->max_window < n ? c->max_window : n;
}

static ml_status check(const ml_model *m, const ml_perplexity_config *c, ml_error *err)
{
    if (c->window < 2 || c->window > m->config.max_position_embeddings) {
        return ml_fail(err, ML_EINVAL, "windows of %lld tokens: expected 2 to %lld, the model's positions",
                       (long long)c->window, (long long)m->config.max_position_embeddings);
    }
    if (c->n_id < 2) return ml_fail(err, ML_EINVAL, "the text has %lld tokens: expected 2 or more", (long long)c->n_id);
    if (c->base && c->base->config.vocab_size != m->config.vocab_size) {
        return ml_fail(err, ML_EINVAL, "the model has %lld tokens, the one to compare with %lld: expected the same",
                       (long long)m->config.vocab_size, (long long)c->base->config.vocab_size);
    }
    return ML_OK;
}

static ml_status make_runner(const work *w, ml_model *m, ml_dtype kv_dtype, ml_runner **out, ml_error *err)
{
    ml_runner_config config = { .n_seq = w->per_pass,
                                .capacity = w->config->window,
                                .max_token = w->per_pass * w->config->window,
                                .kv_dtype = kv_dtype };
    ML_TRY(ml_runner_make(m, &config, out, err));
    for (int64_t s = 0; s < w->per_pass; s++) {
        bool room = ml_pages_reserve(ml_runner_pages(*out), s, config.capacity);
        if (!room) return ml_fail(err, ML_ENOMEM, "the cache has no room for %lld windows", (long long)w->per_pass);
    }
    return ML_OK;
}

static ml_status set_up(work *w, ml_model *m, ml_error *err)
{
    const ml_perplexity_config *c = w->config;
    w->n_vocab = m->config.vocab_size;
    w->n_window = ml_perplexity_count_windows(c);
    w->per_pass = c->batch / c->window > 0 ? c->batch / c->window : 1;
    if (w->per_pass > w->n_window) w->per_pass = w->n_window;
    size_t n = (size_t)(w->per_pass * c->window), n_logit = (size_t)(COMPARED_ROWS * w->n_vocab);
    ML_TRY(make_runner(w, m, c->kv_dtype, &w->runner, err));
    w->id = ml_calloc(n, sizeof *w->id);
    w->pos = ml_calloc(n, sizeof *w->pos);
    w->seq = ml_calloc(n, sizeof *w->seq);
    w->target = ml_calloc(n, sizeof *w->target);
    w->logprob = ml_calloc(n, sizeof *w->logprob);
    bool all = w->id && w->pos && w->seq && w->target && w->logprob;
    if (c->base && all) {
        ML_TRY(make_runner(w, c->base, ML_SESSION_KV, &w->base, err));
        w->row = ml_calloc(COMPARED_ROWS, sizeof *w->row);
        w->logits = ml_calloc(n_logit, sizeof *w->logits);
        w->wanted = ml_calloc(n_logit, sizeof *w->wanted);
        all = w->row && w->logits && w->wanted;
    }
    return all ? ML_OK : ml_fail_memory(err, n_logit * sizeof *w->logits, "perplexity");
}

/* Windows first .. into the pass: its number of tokens. */
static int64_t gather(work *w, int64_t first, int64_t n_window)
{
    const ml_perplexity_config *c = w->config;
    int64_t n = 0, text = text_per_window(c);
    for (int64_t i = 0; i < n_window; i++) {
        int64_t begin = (first + i) * text, end = begin + text < c->n_id ? begin + text : c->n_id;
        int64_t start = n;
        if (c->bos >= 0) w->id[n++] = c->bos;
        for (int64_t t = begin; t < end; t++) w->id[n++] = c->id[t];
        for (int64_t t = start; t < n; t++) {
            w->pos[t] = (int32_t)(t - start);
            w->seq[t] = (int32_t)i;
            w->target[t] = t + 1 < n ? w->id[t + 1] : -1;
        }
    }
    return n;
}

static ml_status score(work *w, ml_runner *r, int64_t n, mean *nll, ml_error *err)
{
    ML_TRY(ml_runner_forward(r, n, 0, w->id, w->pos, w->seq, err));
    ML_TRY(ml_runner_logprob(r, w->target, w->logprob, err));
    for (int64_t t = 0; t < n; t++) {
        if (w->target[t] >= 0) add(nll, -(double)w->logprob[t]);
    }
    return isnan(nll->sum) ? ml_fail_nan(err) : ML_OK;
}

/* ---- comparison with another model ---- */

/* log-sum-exp of a row, and its largest entry. */
static double log_sum(const float *logit, int64_t n, int64_t *top)
{
    *top = 0;
    for (int64_t i = 1; i < n; i++) {
        if (logit[i] > logit[*top]) *top = i;
    }
    double largest = (double)logit[*top], sum = 0;
    for (int64_t i = 0; i < n; i++) sum += exp((double)logit[i] - largest);
    return largest + log(sum);
}

static void compare_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    work *w = arg;
    for (int64_t r = begin; r < end; r++) {
        const float *got = w->logits + r * w->n_vocab, *wanted = w->wanted + r * w->n_vocab;
        int64_t top, wanted_top;
        double lse = log_sum(got, w->n_vocab, &top), wanted_lse = log_sum(wanted, w->n_vocab, &wanted_top), kl = 0;
        for (int64_t i = 0; i < w->n_vocab; i++) {
            double p = (double)wanted[i] - wanted_lse, q = (double)got[i] - lse;
            kl += exp(p) * (p - q);
        }
        w->kl[r] = kl;
        w->same[r] = top == wanted_top;
    }
}

static ml_status compare(work *w, int64_t n, ml_error *err)
{
    for (int64_t t = 0; t < n;) {
        int64_t n_row = 0;
        for (; t < n && n_row < COMPARED_ROWS; t++) {
            if (w->target[t] >= 0) w->row[n_row++] = (int32_t)t;
        }
        ML_TRY(ml_runner_logits(w->runner, n_row, w->row, w->logits, err));
        ML_TRY(ml_runner_logits(w->base, n_row, w->row, w->wanted, err));
        ml_parallel_for(n_row, 1, compare_rows, w);
        for (int64_t r = 0; r < n_row; r++) {
            add(&w->divergence, w->kl[r]);
            w->n_same += w->same[r];
        }
    }
    return ML_OK;
}

static ml_status run(work *w, ml_error *err)
{
    const ml_perplexity_config *c = w->config;
    for (int64_t first = 0; first < w->n_window; first += w->per_pass) {
        if (ml_stop_requested()) return ml_fail(err, ML_ECANCEL, "stopped");
        int64_t n_window = w->n_window - first < w->per_pass ? w->n_window - first : w->per_pass;
        int64_t n = gather(w, first, n_window);
        ML_TRY(score(w, w->runner, n, &w->nll, err));
        if (w->base) {
            ML_TRY(score(w, w->base, n, &w->base_nll, err));
            ML_TRY(compare(w, n, err));
        }
        if (c->on_window) c->on_window(c->arg, first + n_window, w->n_window, average(&w->nll));
    }
    return ML_OK;
}

ml_status ml_perplexity_measure(ml_model *model, const ml_perplexity_config *config, ml_perplexity *out, ml_error *err)
{
    *out = (ml_perplexity){ 0 };
    ML_TRY(check(model, config, err));
    work *w = ml_calloc(1, sizeof *w);
    if (!w) return ml_fail_memory(err, sizeof *w, "perplexity");
    w->config = config;
    ml_status status = set_up(w, model, err);
    if (status == ML_OK) status = run(w, err);
    if (status == ML_OK) {
        *out = (ml_perplexity){ .n_token = w->nll.n,
                                .n_window = w->n_window,
                                .nll = average(&w->nll),
                                .nll_error = error_of(&w->nll),
                                .base_nll = average(&w->base_nll),
                                .kl = average(&w->divergence),
                                .kl_error = error_of(&w->divergence),
                                .same_top = w->divergence.n ? (double)w->n_same / (double)w->divergence.n : 0 };
    }
    ml_runner_free(w->runner);
    ml_runner_free(w->base);
    ml_free(w->id);
    ml_free(w->pos);
    ml_free(w->seq);
    ml_free(w->target);
    ml_free(w->logprob);
    ml_free(w->row);
    ml_free(w->logits);
    ml_free(w->wanted);
    ml_free(w);
    return status;
}
