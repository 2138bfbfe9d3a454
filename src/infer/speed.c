#include "infer/speed.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "infer/runner.h"
#include "infer/session.h"
#include "model/kv_cache.h"

#include <math.h>

typedef struct {
    const ml_speed_config *config;
    ml_session *session;
    int32_t *id; /* [depth + n_prompt + n_gen] random */
} run;

static ml_status check_stop(ml_error *err)
{
    return ml_stop_requested() ? ml_fail(err, ML_ECANCEL, "stopped") : ML_OK;
}

/* Seconds of one prefill and one decode, each behind `depth` tokens. */
static ml_status measure_once(run *r, double *prefill, double *decode, ml_error *err)
{
    const ml_speed_config *c = r->config;
    const int32_t *next = r->id + c->depth;
    *prefill = *decode = 0;
    if (c->n_prompt > 0) {
        ml_session_truncate(r->session, c->depth);
        double start = ml_clock_seconds();
        ML_TRY(ml_session_append(r->session, next, c->n_prompt, err));
        *prefill = ml_clock_seconds() - start;
    }
    ML_TRY(check_stop(err));
    ml_session_truncate(r->session, c->depth);
    double start = ml_clock_seconds();
    for (int64_t i = 0; i < c->n_gen; i++) {
        ML_TRY(check_stop(err));
        ML_TRY(ml_session_append_generated(r->session, next[c->n_prompt + i], err));
    }
    *decode = ml_clock_seconds() - start;
    return check_stop(err);
}

static void add_sample(double n, double seconds, int64_t i, ml_rate *rate)
{
    /* Welford's running mean and sum of squares; sd holds the sum until the end. */
    double x = seconds > 0 ? n / seconds : 0, d = x - rate->mean;
    rate->mean += d / (double)(i + 1);
    rate->sd += d * (x - rate->mean);
}

/* ---- several sequences ---- */

typedef struct {
    const ml_speed_config *config;
    const ml_model *model;
    ml_runner *runner;
    int32_t *id, *pos, *seq, *want; /* [max of batch and PASS] */
    float *logits;                  /* [n_batch, vocab] */
} batch;

enum { PASS = 512 };

static ml_status fill_caches(batch *b, ml_rng *rng, ml_error *err)
{
    const ml_speed_config *c = b->config;
    for (int64_t s = 0; s < c->n_batch; s++) {
        if (!ml_pages_reserve(ml_runner_pages(b->runner), s, c->depth + c->n_gen)) {
            return ml_fail(err, ML_ENOMEM, "the cache is too small");
        }
        for (int64_t at = 0, n; at < c->depth; at += n) {
            n = c->depth - at < PASS ? c->depth - at : PASS;
            for (int64_t i = 0; i < n; i++) {
                b->id[i] = (int32_t)ml_rng_below(rng, (uint64_t)b->model->config.vocab_size);
                b->pos[i] = (int32_t)(at + i);
                b->seq[i] = (int32_t)s;
            }
            ML_TRY(check_stop(err));
            ML_TRY(ml_runner_forward(b->runner, n, 0, b->id, b->pos, b->seq, err));
        }
    }
    return ML_OK;
}

static ml_status decode_once(batch *b, ml_rng *rng, double *seconds, ml_error *err)
{
    const ml_speed_config *c = b->config;
    double start = ml_clock_seconds();
    for (int64_t i = 0; i < c->n_gen; i++) {
        ML_TRY(check_stop(err));
        for (int64_t s = 0; s < c->n_batch; s++) {
            b->id[s] = (int32_t)ml_rng_below(rng, (uint64_t)b->model->config.vocab_size);
            b->pos[s] = (int32_t)(c->depth + i);
            b->seq[s] = b->want[s] = (int32_t)s;
        }
        ML_TRY(ml_runner_forward(b->runner, c->n_batch, c->n_batch, b->id, b->pos, b->seq, err));
        ML_TRY(ml_runner_logits(b->runner, c->n_batch, b->want, b->logits, err));
    }
    *seconds = ml_clock_seconds() - start;
    return check_stop(err);
}

static ml_status make_batch(batch *b, ml_model *model, ml_error *err)
{
    const ml_speed_config *c = b->config;
    ml_runner_config config = { .n_seq = c->n_batch,
                                .capacity = c->depth + c->n_gen,
                                .max_token = c->n_batch > PASS ? c->n_batch : PASS,
                                .kv_dtype = c->kv_dtype };
    size_t n = (size_t)config.max_token, n_logit = (size_t)(c->n_batch * model->config.vocab_size);
    ML_TRY(ml_runner_make(model, &config, &b->runner, err));
    b->id = ml_calloc(n, sizeof *b->id);
    b->pos = ml_calloc(n, sizeof *b->pos);
    b->seq = ml_calloc(n, sizeof *b->seq);
    b->want = ml_calloc(n, sizeof *b->want);
    b->logits = ml_runner_alloc_logits(model, n_logit);
    if (b->id && b->pos && b->seq && b->want && b->logits) return ML_OK;
    return ml_fail_memory(err, n_logit * sizeof *b->logits, "logits");
}

/* Decode of n_batch sequences; a round before the measured ones. */
static ml_status measure_batch(ml_model *model, const ml_speed_config *c, ml_speed *out, ml_error *err)
{
    batch b = { .config = c, .model = model };
    ml_rng rng = ml_rng_make(c->seed, 1);
    double seconds;
    ml_status status = make_batch(&b, model, err);
    if (status == ML_OK) status = fill_caches(&b, &rng, err);
    if (status == ML_OK) status = decode_once(&b, &rng, &seconds, err);
    for (int64_t i = 0; i < c->n_repeat && status == ML_OK; i++) {
        status = decode_once(&b, &rng, &seconds, err);
        if (status == ML_OK) add_sample((double)(c->n_gen * c->n_batch), seconds, i, &out->decode);
    }
    if (status == ML_OK) out->n_launch = ml_runner_count_launches(b.runner);
    out->decode.sd = sqrt(out->decode.sd / (c->n_repeat > 1 ? (double)(c->n_repeat - 1) : 1));
    ml_runner_free(b.runner);
    ml_free(b.id);
    ml_free(b.pos);
    ml_free(b.seq);
    ml_free(b.want);
    ml_runner_free_logits(model, b.logits);
    return status;
}

/* ---- both ---- */

static ml_status measure(run *r, ml_speed *out, ml_error *err)
{
    const ml_speed_config *c = r->config;
    ML_TRY(ml_session_append(r->session, r->id, c->depth, err));
    double prefill, decode;
    ML_TRY(measure_once(r, &prefill, &decode, err));
    for (int64_t i = 0; i < c->n_repeat; i++) {
        ML_TRY(measure_once(r, &prefill, &decode, err));
        add_sample((double)c->n_prompt, prefill, i, &out->prefill);
        add_sample((double)c->n_gen, decode, i, &out->decode);
    }
    double n = c->n_repeat > 1 ? (double)(c->n_repeat - 1) : 1;
    out->prefill.sd = sqrt(out->prefill.sd / n);
    out->decode.sd = sqrt(out->decode.sd / n);
    return ML_OK;
}

ml_status ml_speed_measure(ml_model *model, const ml_speed_config *config, ml_speed *out, ml_error *err)
{
    *out = (ml_speed){ 0 };
    if (config->n_gen > 0 && (config->n_batch > 1 || (model->device && config->n_batch == 1))) {
        ml_speed_config one = *config;
        ml_speed decode = { 0 };
        one.n_batch = 0;
        one.n_gen = 0;
        ML_TRY(ml_speed_measure(model, &one, out, err));
        ML_TRY(measure_batch(model, config, &decode, err));
        out->decode = decode.decode;
        out->n_launch = decode.n_launch;
        return ML_OK;
    }
    int64_t n_new = config->n_prompt + config->n_gen, n = config->depth + n_new;
    run r = { .config = config };
    ML_TRY(ml_session_make_as(model, n > 0 ? n : 1, true, config->kv_dtype, &r.session, err));
    out->cache_token_bytes = ml_kv_cache_token_bytes(&model->config, config->kv_dtype);
    r.id = ml_calloc((size_t)n + 1, sizeof *r.id);
    ml_status status = r.id ? ML_OK : ml_fail_memory(err, (size_t)n * sizeof *r.id, "token ids");
    ml_rng rng = ml_rng_make(config->seed, 0);
    for (int64_t i = 0; i < n && r.id; i++) {
        r.id[i] = (int32_t)ml_rng_below(&rng, (uint64_t)model->config.vocab_size);
    }
    if (status == ML_OK) status = measure(&r, out, err);
    ml_free(r.id);
    ml_session_free(r.session);
    return status;
}
