#include "infer/generate.h"

#include "base/clock.h"

#include <math.h>

const char *ml_finish_name(ml_finish finish)
{
    static const char *const names[] = { "stop", "length", "cancel" };
    return names[finish];
}

ml_status ml_fail_nan(ml_error *err)
{
    return ml_fail(err, ML_EFORMAT,
                   "the model computes no numbers (NaN): its weights are damaged, or its training diverged");
}

static bool is_stop(const ml_generate_config *c, int32_t id)
{
    for (int64_t i = 0; i < c->n_stop; i++) {
        if (c->stop_id[i] == id) return true;
    }
    return false;
}

static ml_status prefill(ml_session *s, const int32_t *prompt, int64_t n_prompt, ml_error *err)
{
    if (n_prompt == 0 && !ml_session_logits(s)) {
        return ml_fail(err, ML_EINVAL,
                       "the prompt is empty and the tokenizer has no beginning-of-sequence token: give "
                       "at least one token of text");
    }
    if (ml_session_count(s) + n_prompt > ml_session_capacity(s)) {
        return ml_fail(err, ML_EINVAL, "the prompt of %lld tokens does not fit into the context of %lld",
                       (long long)(ml_session_count(s) + n_prompt), (long long)ml_session_capacity(s));
    }
    return ml_session_append(s, prompt, n_prompt, err);
}

ml_status ml_generate(ml_session *s, ml_sampler *sampler, const int32_t *prompt, int64_t n_prompt,
                      const ml_generate_config *config, ml_generation *out, ml_error *err)
{
    *out = (ml_generation){ .finish = ML_FINISH_LENGTH };
    double start = ml_clock_seconds();
    ML_TRY(prefill(s, prompt, n_prompt, err));
    out->prefill_seconds = ml_clock_seconds() - start;
    int64_t room = ml_session_capacity(s) - ml_session_count(s);
    int64_t limit = config->max_tokens < room ? config->max_tokens : room;
    if (limit <= 0) return ML_OK;
    out->id = ml_calloc((size_t)limit, sizeof *out->id);
    out->logprob = ml_calloc((size_t)limit, sizeof *out->logprob);
    if (!out->id || !out->logprob) {
        ml_generation_free(out);
        return ml_fail_memory(err, (size_t)limit * sizeof *out->logprob, "generated tokens");
    }
    start = ml_clock_seconds();
    ml_status status = ML_OK;
    while (out->n < limit) {
        double logprob;
        int32_t id = ml_sampler_choose(sampler, ml_session_logits(s), ml_session_ids(s), ml_session_count(s), &logprob);
        if (isnan(logprob)) {
            status = ml_fail_nan(err);
            break;
        }
        out->id[out->n] = id;
        out->logprob[out->n++] = logprob;
        if (config->on_token && !config->on_token(config->arg, id, logprob)) {
            out->finish = ML_FINISH_CANCEL;
            break;
        }
        if (is_stop(config, id)) {
            out->finish = ML_FINISH_STOP;
            break;
        }
        if (out->n == limit) break; /* the last token's logits are wanted by nobody */
        status = ml_session_append_generated(s, id, err);
        if (status != ML_OK) break;
    }
    out->decode_seconds = ml_clock_seconds() - start;
    if (status != ML_OK) ml_generation_free(out);
    return status;
}

void ml_generation_free(ml_generation *g)
{
    ml_free(g->id);
    ml_free(g->logprob);
    *g = (ml_generation){ 0 };
}
