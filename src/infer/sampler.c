#include "infer/sampler.h"

#include "base/alloc.h"
#include "ops/cpu/rowops.h"

#include <math.h>
#include <string.h>

typedef struct {
    float logit;
    int32_t id;
} candidate;

struct ml_sampler {
    ml_sampling sampling;
    ml_sample_rule rule;
    int64_t n_valid;
    ml_rng rng;
    float *adjusted;      /* [n_valid] */
    candidate *candidate; /* [n_valid] */
    uint64_t *weight;     /* [n_valid] */
    int32_t *chosen;      /* [n_valid] */
    uint32_t *listed;     /* [n_valid] the last list of penalised ids that each id was in */
    uint32_t n_list;
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

static ml_sample_rule make_rule(const ml_sampling *s, int64_t n_valid)
{
    int shift = 61;
    while (n_valid > (int64_t)1 << (61 - shift)) shift--;
    return (ml_sample_rule){ .inverse = s->temperature > 0 ? 1 / s->temperature : 0,
                             .floor = s->min_p > 0 ? s->temperature * log(s->min_p) : 0,
                             .has_floor = s->min_p > 0,
                             .top_p = s->top_p,
                             .top_k = s->top_k,
                             .one = ldexp(1, shift < 51 ? shift : 51) };
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
    s->rule = make_rule(sampling, s->n_valid);
    s->adjusted = ml_calloc((size_t)s->n_valid, sizeof *s->adjusted);
    s->candidate = ml_calloc((size_t)s->n_valid, sizeof *s->candidate);
    s->weight = ml_calloc((size_t)s->n_valid, sizeof *s->weight);
    s->listed = ml_calloc((size_t)s->n_valid, sizeof *s->listed);
    s->chosen = ml_calloc((size_t)s->n_valid, sizeof *s->chosen);
    if (!s->adjusted || !s->candidate || !s->weight || !s->listed || !s->chosen) {
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
    ml_free(s->listed);
    ml_free(s->chosen);
    ml_free(s);
}

void ml_sampler_reset(ml_sampler *s)
{
    s->rng = ml_rng_make(s->sampling.seed, 0x5a17);
}

/* Where the window of recent ids begins. */
static int64_t first_recent(const ml_sampler *s, int64_t n_recent)
{
    int64_t window = s->sampling.repetition_window;
    return window > 0 && n_recent > window ? n_recent - window : 0;
}

static void penalise(ml_sampler *s, const float *logits, const int32_t *recent, int64_t n_recent)
{
    float penalty = (float)s->sampling.repetition_penalty;
    if (penalty == 1.0f) return;
    for (int64_t i = first_recent(s, n_recent); i < n_recent; i++) {
        int32_t id = recent[i];
        if (id < 0 || id >= s->n_valid) continue;
        /* From the unmodified logit, so that a token seen twice is not punished twice. */
        s->adjusted[id] = ml_rule_penalise(logits[id], penalty);
    }
}

double ml_logits_logprob(const float *logits, int64_t n_valid, int32_t id)
{
    float largest, sum;
    ml_row_ops_get()->max_sum_exp((float *)(uintptr_t)logits, NULL, n_valid, &largest, &sum); /* writes nothing */
    return (double)logits[id] - (double)largest - log((double)sum);
}

/* Likelier, or as likely with the lower id. */
static bool comes_first(candidate a, candidate b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* The candidates are a binary heap, the likeliest at its root: few of a large vocabulary are ever taken out. */
static void sift_down(candidate *heap, int64_t n, int64_t i)
{
    for (;;) {
        int64_t child = 2 * i + 1;
        if (child >= n) return;
        if (child + 1 < n && comes_first(heap[child + 1], heap[child])) child++;
        if (!comes_first(heap[child], heap[i])) return;
        candidate moved = heap[i];
        heap[i] = heap[child];
        heap[child] = moved;
        i = child;
    }
}

static candidate pop(candidate *heap, int64_t n)
{
    candidate top = heap[0];
    heap[0] = heap[n - 1];
    sift_down(heap, n - 1, 0);
    return top;
}

static int32_t greedy(const ml_sampler *s)
{
    int32_t best = 0;
    for (int64_t i = 1; i < s->n_valid; i++) {
        if (s->adjusted[i] > s->adjusted[best]) best = (int32_t)i;
    }
    return best;
}

/* Candidates in the order of their ids: the first that, with all before it, weighs more than the target. */
static int32_t draw_from_all(const ml_sampler *s, int64_t n, uint64_t total, uint64_t random)
{
    uint64_t target = ml_rule_high_product(random, total), sum = 0;
    for (int64_t i = 0; i < n - 1; i++) {
        sum += s->weight[i];
        if (sum > target) return s->candidate[i].id;
    }
    return s->candidate[n - 1].id;
}

/* The k likeliest candidates, or (k = 0) so many that they weigh `goal`, in order: chosen and weight.  How many. */
static int64_t take_likeliest(ml_sampler *s, int64_t n, int64_t k, uint64_t goal, float largest)
{
    int64_t n_kept = 0;
    uint64_t kept = 0;
    for (int64_t i = n / 2; i-- > 0;) sift_down(s->candidate, n, i);
    while (n_kept < n && (k > 0 ? n_kept < k : kept < goal)) {
        candidate c = pop(s->candidate, n - n_kept);
        s->weight[n_kept] = ml_rule_weight(&s->rule, c.logit, largest);
        kept += s->weight[n_kept];
        s->chosen[n_kept++] = c.id;
    }
    return n_kept;
}

/* One of the likeliest candidates that top-k and top-p leave: p of the weight that k left. */
static int32_t draw_from_likeliest(ml_sampler *s, int64_t n, uint64_t total, uint64_t random, float largest)
{
    const ml_sample_rule *rule = &s->rule;
    uint64_t goal = ml_rule_goal(rule, total), kept = 0, sum = 0;
    int64_t n_kept = take_likeliest(s, n, rule->top_k, goal, largest), left = 0;
    if (rule->top_k > 0) {
        for (int64_t i = 0; i < n_kept; i++) sum += s->weight[i];
        goal = ml_rule_goal(rule, sum);
    }
    while (left < n_kept && kept < goal) kept += s->weight[left++];
    uint64_t target = ml_rule_high_product(random, kept);
    sum = 0;
    for (int64_t i = 0; i < left - 1; i++) {
        sum += s->weight[i];
        if (sum > target) return s->chosen[i];
    }
    return s->chosen[left - 1];
}

static int32_t draw(ml_sampler *s, uint64_t random)
{
    const ml_sample_rule *rule = &s->rule;
    int32_t best = greedy(s);
    float largest = s->adjusted[best];
    if (!(largest > -INFINITY)) return best;
    /* What weighs nothing need not be looked at: weights end far above exp(-64). */
    double least = (double)largest - 64 * s->sampling.temperature;
    int64_t n = 0;
    for (int64_t i = 0; i < s->n_valid; i++) {
        float logit = s->adjusted[i];
        bool counts = (double)logit >= least || logit == largest;
        if (counts && ml_rule_passes(rule, logit, largest)) s->candidate[n++] = (candidate){ logit, (int32_t)i };
    }
    uint64_t total = 0;
    if (rule->top_k == 0) {
        for (int64_t i = 0; i < n; i++) s->weight[i] = ml_rule_weight(rule, s->candidate[i].logit, largest);
        for (int64_t i = 0; i < n; i++) total += s->weight[i];
    }
    bool all = rule->top_k == 0 && rule->top_p >= 1;
    return all ? draw_from_all(s, n, total, random) : draw_from_likeliest(s, n, total, random, largest);
}

ml_sample_rule ml_sampler_get_rule(const ml_sampler *s)
{
    return s->rule;
}

float ml_sampler_get_penalty(const ml_sampler *s)
{
    return (float)s->sampling.repetition_penalty;
}

uint64_t ml_sampler_next_random(ml_sampler *s)
{
    return s->rule.inverse > 0 ? ml_rng_u64(&s->rng) : 0;
}

int64_t ml_sampler_list_penalised(ml_sampler *s, const int32_t *recent, int64_t n_recent, int32_t *out)
{
    int64_t n = 0;
    if (ml_sampler_get_penalty(s) == 1.0f) return 0;
    if (++s->n_list == 0) { /* once in 2^32 tokens the marks begin anew */
        memset(s->listed, 0, (size_t)s->n_valid * sizeof *s->listed);
        s->n_list = 1;
    }
    for (int64_t i = first_recent(s, n_recent); i < n_recent; i++) {
        int32_t id = recent[i];
        if (id < 0 || id >= s->n_valid || s->listed[id] == s->n_list) continue;
        s->listed[id] = s->n_list;
        out[n++] = id;
    }
    return n;
}

int64_t ml_sampler_most_penalised(const ml_sampler *s, int64_t n_recent)
{
    int64_t n = n_recent - first_recent(s, n_recent);
    if (ml_sampler_get_penalty(s) == 1.0f) return 0;
    return n < s->n_valid ? n : s->n_valid;
}

int32_t ml_sampler_choose(ml_sampler *s, const float *logits, const int32_t *recent, int64_t n_recent, double *logprob)
{
    memcpy(s->adjusted, logits, (size_t)s->n_valid * sizeof *s->adjusted);
    penalise(s, logits, recent, n_recent);
    int32_t id = s->sampling.temperature == 0 ? greedy(s) : draw(s, ml_sampler_next_random(s));
    if (logprob) *logprob = ml_logits_logprob(logits, s->n_valid, id);
    return id;
}
