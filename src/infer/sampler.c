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
    int64_t n_valid;
    ml_rng rng;
    float *adjusted;      /* [n_valid] */
    candidate *candidate; /* [n_valid] */
    float *scaled;        /* [n_valid] */
    double *weight;       /* [n_valid] */
    int32_t *chosen;      /* [n_valid] */
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
    s->scaled = ml_calloc((size_t)s->n_valid, sizeof *s->scaled);
    s->chosen = ml_calloc((size_t)s->n_valid, sizeof *s->chosen);
    if (!s->adjusted || !s->candidate || !s->weight || !s->scaled || !s->chosen) {
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
    ml_free(s->scaled);
    ml_free(s->chosen);
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

static double weight_of(const ml_sampler *s, candidate c, double largest)
{
    return exp(((double)c.logit - largest) / s->sampling.temperature);
}

/* The weight of all candidates.  Without min-p those are all that count, and a sum over the whole row is quicker. */
static double total_weight(ml_sampler *s, int64_t n, double largest)
{
    double total = 0;
    if (s->sampling.min_p > 0) {
        for (int64_t i = 0; i < n; i++) total += weight_of(s, s->candidate[i], largest);
        return total;
    }
    float unused, sum, scale = (float)(1 / s->sampling.temperature);
    for (int64_t i = 0; i < s->n_valid; i++) s->scaled[i] = scale * s->adjusted[i];
    ml_row_ops_get()->max_sum_exp(s->scaled, NULL, s->n_valid, &unused, &sum);
    return (double)sum;
}

/* Candidates in the order of their ids, until the weight reaches a point drawn from the whole. */
static int32_t draw_from_all(ml_sampler *s, int64_t n, double largest)
{
    double total = 0;
    for (int64_t i = 0; i < n; i++) {
        s->weight[i] = weight_of(s, s->candidate[i], largest);
        total += s->weight[i];
    }
    double target = ml_rng_uniform(&s->rng) * total;
    for (int64_t i = 0; i < n - 1; i++) {
        target -= s->weight[i];
        if (target < 0) return s->candidate[i].id;
    }
    return s->candidate[n - 1].id;
}

/* The k likeliest candidates, or (k = 0) so many that they weigh `goal`, in order: chosen and weight.  How many. */
static int64_t take_likeliest(ml_sampler *s, int64_t n, int64_t k, double goal, double largest)
{
    int64_t n_kept = 0;
    double kept = 0;
    for (int64_t i = n / 2; i-- > 0;) sift_down(s->candidate, n, i);
    while (n_kept < n && (k > 0 ? n_kept < k : kept < goal)) {
        candidate c = pop(s->candidate, n - n_kept);
        s->weight[n_kept] = weight_of(s, c, largest);
        kept += s->weight[n_kept];
        s->chosen[n_kept++] = c.id;
    }
    return n_kept;
}

/* One of the likeliest candidates that top-k and top-p leave: p of the weight that k left. */
static int32_t draw_from_likeliest(ml_sampler *s, int64_t n, double largest)
{
    const ml_sampling *p = &s->sampling;
    double goal = p->top_k > 0 ? 0 : p->top_p * total_weight(s, n, largest), total = 0, kept = 0;
    int64_t n_kept = take_likeliest(s, n, p->top_k, goal, largest), left = 0;
    for (int64_t i = 0; i < n_kept; i++) total += s->weight[i];
    if (p->top_k > 0) goal = p->top_p * total;
    while (left < n_kept && kept < goal) kept += s->weight[left++];
    if (left == 0) return greedy(s); /* weights that are no numbers */
    double target = ml_rng_uniform(&s->rng) * kept;
    for (int64_t i = 0; i < left - 1; i++) {
        target -= s->weight[i];
        if (target < 0) return s->chosen[i];
    }
    return s->chosen[left - 1];
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
    bool all = p->top_k == 0 && p->top_p >= 1;
    return all ? draw_from_all(s, n, largest) : draw_from_likeliest(s, n, largest);
}

int32_t ml_sampler_choose(ml_sampler *s, const float *logits, const int32_t *recent, int64_t n_recent, double *logprob)
{
    memcpy(s->adjusted, logits, (size_t)s->n_valid * sizeof *s->adjusted);
    penalise(s, logits, recent, n_recent);
    int32_t id = s->sampling.temperature == 0 ? greedy(s) : draw(s);
    if (logprob) *logprob = ml_logits_logprob(logits, s->n_valid, id);
    return id;
}
