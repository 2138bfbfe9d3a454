#include "infer/sampler.h"

#include "base/alloc.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    float logit;
    int32_t id;
} candidate;

struct ml_sampler {
    ml_sampling sampling;
    int64_t n_valid;
    ml_rng rng;
    float *adjusted;      /* [n_valid] */
    candidate *candidate; /* [n_valid] */
    double *weight;       /* [n_valid] */
};

ml_sampling ml_sampling_default(void)
{
    return (ml_sampling){ .top_p = 1, .repetition_penalty = 1 };
}

ml_status ml_sampling_check(const ml_sampling *s, ml_error *err)
{
    if (!(s->temperature >= 0 && s->temperature <= 100)) {
        return ml_fail(err, ML_EINVAL, "temperature: expected 0 to 100, found %g", s->temperature);
    }
    if (s->top_k < 0)
        return ml_fail(err, ML_EINVAL, "top-k: expected 0 (off) or more, found %lld", (long long)s->top_k);
    if (!(s->top_p > 0 && s->top_p <= 1))
        return ml_fail(err, ML_EINVAL, "top-p: expected above 0 up to 1, found %g", s->top_p);
    if (!(s->min_p >= 0 && s->min_p < 1))
        return ml_fail(err, ML_EINVAL, "min-p: expected 0 up to below 1, found %g", s->min_p);
    if (!(s->repetition_penalty > 0 && s->repetition_penalty <= 100)) {
        return ml_fail(err, ML_EINVAL, "repetition-penalty: expected above 0 up to 100, found %g",
                       s->repetition_penalty);
    }
    if (s->repetition_window < 0) {
        return ml_fail(err, ML_EINVAL, "repetition-window: expected 0 (all) or more, found %lld",
                       (long long)s->repetition_window);
    }
    return ML_OK;
}

ml_status ml_sampler_make(const ml_sampling *sampling, int64_t n_vocab, int64_t n_valid, ml_sampler **out,
                          ml_error *err)
{
    *out = NULL;
    ML_TRY(ml_sampling_check(sampling, err));
    ml_sampler *s = ml_calloc(1, sizeof *s);
    if (!s) return ml_fail_memory(err, sizeof *s, "a sampler");
    s->sampling = *sampling;
    s->n_valid = n_valid < n_vocab ? n_valid : n_vocab;
    s->adjusted = ml_calloc((size_t)s->n_valid, sizeof *s->adjusted);
    s->candidate = ml_calloc((size_t)s->n_valid, sizeof *s->candidate);
    s->weight = ml_calloc((size_t)s->n_valid, sizeof *s->weight);
    if (!s->adjusted || !s->candidate || !s->weight) {
        ml_sampler_free(s);
        return ml_fail_memory(err, (size_t)s->n_valid * sizeof *s->candidate, "a sampler");
    }
    ml_sampler_reset(s);
    *out = s;
    return ML_OK;
}

void ml_sampler_free(ml_sampler *s)
{
    if (!s) return;
    ml_free(s->adjusted);
    ml_free(s->candidate);
    ml_free(s->weight);
    ml_free(s);
}

void ml_sampler_reset(ml_sampler *s)
{
    s->rng = ml_rng_make(s->sampling.seed, 0x5a17);
}

static void penalise(ml_sampler *s, const float *logits, const int32_t *recent, int64_t n_recent)
{
    float penalty = (float)s->sampling.repetition_penalty;
    if (penalty == 1.0f) return;
    int64_t window = s->sampling.repetition_window;
    int64_t first = window > 0 && n_recent > window ? n_recent - window : 0;
    for (int64_t i = first; i < n_recent; i++) {
        int32_t id = recent[i];
        if (id < 0 || id >= s->n_valid) continue;
        /* From the unmodified logit, so that a token seen twice is not punished twice. */
        s->adjusted[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
    }
}

/* log softmax(logits)[id] over the valid ids */
static double log_probability(const ml_sampler *s, const float *logits, int32_t id)
{
    double largest = -INFINITY, sum = 0;
    for (int64_t i = 0; i < s->n_valid; i++) largest = fmax(largest, (double)logits[i]);
    for (int64_t i = 0; i < s->n_valid; i++) sum += exp((double)logits[i] - largest);
    return (double)logits[id] - largest - log(sum);
}

static int by_logit(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static int32_t greedy(const ml_sampler *s)
{
    int32_t best = 0;
    for (int64_t i = 1; i < s->n_valid; i++) {
        if (s->adjusted[i] > s->adjusted[best]) best = (int32_t)i;
    }
    return best;
}

static int32_t draw(ml_sampler *s)
{
    const ml_sampling *p = &s->sampling;
    double largest = (double)s->adjusted[greedy(s)];
    /* exp(-40) of the likeliest: together such tokens weigh less than one rounding error of the sum. */
    double floor = largest - 40 * p->temperature;
    if (p->min_p > 0) floor = fmax(floor, largest + p->temperature * log(p->min_p));
    int64_t n = 0;
    for (int64_t i = 0; i < s->n_valid; i++) {
        if ((double)s->adjusted[i] >= floor) s->candidate[n++] = (candidate){ s->adjusted[i], (int32_t)i };
    }
    if (n == 0) return greedy(s); /* logits that are no numbers */
    qsort(s->candidate, (size_t)n, sizeof *s->candidate, by_logit);
    if (p->top_k > 0 && n > p->top_k) n = p->top_k;
    double total = 0;
    for (int64_t i = 0; i < n; i++) {
        s->weight[i] = exp(((double)s->candidate[i].logit - largest) / p->temperature);
        total += s->weight[i];
    }
    if (p->top_p < 1) {
        double kept = 0;
        int64_t i = 0;
        while (i < n && kept < p->top_p * total) kept += s->weight[i++];
        n = i;
        total = kept;
    }
    double target = ml_rng_uniform(&s->rng) * total;
    for (int64_t i = 0; i < n - 1; i++) {
        target -= s->weight[i];
        if (target < 0) return s->candidate[i].id;
    }
    return s->candidate[n - 1].id;
}

int32_t ml_sampler_choose(ml_sampler *s, const float *logits, const int32_t *recent, int64_t n_recent, double *logprob)
{
    memcpy(s->adjusted, logits, (size_t)s->n_valid * sizeof *s->adjusted);
    penalise(s, logits, recent, n_recent);
    int32_t id = s->sampling.temperature == 0 ? greedy(s) : draw(s);
    if (logprob) *logprob = log_probability(s, logits, id);
    return id;
}
