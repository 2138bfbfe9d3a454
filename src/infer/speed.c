#include "infer/speed.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
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
    for (int64_t i = 0; i < c->n_gen; i++) ML_TRY(ml_session_append_generated(r->session, next[c->n_prompt + i], err));
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
